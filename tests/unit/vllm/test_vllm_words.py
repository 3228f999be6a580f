"""vLLM's failures by their lines, as its source writes them: class, sentence, and what would help."""

from __future__ import annotations

import pytest

from amdserve.serve.classify import Failure, classify
from amdserve.serve.vllm_words import say

CORE = "(EngineCore pid=1688) ERROR 11-24 02:09:44 [core.py:1586] "
SMALL = (
    "ValueError: [...] max seq len (8192), (2.0 GiB KV cache is needed, [...] cache memory (1.25 GiB). "
    "Based on the available memory, the estimated maximum model length is 5120. [...]"
)


def judge(line: str, code: int = 1, *, ready: bool = False, oom: bool | None = False) -> Failure:
    return classify(code, [line, "a line that says nothing"], seconds=1, ready=ready, oom_killed=oom)


@pytest.mark.parametrize(
    ("line", "cls", "word"),
    [
        ("RuntimeError: Failed to infer device type, please set", "no-device", "amdsmi sees no AMD GPU"),
        (SMALL, "oom", "8192 tokens need 2.0 GiB, 1.25 GiB are left. This would fit: --n-ctx 5120"),
        (
            SMALL.replace("Based on the available memory, the estimated maximum model length is 5120. ", ""),
            "oom",
            "8192 tokens need 2.0 GiB, 1.25 GiB are left",
        ),
        (
            "ValueError: No available memory for the cache blocks. Try",
            "oom",
            "no memory is left for the KV cache",
        ),
        (
            "ValueError: Free memory on device cuda:0 (3.1/16.0 GiB) on startup is less than [...]",
            "oom",
            "only 3.1 of 16.0 GiB are free",
        ),
        ("torch.OutOfMemoryError: HIP out of memory. Tried to allocate 2 GiB", "oom", "HIP out of memory"),
        ("torch.AcceleratorError: HIP error: invalid device function", "crash", "no code for this GPU"),
        (
            "RuntimeError: HIP error: no kernel image is available for execution",
            "crash",
            "no code for this GPU",
        ),
        ("torch.AcceleratorError: HIP error: unspecified launch failure", "crash", "HIP error: unspecified"),
        ("RuntimeError: Failed to find C compiler. Please specify via CC", "crash", "gcc and libc6-dev"),
        (
            "ImportError: libcudart.so.13: cannot open shared object file: No such file",
            "crash",
            "is a CUDA build",
        ),
        ("RuntimeError: Engine core process EngineCore_0 died unexpectedly.", "crash", "engine core died"),
        ("Worker proc VllmWorker-0 died unexpectedly (exit code: -9), shutting", "crash", "a worker of vLLM"),
        (
            "  Value error, Model architectures ['X'] are not supported for now",
            "model",
            "['X'] are not supported",
        ),
        (
            (
                "  Value error, [...] max_model_len (8192) is greater than the derived max_model_len "
                "(max_position_embeddings=2048 or model_max_length=None in model's config.json)"
            ),
            "usage",
            "--n-ctx 2048",
        ),
    ],
)
def test_line(line: str, cls: str, word: str) -> None:
    for text in (line, CORE + line):
        found = judge(text)
        assert found.cls == cls
        assert word in found.detail
        assert "pid=" not in found.detail


DEAD = "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue."


def test_a_dead_engine_though_vllm_ends_with_0() -> None:
    found = judge(DEAD, 0, ready=True)
    assert (found.cls, found.detail) == ("crash", "vLLM's engine core died")


def test_a_dead_engine_that_the_kernel_killed_for_memory() -> None:
    assert judge(DEAD, 0, ready=True, oom=True).cls == "oom"


def test_an_end_that_nobody_explains() -> None:
    assert judge("main: bye", 0, oom=True).detail == "it ended by itself without an error"


@pytest.mark.parametrize("line", ["", "  plain words ", "(not a prefix) INFO", "llama: error"])
def test_other_lines_stay_as_they_are(line: str) -> None:
    assert say(line) == line.strip()
