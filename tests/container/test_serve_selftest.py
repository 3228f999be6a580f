"""`amdserve selftest`: a GPU that computes is told from one that does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from amdserve.serve.reference import TOLERANCE

from .gpus import Broken, Lavapipe
from .server import document

Run = Callable[..., tuple[int, str]]
VULKAN = "llama-server-vulkan"


def results(said: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Give the results by backend and device."""
    found = document(said)
    assert found["tolerance"] == TOLERANCE
    return {(one["backend"], "CPU" if one["device"] == "CPU" else "GPU"): one for one in found["results"]}


def test_without_a_gpu_the_cpu_gives_its_own_answer(run: Run, llama: str) -> None:
    code, said = run(llama, "selftest", "--json")
    assert code == 0, said
    found = results(said)
    assert list(found) == [(VULKAN, "CPU")]
    # The machine that built the image may have another CPU, whose kernels round differently.
    assert found[VULKAN, "CPU"]["off"] < TOLERANCE / 10


def test_a_device_that_computes_is_right(run: Run, llama: str, lavapipe: Lavapipe) -> None:
    code, said = run(llama, "selftest", "--json", **lavapipe())
    assert code == 0, said
    found = results(said)
    assert set(found) == {(VULKAN, "GPU"), (VULKAN, "CPU")}
    assert "llvmpipe" in found[VULKAN, "GPU"]["device"]
    assert 0 < found[VULKAN, "GPU"]["off"] < TOLERANCE / 10


def test_a_device_that_computes_nothing_is_wrong(run: Run, faulty: str, broken_gpu: Broken) -> None:
    code, said = run(faulty, "selftest", "--json", **broken_gpu())
    assert code == 1, said
    found = results(said)
    assert not found[VULKAN, "GPU"]["ok"]
    assert "wrong-output" in found[VULKAN, "GPU"]["detail"]
    assert "RADV" in found[VULKAN, "GPU"]["device"]
    assert found[VULKAN, "CPU"]["ok"]
