"""Runs the tests: the one part of the bench that starts processes. A backend that fails is a result."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amdserve.serve.bench import schedule, tool
from amdserve.serve.bench.grid import Grid, Job, Test, jobs
from amdserve.serve.bench.progress import Progress
from amdserve.serve.bench.result import Backend, Left, Measurement, Trouble
from amdserve.serve.classify import Failure
from amdserve.serve.listing import Listing
from amdserve.serve.runner import House, Runner
from amdserve.serve.selfcheck import check
from amdserve.values import dataclass, field

LOOK = 0.2  # seconds between looks at a job that runs
# Ends that the libraries have a reason for, which llama-bench keeps to itself.
SILENT = (1, -signal.SIGABRT)
WHY = 60.0  # seconds that it may take to say why it failed


@dataclass(slots=True)
class Candidate:
    """A backend to be measured.

    Attributes:
        entry: its entry in the plan.
        what: what its llama-bench is called with.
        turn: where it stands.
        device: what it computes on, in words.
        seconds: how long it was measured.
        prepared: its device was found, its arithmetic checked.
    """

    entry: Mapping[str, Any]
    what: tool.What
    turn: schedule.Turn
    device: str
    seconds: float = 0.0
    prepared: bool = False

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.turn.backend


def candidate(entry: Mapping[str, Any], what: tool.What, grid: Grid) -> Candidate:
    """Give a candidate before its first job."""
    turn = schedule.Turn(str(entry["backend"]), list(jobs(grid)))
    return Candidate(entry, what, turn, str(entry.get("device_name") or entry["device"]))


@dataclass(slots=True)
class Bench:
    """One run over the whole grid.

    Args:
        house: loop, log, memory and reference.
        candidates: in the plan's order.
        grid: what was asked for.
        progress: where it is shown.
        watch: called now and then while something runs.
    """

    house: House
    candidates: Sequence[Candidate]
    grid: Grid
    progress: Progress
    watch: Callable[[], None] = lambda: None
    points: list[Measurement] = field(default_factory=list)
    failures: list[Trouble] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for an end."""
        return bool(self.house.loop.stops)

    @property
    def remaining(self) -> float:
        """Seconds of the budget that are left."""
        return self.grid.budget - (time.monotonic() - self.begun)

    def run(self) -> None:
        """Measure until everything is measured, the budget is used up, or a stop is asked for."""
        turns = [one.turn for one in self.candidates]
        while not self.stopped and (found := schedule.choose(turns, self.remaining, self.grid.repeat)):
            one = next(one for one in self.candidates if one.turn is found.turn)
            one.turn.pending.remove(found.job)
            one.turn.tried = True
            failure = None if one.prepared else self._prepared(one)
            begun = time.monotonic()
            if failure is not None:
                self._failed(one, failure, found.job.tests)
                if not one.turn.rates:
                    one.turn.ended = one.turn.ended or f"not tried after {failure.cls}"
            elif not self.stopped:
                self._job(one, found.job, found.limit, share=found.share)
            one.seconds += time.monotonic() - begun
        for one in self.candidates:
            self._rest(one)
        self.progress.end()

    def backends(self) -> tuple[Backend, ...]:
        """Say what has become of each backend."""
        measured = {point.backend for point in self.points}
        failed = {trouble.backend for trouble in self.failures}
        return tuple(
            Backend(
                backend=one.name,
                device=one.device,
                state="measured" if one.name in measured else "failed" if one.name in failed else "left",
                seconds=round(one.seconds, 1),
            )
            for one in self.candidates
        )

    def _prepared(self, one: Candidate) -> Failure | None:
        """Prepare it outside of the budget: once on each driver it compiles for minutes."""
        begun = time.monotonic()
        failure = self._prepare(one)
        self.begun += time.monotonic() - begun
        return failure

    def _prepare(self, one: Candidate) -> Failure | None:
        """Find its device, and see that it computes rightly: a GPU that computes nothing is the fastest."""
        one.prepared = True
        self.progress.now(f"{one.name}: looking for its device")
        listing = Listing(self.house, one.entry)
        failure = listing.find()
        one.device = listing.device
        one.what = one.what._replace(flags=(*one.what.flags, *listing.flags))
        if failure or self.stopped or not self.house.spec["selftest"] or not one.entry.get("reference_argv"):
            return failure
        if self.house.reference is None or self.house.memory.proven(one.name):
            return None
        self.progress.say(f"{one.name}: checking its arithmetic, for the first time here")
        failure, worst = check(self.house, one.entry, listing.flags)
        if failure is None and not self.stopped:
            self.house.memory.prove(one.name, worst)
        return failure

    def _job(self, one: Candidate, job: Job, limit: float, *, share: bool) -> None:
        answered: list[Measurement] = []
        argv = tool.argv(one.what, job, self.grid.repeat)
        failure, lines = self._run(one, argv, limit, lambda line: self._take(one, job, line, answered))
        missing = tool.unanswered(job, answered)
        if not missing or self.stopped:
            if missing:
                self._leave(one, missing, "stopped")
            return
        if failure is None:
            failure = _unsaid(one, lines)
        if failure.cls == "hang" and share:
            if one.turn.rates:
                self._leave(one, missing, "the budget was used up")
                return
            failure = Failure("hang", f"no answer within its share of the budget, {limit:.0f} s", None, limit)
        failure = tool.reason(failure, lines)
        if failure.exit in SILENT and failure.cls in ("model", "crash"):
            failure, lines = self._why(one, job, failure, lines)
        self._failed(one, failure, missing, tool.last_words(lines))

    def _take(self, one: Candidate, job: Job, line: str, answered: list[Measurement]) -> None:
        doing = tool.step(line)
        if doing:
            self.progress.now(f"{one.name}: depth {job.depth}, flash attention {job.flash_attn}: {doing}")
            return
        data = tool.row(line)
        found = tool.measurement(one.name, job, data) if data is not None else None
        if data is None or found is None:
            return
        if _on_cpu(one, data):
            return
        answered.append(found)
        self.points.append(found)
        one.turn.measured(found.kind, found.rate)
        self.progress.settled(f"{one.name}: {found.test}: {found.rate:.1f} ± {found.stddev:.1f} t/s")

    def _run(
        self, one: Candidate, argv: Sequence[str], limit: float, each: Callable[[str], None]
    ) -> tuple[Failure | None, list[str]]:
        """Run one llama-bench; give what went wrong, or None, and what it said."""

        def take(line: str) -> str:
            if not one.turn.load and tool.step(line).startswith("warmup"):
                one.turn.load = runner.seconds
            each(line)
            return line

        runner = Runner(self.house, one.entry, ("", 0), take)
        failure = runner.start(argv)
        if failure or runner.child is None:
            return failure, []
        while not runner.ended and runner.seconds < limit and not self.stopped:
            self.house.loop.turn(LOOK)
            self.watch()
        if not runner.ended:
            runner.kill()
            return runner.failure("hang", f"no end within {limit:.0f} s"), list(runner.child.lines.kept)
        judged = runner.judged(ready=False)
        return (None if judged.exit == 0 else judged), list(runner.child.lines.kept)

    def _why(self, one: Candidate, job: Job, failure: Failure, lines: list[str]) -> tuple[Failure, list[str]]:
        """Have it fail once more and say why: without --verbose the libraries' words are kept back."""
        limit = min(WHY, self.remaining)
        if limit <= 0 or self.stopped:
            return failure, lines
        again, said = self._run(one, [*tool.argv(one.what, job, 1), "--verbose"], limit, lambda _: None)
        if again is None or again.cls == "hang":
            return failure, lines
        return again, said

    def _failed(
        self, one: Candidate, failure: Failure, missing: Sequence[Test], words: Sequence[str] = ()
    ) -> None:
        one.turn.failed(failure.cls)
        trouble = Trouble(
            backend=one.name,
            cls=failure.cls,
            detail=failure.detail,
            exit=failure.exit,
            seconds=round(failure.seconds, 1),
            words=tuple(words),
            tests=tuple(str(test) for test in missing),
        )
        self.failures.append(trouble)
        self.progress.settled(f"{one.name}: {failure.cls}: {failure.detail}", len(missing))

    def _rest(self, one: Candidate) -> None:
        """Name what was not run, and why."""
        tests = [test for job in one.turn.pending for test in job.tests]
        if not tests:
            return
        why = one.turn.ended or ("stopped" if self.stopped else "")
        if not why:
            least = min(schedule.estimate(one.turn, job, self.grid.repeat) for job in one.turn.pending)
            enough = f"{max(0.0, self.remaining):.0f} s were left, the next would have taken {least:.0f} s"
            why = f"the budget: {enough}" if self.remaining > 0 else "the budget was used up"
        self._leave(one, tests, why)

    def _leave(self, one: Candidate, tests: Sequence[Test], why: str) -> None:
        self.left.append(Left(backend=one.name, reason=why, tests=tuple(str(test) for test in tests)))
        self.progress.settled(f"{one.name}: {len(tests)} tests not run: {why}", len(tests))


def _on_cpu(one: Candidate, data: Mapping[str, Any]) -> bool:
    """Whether an answer is none because it was computed on the CPU in silence."""
    return one.what.device == "gpu" and not data.get("gpu_info")


def _unsaid(one: Candidate, lines: Sequence[str]) -> Failure:
    """Give the failure of a llama-bench that ended well, without an answer to every test."""
    if any((data := tool.row(line)) is not None and _on_cpu(one, data) for line in lines):
        return Failure("no-device", "its llama-bench computed on the CPU in silence", 0)
    return Failure("crash", "its llama-bench ended well, without an answer to every test", 0)
