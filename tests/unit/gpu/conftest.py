from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amdserve.gpu import GPUDetectionResult, Sysroot, UnifiedGPUDetector

MACHINES = Path(__file__).parents[2] / "fixtures" / "machines"


@pytest.fixture
def machine() -> Callable[[str], Sysroot]:
    """Give the sysroot of a machine laid out as a folder."""

    def find(name: str) -> Sysroot:
        assert (MACHINES / name).is_dir()
        return Sysroot(MACHINES / name)

    return find


@pytest.fixture
def detected(machine: Callable[[str], Sysroot]) -> Callable[[str], GPUDetectionResult]:
    """Detect what is on a machine laid out as a folder."""
    return lambda name: UnifiedGPUDetector(sysroot=machine(name), environ={}).detect()
