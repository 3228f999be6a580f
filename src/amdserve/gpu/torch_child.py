"""AMD and NVIDIA GPUs as torch sees them, for machines where nothing else answers (ROCm under WSL, say).

torch is never imported here: whether it is installed and what it was built for is read from its files, and
only a build that could see a GPU is asked, in a child process.
"""

from __future__ import annotations

import os
import re

from amdserve.gpu import child
from amdserve.gpu.catalogue import gpu_type_of, lookup
from amdserve.gpu.detector import Context
from amdserve.gpu.models import GPU, Finding, GPUType
from amdserve.gpu.sysroot import read_bytes
from amdserve.values import replace

# The first import of a ROCm build reads gigabytes.
_LIMIT = 60.0
_BUILT_FOR = re.compile(r"^(hip|cuda)\b[^=]*=\s*['\"]([^'\"]+)['\"]", re.MULTILINE)


class TorchProbe:
    """Asks torch once for both detectors."""

    def __init__(self, probe: child.Probe | None = None) -> None:
        """Take what asks torch; None asks the installed one."""
        self._probe = probe
        self._answer: child.Answer | None = None

    def refuse(self, context: Context, build: str) -> Finding | None:
        """Say why torch need not be asked for `build` (hip or cuda), or None."""
        if self._probe is not None:
            return None
        place = child.installed("torch")
        if place is None:
            return Finding("unavailable", "torch is not installed")
        if not context.sysroot.real:
            return Finding("skipped", "torch asks the real machine, and AMDSERVE_SYSROOT names another")
        try:
            text = read_bytes(os.path.join(os.path.dirname(place), "version.py")).decode()  # noqa: PTH118, PTH120
        except (OSError, ValueError):
            return None
        if build not in dict(_BUILT_FOR.findall(text)):
            return Finding("unavailable", f"torch is installed, but not built for {build}")
        return None

    def ask(self, context: Context) -> child.Answer:
        """Ask torch, or give what it said before."""
        if self._answer is None:
            self._answer = (self._probe or child.ChildProbe("torch", _LIMIT))(context.environ)
        return self._answer


def _detect(torch: TorchProbe, context: Context, build: str) -> Finding | child.Answer:
    refusal = torch.refuse(context, build)
    if refusal is not None:
        return refusal
    answer = torch.ask(context)
    if answer.outcome != "found":
        return Finding(answer.outcome, answer.reason)
    if not answer.facts.get(build):
        return Finding(
            "none", f"torch {answer.facts.get('version', '')} is not built for {build}".replace("  ", " ")
        )
    return answer


class TorchROCmDetector:
    """AMD GPUs through a torch that was built for ROCm."""

    name = "TorchROCmDetector"
    vendor = "amd"
    limit = _LIMIT + 1

    def __init__(self, torch: TorchProbe | None = None) -> None:
        """Take the asking of torch, to share it with the other detector."""
        self._torch = torch or TorchProbe()

    def detect(self, context: Context) -> Finding:
        """Ask torch for AMD GPUs."""
        answer = _detect(self._torch, context, "hip")
        if isinstance(answer, Finding):
            return answer
        gpus: list[GPU] = []
        for index, device in enumerate(answer.devices):
            target = lookup(child.word(device.get("gfx")))
            gfx = target.gfx if target else None
            gpu = child.gpu(device, index, "amd", gpu_type_of(gfx), gfx)
            gpus.append(replace(gpu, integrated=target.integrated if target else gpu.integrated))
        return Finding("found", ", ".join(gpu.gfx or gpu.name for gpu in gpus), tuple(gpus))


class TorchCudaDetector:
    """NVIDIA GPUs through a torch that was built for CUDA."""

    name = "TorchCudaDetector"
    vendor = "nvidia"
    limit = _LIMIT + 1

    def __init__(self, torch: TorchProbe | None = None) -> None:
        """Take the asking of torch, to share it with the other detector."""
        self._torch = torch or TorchProbe()

    def detect(self, context: Context) -> Finding:
        """Ask torch for NVIDIA GPUs."""
        answer = _detect(self._torch, context, "cuda")
        if isinstance(answer, Finding):
            return answer
        gpus = tuple(
            child.gpu(device, index, "nvidia", GPUType.NVIDIA) for index, device in enumerate(answer.devices)
        )
        return Finding("found", ", ".join(gpu.name for gpu in gpus), gpus)
