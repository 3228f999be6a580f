"""Where the base comes from: pulled, made, or there already; and what is made is the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from docker.errors import APIError, ImageNotFound

from amdserve.errors import EngineError, SourceError
from amdserve.image import base, bootstrap
from amdserve.image.catalog import Base, Sources, load_sources
from amdserve.process import run

ROOT = Path(__file__).resolve().parents[3]
DEBIAN = Base(
    suite="forky", image="debian:forky-slim", digest=f"sha256:{'ab' * 32}", mirror="http://mirror/debian/"
)
UBUNTU = Base(suite="noble", image="ubuntu:24.04")
PINNED = f"debian@{DEBIAN.digest}"
OWN = "amdserve-base:debian-forky"
# The head of a release file, as a mirror gives it.
RELEASE = """\
-----BEGIN PGP SIGNED MESSAGE-----
Hash: SHA256

Origin: Debian
Suite: testing
Codename: forky
Date: Fri, 30 Oct 2026 08:08:01 UTC
Valid-Until: Fri, 06 Nov 2026 08:08:01 UTC
"""


@dataclass
class FakeEngine:
    """What base.py asks of an engine: which images it has, to pull one, to load one."""

    version: str = "28.5.2"
    images: dict[str, Mapping[str, str]] = field(default_factory=dict)
    registry: Exception | Mapping[str, str] | None = None
    broken: Exception | None = None
    did: list[str] = field(default_factory=list)

    def client(self, timeout: float = 60) -> Any:
        assert timeout > 0
        engine = self

        class Api:
            def inspect_image(self, reference: str) -> Mapping[str, Any]:
                if reference not in engine.images:
                    raise ImageNotFound(reference)
                return {"Id": "sha256:1", "Config": {"Labels": engine.images[reference]}}

            def pull(self, repository: str, tag: str, **_options: object) -> Iterator[Mapping[str, str]]:
                engine.did.append(f"pull {repository} {tag}")
                if isinstance(engine.registry, Exception):
                    raise engine.registry
                yield {"status": "Pulling from library/debian"}
                if engine.registry:
                    yield engine.registry

        class Images:
            def load(self, file: Any) -> None:
                if engine.broken:
                    raise engine.broken
                engine.did.append(f"load {len(file.read())}")

        class Client:
            api, images = Api(), Images()

        return Client()


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands for mmdebstrap; gives the folders it worked in."""
    folders: list[Path] = []

    def make(*_words: object, work: Path, **_options: object) -> Path:
        folders.append(work)
        (work / "image.tar").write_bytes(b"12345")
        return work / "image.tar"

    monkeypatch.setattr(bootstrap, "make", make)
    return folders


def sources(record: Base = DEBIAN, name: str = "debian") -> Sources:
    return load_sources(ROOT).model_copy(update={"base": {name: record}})


def ensure(engine: FakeEngine, mode: str = "auto", record: Base = DEBIAN, **options: Any) -> str:
    said: list[str] = options.pop("said", [])
    name = "ubuntu" if record is UBUNTU else "debian"
    return base.ensure(engine, sources(record, name), mode, name=name, say=said.append, **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("tool")
@pytest.mark.parametrize("mode", ["auto", "pull"])
def test_what_was_pulled_is_used_at_once(engine: FakeEngine, mode: str) -> None:
    engine.images = {PINNED: {}, OWN: {base.RECIPE: bootstrap.recipe(DEBIAN)}}
    said: list[str] = []
    assert ensure(engine, mode, said=said) == PINNED
    assert (engine.did, said) == ([], [])


@pytest.mark.usefixtures("tool")
@pytest.mark.parametrize("mode", ["auto", "bootstrap"])
def test_what_was_made_is_used_at_once(engine: FakeEngine, mode: str) -> None:
    engine.images = {OWN: {base.RECIPE: bootstrap.recipe(DEBIAN)}}
    said: list[str] = []
    assert ensure(engine, mode, said=said) == OWN
    assert (engine.did, said) == ([], [])


@pytest.mark.usefixtures("tool")
def test_what_was_made_by_another_recipe_is_made_again(engine: FakeEngine) -> None:
    engine.images = {OWN: {base.RECIPE: "of last year"}}
    assert ensure(engine, "bootstrap") == OWN
    assert engine.did == ["load 5"]


@pytest.mark.usefixtures("tool")
def test_auto_pulls_where_a_registry_answers(engine: FakeEngine) -> None:
    assert ensure(engine) == PINNED
    assert engine.did == [f"pull debian {DEBIAN.digest}"]


@pytest.mark.parametrize(
    "registry",
    [
        APIError("500", explanation="lookup registry-1.docker.io: no such host"),
        {"error": "lookup registry-1.docker.io: no such host"},
    ],
)
def test_auto_makes_it_where_none_does_and_says_why(
    engine: FakeEngine, tool: list[Path], registry: Exception | Mapping[str, str]
) -> None:
    engine.registry = registry
    said: list[str] = []
    assert ensure(engine, said=said) == OWN
    assert engine.did[1:] == ["load 5"]
    assert any("no such host" in line for line in said)
    assert not tool[0].exists(), "nothing is left behind"


@pytest.mark.usefixtures("tool")
def test_pull_means_pull(engine: FakeEngine) -> None:
    engine.registry = APIError("500", explanation="no such host")
    engine.images = {OWN: {base.RECIPE: bootstrap.recipe(DEBIAN)}}
    with pytest.raises(SourceError) as error:
        ensure(engine, "pull")
    assert "no such host" in error.value.cause
    assert "--base bootstrap" in error.value.fix


def test_when_neither_works_both_reasons_are_given(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: object, **_options: object) -> Path:
        raise SourceError("the mirror is silent", cause="no route to host", fix="check the network")

    monkeypatch.setattr(bootstrap, "make", fail)
    engine.registry = APIError("500", explanation="no such host")
    with pytest.raises(SourceError) as error:
        ensure(engine)
    assert "no such host" in error.value.cause
    assert "no route to host" in error.value.cause
    assert error.value.fix == "check the network"


def test_an_engine_that_refuses_the_image_leaves_nothing_behind(engine: FakeEngine, tool: list[Path]) -> None:
    engine.broken = APIError("500", explanation="no space left on device")
    with pytest.raises(EngineError) as error:
        ensure(engine, "bootstrap")
    assert "no space left" in error.value.cause
    assert not tool[0].exists()


@pytest.mark.usefixtures("tool")
@pytest.mark.parametrize("version", ["28.5.2", ""])
def test_a_dry_run_says_what_it_would_do_and_does_nothing(engine: FakeEngine, version: str) -> None:
    engine.version = version
    said: list[str] = []
    assert ensure(engine, "bootstrap", dry=True, said=said) == OWN
    assert ensure(engine, dry=True, said=said) == PINNED
    assert len(said) == 2
    assert engine.did == []


def test_a_base_without_a_mirror_can_only_be_pulled(engine: FakeEngine) -> None:
    engine.registry = APIError("500", explanation="no such host")
    with pytest.raises(SourceError) as error:
        ensure(engine, record=UBUNTU)
    assert "no such host" in error.value.cause
    assert "no mirror" in error.value.cause
    engine.registry = None
    said: list[str] = []
    assert ensure(engine, record=UBUNTU, said=said) == "ubuntu:24.04"
    assert any("no digest is pinned" in line for line in said)


def test_the_recipe_follows_what_decides_the_content() -> None:
    same = DEBIAN.model_copy(update={"image": "debian:other", "digest": None})
    assert bootstrap.recipe(same) == bootstrap.recipe(DEBIAN)
    for change in ({"suite": "trixie"}, {"mirror": "http://other"}, {"snapshot": "20261030T000000Z"}):
        assert bootstrap.recipe(DEBIAN.model_copy(update=change)) != bootstrap.recipe(DEBIAN)


def test_a_snapshot_holds_the_suite_still() -> None:
    assert bootstrap.mirror_of(DEBIAN) == "http://mirror/debian"
    held = DEBIAN.model_copy(update={"snapshot": "20261030T000000Z"})
    assert bootstrap.mirror_of(held).endswith("/archive/debian/20261030T000000Z")


def test_the_tools_check_signatures() -> None:
    keyring = Path("/usr/share/keyrings/k.gpg")
    for command in (
        bootstrap.mmdebstrap("forky", "http://m", keyring, Path("/w/layer.tar")),
        bootstrap.debootstrap("forky", "http://m", keyring, Path("/w/tree")),
    ):
        assert f"--keyring={keyring}" in command
        text = " ".join(command).lower()
        for hole in ("no-check-gpg", "trusted=yes", "allow-insecure", "allowunauthenticated"):
            assert hole not in text


def test_the_date_of_a_suite_is_read_from_its_release_file() -> None:
    assert bootstrap.parse_release_date(RELEASE).isoformat() == "2026-10-30T08:08:01+00:00"
    for broken in ("", "Date: yesterday\n"):
        with pytest.raises(SourceError):
            bootstrap.parse_release_date(broken)


def layer(folder: Path, *, backwards: bool = False) -> Path:
    """Pack the same tree, with files made in another order and at another time."""
    names = ["b/two", "a", "etc/one"]
    for name in reversed(names) if backwards else names:
        path = folder / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
        os.utime(path, (2_000_000_000 + backwards, 2_000_000_000 + backwards))
    run(bootstrap.pack(folder / "tree", folder / "layer.tar", bootstrap.parse_release_date(RELEASE)))
    return folder / "layer.tar"


def test_the_same_files_give_the_same_image(tmp_path: Path) -> None:
    date = bootstrap.parse_release_date(RELEASE)
    archives = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        packed = layer(folder, backwards=name == "second")
        archives.append(bootstrap.archive(packed, OWN, {"a": "b"}, date, folder / "image.tar"))
    with tarfile.open(archives[0]) as one, tarfile.open(archives[1]) as two:
        assert one.getnames() == two.getnames()
        manifest = json.loads(one.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        config = one.extractfile(manifest["Config"]).read()  # type: ignore[union-attr]
        content = one.extractfile(manifest["Layers"][0]).read()  # type: ignore[union-attr]
    assert manifest["RepoTags"] == [OWN]
    assert manifest["Config"] == f"{hashlib.sha256(config).hexdigest()}.json"
    parsed = json.loads(config)
    assert parsed["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(content).hexdigest()}"]
    assert parsed["created"] == "2026-10-30T08:08:01Z"
    assert parsed["config"]["Labels"] == {"a": "b"}


def test_what_debootstrap_leaves_is_taken_out_but_licences_stay(tmp_path: Path) -> None:
    for name in (
        "usr/share/doc/bash/copyright",
        "usr/share/doc/bash/README.gz",
        "usr/share/man/man1/bash.1.gz",
        "usr/share/zoneinfo/UTC",
        "var/cache/apt/archives/bash.deb",
        "var/lib/apt/lists/mirror_InRelease",
        "var/log/dpkg.log",
        "etc/resolv.conf",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    bootstrap.slim(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"usr/share/doc/bash/copyright", "usr/share/zoneinfo/UTC"}
    assert (tmp_path / "var/lib/apt/lists/partial").is_dir()


def test_no_room_is_said_before_anything_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "ROOM", 10**18)
    with pytest.raises(SourceError) as error:
        bootstrap.make("debian", DEBIAN, OWN, {}, work=tmp_path, say=print)
    assert "GB are free" in error.value.cause


def test_a_silent_mirror_is_named() -> None:
    with pytest.raises(SourceError) as error:
        bootstrap.release_date("http://127.0.0.1:1", "forky")
    assert "http://127.0.0.1:1" in error.value.what
