"""Has a backend compute the reference model, and compares: the check before it first serves here."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amdserve.serve.classify import Failure
from amdserve.serve.doubt import SIGNS
from amdserve.serve.probe import Probe
from amdserve.serve.reference import questions
from amdserve.serve.runner import House, Runner

HOST = "127.0.0.1"


PORT_TRIES = 3
DYING = 2.0

# Takes the number of a question and its answer; gives what is wrong with it, or an empty text.
Judge = Callable[[int, Any], str]


def check(house: House, entry: Mapping[str, Any], device: Sequence[str] = ()) -> tuple[Failure | None, float]:
    """Check a backend against the reference.

    Args:
        house: what is shared; its reference must be there.
        entry: the backend's entry in the plan, with `reference_argv`.
        device: further arguments that choose the device.

    Returns:
        What went wrong, or None; and how far off the worst answer was. A stop asked for meanwhile gives None.
    """
    assert house.reference is not None
    reference, worst = house.reference, 0.0

    def judge(number: int, answer: Any) -> str:
        nonlocal worst
        off, wrong = reference.judge(number, answer)
        worst = max(worst, off)
        return wrong

    return ask_all(house, entry, device, judge), worst


def ask_all(house: House, entry: Mapping[str, Any], device: Sequence[str], judge: Judge) -> Failure | None:
    """Start a backend with the reference model, put every question to it, and end it.

    Returns:
        What went wrong, or None; None too where a stop was asked for.
    """
    for _ in range(PORT_TRIES):
        address = (HOST, _free_port())
        runner = Runner(house, entry, address, house.log.clean)
        argv = [*entry["reference_argv"], "--host", HOST, "--port", str(address[1]), *device]
        failure = runner.start(argv) or runner.load()
        if failure is None or failure.cls != "port":
            break
    if failure is None and not house.loop.stops:
        failure = _ask(house, runner, judge)
    if failure is not None and runner.child is not None:
        for line in list(runner.child.lines.kept)[-5:]:
            house.log.passed(f"{entry['backend']} (self-test)", line)
    if not runner.ended:
        runner.kill()
    return failure


def _ask(house: House, runner: Runner, judge: Judge) -> Failure | None:
    for number, question in enumerate(questions()):
        probe = Probe(*runner.address, "/completion", body=question.body())
        # The first question may have a driver compile a shader for every kind of weight.
        limit = float(house.spec["serve_stall"])
        if not runner.wait(probe, limit):
            # A connection that breaks off is the first that is seen of a crash.
            if runner.child is not None and probe.status == 0 and house.loop.end(runner.child, DYING):
                return runner.judged(ready=True)
            if runner.ended:
                return runner.judged(ready=True)
            why = f"self-test, {question.name}: no answer within {limit:.0f} s"
            return None if house.loop.stops else runner.failure("hang", why)
        if probe.status != 200:
            return runner.failure("crash", f"self-test, {question.name}: {_last_error(runner, probe)}")
        wrong = judge(number, probe.answer)
        if wrong:
            return runner.failure("wrong-output", f"self-test, {question.name}: {wrong}")
    return None


def _last_error(runner: Runner, probe: Probe) -> str:
    """Say why there is no answer: the line of the log that tells of broken arithmetic, else the status."""
    lines = reversed(runner.child.lines.kept) if runner.child is not None else ()
    sign = next((line.strip()[:300] for line in lines if SIGNS.search(line)), "")
    return f"error {probe.status}{': ' if sign else ''}{sign}"


def _free_port() -> int:
    with socket.socket() as tried:
        tried.bind((HOST, 0))
        port: int = tried.getsockname()[1]
        return port
