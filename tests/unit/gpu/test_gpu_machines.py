"""What `detect --json` must say of each machine, written down by hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from amdserve.gpu import GPUDetectionResult

MACHINES = Path(__file__).parents[2] / "fixtures" / "machines"
GIB = 1 << 30


def gpu(  # noqa: PLR0917 - a row of the table below
    index: int,
    name: str,
    gfx: str | None,
    gpu_type: str,
    memory: tuple[int, int],
    cus: int,
    pci: str,
    render: int,
    *,
    integrated: bool = False,
) -> dict[str, Any]:
    return {
        "index": index,
        "vendor": "amd",
        "name": name,
        "gfx": gfx,
        "gpu_type": gpu_type,
        "vram_bytes": memory[0],
        "gtt_bytes": memory[1],
        "integrated": integrated,
        "compute_units": cus,
        "pci": pci,
        "render_node": f"/dev/dri/renderD{render}",
    }


def cpu(name: str, count: int) -> dict[str, Any]:
    return {
        "index": 0,
        "vendor": "cpu",
        "name": name,
        "gfx": None,
        "gpu_type": "CPU",
        "vram_bytes": 0,
        "gtt_bytes": 0,
        "integrated": False,
        "compute_units": count,
        "pci": None,
        "render_node": None,
    }


def halo(gtt: int) -> dict[str, Any]:
    return gpu(
        0,
        "AMD Radeon 8060S Graphics",
        "gfx1151",
        "AMD_RDNA",
        (GIB // 2, gtt),
        40,
        "0000:c5:00.0",
        128,
        integrated=True,
    )


RDNA, CDNA = "AMD_RDNA", "AMD_CDNA"
XTX = 25753026560
MI300X_PLACES = ["05", "26", "46", "65", "85", "a6", "c6", "e5"]

EXPECTED: dict[str, list[dict[str, Any]]] = {
    "strix-halo": [halo(120 * GIB)],
    "strix-halo-no-render-group": [halo(120 * GIB)],
    "strix-halo-old-kernel": [halo(120 * GIB)],
    "strix-halo-small-gtt": [halo(67080216576)],
    "strix-point": [
        gpu(
            0,
            "AMD Radeon 890M Graphics",
            "gfx1150",
            RDNA,
            (GIB // 2, 16323227648),
            16,
            "0000:c4:00.0",
            128,
            integrated=True,
        )
    ],
    "rx-7900-xtx": [
        gpu(0, "AMD Radeon RX 7900 XTX", "gfx1100", RDNA, (XTX, 33451610112), 96, "0000:03:00.0", 128)
    ],
    "rx-9070-xt": [
        gpu(0, "AMD Radeon RX 9070 XT", "gfx1201", RDNA, (17095983104, 16692813824), 64, "0000:03:00.0", 128)
    ],
    "mi210": [
        gpu(0, "Instinct MI210", "gfx90a", CDNA, (68702699520, 270264320000), 104, "0000:c3:00.0", 128)
    ],
    "mi300x": [
        gpu(
            index,
            "AMD Instinct MI300X",
            "gfx942",
            CDNA,
            (206141652992, 1217389568000),
            304,
            f"0000:{bus}:00.0",
            128 + 8 * index,
        )
        for index, bus in enumerate(MI300X_PLACES)
    ],
    "apu-and-dgpu": [
        gpu(0, "AMD Radeon RX 7900 XT", "gfx1100", RDNA, (21458059264, 33236889600), 84, "0000:03:00.0", 129),
        gpu(
            1,
            "AMD Raphael (gfx1036)",
            "gfx1036",
            RDNA,
            (GIB // 2, 33236889600),
            2,
            "0000:11:00.0",
            128,
            integrated=True,
        ),
    ],
    "two-dgpus": [
        gpu(0, "AMD Radeon RX 7600", "gfx1102", RDNA, (8573157376, 33451610112), 32, "0000:06:00.0", 128),
        gpu(1, "AMD Radeon RX 7900 XTX", "gfx1100", RDNA, (XTX, 33451610112), 96, "0000:0a:00.0", 129),
    ],
    "closed-nodes": [
        gpu(0, "AMD Instinct MI210", "gfx90a", CDNA, (68702699520, 270264320000), 104, "0000:83:00.0", 129)
    ],
    "rx-580-without-kfd": [
        gpu(0, "AMD Radeon RX 580 Series", None, "UNKNOWN", (8 * GIB, 8351232000), 0, "0000:01:00.0", 128)
    ],
    "nvidia-only": [cpu("Intel(R) Xeon(R) Platinum 8480+", 16)],
    "not-passed-in": [cpu("AMD Ryzen 9 5950X 16-Core Processor", 32)],
    "no-gpu": [cpu("Intel(R) Xeon(R) CPU E5-2680 v4 @ 2.40GHz", 4)],
}
WITHOUT_GPU = {"nvidia-only", "not-passed-in", "no-gpu"}


def test_every_machine_has_an_expectation() -> None:
    assert {path.name for path in MACHINES.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("name", sorted(EXPECTED))
def test_detect_json(name: str, detected: Callable[[str], GPUDetectionResult]) -> None:
    said = json.loads(json.dumps(detected(name).to_dict()))
    assert set(said) == {"available", "detector", "gpus", "attempts"}
    assert said["gpus"] == EXPECTED[name]
    assert said["available"] == (name not in WITHOUT_GPU)
    assert said["detector"] == ("CPUDetector" if name in WITHOUT_GPU else "KFDDetector")
    assert [attempt["detector"] for attempt in said["attempts"]] == [
        "AMDSMIDetector",
        "KFDDetector",
        "NVMLDetector",
        "TorchROCmDetector",
        "TorchCudaDetector",
        "CPUDetector",
    ]
    for attempt in said["attempts"]:
        assert set(attempt) == {"detector", "outcome", "reason", "ms"}
        assert attempt["outcome"] in {"found", "none", "unavailable", "error", "skipped"}
        assert attempt["reason"]
        assert attempt["ms"] >= 0


def reason(result: GPUDetectionResult, detector: str) -> tuple[str, str]:
    return next((one.outcome, one.reason) for one in result.attempts if one.detector == detector)


def test_a_gpu_that_was_not_passed_in_is_named_with_what_to_do(
    detected: Callable[[str], GPUDetectionResult],
) -> None:
    outcome, words = reason(detected("not-passed-in"), "KFDDetector")
    assert outcome == "none"
    assert "gfx1100" in words
    assert "/dev/dri/renderD128" in words
    assert "--device /dev/dri" in words


def test_closed_nodes_are_reported_and_not_fatal(detected: Callable[[str], GPUDetectionResult]) -> None:
    outcome, words = reason(detected("closed-nodes"), "KFDDetector")
    assert outcome == "found"
    assert "node 2: EPERM" in words
    assert "node 3: EISDIR" in words


def test_libraries_are_not_asked_about_a_machine_that_is_a_folder(
    detected: Callable[[str], GPUDetectionResult],
) -> None:
    assert reason(detected("nvidia-only"), "NVMLDetector")[0] == "skipped"


def test_the_sysroot_variable_reaches_a_new_process() -> None:
    code = (
        "import json; from amdserve.gpu import *; print(json.dumps(UnifiedGPUDetector().detect().to_dict()))"
    )
    env = {**os.environ, "AMDSERVE_SYSROOT": str(MACHINES / "strix-halo")}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["gpus"][0]["gfx"] == "gfx1151"
