"""What follows from the numbers: the settings for each backend, and the order of the backends. Pure.

The score is the time of a typical request, in seconds: 2048 tokens of prompt and 256 tokens of answer,
computed from the measured rates. Prompt length and depth are those measured that come nearest to it: the
deepest context, and the prompt nearest to 2048 tokens, at which the candidates can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import NamedTuple, TypeVar

from amdserve.serve.bench.grid import Grid, Test, prefill
from amdserve.serve.bench.result import Choice, Measurement

PROMPT, ANSWER = 2048, 256
# Two that are nearer to each other than this are equal: then what is preferred anyway stays first.
TIE = 1.02
# What `serve` takes by itself.
USUAL = ("off", 2048)

T = TypeVar("T")


class Ground(NamedTuple):
    """Where candidates are compared: a depth, a prompt's length, a number of tokens generated."""

    depth: int
    prompt: int
    generate: int | None

    @property
    def worth(self) -> tuple[int, int, int]:
        """How good a ground it is: the larger, the better."""
        return self.depth, -abs(self.prompt - PROMPT), self.generate or 0


def seconds(prefill_rate: float, generation_rate: float | None) -> float:
    """Give the time of a typical request; without a generation rate it is the prompt's alone."""
    return PROMPT / prefill_rate + (ANSWER / generation_rate if generation_rate else 0.0)


def choices(grid: Grid, points: Iterable[Measurement], backend: str) -> list[Choice]:
    """Give every combination of settings and ground of which both rates are known."""
    rates = {one.test: one.rate for one in points if one.backend == backend}
    found = []
    for depth, tokens, generate, attention, size in product(
        grid.depths, grid.prompts, grid.generate or (None,), grid.flash_attn, grid.n_ubatch
    ):
        ahead = rates.get(prefill(tokens, depth, attention, size))
        after = rates.get(Test("generation", generate, depth, attention)) if generate else None
        if ahead is None or (generate and after is None):
            continue
        found.append(
            Choice(
                backend=backend,
                flash_attn=attention,
                n_ubatch=size,
                prompt=tokens,
                generate=generate,
                depth=depth,
                prefill=ahead,
                generation=after,
                seconds=round(seconds(ahead, after), 3),
            )
        )
    return found


def settings(found: Sequence[Choice]) -> Choice | None:
    """Choose a backend's settings, on the ground where most of them were measured."""
    if not found:
        return None
    grounds: dict[Ground, list[Choice]] = {}
    for one in found:
        grounds.setdefault(_ground(one), []).append(one)
    best = max(grounds, key=lambda ground: (len(grounds[ground]), ground.worth))
    candidates = sorted(grounds[best], key=_unusual)
    return ranked(candidates, lambda one: one.seconds)[0]


def decide(grid: Grid, points: Sequence[Measurement], backends: Sequence[str]) -> tuple[Choice, ...]:
    """Choose settings for each backend that has numbers, and put them in order, the fastest first.

    Args:
        grid: what was asked for.
        points: what was measured.
        backends: in the plan's order, which stays where two are equal.
    """
    every = {name: choices(grid, points, name) for name in backends}
    chosen = [one for name in backends if (one := settings(every[name])) is not None]
    shared = _shared(chosen, every)
    if shared is not None:
        chosen = [next(one for one in _same(pick, every) if _ground(one) == shared) for pick in chosen]
    return tuple(ranked(chosen, lambda one: one.seconds))


def _shared(chosen: Sequence[Choice], every: dict[str, list[Choice]]) -> Ground | None:
    """Give the best ground on which all backends were measured with the settings chosen for them."""
    grounds = [{_ground(one) for one in _same(pick, every)} for pick in chosen]
    common = set.intersection(*grounds) if grounds else set()
    return max(common, key=lambda ground: ground.worth, default=None)


def _same(pick: Choice, every: dict[str, list[Choice]]) -> list[Choice]:
    wanted = (pick.flash_attn, pick.n_ubatch)
    return [one for one in every[pick.backend] if (one.flash_attn, one.n_ubatch) == wanted]


def _unusual(one: Choice) -> int:
    """Count the settings that differ from what `serve` takes by itself."""
    return sum(value != usual for value, usual in zip((one.flash_attn, one.n_ubatch), USUAL, strict=True))


def _ground(one: Choice) -> Ground:
    return Ground(one.depth, one.prompt, one.generate)


def ranked(items: Sequence[T], score: Callable[[T], float]) -> list[T]:
    """Sort by a score, the smallest first; of equal ones the earlier item stays before the later."""
    rest, found = list(items), []
    while rest:
        limit = min(score(one) for one in rest) * TIE
        found.append(next(one for one in rest if score(one) <= limit))
        rest.remove(found[-1])
    return found
