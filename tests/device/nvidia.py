"""Shows on a machine with an NVIDIA GPU that NVML and torch find it, and writes down what they said.

Run it from a checkout, with nvidia-ml-py and a CUDA build of torch installed::

    PYTHONPATH=src python tests/device/nvidia.py --out docs/evidence/ran-nvidia.json

It exits with 0 only where every claim holds. The record names no host: only device, driver, versions, times.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from amdserve.gpu import CPUDetector, GPUDetectionResult, NVMLDetector, TorchCudaDetector, UnifiedGPUDetector
from amdserve.gpu.select import choose


def only(detector: Any, environ: Mapping[str, str]) -> GPUDetectionResult:
    """Ask one detector and the CPU."""
    return UnifiedGPUDetector(environ=environ, detectors=[detector, CPUDetector()]).detect()


def version(package: str) -> str:
    """Give an installed package's version."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def claims() -> tuple[dict[str, bool], dict[str, GPUDetectionResult]]:
    """Ask, and say which claims hold."""
    environ = dict(os.environ)
    environ.pop("CUDA_VISIBLE_DEVICES", None)
    hidden = {**environ, "CUDA_VISIBLE_DEVICES": "-1"}
    seen = {
        "chain": UnifiedGPUDetector(environ=environ).detect(),
        "NVMLDetector": only(NVMLDetector(), environ),
        "TorchCudaDetector": only(TorchCudaDetector(), environ),
        "TorchCudaDetector, CUDA_VISIBLE_DEVICES=-1": only(TorchCudaDetector(), hidden),
    }
    nvml, torch = seen["NVMLDetector"], seen["TorchCudaDetector"]
    same = [gpu.pci for gpu in nvml.gpus] == [gpu.pci for gpu in torch.gpus]
    held = {
        "NVML finds a GPU": nvml.available and nvml.detector == "NVMLDetector",
        "torch finds a GPU": torch.available and torch.detector == "TorchCudaDetector",
        "both name the same devices": [gpu.name for gpu in nvml.gpus] == [gpu.name for gpu in torch.gpus]
        and same,
        "the chain ends at NVML": seen["chain"].detector == "NVMLDetector",
        "torch's child inherits what the user hides": not seen[
            "TorchCudaDetector, CUDA_VISIBLE_DEVICES=-1"
        ].available,
        "what the user hides is not chosen": choose(nvml, environ=hidden).gpu is None,
        "torch was not imported by the one who asks": "torch" not in sys.modules,
        "nor was pynvml": "pynvml" not in sys.modules,
    }
    return held, seen


def record(held: Mapping[str, bool], seen: Mapping[str, GPUDetectionResult]) -> list[dict[str, Any]]:
    """Make the record: a list with one entry."""
    gpus = seen["NVMLDetector"].accelerators
    return [
        {
            "what": "NVMLDetector and TorchCudaDetector find the GPU; the chain ends at NVML",
            "hardware": f"{len(gpus)} × {gpus[0].name}" if gpus else "none",
            "driver": (gpus[0].driver if gpus else None) or "",
            "by": "tests/device/nvidia.py",
            "date": datetime.now(UTC).date().isoformat(),
            "versions": {
                "python": platform.python_version(),
                "nvidia-ml-py": version("nvidia-ml-py"),
                "torch": version("torch"),
            },
            "held": dict(held),
            "detections": {name: result.to_dict() for name, result in seen.items()},
        }
    ]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the record to this file")
    options = parser.parse_args()
    held, seen = claims()
    text = json.dumps(record(held, seen), indent=1, ensure_ascii=False)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    for claim, ok in held.items():
        print(f"{'✔' if ok else '✘'} {claim}", file=sys.stderr)
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
