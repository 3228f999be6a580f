"""What this host says about the request: its GPU, where nobody named one, and its compilers."""

from __future__ import annotations

import os

from amdserve.errors import NoGPUError
from amdserve.gpu import catalogue
from amdserve.gpu.chain import UnifiedGPUDetector
from amdserve.gpu.models import GPUDetectionResult

HOW = "name one: --gfx gfx1151 (or a product's name, a family, `all`); --image vulkan serves any GPU"
# One compiler of llama.cpp's larger files takes about this much memory, in bytes.
MEMORY_PER_JOB = 2 << 30


def default_jobs() -> int:
    """Give how many compilers to run at a time: one a core, as far as memory reaches."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(len(os.sched_getaffinity(0)), memory // MEMORY_PER_JOB))


def detect() -> GPUDetectionResult:
    """Find the GPUs of this host; never raises."""
    return UnifiedGPUDetector().detect()


def gfx_here(result: GPUDetectionResult, provider: str) -> tuple[str, ...]:
    """Give the gfx targets of this host's AMD GPUs that ROCm has kernels for, or all where it has none.

    The graphics part of a processor beside a real card is left out by that: nobody ships kernels for it.

    Args:
        result: what detection found.
        provider: the ROCm provider.

    Raises:
        NoGPUError: there is no AMD GPU, or its gfx is not known.
    """
    cards = [gpu for gpu in result.gpus if gpu.vendor == "amd"]
    targets = tuple(dict.fromkeys(gpu.gfx for gpu in cards if gpu.gfx))
    if targets:
        return tuple(gfx for gfx in targets if catalogue.has_blas(gfx, provider)) or targets
    if cards:
        raise NoGPUError(
            f"the gfx target of {cards[0].name} is not known here",
            cause="the kernel driver gives no target for it",
            fix=HOW,
        )
    found = [gpu.name for gpu in result.gpus if gpu.vendor != "cpu"]
    raise NoGPUError(
        "no AMD GPU was found on this host" + (f", only {', '.join(found)}" if found else ""),
        cause="there is none, or its driver (amdgpu) is not loaded: `./inv detect` says where it looked",
        fix=HOW,
    )
