"""Random fault schedules: in the end it serves or ends with the right code, and leaves nothing behind."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from serve_bed import CPU, PATIENCE, ROCM, VULKAN, Bed

from amdserve.serve import state

HOWS = {
    "signal:SIGSEGV": "crash",
    "signal:SIGABRT": "crash",
    "signal:SIGILL": "crash",
    "signal:SIGBUS": "crash",
    "signal:SIGKILL": "crash",
    "exit:1": "crash",
    "exit:0": "crash",
    "stop": "hang",
    "hang": "hang",
    "deaf": "hang",
}
SAYS = {
    "error: invalid argument: --x": 2,
    "error loading model: missing tensor 'x'": 3,
    "unable to allocate Vulkan0 buffer": 6,
    "couldn't bind HTTP server socket": 7,
}
PHASES = ("list", "start", "loading", "serving")
ENDS = {2, 3, 6, 7}


def behaviour(chance: random.Random, name: str) -> tuple[dict[str, Any], int | None]:
    """Draw what a backend does; give it with the exit code it must end the supervisor with, or None."""
    made: dict[str, Any] = {"child": chance.random() < 0.3, "ignore_term": chance.random() < 0.3}
    made["load"] = chance.choice([0.0, 0.0, 0.05, 0.2])
    roll = chance.random()
    if roll < 0.25:
        return made, None
    if roll < 0.35 and name != CPU:
        made.update(chance.choice([{"devices": []}, {"offload": "0/3"}, {"offload": None}]))
        return made, None
    phase = chance.choice(PHASES if name != CPU else PHASES[1:])
    if roll < 0.5 and phase in ("start", "loading"):
        line = chance.choice(list(SAYS))
        made[phase] = {"how": "exit:1", "log": [line]}
        return made, SAYS[line]
    how = chance.choice(list(HOWS))
    if phase == "list" and HOWS[how] == "hang":
        how = "exit:1"
    if phase == "loading":
        made["load"] = 600.0
    made[phase] = {"how": how, "after": chance.choice([0.0, 0.0, 0.1, 0.3])}
    return made, None


def serves(made: dict[str, Any], name: str) -> bool:
    """Whether a backend that behaves so is still there in the end."""
    silent = name != CPU and (made.get("devices") == [] or made.get("offload", "3/3") in (None, "0/3"))
    if name != CPU and made.get("list", {}).get("how") == "exit:0":
        return False
    return not silent and not any(phase in made for phase in PHASES)


def run_one(seed: int, place: Path) -> str:
    chance = random.Random(seed)
    place.mkdir()
    bed = Bed(place)
    names = [VULKAN, ROCM, CPU][: chance.randint(1, 3)] if chance.random() < 0.5 else [VULKAN, CPU]
    drawn = [(name, *behaviour(chance, name)) for name in names]
    spec = bed.spec(
        *(bed.entry(name, **made) for name, made, _ in drawn),
        load_stall=1.5, serve_stall=3.0, probe_timeout=1.0, drain=0.3, require_gpu=chance.random() < 0.2,
    )  # fmt: skip
    stop_after = chance.choice([None, None, None, 0.05, 0.3, 0.8])
    expected = expect(drawn)
    with bed.supervise(spec) as run:
        outcome = drive(bed, run.process.pid, run, stop_after)
        log = run.log
    told = f"seed {seed}: {drawn} → {outcome}, expected {expected}\n{log}"
    bed.nothing_left()
    if outcome == "stopped early":
        return outcome
    assert outcome == expected, told
    return outcome


def expect(drawn: list[tuple[str, dict[str, Any], int | None]]) -> str:
    """Say what must come of it: the backend that serves, or the exit code."""
    classes = []
    for name, made, code in drawn:
        if code is not None:
            return f"ended with {code}"
        if serves(made, name):
            return f"serves {name}"
        classes.append(name)
    return "ended with 5"


def drive(bed: Bed, pid: int, run: Any, stop_after: float | None) -> str:
    """Watch it until it has settled, or stop it in the middle."""
    begun = time.monotonic()
    settled: float | None = None
    while time.monotonic() - begun < 3 * PATIENCE:
        code = run.process.poll()
        if code is not None:
            assert code != 0, "it ended as if somebody had stopped it"
            return "ended with 5" if code == 4 else f"ended with {code}"
        if stop_after is not None and time.monotonic() - begun > stop_after:
            # Before its handlers are there, the signal itself ends it.
            assert run.stop() in (0, -signal.SIGTERM, 2, 3, 4, 5, 6, 7)
            return "stopped early"
        now = bed.status()
        assert now == {} or now["state"] in ("starting", "loading", "ready", "falling-back", "failed")
        if now.get("state") != "ready":
            settled = None
        elif settled is None:
            settled = time.monotonic()
        elif time.monotonic() - settled > 2.2:  # longer than any fault that is still to come
            backend = now["backend"]
            assert run.who() == backend
            assert run.stop() == 0
            return f"serves {backend}"
        time.sleep(0.03)
    os.kill(pid, signal.SIGKILL)
    return "never settled"


def run_many(seeds: range, tmp_path: Path) -> list[str]:
    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(lambda seed: run_one(seed, tmp_path / str(seed)), seeds))


@pytest.mark.slow
def test_two_hundred_schedules(tmp_path: Path) -> None:
    outcomes = run_many(range(1000, 1200), tmp_path)
    assert {"stopped early", "ended with 5", f"serves {CPU}", f"serves {VULKAN}"} <= set(outcomes)
    assert {f"ended with {code}" for code in ENDS} <= set(outcomes)


def test_the_status_file_is_never_torn(tmp_path: Path) -> None:
    """Read as fast as one can while another process writes."""
    bed = Bed(tmp_path)
    entries = [bed.entry(name, start={"how": "signal:SIGSEGV"}) for name in (VULKAN, ROCM, CPU)]
    with bed.supervise(bed.spec(*entries, remember=False)) as run:
        reads = 0
        while run.process.poll() is None:
            file = bed.state / state.file_name()
            if file.exists():
                assert state.read_object(file) is not None or not file.exists()
                reads += 1
        assert reads > 10
