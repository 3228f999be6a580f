"""What happened to a backend, and what follows from it: the table of falling back, as two pure functions."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Any, Literal

from amdserve.serve.patterns import Class, patterns
from amdserve.serve.vllm_words import say
from amdserve.values import dataclass

Step = Literal["stop", "next", "again"]

EXIT_CODES: dict[str, int] = {"usage": 2, "model": 3, "no-device": 4, "oom": 6, "port": 7}
EVERY_BACKEND_FAILED = 5

# Served this long without trouble, a crash is bad luck once; within an hour a second one is not.
SERVED_WELL = 60.0
ONCE_PER = 3600.0

CRASH_SIGNALS: dict[int, str] = {
    signal.SIGSEGV: "a page fault (SIGSEGV)",
    signal.SIGBUS: "a bus error (SIGBUS)",
    signal.SIGABRT: "it gave up (SIGABRT)",
    signal.SIGILL: "an instruction this CPU does not have (SIGILL)",
    signal.SIGFPE: "an arithmetic fault (SIGFPE)",
    signal.SIGTRAP: "a trap (SIGTRAP)",
}


@dataclass(frozen=True, slots=True)
class Failure:
    """What happened: class, a line that tells it, exit (negative: a signal), seconds since the start."""

    cls: Class
    detail: str
    exit: int | None = None
    seconds: float = 0.0

    def to_dict(self, backend: str) -> dict[str, Any]:
        """Give the failure as `status --json` lists it."""
        return {
            "backend": backend,
            "class": self.cls,
            "detail": self.detail,
            "exit": self.exit,
            "seconds": round(self.seconds, 3),
        }


def classify(
    code: int, lines: Sequence[str], *, seconds: float, ready: bool, oom_killed: bool | None
) -> Failure:
    """Say what an exit means.

    Args:
        code: exit status; negative: the signal.
        lines: the last lines of the log.
        seconds: since the start.
        ready: whether it had answered before.
        oom_killed: whether the kernel killed something for memory meanwhile; None where it does not tell.
    """
    number = -code if code < 0 else code - 128 if 128 < code < 193 else 0
    if number == signal.SIGKILL:
        return Failure(*_killed(oom_killed), code, seconds)
    if number:
        return Failure(*_signalled(number, lines), code, seconds)
    if code == 0:
        return Failure(*_ended_well(lines, oom_killed), code, seconds)
    found = _look(lines, ("port", "no-device", "oom", "crash", "usage", "model"))
    # What a backend that has answered says of arguments or models is about a request, not about its start.
    if found and not (ready and found[0] in ("usage", "model", "port")):
        return Failure(found[0], found[1], code, seconds)
    if code == 2 and not ready and any(line.lstrip().startswith("usage:") for line in lines):
        return Failure("usage", _last(lines), code, seconds)
    return Failure("crash", f"exit status {code}: {_last(lines)}", code, seconds)


def _killed(oom_killed: bool | None) -> tuple[Class, str]:
    if oom_killed is False:
        return "crash", "somebody killed it (SIGKILL), and not for memory"
    return "oom", "killed for memory (SIGKILL)"


def _ended_well(lines: Sequence[str], oom_killed: bool | None) -> tuple[Class, str]:
    """Judge an end without an error: vLLM ends so when the process that computes has died under it."""
    found = _look(lines, ("oom", "crash"))
    if found and oom_killed:
        return "oom", f"{found[1]}, and the kernel killed something for memory"
    return found or ("crash", "it ended by itself without an error")


def _signalled(number: int, lines: Sequence[str]) -> tuple[Class, str]:
    name = CRASH_SIGNALS.get(number) or f"ended by {_signal_name(number)}, which nobody here sent"
    found = _look(lines, ("oom", "crash"))
    return (found[0], f"{name}: {found[1]}") if found else ("crash", name)


def decide(failure: Failure, *, served: float, last_crash: float | None) -> Step:
    """Say what follows.

    Args:
        failure: what happened.
        served: seconds the backend had been answering; 0 if it never did.
        last_crash: seconds since this backend crashed before; None if it never did.
    """
    if failure.cls in ("usage", "model", "oom", "port"):
        return "stop"
    if failure.cls == "crash" and served >= SERVED_WELL and (last_crash is None or last_crash >= ONCE_PER):
        return "again"
    return "next"


def _look(lines: Sequence[str], classes: tuple[Class, ...]) -> tuple[Class, str] | None:
    for cls, pattern in patterns():
        if cls not in classes:
            continue
        for line in reversed(lines):
            if pattern.search(line):
                return cls, say(line)[:400]
    return None


def _last(lines: Sequence[str]) -> str:
    return next((line.strip()[:400] for line in reversed(lines) if line.strip()), "it said nothing")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
