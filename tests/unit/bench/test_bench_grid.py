"""Which tests there are, in which order they are run, and what follows from their numbers."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amdserve.serve.bench import choose, schedule
from amdserve.serve.bench.grid import Grid, Job, Test, jobs, prefill
from amdserve.serve.bench.result import Measurement
from amdserve.serve.bench.schedule import Turn

V, R, C = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python"
small = st.lists(st.sampled_from((1, 64, 512, 2048, 4096)), min_size=1, max_size=3, unique=True)
grids = st.builds(
    lambda prompts, generate, depths, attention, size: Grid(
        prompts=prompts, generate=generate, depths=depths, flash_attn=attention, n_ubatch=size
    ),
    small,
    st.lists(st.sampled_from((16, 128)), max_size=2, unique=True),
    st.lists(st.sampled_from((0, 128, 4096)), min_size=1, max_size=3, unique=True),
    st.sampled_from((("off",), ("on",), ("off", "on"), ("on", "off"))),
    small,
)


def every(grid: Grid) -> list[Test]:
    return [test for job in jobs(grid) for test in job.tests]


@given(grids)
def test_everything_asked_for_is_measured_and_nothing_twice(grid: Grid) -> None:
    found = every(grid)
    assert len(found) == len(set(found))
    settings = product(grid.prompts, grid.depths, grid.flash_attn, grid.n_ubatch)
    assert {prefill(*one) for one in settings} == {test for test in found if test.kind == "prefill"}
    generations = product(grid.generate, grid.depths, grid.flash_attn)
    assert {Test("generation", *one) for one in generations} == {
        one for one in found if one.kind != "prefill"
    }


@given(grids)
def test_one_job_is_one_command_line(grid: Grid) -> None:
    for job in jobs(grid):
        assert len({(test.depth, test.flash_attn) for test in job.tests}) == 1
        assert len({test.n_ubatch for test in job.tests if test.n_ubatch}) <= 1


def test_first_comes_the_cheapest_of_each_kind() -> None:
    first = jobs(Grid())[0]
    assert [str(test) for test in first.tests] == [
        "prefill of 512 at depth 0, flash attention off, micro-batch 512",
        "generation of 128 at depth 0, flash attention off",
    ]


def test_a_prompt_that_fits_in_every_micro_batch_is_measured_once() -> None:
    grid = Grid(prompts=(512,), generate=(), depths=(0,), flash_attn=("off",), n_ubatch=(512, 1024, 2048))
    assert every(grid) == [Test("prefill", 512, 0, "off", 512)]
    assert prefill(512, 0, "off", 2048) == Test("prefill", 512, 0, "off", 512)


def turn(name: str, grid: Grid, *, prefill: float = 0.0, generation: float = 0.0) -> Turn:
    made = Turn(name, list(jobs(grid)))
    if prefill:
        made.pending.pop(0)
        made.tried = True
        made.rates = {"prefill": prefill, "generation": generation}
    return made


def test_every_backend_has_its_turn_before_any_has_two() -> None:
    grid = Grid(budget=90)
    fast, slow, untried = turn(V, grid, prefill=1e6, generation=1e6), turn(R, grid), turn(C, grid)
    found = schedule.choose([fast, slow, untried], 90.0, 3)
    assert found is not None
    assert (found.turn, found.limit, found.share) == (slow, 45.0, True)


def test_then_the_cheapest_job_of_all() -> None:
    grid = Grid()
    fast, slow = turn(V, grid, prefill=1000, generation=50), turn(C, grid, prefill=50, generation=5)
    found = schedule.choose([slow, fast], 900.0, 3)
    assert found is not None
    assert found.turn is fast
    assert schedule.estimate(fast, found.job, 3) == min(
        schedule.estimate(fast, job, 3) for job in fast.pending
    )


def test_one_that_did_not_answer_waits_behind_those_that_do() -> None:
    grid = Grid()
    silent, slow = turn(V, grid), turn(C, grid, prefill=50, generation=5)
    silent.tried = True
    found = schedule.choose([silent, slow], 900.0, 3)
    assert found is not None
    assert found.turn is slow


def test_what_would_not_end_in_time_is_not_begun() -> None:
    grid = Grid(prompts=(2048,), generate=(128,), depths=(0,), flash_attn=("off", "on"), n_ubatch=(512,))
    slow = turn(C, grid, prefill=10, generation=1)
    assert schedule.estimate(slow, slow.pending[0], 3) == pytest.approx(2048 * 4 / 10 + 128 * 3)
    assert schedule.choose([slow], 100.0, 3) is None
    assert schedule.choose([slow], 1300.0, 3) is not None
    assert schedule.choose([slow], 0.0, 3) is None


@pytest.mark.parametrize(
    ("classes", "ended"), [(["crash"], False), (["crash"] * 2, True), (["no-device"], True)]
)
def test_a_backend_without_an_answer_is_given_up(classes: list[str], ended: bool) -> None:
    one = turn(V, Grid())
    for cls in classes:
        one.failed(cls)
    assert bool(one.ended) is ended


def test_a_backend_that_has_answered_is_not_given_up() -> None:
    one = turn(V, Grid(), prefill=1, generation=1)
    for _ in range(5):
        one.failed("crash")
    assert not one.ended


def points(name: str, grid: Grid, rates: dict[tuple[str, str], float]) -> list[Measurement]:
    """Give an answer to every test; `rates` has kind and flash attention, `512` the micro-batch's factor."""
    found = []
    for job in jobs(grid):
        for test in job.tests:
            rate = rates[test.kind, test.flash_attn] * rates.get((str(test.n_ubatch), ""), 1.0)
            found.append(
                Measurement(
                    backend=name,
                    kind=test.kind,
                    tokens=test.tokens,
                    depth=test.depth,
                    flash_attn=test.flash_attn,
                    n_ubatch=test.n_ubatch,
                    rate=rate / (1 + test.depth / 4096),
                )
            )
    return found


def test_the_score_is_the_time_of_a_typical_request() -> None:
    # The published numbers of a Strix Halo: Vulkan writes faster, ROCm reads faster.
    assert choose.seconds(1243, 62.8) == pytest.approx(2048 / 1243 + 256 / 62.8)
    assert choose.seconds(1243, 62.8) < choose.seconds(1604, 53.5)
    assert choose.seconds(2048, None) == 1.0


def test_settings_are_chosen_for_each_backend() -> None:
    grid = Grid()
    both = points(
        V, grid, {("prefill", "off"): 1000, ("prefill", "on"): 1100, ("generation", "off"): 50,
                  ("generation", "on"): 60, ("512", ""): 0.5}
    ) + points(
        R, grid, {("prefill", "off"): 1604, ("prefill", "on"): 800, ("generation", "off"): 53,
                  ("generation", "on"): 30, ("512", ""): 2.0}
    )  # fmt: skip
    first, second = choose.decide(grid, both, [V, R])
    assert (second.backend, second.flash_attn, second.n_ubatch) == (V, "on", 2048)
    assert (first.backend, first.flash_attn, first.n_ubatch) == (R, "off", 512)
    # The deepest context, and the prompt nearest to the typical one.
    assert {(one.depth, one.prompt) for one in (first, second)} == {(4096, 2048)}


def test_equal_settings_leave_what_serve_does_anyway() -> None:
    grid = Grid(n_ubatch=(512, 2048))
    rates = {("prefill", "on"): 1010.0, ("prefill", "off"): 1000.0, ("generation", "on"): 50.0}
    (one,) = choose.decide(grid, points(V, grid, {**rates, ("generation", "off"): 50.0}), [V])
    assert (one.flash_attn, one.n_ubatch) == ("off", 2048)


def test_of_equal_settings_the_more_usual_ones_are_taken() -> None:
    grid = Grid(n_ubatch=(512, 2048))
    rates = {("prefill", "on"): 1000.0, ("prefill", "off"): 500.0, ("512", ""): 1.001}
    both = {("generation", "on"): 50.0, ("generation", "off"): 25.0}
    (one,) = choose.decide(grid, points(V, grid, rates | both), [V])
    assert (one.flash_attn, one.n_ubatch) == ("on", 2048)


def test_equal_backends_stay_in_the_plans_order() -> None:
    grid = Grid(flash_attn=("off",))
    rates = {("prefill", "off"): 1000.0, ("generation", "off"): 50.0}
    faster = {name: rate * 1.01 for name, rate in rates.items()}
    chosen = choose.decide(grid, points(V, grid, rates) + points(R, grid, faster), [V, R])
    assert [one.backend for one in chosen] == [V, R]


def test_backends_are_compared_where_all_were_measured() -> None:
    """The CPU was reached at no depth: the GPU's slower numbers from there are not held against it."""
    grid = Grid(flash_attn=("off",))
    gpu = points(V, grid, {("prefill", "off"): 100.0, ("generation", "off"): 10.0})
    cpu = points(C, grid, {("prefill", "off"): 90.0, ("generation", "off"): 9.0})
    first, second = choose.decide(
        grid, gpu + [one for one in cpu if (one.depth, one.tokens) in ((0, 512), (0, 128))], [V, C]
    )
    assert (first.backend, second.backend) == (V, C)
    assert (first.depth, first.prompt) == (second.depth, second.prompt) == (0, 512)


def test_a_backend_with_one_kind_of_answer_is_not_ranked() -> None:
    grid = Grid()
    only = [one for one in points(V, grid, dict.fromkeys(
        [("prefill", "off"), ("prefill", "on"), ("generation", "off"), ("generation", "on")], 10.0
    )) if one.kind == "prefill"]  # fmt: skip
    assert choose.decide(grid, only, [V]) == ()
    assert len(choose.decide(grid.model_copy(update={"generate": ()}), only, [V])) == 1


def test_a_job_counts_its_tests() -> None:
    job = Job((Test("prefill", 64, 0, "off", 64), Test("generation", 16, 0, "off")))
    assert (job.counts("prefill"), job.counts("generation"), job.n_ubatch) == ((64,), (16,), 64)
    assert schedule.count([job, job]) == 4
