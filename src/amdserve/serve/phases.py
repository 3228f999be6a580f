"""Where the time of a start goes: phases that follow each other and together make up the whole."""

from __future__ import annotations

import os
import time

# Of the backend that is being started; those of one that failed are told as `failed`.
OWN = ("devices", "selftest", "load")
# What is shorter is no phase of its own and counts with the next.
LEAST = 0.001


class Phases:
    """Takes the time from one moment of a start to the next.

    Args:
        begun: when the start began, on the monotonic clock.

    Attributes:
        seconds: phase to seconds, in order; `ready` is the whole.
    """

    def __init__(self, begun: float) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = self._last = begun

    def lap(self, name: str, of_which: tuple[str, float] | None = None) -> None:
        """End a phase: what has passed since the one before it ended is its time.

        Args:
            name: of the phase that ends.
            of_which: a part of it that is a phase of its own, and its seconds.
        """
        now = time.monotonic()
        passed = now - self._last
        if of_which is not None:
            part = min(of_which[1], passed)
            self._add(of_which[0], part)
            self._last += part
            passed -= part
        if passed >= LEAST:
            self._add(name, passed)
            self._last = now

    def ready(self) -> None:
        """End the start: it answers."""
        self.lap("load")
        self.seconds["ready"] = round(self._last - self._begun, 3)

    def failed(self, *, served: bool) -> None:
        """Note that a backend failed: at its start, or after it had served, which begins a start anew."""
        if served:
            self.seconds.clear()
            self._begun = self._last = time.monotonic()
            return
        self.lap("failed")
        for name in OWN:
            if name in self.seconds:
                self._add("failed", self.seconds.pop(name))

    def _add(self, name: str, seconds: float) -> None:
        self.seconds[name] = round(self.seconds.get(name, 0.0) + seconds, 3)


def begun(ticks: str | None) -> float:
    """Give the moment on the monotonic clock at which a process began; now, where that is not known.

    Args:
        ticks: of the kernel, from the machine's start to the process's: hundredths of a second.
    """
    now = time.monotonic()
    if not ticks or not ticks.isdigit():
        return now
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    return now - max(0.0, age)
