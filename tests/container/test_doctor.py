"""The doctor and the detection in the finished image: of its own parts, and of the machine it is on."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import docker.types
import pytest

from .conftest import GFX
from .server import document

SHIM = "/usr/lib/x86_64-linux-gnu/libamdgpu_noop_drm_shim.so"
MACHINES = Path(__file__).parents[1] / "fixtures/machines"


def checks(said: str) -> dict[str, tuple[bool | None, str, str]]:
    return {one["name"]: (one["ok"], one["detail"], one["fix"]) for one in document(said)["checks"]}


def test_a_good_image_on_a_machine_without_a_gpu(run: Any, llama: str) -> None:
    code, said = run(llama, "doctor", "--json")
    found = checks(said)
    # Not every engine may raise the limit on locked memory; that it is low is then the one thing wrong.
    assert {name for name, (ok, _, _) in found.items() if ok is False} <= {"memlock"}
    assert code == (found["memlock"][0] is False)
    assert document(said)["place"] == "container"
    assert [found[name][0] for name in ("libraries", "vulkan-icd", "disk")] == [True] * 3
    assert [found[name][0] for name in ("gpu", "kfd", "engine", "blas")] == [None] * 4
    assert GFX in found["image-gfx"][1]
    assert "amdserve" in document(said)["docker_run"]


def test_a_small_lock_limit_has_its_fix(run: Any, llama: str) -> None:
    limit = [docker.types.Ulimit(name="memlock", soft=65536, hard=65536)]
    code, said = run(llama, "doctor", "--json", ulimits=limit)
    ok, detail, fix = checks(said)["memlock"]
    assert (code, ok) == (1, False)
    assert "0.1 MiB may be locked" in detail
    assert "--ulimit memlock=-1:-1" in fix


def test_what_is_missing_in_an_image_is_found(run: Any, layer: Any, llama: str) -> None:
    broken = layer(llama, "RUN rm $VK_DRIVER_FILES /opt/llama/vulkan/libggml-base.so.0\n")
    code, said = run(broken, "doctor", "--json")
    found = checks(said)
    assert code == 1
    assert found["vulkan-icd"][0] is False
    assert found["libraries"][0] is False
    assert "libggml-base.so.0" in found["libraries"][1]
    assert found["vulkan-icd"][2]
    assert found["libraries"][2]


def test_the_driver_in_the_image_is_asked(run: Any, shimmed: str) -> None:
    """Vulkan sees a GPU here that the kernel does not have: the simulation has no sysfs."""
    environment = {"LD_PRELOAD": SHIM, "AMDGPU_GPU_ID": "gfx1201"}
    _, said = run(shimmed, "doctor", "--json", environment=environment)
    ok, detail, _ = checks(said)["vulkan-device"]
    assert ok is not False
    assert "GFX1201" in detail


NODE = next((node for node in ("/dev/loop-control", "/dev/fuse", "/dev/kmsg") if Path(node).exists()), None)


@pytest.mark.skipif(NODE is None, reason="no device node here that engines keep from containers")
def test_a_node_that_is_only_mounted_does_not_open(client: Any, llama: str) -> None:
    """Any node will do: the kernel refuses it as it refuses a GPU's that was not given with --device."""
    asks = (
        'from amdserve.gpu import Sysroot; print(Sysroot("/").refusal("/dev/node", 0, ()), '
        'Sysroot("/").exists("/dev/node"))'
    )

    def ask(**how: Any) -> str:
        python = "/opt/amdserve/bin/python"
        said: bytes = client.containers.run(llama, ["-c", asks], entrypoint=python, remove=True, **how)
        return said.decode().strip()

    assert ask(volumes={str(NODE): {"bind": "/dev/node", "mode": "rw"}}) == f"{errno.EPERM} True"
    assert ask(devices=[f"{NODE}:/dev/node:rwm"]) == "None True"


@pytest.mark.parametrize(
    ("machine", "gfx"), [("strix-halo", "gfx1151"), ("mi300x", "gfx942"), ("rx-9070-xt", "gfx1201")]
)
def test_detection_in_the_image(client: Any, llama: str, machine: str, gfx: str) -> None:
    """The machine is a folder, but what reads it is the image's own interpreter and package."""
    said = client.containers.run(
        llama,
        ["detect", "--json"],
        volumes={str(MACHINES / machine): {"bind": "/machine", "mode": "ro"}},
        environment={"AMDSERVE_SYSROOT": "/machine"},
        remove=True,
    )
    found = json.loads(said)
    assert found["detector"] == "KFDDetector"
    assert found["gpus"][0]["gfx"] == gfx
