"""A release: what it leaves in the registry, stopped anywhere and run again, and tampered with afterwards."""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amdserve import process
from amdserve.errors import PublishError, UsageError, VerifyError
from amdserve.image.engine import Engine
from amdserve.image.local import Images
from amdserve.image.models import Cell, Plan, Request
from amdserve.image.project import Project
from amdserve.image.publish import commands, published, release, sign
from amdserve.image.publish.reference import parse
from amdserve.image.publish.registry import Manifest, Registry
from amdserve.image.publish.sign import Signer
from amdserve.image.verify import Check, Report

from . import registries, releasing
from .registries import Proxy, Server, at, toy

POINTS = 10
SEED = 20261124
# What a finished release has beside each image.
ATTACHED = {sign.PROVENANCE, sign.SPDX, sign.CYCLONEDX, sign.TESTED}
Built = tuple[tuple[Cell, ...], dict[str, str], Signer]


@pytest.fixture(scope="module")
def built(project: Project, engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """Two cells, a small image of each, and who signs."""
    folder = tmp_path_factory.mktemp("built")
    planned = project.plan(Request(images=("vulkan,llama",), gfx=("rdna4",))).cells
    cells = tuple(registries.differing(cell, "release") for cell in planned)
    signer = Signer(*registries.keys(folder))
    with toy(engine, cells[0], folder) as one, toy(engine, cells[1], folder) as two:
        yield cells, {cells[0].id: one, cells[1].id: two}, signer


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path / "registry")
    yield started
    started.stop()


def prepared(built: Built, host: str, folder: Path, name: str = "amdserve") -> Path:
    cells, images, signer = built
    folder.mkdir(exist_ok=True)
    moved = [at(cell, f"{host}/me/{name}") for cell in cells]
    return releasing.write(folder / "release.json", moved, signer, images)


def opened(host: str, name: str = "amdserve") -> Registry:
    return Registry.open(parse(f"{host}/me/{name}"))


def in_the_engine(engine: Engine, cells: tuple[Cell, ...]) -> set[str]:
    """Give the names of what the engine has of these cells; other tests have images of others meanwhile."""
    return {tag for c in cells for image in Images(engine).labelled({"hash": c.hash}) for tag in image.tags}


def state(registry: Registry, signer: Signer) -> dict[str, tuple[str, bool, list[str]]]:
    """Give all that a finished release comes to: tags with digests, and what holds beside each image."""
    tags = [tag for tag in registry.tags() if not tag.startswith("sha256-")]
    found: dict[str, tuple[str, bool, list[str]]] = {}
    held: dict[str, list[str]] = {}
    for tag in tags:
        manifest = registry.manifest(tag)
        assert manifest
        image = registry.reference.at(digest=manifest.digest)
        if manifest.digest not in held:
            kinds = [kind for kind in ATTACHED if signer.statement(image, kind)[0] is not None]
            held[manifest.digest] = [*sorted(kinds), *(["signed"] if not signer.signed(image) else [])]
        kept = held[manifest.digest]
        found[tag] = (manifest.digest, "signed" in kept, [kind for kind in kept if kind != "signed"])
    return found


def test_only_what_bears_a_name_of_the_cell_is_taken_for_its_image(built: Built, engine: Engine) -> None:
    """An image made on one of ours inherits every label of it, and is not ours to release."""
    (cell, *_), idents, _ = built
    images, client = Images(engine), engine.client()
    assert release.in_engine(images, cell) is None
    for name in (cell.immutable, cell.aliases[0]):
        named = f"amdserve-test:{name.rpartition(':')[2]}"
        client.images.get(idents[cell.id]).tag(named)
        try:
            found = release.in_engine(images, cell)
        finally:
            client.images.remove(named, noprune=True)
        assert found is not None
        assert found.id == idents[cell.id]


def test_release_leaves_signed_images_under_every_name(
    built: Built, server: Server, tmp_path: Path, engine: Engine
) -> None:
    cells, _, signer = built
    before = in_the_engine(engine, cells)
    path = prepared(built, server.host, tmp_path)
    released = releasing.release(path)
    assert [one.done for one in released] == [("build", "push", "sign", "test", "aliases")] * 2
    registry = opened(server.host)
    found = state(registry, signer)
    names = {tag.rpartition(":")[2] for cell in cells for tag in (*cell.aliases, cell.immutable)}
    assert {"vulkan", "latest", "llama-rdna4"} < names
    assert set(found) == names
    assert all(value[1:] == (True, sorted(ATTACHED)) for value in found.values())
    assert found["latest"] == found["vulkan"]
    assert in_the_engine(engine, cells) == before

    documents = {
        kind: signer.statement(released[0].reference, kind)[0] or {} for kind in (sign.SPDX, sign.CYCLONEDX)
    }
    purls = {
        ref["referenceLocator"]
        for package in documents[sign.SPDX]["packages"]
        for ref in package.get("externalRefs", ())
    }
    llama = f"pkg:github/ggml-org/llama.cpp@{cells[0].labels['io.amdserve.llama.commit']}"
    wanted = {"pkg:deb/debian/libc6@2.42-1?arch=amd64", "pkg:pypi/pydantic@2.12.0", llama}
    assert wanted <= purls
    assert wanted <= {one.get("purl") for one in documents[sign.CYCLONEDX]["components"]}
    notes = (tmp_path / "release-notes.md").read_text()
    assert all(cell.immutable.rpartition(":")[2] in notes for cell in cells)
    assert "Mesa 26.1.6-1" in notes

    again = releasing.release(path)
    assert [one.done for one in again] == [(), ()]
    assert state(registry, signer) == found


class Killed:
    """Releases into one repository, each of which may be killed at one of its requests to the registry."""

    def __init__(self, built: Built, server: Server, folder: Path, name: str) -> None:
        cells, images, signer = built
        self.name, self.signer, self.log = name, signer, folder / name / "log"
        self.proxy = Proxy(server.port, self._watch)
        self.registry = opened(server.host, name)
        self.path = prepared((cells[:1], images, signer), self.proxy.host, folder / name, name)
        self.total = self.at_request = 0
        self.begun: subprocess.Popen[bytes] | None = None

    def _watch(self, _method: str, _path: str, _number: int) -> bool:
        self.total += 1
        if self.total == self.at_request and self.begun:
            registries.kill(self.begun.pid)
            return True
        return False

    def run(self, at_request: int = 0) -> int:
        """Release, and be killed at this request where one is named; give the exit code."""
        self.total, self.at_request = 0, at_request
        with self.log.open("ab") as log:
            self.begun = process.spawn(
                [sys.executable, "-m", "tests.container.releasing", str(self.path)],
                cwd=releasing.ROOT,
                env={**os.environ, "PYTHONPATH": f"{releasing.ROOT}:{releasing.ROOT / 'tests'}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.begun.wait(300)

    def state(self) -> dict[str, tuple[str, bool, list[str]]]:
        return state(self.registry, self.signer)

    def end(self) -> dict[str, tuple[str, bool, list[str]]]:
        """Release undisturbed; give where that ends."""
        assert self.run() == 0, self.log.read_text()
        return self.state()

    def only_verified(self, end: Mapping[str, tuple[str, bool, list[str]]], why: str) -> None:
        """See that nothing is under an alias but what a signed statement says was tested."""
        for tag in {"vulkan", "latest"}.intersection(self.registry.tags()):
            now = self.registry.manifest(tag)
            assert now
            assert now.digest == end[tag][0], f"{tag} {why}"
            image = self.registry.reference.at(digest=now.digest)
            assert self.signer.statement(image, sign.TESTED)[0] is not None, f"{tag} {why}"


def test_release_killed_anywhere_comes_to_the_same_end(built: Built, server: Server, tmp_path: Path) -> None:
    """Killed at ten of its requests to the registry: nothing unverified is ever under an alias."""
    whole = Killed(built, server, tmp_path, "whole")
    end = whole.end()
    whole.proxy.stop()
    requests = whole.total
    assert len(end) == 3, end

    points = sorted(random.Random(SEED).sample(range(2, requests + 1), POINTS))
    print(f"killed at {points} of {requests} requests")

    def pair(number: int) -> int:
        """Stop one release twice, each time further on, then let it end; give how often it was stopped."""
        one = Killed(built, server, tmp_path, f"killed-{number}")
        unfinished = 0
        try:
            for point in points[number : number + 2]:
                unfinished += one.run(point) != 0
                one.only_verified(end, f"after {point} of {requests} requests")
            assert one.end() == end, f"after {points[number : number + 2]} of {requests}"
        finally:
            one.proxy.stop()
        assert list((one.path.parent / "pack").iterdir()) == []
        return unfinished

    # Each pair has a repository of its own, so they need not wait for each other.
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        unfinished = sum(pool.map(pair, range(0, POINTS, 2)))
    assert unfinished >= POINTS // 2, "most points lie before the end"


def test_alias_does_not_move_to_what_was_not_tested(
    built: Built, server: Server, tmp_path: Path, engine: Engine, project: Project
) -> None:
    cells, images, signer = built
    (cell,) = (at(one, f"{server.host}/me/amdserve") for one in cells[:1])
    registry = opened(server.host)
    known = Images(engine)
    ready = release.Release(
        Plan((cell,)),
        engine,
        registry,
        signer,
        project.sources,
        project.llama,
        tmp_path / "pack",
        releasing.EPOCH,
        lambda one: known.find(images[one.id]),  # type: ignore[arg-type, return-value]
        lambda reference, _: Report(reference, (Check("small", False, "broken"),)),
    )
    with pytest.raises(PublishError, match="not ready"):
        ready.run(promote=True)
    ready.run(through="sign")
    with pytest.raises(PublishError, match="not ready"):
        ready.run(promote=True)
    with pytest.raises(VerifyError, match="small: broken"):
        ready.run()
    assert [tag for tag in registry.tags() if not tag.startswith("sha256-")] == [
        cell.immutable.rpartition(":")[2]
    ]


@pytest.fixture(scope="module")
def genuine(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Built]]:
    """A registry with a finished release in it, for tests that tamper with copies of its tags."""
    folder = tmp_path_factory.mktemp("genuine")
    server = Server(folder / "registry")
    releasing.release(prepared(built, server.host, folder))
    yield server, built
    server.stop()


def wrong(server: Server, tag: str, signer: Signer) -> dict[str, str]:
    """Verify a tag; give what does not hold."""
    registry = opened(server.host)
    _, checks = published.verify(registry, registry.reference.at(tag=tag), signer)
    assert len(checks) >= 1
    return {check.name: check.detail for check in checks if not check.ok}


def test_what_was_released_holds(genuine: tuple[Server, Built]) -> None:
    server, (cells, _, signer) = genuine
    for tag in (*cells[0].aliases, cells[0].immutable, *cells[1].aliases):
        assert wrong(server, tag.rpartition(":")[2], signer) == {}


def test_verify_starts_only_what_is_genuine(genuine: tuple[Server, Built], engine: Engine) -> None:
    server, (_, _, signer) = genuine
    ref = f"{server.host}/me/amdserve:vulkan"
    public = Signer(public=signer.public)
    made = {check.name: check.ok for check in commands.verify_image(ref, public, engine).checks}
    assert made["signature"]
    assert made["layers"]
    assert made["labels"] is False, "a small image is genuine, and still not the product"
    assert Images(engine).find(ref) is None
    with pytest.raises(UsageError, match="nobody is named"):
        commands.verify_image(ref, Signer(), engine)
    manifest = opened(server.host).manifest("llama-rdna4")
    assert manifest
    registry = opened(server.host)
    before = registry.manifest("vulkan")
    assert before
    registry.put_manifest("vulkan", manifest)
    try:
        made = {check.name: check.ok for check in commands.verify_image(ref, public, engine).checks}
    finally:
        registry.put_manifest("vulkan", before)
    assert made["tag"] is False
    assert "labels" not in made, "it was not even started"


def test_layer_that_was_changed_is_named(genuine: tuple[Server, Built]) -> None:
    server, (_, _, signer) = genuine
    manifest = opened(server.host).manifest("vulkan")
    assert manifest
    layer = manifest.body["layers"][3]["digest"]
    file = server.blob(layer)
    before = file.read_bytes()
    file.write_bytes(before[:5000] + bytes([before[5000] ^ 1]) + before[5001:])
    try:
        found = wrong(server, "vulkan", signer)
    finally:
        file.write_bytes(before)
    assert set(found) == {"layers"}
    assert layer[:19] in found["layers"]


def test_tag_that_was_moved_is_named(genuine: tuple[Server, Built]) -> None:
    server, (cells, _, signer) = genuine
    registry = opened(server.host)
    theirs, ours = registry.manifest("llama-rdna4"), registry.manifest("vulkan")
    assert theirs
    assert ours
    tag = cells[0].immutable.rpartition(":")[2]
    registry.put_manifest(tag, theirs)
    try:
        found = wrong(server, tag, signer)
    finally:
        registry.put_manifest(tag, ours)
    assert set(found) == {"tag"}, "all the rest is genuine, and that is the trick"
    assert cells[1].id in found["tag"]


def test_image_nobody_signed_and_another_key_are_named(genuine: tuple[Server, Built], tmp_path: Path) -> None:
    server, (_, _, signer) = genuine
    registry = opened(server.host)
    manifest = registry.manifest("vulkan")
    assert manifest
    body = {**manifest.body, "annotations": {"org.opencontainers.image.title": "something better"}}
    registry.put_manifest("latest", Manifest(json.dumps(body).encode()))
    try:
        assert set(wrong(server, "latest", signer)) == {
            "signature",
            "provenance",
            "sbom-spdx",
            "sbom-cyclonedx",
        }
    finally:
        registry.put_manifest("latest", manifest)
    stranger = Signer(*registries.keys(tmp_path, "stranger"))
    assert "signature" in wrong(server, "vulkan", replace(stranger, key=""))


def test_signature_that_was_changed_is_named(genuine: tuple[Server, Built]) -> None:
    server, (_, _, signer) = genuine
    registry = opened(server.host)
    manifest = registry.manifest("vulkan")
    assert manifest
    bundles: dict[str, Any] = {}
    for one in registry.referrers(manifest.digest):
        attached = registry.manifest(one["digest"])
        assert attached
        digest = attached.body["layers"][0]["digest"]
        bundles[digest] = json.loads(registry.blob(digest))
    assert len(bundles) == len(ATTACHED) + 1
    signature = next(digest for digest, bundle in bundles.items() if _is_signature(bundle))
    file = server.blob(signature)
    before = file.read_text()
    bundle = json.loads(before)
    envelope = bundle["dsseEnvelope"]["signatures"][0]
    envelope["sig"] = (
        envelope["sig"][:20] + ("A" if envelope["sig"][20] != "A" else "B") + envelope["sig"][21:]
    )
    file.write_text(json.dumps(bundle))
    try:
        found = wrong(server, "vulkan", signer)
    finally:
        file.write_text(before)
    assert set(found) == {"signature"}


def _is_signature(bundle: dict[str, dict[str, str]]) -> bool:
    payload = json.loads(base64.b64decode(bundle["dsseEnvelope"]["payload"]))
    return bool(payload["predicateType"] == "https://sigstore.dev/cosign/sign/v1")


def test_what_is_not_there_is_one_check_that_fails(genuine: tuple[Server, Built]) -> None:
    server, (_, _, signer) = genuine
    assert set(wrong(server, "nothing", signer)) == {"manifest"}
