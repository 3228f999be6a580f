"""Is it hung? Progress while loading; while serving, busy told from dead. It has no clock of its own."""

from __future__ import annotations

from typing import Any

from amdserve.serve.procfs import Sample
from amdserve.values import dataclass

# A process that does nothing at all still moves by a page or two.
LEAST_BYTES = 256 << 10
LEAST_CPU, LEAST_SHARE = 0.02, 0.05  # seconds, and the share of one CPU


class LoadWatch:
    """Tells when loading has stopped making progress: no new line of log, no byte read or written, no memory
    taken.

    Seconds alone say nothing: 70 GB from a slow disk take minutes, and llama-server fetches a model from the
    Hub without a word. Nor does computing: a driver that waits for a dead GPU spins.

    Args:
        stall: seconds without any of these until it counts as hung.
        now: the monotonic clock.
    """

    def __init__(self, stall: float, now: float) -> None:
        self.stall = stall
        self.last = now
        self.lines = 0
        self.seen = Sample()

    def look(self, now: float, lines: int, sample: Sample) -> str | None:
        """Take a measurement; give why it counts as hung, or None."""
        moved = (
            lines != self.lines
            or sample.read - self.seen.read >= LEAST_BYTES
            or sample.written - self.seen.written >= LEAST_BYTES
            or abs(sample.rss - self.seen.rss) >= LEAST_BYTES
        )
        if moved:
            self.last, self.lines, self.seen = now, lines, sample
            return None
        quiet = now - self.last
        if quiet < self.stall:
            return None
        how = (
            "stopped" if sample.stopped else "computing" if sample.cpu - self.seen.cpu > LEAST_CPU else "idle"
        )
        return (
            f"no progress for {quiet:.0f} s while loading "
            f"(no log, no bytes read or written, no memory taken; {how})"
        )


@dataclass(slots=True)
class ServeWatch:
    """Tells a backend that is busy from one that is dead.

    `/health` is answered by threads that compute nothing: if they are silent, the process is stopped,
    starved or dead. `/slots` tells how far each request is; older servers answer it only between two batches.
    If it is silent, or requests are under way and none gets any further, one batch is being computed, and on
    a GPU that hangs it never ends.

    Attributes:
        probe_timeout: seconds of silence on `/health` until it is dead, unless it computes.
        stall: seconds without progress on `/slots`, or without `/health` while it computes, until it is
            dead too.
        on_gpu: on the CPU a long batch is only a long batch.
    """

    probe_timeout: float
    stall: float
    on_gpu: bool
    health_since: float | None = None
    batch_since: float | None = None
    work: object = None
    work_at: float = 0.0
    cpu: float = 0.0
    cpu_at: float = 0.0
    computed: bool = False

    def health(self, now: float, answered: bool) -> None:
        """Note whether `/health` was answered."""
        self.health_since = None if answered else self.health_since or now

    def batch(self, now: float, answered: bool, work: object = None) -> None:
        """Note whether `/slots` was answered, and what is under way: see `under_way`."""
        if not answered:
            self.batch_since = self.batch_since or now
        elif work is None or work != self.work:
            self.work, self.work_at, self.batch_since = work, now, None
        else:
            self.batch_since = self.batch_since or self.work_at

    def look(self, now: float, sample: Sample) -> str | None:
        """Give why it counts as dead, or None."""
        computes = self._computes(now, sample.cpu)
        if self.health_since is not None:
            silent = now - self.health_since
            if sample.stopped and silent >= self.probe_timeout:
                return f"no answer to /health for {silent:.0f} s: its process is stopped"
            if silent >= (self.stall if computes else self.probe_timeout):
                return f"no answer to /health for {silent:.0f} s, {'though' if computes else 'and'} it " + (
                    "computes" if computes else "does not compute"
                )
        if self.batch_since is not None:
            silent = now - self.batch_since
            if silent >= self.stall and (self.on_gpu or not computes):
                return f"no batch done for {silent:.0f} s"
        return None

    def _computes(self, now: float, cpu: float) -> bool:
        """Whether it computes; "no" takes a while, for on a crowded machine one short look proves nothing."""
        span = now - self.cpu_at
        done = cpu - self.cpu > max(LEAST_CPU, LEAST_SHARE * span)
        if done or span >= self.probe_timeout / 2:
            self.computed, self.cpu, self.cpu_at = done, cpu, now
        return self.computed


def under_way(slots: Any) -> object:
    """Take off the answer to `/slots` how far each request is; None where none is, or it does not tell."""
    busy = [slot for slot in slots if isinstance(slot, dict)] if isinstance(slots, list) else []
    busy = [slot for slot in busy if slot.get("is_processing") and "next_token" in slot]
    # What was asked for does not change, and is long.
    return [{**slot, "params": None} for slot in busy] or None
