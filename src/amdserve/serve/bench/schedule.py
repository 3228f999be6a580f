"""Which job comes next within the budget: every backend gets an answer first, then the cheapest. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from amdserve.serve.bench.grid import Job, Kind
from amdserve.values import dataclass, field

# A job may take this many times what was expected, and at least this long, before it counts as hung.
PATIENCE, AT_LEAST = 4.0, 60.0
# A backend that failed so often without a single number is given up.
MOST_FAILURES = 2
# What the next job would meet again.
FINAL = frozenset({"no-device", "model", "usage", "wrong-output"})


@dataclass(slots=True)
class Turn:
    """Where one backend stands.

    Attributes:
        backend: its name.
        pending: jobs that have not been run.
        tried: whether one was.
        rates: tokens per second, the slowest seen of each kind.
        load: seconds until a model is loaded, as last seen.
        failures: jobs that failed before anything was measured.
        ended: why nothing more is run, or an empty text.
    """

    backend: str
    pending: list[Job]
    tried: bool = False
    rates: dict[Kind, float] = field(default_factory=dict)
    load: float = 0.0
    failures: int = 0
    ended: str = ""

    def measured(self, kind: Kind, rate: float) -> None:
        """Take note of a rate."""
        self.rates[kind] = min(rate, self.rates.get(kind, rate))

    def failed(self, cls: str) -> None:
        """Take note of a failure; give the backend up where more of them would follow."""
        if self.rates:
            return
        self.failures += 1
        if cls in FINAL:
            self.ended = f"not tried after {cls}"
        elif self.failures >= MOST_FAILURES:
            self.ended = f"given up after {self.failures} failures and no result"


@dataclass(frozen=True, slots=True)
class Next:
    """What to run, and after how many seconds it is ended; `share` says that the budget sets this limit."""

    turn: Turn
    job: Job
    limit: float
    share: bool


def estimate(turn: Turn, job: Job, repeat: int) -> float:
    """Give the seconds that a job will take; a rate that is not known is taken from the other kind.

    Args:
        turn: what is known of the backend.
        job: the job.
        repeat: repetitions of each test; llama-bench warms up with one more prompt.
    """
    prefill = turn.rates.get("prefill") or turn.rates.get("generation")
    generation = turn.rates.get("generation") or prefill
    if not prefill or not generation:
        return 0.0
    prompts = sum(job.counts("prefill")) * (repeat + 1)
    return turn.load + (prompts + job.depth) / prefill + sum(job.counts("generation")) * repeat / generation


def choose(turns: Sequence[Turn], remaining: float, repeat: int) -> Next | None:
    """Choose the next job; None where the budget allows no more.

    A backend's first job gets an equal share of what remains, so that none waits in vain for a slow one.

    Args:
        turns: the backends, in the plan's order.
        remaining: seconds of the budget.
        repeat: repetitions of each test.
    """
    if remaining <= 0:
        return None
    open_turns = [turn for turn in turns if turn.pending and not turn.ended]
    first = [turn for turn in open_turns if not turn.tried]
    if first:
        return Next(first[0], first[0].pending[0], remaining / len(first), share=True)
    costs = [(estimate(turn, job, repeat), turn, job) for turn in open_turns for job in turn.pending]
    fitting = [one for one in costs if one[0] <= remaining]
    if not fitting:
        return None
    # One that has not answered yet may not answer again: it waits behind those that do.
    cost, turn, job = min(fitting, key=lambda one: (not one[1].rates, one[0]))
    patience = max(AT_LEAST, cost * PATIENCE)
    return Next(turn, job, min(remaining, patience), share=remaining <= patience)


def count(jobs: Iterable[Job]) -> int:
    """Count the tests of jobs."""
    return sum(len(job.tests) for job in jobs)
