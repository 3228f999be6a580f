"""No detector can break the chain."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from amdserve.gpu import GPU, CPUDetector, Finding, GPUType, UnifiedGPUDetector
from amdserve.gpu.detector import Context


def make_gpu(**changes: Any) -> GPU:
    values: dict[str, Any] = {
        "index": 0,
        "vendor": "amd",
        "name": "A GPU",
        "gfx": "gfx1100",
        "gpu_type": GPUType.AMD_RDNA,
        "vram_bytes": 1,
        "gtt_bytes": 0,
        "integrated": False,
        "compute_units": 1,
        "pci": None,
        "render_node": "/dev/dri/renderD128",
    }
    return GPU(**{**values, **changes})


class Fake:
    def __init__(self, act: Callable[[Context], Any], vendor: str = "amd", limit: float = 5.0) -> None:
        self.name, self.vendor, self.limit, self.act = "Fake", vendor, limit, act

    def detect(self, context: Context) -> Finding:
        return self.act(context)  # type: ignore[no-any-return]


def outcome(act: Callable[[Context], Any], limit: float = 5.0) -> tuple[str, str]:
    result = UnifiedGPUDetector(environ={}, detectors=[Fake(act, limit=limit), CPUDetector()]).detect()
    assert result.detector == "CPUDetector"
    return result.attempts[0].outcome, result.attempts[0].reason


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even this")


def raising(error: BaseException) -> Callable[[Context], Any]:
    def act(_: Context) -> Any:
        raise error

    return act


@pytest.mark.parametrize(
    "error",
    [
        KeyError("libamd_smi.so"),
        SystemExit(3),
        KeyboardInterrupt(),
        OSError("gone"),
        GeneratorExit(),
        UnspeakableError(),
        RecursionError(),
        MemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_is_raised_becomes_one_attempt(error: BaseException) -> None:
    found, reason = outcome(raising(error))
    assert found == "error"
    assert type(error).__name__ in reason


@pytest.mark.parametrize(
    "answer",
    [None, "found", Finding("found", "nothing in it"), object()],
    ids=lambda answer: type(answer).__name__,
)
def test_an_answer_that_is_none_becomes_an_error(answer: object) -> None:
    assert outcome(lambda _: answer)[0] == "error"


def test_a_hang_ends_at_the_time_limit() -> None:
    start = time.monotonic()
    found, reason = outcome(lambda _: time.sleep(30), limit=0.1)
    assert time.monotonic() - start < 5
    assert found == "error"
    assert "0.1 s" in reason


def test_prints_never_reach_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    def act(_: Context) -> Finding:
        print("from Python")
        os.write(1, b"from C\n")
        os.system("echo from a child")
        return Finding("none", "saw nothing")

    assert outcome(act)[0] == "none"
    print("the answer")
    sys.stdout.flush()
    out, err = capfd.readouterr()
    assert out == "the answer\n"
    for words in ("from Python", "from C", "from a child"):
        assert words in err


def test_a_closed_standard_output_is_no_obstacle() -> None:
    saved = os.dup(1)
    os.close(1)
    try:
        assert outcome(lambda _: Finding("none", "saw nothing"))[0] == "none"
    finally:
        os.dup2(saved, 1)
        os.close(saved)


def test_the_first_that_finds_ends_the_chain_and_the_rest_are_recorded() -> None:
    gpu = make_gpu()
    never = Fake(raising(AssertionError("must not be asked")))
    result = UnifiedGPUDetector(
        environ={}, detectors=[Fake(lambda _: Finding("found", "here", (gpu,))), never, CPUDetector()]
    ).detect()
    assert result.available
    assert result.gpus == (gpu,)
    assert [attempt.outcome for attempt in result.attempts] == ["found", "skipped", "skipped"]
    assert all(attempt.reason for attempt in result.attempts)


@pytest.mark.parametrize(
    ("vendor", "winner"), [(None, "amd"), ("auto", "amd"), ("nvidia", "nvidia"), ("cpu", "cpu")]
)
def test_the_vendor_option_leaves_the_others_out(vendor: str | None, winner: str) -> None:
    amd = Fake(lambda _: Finding("found", "here", (make_gpu(),)))
    nvidia = Fake(lambda _: Finding("found", "here", (make_gpu(vendor="nvidia", gfx=None),)), vendor="nvidia")
    result = UnifiedGPUDetector(environ={}, vendor=vendor, detectors=[amd, nvidia, CPUDetector()]).detect()
    assert result.gpus[0].vendor == winner
    assert result.available == (winner != "cpu")


def test_a_chain_without_an_answer_still_answers() -> None:
    result = UnifiedGPUDetector(environ={}, detectors=[]).detect()
    assert not result.available
    assert result.gpus[0].vendor == "cpu"
    assert result.accelerators == ()
