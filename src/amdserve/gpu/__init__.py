"""Which GPU is here: a detector per file, the chain that asks them, and the table of AMD's gfx targets.

A name is imported when it is used: a start waits for each import, and what plans needs no detector.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amdserve.gpu.amd_smi import AMDSMIDetector
    from amdserve.gpu.chain import UnifiedGPUDetector, default_detectors
    from amdserve.gpu.cpu import CPUDetector
    from amdserve.gpu.kfd import KFDDetector
    from amdserve.gpu.models import GPU, Attempt, Finding, GPUDetectionResult, GPUType
    from amdserve.gpu.nvml import NVMLDetector
    from amdserve.gpu.sysroot import Sysroot
    from amdserve.gpu.torch_child import TorchCudaDetector, TorchROCmDetector

__all__ = [
    "GPU",
    "AMDSMIDetector",
    "Attempt",
    "CPUDetector",
    "Finding",
    "GPUDetectionResult",
    "GPUType",
    "KFDDetector",
    "NVMLDetector",
    "Sysroot",
    "TorchCudaDetector",
    "TorchROCmDetector",
    "UnifiedGPUDetector",
    "default_detectors",
]

_FILES = {
    "amd_smi": ("AMDSMIDetector",),
    "chain": ("UnifiedGPUDetector", "default_detectors"),
    "cpu": ("CPUDetector",),
    "kfd": ("KFDDetector",),
    "models": ("GPU", "Attempt", "Finding", "GPUDetectionResult", "GPUType"),
    "nvml": ("NVMLDetector",),
    "sysroot": ("Sysroot",),
    "torch_child": ("TorchCudaDetector", "TorchROCmDetector"),
}


def __getattr__(name: str) -> object:
    for file, names in _FILES.items():
        if name in names:
            return getattr(importlib.import_module(f"{__name__}.{file}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
