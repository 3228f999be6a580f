"""Pushing to a real registry: what is there, what is missing, what breaks off, who may, and what is full."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from amdserve import process
from amdserve.errors import PublishError
from amdserve.image.engine import Engine
from amdserve.image.index import CA_VARIABLES
from amdserve.image.local import Images, LocalImage
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project
from amdserve.image.publish import published, push, tools
from amdserve.image.publish.backoff import Backoff
from amdserve.image.publish.compress import COMPRESSIONS, MEDIA_TYPES, Compression, form
from amdserve.image.publish.reference import parse
from amdserve.image.publish.registry import Manifest, Registry
from amdserve.image.publish.sign import TESTED, Signer
from amdserve.image.publish.tags import LABEL

from . import registries, releasing
from .emptied import emptied, possible
from .images import Layer
from .registries import Proxy, Server, at, differing, toy

EPOCH = 1_700_000_000


@pytest.fixture(scope="module")
def cell(project: Project) -> Cell:
    return differing(project.plan(Request(images=("vulkan",))).cells[0])


@pytest.fixture(scope="module")
def image(engine: Engine, cell: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalImage]:
    with toy(engine, cell, tmp_path_factory.mktemp("toy"), size=30 << 20) as ident:
        found = Images(engine).find(ident)
        assert found
        yield found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    started = Server(tmp_path / "registry")
    yield started
    started.stop()


def opened(host: str, **backoff: Any) -> Registry:
    return Registry.open(parse(f"{host}/me/amdserve"), backoff=Backoff(first=0.05, **backoff))


def send(
    registry: Registry, cell: Cell, image: LocalImage, engine: Engine, folder: Path, **more: Any
) -> push.Pushed:
    named = at(cell, registry.reference.repository)
    return push.push(registry, named, image, engine, folder=folder, latest=EPOCH, **more)


def test_what_is_pushed_is_there_whole_and_is_not_sent_twice(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    first = send(registry, cell, image, engine, tmp_path / "pack")
    assert (first.state, first.shared) == ("pushed", 0)
    assert first.sent > 30 << 20
    assert registry.tags() == (first.reference.tag,), "no alias without a release"

    found = published.fetch(registry, first.reference)
    assert [check for check in found.checks if not check.ok] == []
    assert found.manifest.digest == first.reference.digest
    assert {layer["mediaType"] for layer in found.manifest.body["layers"]} == {
        "application/vnd.oci.image.layer.v1.tar+zstd"
    }
    annotations = found.manifest.body["annotations"]
    assert annotations[LABEL + "hash"] == cell.hash
    assert annotations[LABEL + "mesa.version"] == "26.1.6-1"
    assert found.inventory.python[0].purl == "pkg:pypi/pydantic@2.12.0"

    again = send(registry, cell, image, engine, tmp_path / "pack")
    assert (again.state, again.sent, again.reference.digest) == ("there", 0, first.reference.digest)

    # Another registry, packed anew: the same bytes.
    elsewhere = Server(tmp_path / "elsewhere")
    try:
        there = send(opened(elsewhere.host), cell, image, engine, tmp_path / "pack")
    finally:
        elsewhere.stop()
    assert there.reference.digest == first.reference.digest


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_engine_gets_the_same_image_back(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path, *, compression: Compression
) -> None:
    registry, client = opened(server.host), engine.client()
    sent = send(registry, cell, image, engine, tmp_path / "pack", compression=compression)
    found = published.fetch(registry, sent.reference)
    assert found.ok, found.checks
    assert f"compressed with {form(compression)}," in found.checks[-1].detail
    client.images.pull(sent.reference.repository, tag=sent.reference.digest)
    try:
        held = client.api.inspect_image(sent.reference.pinned)
        assert held["Id"] == found.manifest.config
        assert held["Config"]["Labels"][LABEL + "hash"] == cell.hash
        assert held["Created"].startswith("2023-11-14T22:13:20")
    finally:
        client.images.remove(sent.reference.pinned, force=True)


@contextmanager
def running(engine: Engine, cell: Cell, context: Path) -> Iterator[LocalImage]:
    """Build an image with a system in it, so that it can be started; it goes afterwards."""
    client = engine.client()
    from_ = next(tag for one in client.images.list("amdserve-base") for tag in one.tags)
    context.mkdir()
    (context / "said").write_text(cell.hash)
    tag = f"amdserve-test:running-{cell.hash[-12:]}"
    labels = [word for name, value in cell.labels.items() for word in ("--label", f"{name}={value}")]
    (context / "Dockerfile").write_text(f"FROM {from_}\nCOPY said /said\n")
    process.run([*engine.buildx, "build", "--load", "--tag", tag, *labels, str(context)], env=engine.env())
    try:
        found = Images(engine).find(tag)
        assert found
        yield found
    finally:
        client.images.remove(tag, force=True)


@pytest.mark.skipif(not possible(), reason="a second engine is started by root, with this project's own")
def test_image_of_either_compression_runs_where_nobody_had_it(
    server: Server, cell: Cell, engine: Engine, tmp_path: Path
) -> None:
    """One layer is gzip's from an older release and zstd's from this one: neither is taken for the other."""
    registry = opened(server.host)
    newer = differing(cell, "newer")
    sent: dict[str, push.Pushed] = {}
    for one, compression in ((cell, "gzip"), (newer, "zstd")):
        with running(engine, one, tmp_path / compression) as image:
            sent[compression] = send(registry, one, image, engine, tmp_path / "pack", compression=compression)
            assert sent[compression].shared == 0, "what is compressed otherwise is another blob"
            said: list[str] = []
            again = send(registry, one, image, engine, tmp_path / "pack", compression="zstd", say=said.append)
            assert again.reference.digest == sent[compression].reference.digest
            assert ("stays compressed with gzip" in said[0]) == (compression == "gzip")
    read = {name: published.fetch(registry, one.reference) for name, one in sent.items()}
    bases = [one.config["rootfs"]["diff_ids"][0] for one in read.values()]
    assert bases[0] == bases[1], "it is the same layer once it is unpacked"
    assert [check for one in read.values() for check in one.checks if not check.ok] == []
    gzip, zstd = (sum(layer["size"] for layer in read[name].manifest.body["layers"]) for name in sent)
    assert zstd < 0.8 * gzip
    with emptied() as empty:
        for name, pushed in sent.items():
            where = pushed.reference
            empty.images.pull(where.repository, tag=where.digest)
            words = empty.containers.run(where.pinned, ["cat", "/said"], remove=True, network_mode="none")
            assert words.decode() == read[name].labels[LABEL + "hash"]


def test_layer_under_the_media_type_of_another_compression_is_named(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    sent = send(registry, cell, image, engine, tmp_path / "pack")
    manifest = registry.manifest(str(sent.reference.tag))
    assert manifest
    body = manifest.body
    body["layers"][1]["mediaType"] = MEDIA_TYPES["gzip"]
    registry.put_manifest("mixed", Manifest(json.dumps(body).encode()))
    found = published.fetch(registry, registry.reference.at(tag="mixed"))
    (check,) = (one for one in found.checks if one.name == "layers")
    assert not check.ok
    assert check.detail.startswith(f"layer 2, {body['layers'][1]['digest'][:19]}, is compressed with zstd")


def test_second_target_sends_only_what_is_its_own(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    send(registry, cell, image, engine, tmp_path / "pack")
    other = replace(differing(cell, "other"), id="other", tags=("x:other", "x:0.1.0-other"))
    with toy(engine, other, tmp_path, size=30) as ident:
        found = Images(engine).find(ident)
        assert found
        second = send(registry, other, found, engine, tmp_path / "pack")
    assert second.state == "pushed"
    assert second.shared > 0, "the layers with the same files are there already"
    assert second.sent < 1 << 20


def test_immutable_tag_is_never_overwritten(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    first = send(registry, cell, image, engine, tmp_path / "pack")
    other = replace(cell, hash="sha256:" + "2" * 64)
    with pytest.raises(PublishError) as caught:
        send(registry, other, replace(image, labels={LABEL + "hash": other.hash}), engine, tmp_path / "pack")
    assert "holds something else" in caught.value.what
    now = registry.manifest(str(first.reference.tag))
    assert now
    assert now.digest == first.reference.digest


def test_image_of_other_inputs_is_not_pushed(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    with pytest.raises(PublishError, match="is not what this plan makes"):
        send(registry, replace(cell, hash="sha256:" + "3" * 64), image, engine, tmp_path / "pack")
    assert registry.tags() == ()


def test_every_third_upload_breaks_off_and_the_push_ends_well(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    uploads = 0

    def third(method: str, _path: str, _number: int) -> bool:
        nonlocal uploads
        uploads += method in ("PATCH", "PUT")
        return method in ("PATCH", "PUT") and uploads % 3 == 0

    proxy = Proxy(server.port, third)
    try:
        sent = send(opened(proxy.host), cell, image, engine, tmp_path / "pack")
        assert proxy.broken >= 4
        assert sent.state == "pushed"
    finally:
        proxy.stop()
    direct = opened(server.host)
    found = published.fetch(direct, parse(f"{server.host}/me/amdserve:{sent.reference.tag}"))
    assert found.ok, found.checks


def test_registry_that_stays_away_is_an_error_in_words_and_leaves_no_tag(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    proxy = Proxy(server.port, lambda method, _path, _number: method in ("PATCH", "PUT"))
    try:
        with pytest.raises(PublishError) as caught:
            send(opened(proxy.host, attempts=3), cell, image, engine, tmp_path / "pack")
    finally:
        proxy.stop()
    assert "does not answer" in caught.value.what
    assert "run it again" in caught.value.fix
    assert opened(server.host).tags() == ()
    assert list((tmp_path / "pack").iterdir()) == [], "nothing stays on this disk either"


def test_full_disk_of_the_registry_is_told_and_leaves_no_tag(
    engine: Engine, cell: Cell, image: LocalImage, tmp_path: Path, layer: Layer
) -> None:
    client = engine.client()
    context = tmp_path / "context"
    context.mkdir()
    binary = tools.ensure("docker-registry")
    (context / "docker-registry").write_bytes(binary.read_bytes())
    (context / "docker-registry").chmod(0o755)
    config = {
        "version": "0.1",
        "log": {"level": "error"},
        "storage": {"filesystem": {"rootdirectory": "/data"}},
        "http": {"addr": "0.0.0.0:5000"},
    }
    (context / "config.json").write_text(json.dumps(config))
    from_ = next(tag for one in client.images.list("amdserve-base") for tag in one.tags)
    made = layer(from_, "COPY docker-registry config.json /\n", context)
    container = client.containers.run(
        made,
        ["/docker-registry", "serve", "/config.json"],
        detach=True,
        tmpfs={"/data": "size=8m"},
        ports={"5000/tcp": ("127.0.0.1", None)},
    )
    try:
        container.reload()
        port = container.attrs["NetworkSettings"]["Ports"]["5000/tcp"][0]["HostPort"]
        registries.ready(f"127.0.0.1:{port}")
        registry = opened(f"127.0.0.1:{port}")
        with pytest.raises(PublishError) as caught:
            send(registry, cell, image, engine, tmp_path / "pack")
        assert "is full" in caught.value.what, str(caught.value)
        assert "make room" in caught.value.fix
        assert registry.tags() == ()
    finally:
        container.remove(force=True, v=True)


def test_full_disk_here_is_told_before_anything_is_written(
    server: Server, cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path
) -> None:
    registry = opened(server.host)
    with pytest.raises(PublishError, match="not enough disk"):
        send(registry, cell, replace(image, size=1 << 50), engine, tmp_path / "pack")
    assert registry.tags() == ()


def test_password_and_certificate(
    cell: Cell, image: LocalImage, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused is told; then a whole release: pushed, signed, pulled and tested, under its names."""
    secured = registries.Secured(tmp_path, monkeypatch)
    named = at(cell, f"{secured.host}/me/amdserve")
    try:
        for name in CA_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(PublishError, match="the certificate of"):
            send(opened(secured.host), cell, image, engine, tmp_path / "pack")
        secured.trusted()
        with pytest.raises(PublishError) as caught:
            send(opened(secured.host), cell, image, engine, tmp_path / "pack")
        assert caught.value.fix == f"docker login {secured.host}"
        secured.login("wrong")
        with pytest.raises(PublishError, match="refuses"):
            send(opened(secured.host), cell, image, engine, tmp_path / "pack")
        secured.login("secret")
        signer = Signer(*registries.keys(tmp_path))
        (released,) = releasing.release(
            releasing.write(tmp_path / "release.json", [named], signer, {cell.id: image.id})
        )
        assert {"push", "sign", "test", "aliases"} <= set(released.done)
        assert signer.signed(released.reference) == ""
        assert signer.statement(released.reference, TESTED)[0] is not None
        assert {"vulkan", "latest"} <= set(opened(secured.host).tags())
    finally:
        secured.server.stop()
