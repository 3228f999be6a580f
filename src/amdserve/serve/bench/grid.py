"""What is measured: the tests that were asked for, without those that would only repeat another. Pure."""

from __future__ import annotations

from itertools import product
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from amdserve.values import dataclass

Kind = Literal["prefill", "generation"]
FlashAttention = Literal["off", "on"]
Tokens = Annotated[int, Field(ge=1, le=1 << 20)]


class Grid(BaseModel):
    """What was asked for. Frozen; unknown fields are refused.

    Attributes:
        prompts: lengths of the prompts, in tokens.
        generate: how many tokens are generated; empty for models that generate none.
        depths: tokens of context that are there before.
        flash_attn: off, on, or both.
        n_ubatch: micro-batches, in tokens.
        repeat: how often each test is repeated, after a warm-up.
        budget: seconds for all of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompts: tuple[Tokens, ...] = Field(default=(512, 2048), min_length=1)
    generate: tuple[Tokens, ...] = (128,)
    depths: tuple[Annotated[int, Field(ge=0, le=1 << 20)], ...] = Field(default=(0, 4096), min_length=1)
    flash_attn: tuple[FlashAttention, ...] = Field(default=("off", "on"), min_length=1)
    n_ubatch: tuple[Annotated[int, Field(ge=1, le=1 << 20)], ...] = Field(default=(512, 2048), min_length=1)
    repeat: int = Field(default=3, ge=1, le=100)
    budget: float = Field(default=900.0, ge=1)


@dataclass(frozen=True, slots=True)
class Test:
    """One test of llama-bench: so many tokens at once (prefill) or one by one (generation), at a depth.

    `n_ubatch` is None for a generation: it computes one token at a time, whatever the micro-batch.
    """

    __test__ = False  # pytest looks for classes of this name

    kind: Kind
    tokens: int
    depth: int
    flash_attn: FlashAttention
    n_ubatch: int | None = None

    def __str__(self) -> str:
        """Say it in words."""
        batch = f", micro-batch {self.n_ubatch}" if self.n_ubatch else ""
        return f"{self.kind} of {self.tokens} at depth {self.depth}, flash attention {self.flash_attn}{batch}"


@dataclass(frozen=True, slots=True)
class Job:
    """The tests that one llama-bench runs; all have the same depth and flash attention."""

    tests: tuple[Test, ...]

    @property
    def depth(self) -> int:
        """Tokens of context before each test."""
        return self.tests[0].depth

    @property
    def flash_attn(self) -> FlashAttention:
        """Flash attention of each test."""
        return self.tests[0].flash_attn

    @property
    def n_ubatch(self) -> int | None:
        """The micro-batch; None where only tokens are generated."""
        return next((test.n_ubatch for test in self.tests if test.n_ubatch), None)

    def counts(self, kind: Kind) -> tuple[int, ...]:
        """Give the numbers of tokens of the tests of one kind."""
        return tuple(test.tokens for test in self.tests if test.kind == kind)


def prefill(tokens: int, depth: int, flash_attn: FlashAttention, n_ubatch: int) -> Test:
    """Give the test that says how fast a prompt is with these settings.

    A prompt that fits in a micro-batch is one batch of its own length: a larger micro-batch changes nothing.
    """
    return Test("prefill", tokens, depth, flash_attn, min(tokens, n_ubatch))


def jobs(grid: Grid) -> tuple[Job, ...]:
    """Give the jobs of one backend: the cheapest test of each kind, then the rest by depth and settings."""
    first_attention, shallow = grid.flash_attn[0], min(grid.depths)
    first = [prefill(min(grid.prompts), shallow, first_attention, grid.n_ubatch[0])]
    if grid.generate:
        first.append(Test("generation", min(grid.generate), shallow, first_attention))
    groups: dict[tuple[int, str, int], list[Test]] = {}
    for depth, attention in product(sorted(set(grid.depths)), dict.fromkeys(grid.flash_attn)):
        sizes = sorted(set(grid.n_ubatch))
        for size, tokens in product(sizes, sorted(set(grid.prompts))):
            test = prefill(tokens, depth, attention, size)
            groups.setdefault((depth, attention, test.n_ubatch or 0), []).append(test)
        # Generation rides with the smallest micro-batch that runs anyway: one model load less.
        host = min(size for at, how, size in groups if (at, how) == (depth, attention))
        groups[depth, attention, host] += [
            Test("generation", tokens, depth, attention) for tokens in sorted(set(grid.generate))
        ]
    done = set(first)
    rest = []
    for tests in groups.values():
        left = tuple(test for test in dict.fromkeys(tests) if test not in done)
        if left:
            rest.append(Job(left))
    return (Job(tuple(first)), *rest)
