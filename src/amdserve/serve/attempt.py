"""One attempt with one backend: its devices, its arithmetic, its start, the watch over it while it serves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from amdserve.serve import procfs
from amdserve.serve.classify import SERVED_WELL, Failure
from amdserve.serve.doubt import Doubt
from amdserve.serve.listing import Listing
from amdserve.serve.probe import Probe, ask
from amdserve.serve.runner import House, Runner
from amdserve.serve.selfcheck import check
from amdserve.serve.watch import ServeWatch, under_way

SERVING = 5.0  # seconds between probes while serving
GRACE = 1.5  # seconds between the signal to end and the one that cannot be refused


class Attempt:
    """Everything that is done with one backend until it ends.

    Args:
        house: what is shared.
        entry: the backend's entry in the plan.

    Attributes:
        served: seconds it has answered; 0 if it never did.
    """

    def __init__(self, house: House, entry: Mapping[str, Any]) -> None:
        self.house, self.entry = house, entry
        self.backend: str = entry["backend"]
        self.served = 0.0
        self.listing = Listing(house, entry)
        self.address = (str(house.spec["host"]), int(house.spec["port"]))

    def run(self) -> Failure | None:
        """Try it; give what went wrong, or None where a stop was asked for."""
        self.house.status.set("starting", backend=self.backend, device=self.device)
        for note in self.entry.get("notes", ()):
            self.house.log.say(note, "warning")
        if self.listing.take_ahead() and (known := self.house.memory.alone(self.backend)):
            # Its arithmetic was checked here where the GPU was the only one: no need to wait for the answer.
            self.listing.device = known
            failure = self._start(listed=False)
        else:
            failure = self.listing.find()
            if self.entry["device"] == "gpu":
                self.house.status.phases.lap("devices")
            failure = failure or self._arithmetic()
            if failure is None:
                self._listed()
                failure = self._start()
        return None if self.house.loop.stops else failure

    @property
    def device(self) -> str:
        """What it computes on, in the best words known so far."""
        return self.listing.device

    def _arithmetic(self) -> Failure | None:
        """Before it serves here for the first time: does it compute what the CPU computes?"""
        house = self.house
        if house.loop.stops or not house.spec["selftest"] or not self.entry.get("reference_argv"):
            return None
        if house.reference is None or house.memory.proven(self.backend):
            return None
        begun = time.monotonic()
        failure, worst = check(house, self.entry, self.listing.flags)
        house.status.phases.lap("selftest")
        if failure is None and not house.loop.stops:
            house.memory.prove(self.backend, worst)
            took = time.monotonic() - begun
            house.log.say(
                f"self-test: {self.backend} computes as the CPU does ({worst:.2g} off, {took:.1f} s)"
            )
        return failure

    def _listed(self) -> None:
        """Remember whether the GPU is the only one, for the next start."""
        if self.listing.wanted and not self.house.loop.stops:
            self.house.memory.note_alone(self.backend, self.listing.alone)

    def _start(self, *, listed: bool = True) -> Failure | None:
        """Start it and watch it.

        Args:
            listed: its list of devices has been read; else that is done while it loads.
        """
        if self.house.loop.stops:
            return None
        log, backend = self.house.log, self.backend
        log.say(f"starting {backend} on {self.device}: {self.entry['reason']}", backend=backend)
        doubt = Doubt(self.address, self.entry.get("asks"), self.house.key)

        def each(line: str) -> str:
            clean = log.passed(backend, line)
            doubt.heard(clean)
            return clean

        runner = Runner(self.house, self.entry, self.address, each)
        failure = runner.start([*self.entry["argv"], *self.listing.flags])
        if failure or runner.child is None:
            self.listing.drop()
            return failure
        self.house.status.set("loading", backend=backend, device=self.device, pid=runner.child.pid)
        if not listed:
            failure = self.listing.find(runner)
            if not runner.ended:
                self._listed()
                if (failure or self.listing.flags) and not self.house.loop.stops:
                    return self._otherwise(runner, failure)
        failure = runner.load()
        if failure is None and not runner.ended and not self.house.loop.stops:
            self._ready(runner)
            failure = self._serve(runner, doubt)
        if not runner.ended:
            if failure is None:
                self._stop(runner)
            else:
                runner.kill()
        return failure

    def _otherwise(self, runner: Runner, failure: Failure | None) -> Failure | None:
        """The GPU is gone, or no longer the only one: end what was begun, and begin anew if that helps."""
        runner.kill()
        if not runner.ended:
            return failure or runner.failure("hang", "it cannot be ended, to be started on another device")
        if failure is None:
            self.house.log.say(f"{self.backend} lists several devices now: it is started again", "warning")
        return failure or self._start()

    def _ready(self, runner: Runner) -> None:
        assert runner.child is not None
        done, of = runner.offloaded or (0, 0)
        share = f", {done} of {of} layers on it" if self.entry.get("offload") and of else ""
        host, port = self.address
        self.house.status.phases.ready()
        self.house.status.set("ready", backend=self.backend, device=self.device, pid=runner.child.pid)
        self.house.log.say(
            f"ready after {runner.seconds:.1f} s: {self.backend} on {self.device}{share}, http://{host}:{port}",
            backend=self.backend,
        )

    def _serve(self, runner: Runner, doubt: Doubt) -> Failure | None:
        """Watch it while it serves; give a failure where it ends, hangs, or computes no more."""
        child, spec, loop = runner.child, self.house.spec, self.house.loop
        assert child is not None
        ready = asked = time.monotonic()
        watch = ServeWatch(spec["probe_timeout"], spec["serve_stall"], self.entry["device"] == "gpu")
        period = min(SERVING, spec["probe_timeout"] / 4, spec["serve_stall"] / 4)
        probes = [Probe(*self.address, self.entry["probe"], key=self.house.key)]
        if self.entry.get("slots"):
            probes.append(Probe(*self.address, "/slots", key=self.house.key, whole=True))
        proven = False
        while child.code is None and not loop.stops:
            now = time.monotonic()
            self.served = now - ready
            if self.served > SERVED_WELL and not proven:
                proven = True
                self.house.memory.works(self.backend)
            if now >= asked:
                asked = now + period
                _note(watch, probes, now)
                why = watch.look(now, procfs.sample(child.pid))
                if why:
                    return runner.failure("hang", why)
                for probe in probes:
                    if probe.status is not None or probe.begun == 0.0:
                        probe.start()
            broken = doubt.look(now)
            if broken:
                return runner.failure("crash", broken)
            waiting = next((probe for probe in probes if probe.status is None and probe.begun), doubt.waiting)
            loop.turn(max(0.0, asked - time.monotonic()) if waiting is None else 0.05, waiting)
        for probe in probes:
            probe.close()
        doubt.close()
        self.served = max(0.001, time.monotonic() - ready)
        if child.code is None:
            return None
        if loop.stops:
            # It ended by itself just when a stop was asked for: what it had started ends with it.
            loop.forget(child)
            return None
        return runner.judged(ready=True)

    def _stop(self, runner: Runner) -> None:
        """End it: let it finish what it answers, for a while, then end it, then kill it."""
        house = self.house
        limit = time.monotonic() + house.spec["drain"]
        asked = house.loop.stops
        house.status.set(house.status.data["state"], stopping=True)
        if self.served > 0 and self.entry.get("slots") and self._busy():
            house.log.say(f"stopping: waiting up to {house.spec['drain']:g} s for answers under way")
            while self._busy() and time.monotonic() < limit and not runner.ended:
                if house.loop.stops > asked:
                    break
                house.loop.turn(0.2)
        # llama-server cuts off what it answers when it is told to end; uvicorn finishes it.
        patience = GRACE if self.entry.get("slots") else max(0.0, limit - time.monotonic()) + GRACE
        runner.end(patience)

    def _busy(self) -> bool:
        status, slots = ask(*self.address, "/slots", timeout=1.0, key=self.house.key)
        if status == 200 and isinstance(slots, list):
            return any(isinstance(slot, dict) and slot.get("is_processing") for slot in slots)
        # No answer between two batches is what a busy server gives.
        return status == 0


def _note(watch: ServeWatch, probes: list[Probe], now: float) -> None:
    for number, probe in enumerate(probes):
        if not probe.begun:
            continue
        at, answered = now if probe.status is not None else probe.begun, probe.status not in (None, 0)
        if number == 0:
            watch.health(at, answered)
        else:
            watch.batch(at, answered, under_way(probe.answer))
