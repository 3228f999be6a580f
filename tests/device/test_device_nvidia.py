"""A real NVIDIA GPU, where one is at hand: `pytest tests/device`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (Path("/dev/nvidiactl").exists() and find_spec("pynvml") and find_spec("torch")),
    reason="no NVIDIA GPU, or nvidia-ml-py or torch is not installed",
)


def test_nvml_and_torch_find_the_gpu(tmp_path: Path) -> None:
    out = tmp_path / "ran.json"
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("nvidia.py")), "--out", str(out)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads(out.read_text(encoding="utf-8"))
    assert all(entry["held"].values())
    (gpu, *_) = entry["detections"]["NVMLDetector"]["gpus"]
    assert gpu["vendor"] == "nvidia"
    assert gpu["gpu_type"] == "NVIDIA"
    assert gpu["vram_bytes"] > 1 << 30
