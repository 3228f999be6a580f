"""Which device a backend is to compute on: its binary's own list, asked for, waited for, and read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amdserve.serve.classify import Failure
from amdserve.serve.devices import none_listed, parse, pick
from amdserve.serve.flags import LIST, SPLITTING
from amdserve.serve.runner import House, Runner, environment

LISTING = 60.0  # a driver that compiles shaders for the first time is slow


class Listing:
    """The list of devices of one backend.

    Args:
        house: what is shared.
        entry: the backend's entry in the plan.

    Attributes:
        wanted: whether there is anything to ask: it is to use a GPU, and its binary lists them.
        device: what it computes on, in the best words known so far.
        flags: arguments for the backend that choose the device.
        alone: the device, where no other is listed; None also while nothing is known.
    """

    def __init__(self, house: House, entry: Mapping[str, Any]) -> None:
        self.house, self.entry = house, entry
        self.wanted = entry["device"] == "gpu" and bool(entry.get("lists_devices"))
        self.device = self._planned = str(entry.get("device_name") or entry["device"])
        self.flags: list[str] = []
        self.alone: str | None = None
        self.runner: Runner | None = None

    def take_ahead(self) -> bool:
        """Take the question that was put ahead of the plan, if it is this one; give whether the answer is
        still to come.
        """
        ahead = self.house.ahead
        if ahead is None:
            return False
        if not self.wanted:
            ahead.drop()
            return False
        child = ahead.take(self._question(), environment(self.entry))
        if child is None:
            return False
        self.runner = self._made()
        self.runner.adopt(child, ahead.kills)
        self.house.loop.turn(0)
        return not self.runner.ended

    def find(self, beside: Runner | None = None) -> Failure | None:
        """Wait for the answer, having asked if nobody has, and find the device that is meant.

        Args:
            beside: the backend, where it is loading already; once it has ended, no answer is waited for.
        """
        if not self.wanted:
            return None
        runner = self.runner
        if runner is None:
            runner = self.runner = self._made()
            if failure := runner.start(self._question()):
                return failure
        loop = self.house.loop
        while not runner.ended and runner.seconds < LISTING and not loop.stops:
            if beside is not None and beside.ended:
                break
            loop.turn(0.2)
        if not runner.ended:
            runner.kill()
            if beside is not None and beside.ended:
                return None
            return runner.failure("hang", f"no list of devices within {LISTING:.0f} s")
        return self._read(runner)

    def drop(self) -> None:
        """End the question, if it is under way."""
        if self.runner is not None and not self.runner.ended:
            self.runner.kill()

    def _question(self) -> list[str]:
        return [*self.entry["program"], LIST]

    def _made(self) -> Runner:
        # No address: it listens nowhere.
        return Runner(self.house, self.entry, ("", 0), lambda line: line)

    def _read(self, runner: Runner) -> Failure | None:
        assert runner.child is not None
        code = runner.child.code
        if code:
            judged = runner.judged(ready=False)
            return Failure(judged.cls, f"asked for its devices: {judged.detail}", code, runner.seconds)
        self.house.loop.forget(runner.child)
        lines = list(runner.child.lines.kept)
        found = parse(lines)
        if not found:
            return Failure("no-device", none_listed(lines), 0, runner.seconds)
        only = found[0] if len(found) == 1 else None
        self.alone = only.text if only else None
        chosen = only or pick(found, self.entry.get("hints", ()), int(self.entry.get("ordinal", 0)))
        self.device = chosen.text if chosen else self._planned
        if chosen and not only and not SPLITTING & set(self.entry["argv"]):
            self.flags = ["--device", chosen.name]
        return None
