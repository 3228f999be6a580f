"""NVIDIA GPUs through NVML: a real `nvmlInit` and a count above 0, in a child process.

A binary or a library on the path proves nothing, and an installed wheel neither: images for AMD carry
them too.
"""

from __future__ import annotations

from amdserve.gpu import child
from amdserve.gpu.detector import Context
from amdserve.gpu.models import Finding, GPUType

_LIMIT = 10.0
# Any of these says that a driver is there to be asked; /dev/dxg is the one of Windows' Linux subsystem.
_SIGNS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/nvidia0", "/dev/dxg")


class NVMLDetector:
    """NVIDIA GPUs through NVML."""

    name = "NVMLDetector"
    vendor = "nvidia"
    limit = _LIMIT + 1

    def __init__(self, probe: child.Probe | None = None) -> None:
        """Take what asks NVML; None asks the installed one, if a driver is there."""
        self._probe = probe

    def detect(self, context: Context) -> Finding:
        """Ask NVML, if it can have an answer."""
        probe = self._probe
        if probe is None:
            if not any(context.sysroot.exists(sign) for sign in _SIGNS):
                return Finding("unavailable", "no NVIDIA driver is here")
            if not context.sysroot.real:
                return Finding("skipped", "NVML asks the real machine, and AMDSERVE_SYSROOT names another")
            if child.installed("pynvml") is None:
                return Finding(
                    "unavailable", "an NVIDIA driver is here, the Python package nvidia-ml-py is not"
                )
            probe = child.ChildProbe("nvml", _LIMIT)
        answer = probe(context.environ)
        if answer.outcome != "found":
            return Finding(answer.outcome, answer.reason)
        gpus = tuple(
            child.gpu(device, index, "nvidia", GPUType.NVIDIA) for index, device in enumerate(answer.devices)
        )
        return Finding("found", ", ".join(gpu.name for gpu in gpus), gpus)
