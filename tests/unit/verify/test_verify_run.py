"""`verify` on an engine that is a stand-in: what it asks, and what it makes of answers that go wrong."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from docker.errors import APIError, ImageNotFound
from verify_image import BACKENDS, attributes, facts

from amdserve.errors import VerifyError
from amdserve.image import verify as verifying
from amdserve.image.catalog import Catalog
from amdserve.image.engine import Engine
from amdserve.image.verify import layers

ROOT = Path(__file__).parents[3]


class Container:
    def __init__(self, world: World) -> None:
        self.world = world

    def put_archive(self, path: str, data: bytes) -> None:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            self.world.sent = {path + one.name: one.size for one in archive}

    def start(self) -> None:
        if self.world.start is not None:
            raise self.world.start

    def wait(self, timeout: float) -> dict[str, int]:
        assert timeout > 0
        return {"StatusCode": self.world.status}

    def logs(self, stdout: bool, stderr: bool) -> bytes:
        assert stdout != stderr
        return (self.world.out if stdout else self.world.err).encode()

    def remove(self, force: bool, v: bool) -> None:
        assert force
        assert v
        self.world.removed += 1


class World:
    """An engine with one image, and how its one container behaves."""

    def __init__(self) -> None:
        self.attributes: dict[str, Any] | None = attributes()
        self.out, self.err, self.status = json.dumps(facts()), "image\n", 0
        self.start: Exception | None = None
        self.created: dict[str, Any] = {}
        self.sent: dict[str, int] = {}
        self.removed = 0
        self.api = self.containers = self

    def client(self) -> World:
        return self

    def inspect_image(self, ref: str) -> dict[str, Any]:
        if self.attributes is None:
            raise ImageNotFound(ref)
        return self.attributes

    def create(self, image: str, **options: Any) -> Container:
        self.created = {"image": image, **options}
        return Container(self)

    def get_image(self, image: str, chunk: int) -> Iterator[bytes]:
        assert image == "sha256:1"
        assert chunk > 0
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w"):
            pass
        yield buffer.getvalue()


class Cell:
    image = "llama"
    gfx: tuple[str, ...] = ("gfx1151",)
    backends = BACKENDS
    labels: dict[str, str] = {"io.amdserve.hash": "sha256:abc"}  # noqa: RUF012


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(layers, "of_host", frozenset)
    monkeypatch.chdir(ROOT)
    return World()


def verify(world: World, **options: Any) -> verifying.Report:
    said: list[str] = []
    return verifying.verify("x:1", engine=cast(Engine, world), say=said.append, **options)


def failing(report: verifying.Report) -> dict[str, str]:
    return {check.name: check.detail for check in report.checks if not check.ok}


def test_a_good_image_holds_as_planned_and_as_labelled(world: World) -> None:
    for expect in (Cell(), None):
        report = verify(world, expect=expect)
        assert failing(report) == {}
        assert report.ok
        assert report.to_dict()["ref"] == "x:1"


def test_the_probe_runs_alone_and_leaves_nothing(world: World) -> None:
    verify(world)
    assert world.created["image"] == "sha256:1"
    assert world.created["network_mode"] == "none"
    assert world.created["entrypoint"][1] in world.sent
    assert all(size > 0 for size in world.sent.values())
    assert world.removed == 1


def test_another_target_than_planned_is_found(world: World) -> None:
    cell = Cell()
    cell.gfx = ("gfx1201",)
    assert {"code-objects", "rocblas-kernels", "image-json"} <= set(failing(verify(world, expect=cell)))


@pytest.mark.parametrize(
    ("out", "err", "status", "word"),
    [
        ("", "python: not found", 127, "127: python: not found"),
        ("", "", 137, "said nothing"),
        ("Traceback", "", 0, "JSON"),
        ("", "", 0, "JSON"),
        ("[]", "", 0, "JSON"),
    ],
)
def test_a_probe_that_fails_is_no_pass(world: World, out: str, err: str, status: int, word: str) -> None:
    world.out, world.err, world.status = out, err, status
    found = failing(verify(world))
    assert word in found["probe"]
    assert {"libraries", "code-objects", "flags", "build-tools"} <= set(found)
    assert "healthcheck" not in found
    assert world.removed == 1


def test_a_container_that_cannot_start(world: World) -> None:
    world.start = APIError("exec /opt/amdserve/bin/python: no such file")
    assert "no such file" in failing(verify(world))["probe"]
    assert world.removed == 1


def test_no_such_image(world: World) -> None:
    world.attributes = None
    with pytest.raises(VerifyError, match="no image 'x:1'"):
        verify(world)


def test_the_budget_is_the_catalogues(world: World) -> None:
    small = Catalog.model_validate(
        {
            "schema": 1,
            "default": "llama",
            "images": {
                "llama": {
                    "summary": "s",
                    "backends": ["llama-server-rocm"],
                    "gfx": "targets",
                    "budget_mb": 500,
                    "budget_per_extra_gfx_mb": 300,
                }
            },
        }
    )
    assert "528 MB of at most 500 MB" in failing(verify(world, catalog=small))["size"]


def test_without_a_catalogue_the_size_is_no_pass(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(verifying, "__file__", str(tmp_path / "a/b/c/d/e/__init__.py"))
    monkeypatch.setattr(verifying, "_archive", lambda: b"\0" * 10240)
    assert "catalog.yaml" in failing(verify(world))["size"]


def test_layers_are_read_where_the_host_has_certificates(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "of_host", lambda: frozenset({"ab" * 32}))
    # An archive without a layer proves nothing.
    assert "0 layers" in failing(verify(world))["certificates"]
    leak = layers.Found("ab" * 32, "cd" * 32, "/etc/ssl/mine.crt")
    monkeypatch.setattr(layers, "search", lambda *_: ([leak], 3))
    assert "/etc/ssl/mine.crt" in failing(verify(world))["certificates"]
    monkeypatch.setattr(layers, "search", lambda *_: ([], 3))
    assert failing(verify(world)) == {}
