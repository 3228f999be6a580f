"""Which GPU is here: a detector per file, the chain that asks them, and the table of AMD's gfx targets."""

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
