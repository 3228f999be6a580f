"""Where the time of a start goes, as `amdserve status --json` tells it."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from serve_bed import CPU, VULKAN, Bed

from amdserve.serve import phases
from amdserve.serve.phases import Phases

LOAD = 0.3
# What rounding may add up to.
EXACT = 0.01


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def parts(told: dict[str, float]) -> float:
    return sum(seconds for name, seconds in told.items() if name != "ready")


class TestTable:
    def test_phases_follow_each_other_and_make_up_the_whole(self) -> None:
        table = Phases(time.monotonic() - 5.0)
        table.lap("plan", of_which=("detect", 2.0))
        time.sleep(0.02)
        table.ready()
        assert list(table.seconds) == ["detect", "plan", "load", "ready"]
        assert table.seconds["detect"] == 2.0
        assert table.seconds["plan"] == pytest.approx(3.0, abs=0.01)
        assert 0.02 <= table.seconds["load"] < 1.0
        assert parts(table.seconds) == pytest.approx(table.seconds["ready"], abs=EXACT)

    def test_a_part_is_never_longer_than_its_phase(self) -> None:
        table = Phases(time.monotonic() - 1.0)
        table.lap("plan", of_which=("detect", 60.0))
        assert table.seconds["detect"] == pytest.approx(1.0, abs=0.01)
        assert "plan" not in table.seconds

    def test_what_took_no_time_is_no_phase(self) -> None:
        table = Phases(time.monotonic() - 1.0)
        table.lap("plan")
        table.lap("devices")
        assert list(table.seconds) == ["plan"]

    def test_a_start_that_failed_is_one_phase(self) -> None:
        table = Phases(time.monotonic() - 3.0)
        table.lap("plan")
        for name in ("devices", "selftest", "load"):
            time.sleep(0.01)
            table.lap(name)
        table.failed(served=False)
        time.sleep(0.01)
        table.ready()
        assert list(table.seconds) == ["plan", "failed", "load", "ready"]
        assert 0.03 <= table.seconds["failed"] < 1.0
        assert parts(table.seconds) == pytest.approx(table.seconds["ready"], abs=EXACT)

    def test_a_failure_while_serving_begins_anew(self) -> None:
        table = Phases(time.monotonic() - 3600.0)
        table.ready()
        table.failed(served=True)
        time.sleep(0.01)
        table.ready()
        assert list(table.seconds) == ["load", "ready"]
        assert table.seconds["ready"] < 1.0

    def test_it_begins_with_the_process_itself(self) -> None:
        ticks = Path("/proc/1/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19]
        age = time.monotonic() - phases.begun(ticks)
        assert 0 < age <= time.clock_gettime(time.CLOCK_BOOTTIME)
        for unknown in (None, "", "x"):
            assert abs(time.monotonic() - phases.begun(unknown)) < 1.0


def test_a_start_tells_its_phases(bed: Bed) -> None:
    begun = time.monotonic()
    entry = bed.entry(VULKAN, load=LOAD)
    with bed.supervise(bed.spec(entry, bed.entry(CPU), detect=0.004)) as run:
        told = run.until("ready")["phases"]
        waited = time.monotonic() - begun
        printed = bed.amdserve("status", "--json")
        assert json.loads(printed.stdout)["phases"] == told
        assert "start: " in bed.amdserve("status").stdout
        run.stop()
    assert list(told) == ["detect", "plan", "devices", "load", "ready"]
    assert told["detect"] == 0.004
    assert told["load"] >= LOAD
    # The kernel tells a process's start in hundredths of a second.
    assert told["ready"] <= waited + 0.02
    assert parts(told) == pytest.approx(told["ready"], abs=EXACT)


def test_it_is_ready_as_soon_as_the_backend_says_that_it_has_loaded(bed: Bed) -> None:
    seconds, record = 5.0, bed.folder / "record"
    behaviour = {"load": seconds, "quiet": True, "record": str(record)}
    with bed.supervise(bed.spec(bed.entry(VULKAN, **behaviour))) as run:
        status = run.until("ready", VULKAN)
        run.stop()
    (begun,) = bed.starts(record)
    # By then it is asked twice a second only.
    assert status["since"] - begun["at"] - seconds < 0.25


def test_the_planner_says_how_long_detection_took(bed: Bed) -> None:
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None))
    with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1") as run:
        told = run.until("ready", CPU)["phases"]
        run.stop()
    assert 0 < told["detect"] < told["ready"]
    assert told["plan"] > 0


def fault(how: str) -> dict[str, Any]:
    return {"how": how}


def test_what_a_backend_that_failed_took_is_told(bed: Bed) -> None:
    first = bed.entry(VULKAN, load=LOAD, loading=fault("signal:SIGSEGV"))
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        told = run.until("ready", CPU)["phases"]
        run.stop()
    assert list(told)[-3:] == ["failed", "load", "ready"]
    assert "devices" not in told
    assert parts(told) == pytest.approx(told["ready"], abs=EXACT)


def test_after_a_crash_while_serving_the_new_start_is_told(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN), bed.entry(CPU))) as run:
        first = run.until("ready", VULKAN)
        time.sleep(0.5)
        os.kill(first["pid"], signal.SIGSEGV)
        told = run.until("ready", CPU)["phases"]
        run.stop()
    assert list(told) == ["load", "ready"]
    assert parts(told) == pytest.approx(told["ready"], abs=EXACT)
