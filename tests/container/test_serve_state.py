"""What is remembered in /var/lib/amdserve, from container to container."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount

from .gpus import Broken, Lavapipe, bind
from .server import Serve, Server

MODEL, OTHER = "/models/llama.gguf", "/other/llama.gguf"
PROGRAM = "/usr/local/bin/llama-server-vulkan"
VULKAN, CPU = "llama-server-vulkan", "llama-cpp-python"


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A volume for state."""
    folder = tmp_path_factory.mktemp("state")
    folder.chmod(0o1777)
    return folder


def on(place: Path, gpu: dict[str, Any], *more: Mount) -> dict[str, Any]:
    """Give the options of a container with a GPU and a volume."""
    volume = bind(place, "/var/lib/amdserve", read_only=False)
    return {**gpu, "mounts": [*gpu["mounts"], volume, *more]}


def memory(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "memory.json").read_text(encoding="utf-8"))
    return found


def tried(server: Server) -> list[str]:
    """Name the backends that failed since the start; ROCm's driver is asked each time, it may have come."""
    return [entry["backend"] for entry in server.status()["history"]]


def crash(server: Server) -> None:
    """Let its backend crash while it answers, and wait for the last resort."""
    server.wait_for(VULKAN).kill(PROGRAM, "SEGV")
    server.wait_for(CPU)


def test_the_next_start_goes_straight_to_what_worked(
    serve: Serve, faulty: str, broken_gpu: Broken, place: Path
) -> None:
    options = on(place, broken_gpu())
    first = serve(faulty, "serve", MODEL, **options)
    crash(first)
    first.container.restart(timeout=20)
    first.wait_for(CPU)
    assert VULKAN not in tried(first), "restarted by Docker, it tried again what had failed"
    assert first.stop() == 0
    second = serve(faulty, "serve", MODEL, **options).wait_for(CPU)
    assert VULKAN not in tried(second)
    assert f"{VULKAN} failed here before (crash" in second.logs()
    assert second.stop() == 0
    # What has expired counts no more.
    data = memory(place)
    for entries in data["failures"].values():
        for entry in entries.values():
            entry["until"] = time.time() - 1
    (place / "memory.json").write_text(json.dumps(data), encoding="utf-8")
    third = serve(faulty, "serve", MODEL, **options).wait_for(VULKAN)
    crash(third)
    assert third.stop() == 0
    fourth = serve(faulty, "serve", MODEL, "--forget", **options).wait_for(VULKAN)
    assert "failed here before" not in fourth.logs()


def test_a_torn_file_is_an_empty_one(serve: Serve, faulty: str, broken_gpu: Broken, place: Path) -> None:
    (place / "memory.json").write_bytes(b'{"failures": {"/models/llama.gguf|')
    (place / ".memory.json.gone.7").write_bytes(b"{")
    for file in place.iterdir():
        os.chown(file, 10001, 10001)
    server = serve(faulty, "serve", MODEL, **on(place, broken_gpu()))
    crash(server)
    (entries,) = memory(place)["failures"].values()
    assert entries[VULKAN]["class"] == "crash"


def test_two_containers_on_one_volume(
    serve: Serve, faulty: str, broken_gpu: Broken, place: Path, model_folder: Path
) -> None:
    options = on(place, broken_gpu(), bind(model_folder, "/other"))
    both = [serve(faulty, "serve", name, **options) for name in (MODEL, OTHER)]
    for server in both:
        server.wait_for(VULKAN)
    for server in both:
        server.kill(PROGRAM, "SEGV")
    for server in both:
        server.wait_for(CPU)
    assert len(list(place.glob("status-*.json"))) == 2
    assert sorted(name.split("|")[0] for name in memory(place)["failures"]) == [MODEL, OTHER]
    for server in both:
        assert server.stop() == 0
    assert list(place.glob("status-*.json")) == []


def test_the_self_test_is_made_once(serve: Serve, llama: str, lavapipe: Lavapipe, place: Path) -> None:
    options = on(place, lavapipe())
    first = serve(llama, "serve", MODEL, **options).wait_for(VULKAN)
    assert f"self-test: {VULKAN} computes as the CPU does" in first.logs()
    assert first.stop() == 0
    second = serve(llama, "serve", MODEL, **options).wait_for(VULKAN)
    assert "self-test" not in second.logs()
    (proof,) = memory(place)["proofs"].values()
    assert 0 <= proof[VULKAN]["off"] < 0.03
    # It is the only one here, which is known too: the next start need not wait for a slow list of devices.
    assert "llvmpipe" in proof[VULKAN]["alone"]
    assert second.status()["device"] == proof[VULKAN]["alone"]
