"""What detection finds, as frozen values that print as JSON.

`gpus` and `attempts` of `GPUDetectionResult.to_dict()` hold the keys that `detect --json` promises and
no others. What the rooms need beyond that (the driver, the unique id) are attributes without a key.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Literal

from amdserve.values import dataclass

Vendor = Literal["amd", "nvidia", "cpu"]
Outcome = Literal["found", "none", "unavailable", "error", "skipped"]
OUTCOMES: tuple[Outcome, ...] = ("found", "none", "unavailable", "error", "skipped")


class GPUType(StrEnum):
    """The kind of GPU; for AMD it comes from the gfx catalogue, never from how a gfx name begins."""

    AMD_CDNA = "AMD_CDNA"
    AMD_RDNA = "AMD_RDNA"
    AMD_GCN = "AMD_GCN"
    NVIDIA = "NVIDIA"
    CPU = "CPU"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class GPU:
    """One device that could serve.

    Args:
        index: its place in this result; for AMD the order in which ROCm counts, from 0.
        vendor: amd, nvidia or cpu.
        name: the name a person knows it by.
        gfx: the LLVM target (gfx1151), or None where it is no AMD GPU or the target is not known.
        gpu_type: the kind.
        vram_bytes: memory of its own; on an APU only what the firmware carved out.
        gtt_bytes: system memory the driver lets it use.
        integrated: it shares the system's memory (an APU).
        compute_units: CUs (AMD), multiprocessors (NVIDIA) or logical CPUs; 0 where not known.
        pci: the PCI address `dddd:bb:dd.f`, or None.
        render_node: `/dev/dri/renderD…`, or None.
        driver: name and version of the kernel driver, or None.
        unique_id: what ROCR_VISIBLE_DEVICES calls `GPU-…`, or None.
    """

    index: int
    vendor: Vendor
    name: str
    gfx: str | None
    gpu_type: GPUType
    vram_bytes: int
    gtt_bytes: int
    integrated: bool
    compute_units: int
    pci: str | None
    render_node: str | None
    driver: str | None = None
    unique_id: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the GPU as `detect --json` prints it."""
        return {
            "index": self.index,
            "vendor": self.vendor,
            "name": self.name,
            "gfx": self.gfx,
            "gpu_type": self.gpu_type.value,
            "vram_bytes": self.vram_bytes,
            "gtt_bytes": self.gtt_bytes,
            "integrated": self.integrated,
            "compute_units": self.compute_units,
            "pci": self.pci,
            "render_node": self.render_node,
        }


@dataclass(frozen=True, slots=True)
class Attempt:
    """What one detector did: outcome, reason in words, and milliseconds."""

    detector: str
    outcome: Outcome
    reason: str
    ms: float

    def to_dict(self) -> dict[str, Any]:
        """Give the attempt as `detect --json` prints it."""
        return {
            "detector": self.detector,
            "outcome": self.outcome,
            "reason": self.reason,
            "ms": round(self.ms, 1),
        }


@dataclass(frozen=True, slots=True)
class Finding:
    """What one detector answers: it becomes an `Attempt`, and the result where the outcome is `found`."""

    outcome: Outcome
    reason: str
    gpus: tuple[GPU, ...] = ()


@dataclass(frozen=True, slots=True)
class GPUDetectionResult:
    """What is here, which detector says so, and what each one in the chain did.

    `available` means a real GPU: the CPU alone is listed in `gpus`, but is no GPU.
    """

    available: bool
    detector: str
    gpus: tuple[GPU, ...]
    attempts: tuple[Attempt, ...]

    @property
    def accelerators(self) -> tuple[GPU, ...]:
        """The GPUs without the CPU entry."""
        return tuple(gpu for gpu in self.gpus if gpu.vendor != "cpu")

    def to_dict(self) -> dict[str, Any]:
        """Give the contract of `detect --json`."""
        return {
            "available": self.available,
            "detector": self.detector,
            "gpus": [gpu.to_dict() for gpu in self.gpus],
            "attempts": [attempt.to_dict() for attempt in self.attempts],
        }
