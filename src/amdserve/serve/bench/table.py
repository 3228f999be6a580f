"""What is printed for people: plain aligned columns. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from amdserve.serve.bench.choose import ANSWER, PROMPT
from amdserve.serve.bench.result import NOISY, Choice, Measurement, Result

HEAD = ("backend", "test", "tokens", "depth", "flash attention", "micro-batch", "t/s")
NUMBERS = frozenset({"tokens", "depth", "micro-batch", "t/s", "ratio", "A t/s", "B t/s"})


def columns(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Give rows as aligned columns under a head; numbers stand on the right."""
    texts = [tuple(head), *(tuple(row) for row in rows)]
    widths = [max(len(row[at]) for row in texts) for at in range(len(head))]
    right = [name in NUMBERS for name in head]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if on_right else cell.ljust(width)
            for cell, width, on_right in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in texts
    )


def row(one: Measurement) -> tuple[str, ...]:
    """Give a measurement as the cells of a row."""
    size = str(one.n_ubatch) if one.n_ubatch else "-"
    return (
        one.backend,
        one.kind,
        str(one.tokens),
        str(one.depth),
        one.flash_attn,
        size,
        f"{one.rate:.1f} ± {one.stddev:.1f}",
    )


def ordered(points: Iterable[Measurement], backends: Sequence[str]) -> list[Measurement]:
    """Put measurements in the order in which people look for them."""
    place = {name: at for at, name in enumerate(backends)}
    return sorted(
        points,
        key=lambda one: (
            place.get(one.backend, 99),
            one.kind != "prefill",
            one.depth,
            one.tokens,
            one.flash_attn != "off",
            one.n_ubatch or 0,
        ),
    )


def choice(one: Choice) -> str:
    """Say what was chosen for a backend and why it has its place."""
    speed = f"{one.prefill:.1f} t/s prefill" + (
        f", {one.generation:.1f} t/s generation" if one.generation else ""
    )
    return (
        f"{one.backend}: {one.seconds:.2f} s ({speed}) with flash attention {one.flash_attn}, "
        f"micro-batch {one.n_ubatch}"
    )


def request(result: Result) -> str:
    """Say what the score is, in words."""
    answer = f" and {ANSWER} of answer" if any(one.generation for one in result.chosen) else ""
    grounds = {(one.depth, one.prompt) for one in result.chosen}
    rates = "at each one's own rates"
    if len(grounds) == 1:
        depth, prompt = grounds.pop()
        rates = f"at the rates of prompts of {prompt} at depth {depth}"
    return f"typical request: {PROMPT} tokens of prompt{answer}, {rates}"


def noise(result: Result) -> str:
    """Say how many measurements are of little worth."""
    return (
        f"{result.noisy} of {len(result.points)} measurements spread by more than {NOISY:.0%}: "
        "is something else running here?"
    )


def text(result: Result) -> str:
    """Give the whole answer."""
    lines = [
        columns(HEAD, (row(one) for one in ordered(result.points, [b.backend for b in result.backends])))
    ]
    if result.chosen:
        lines += ["", f"{request(result)}:"]
        lines += [f"  {number}. {choice(one)}" for number, one in enumerate(result.chosen, 1)]
    if result.noisy:
        lines += ["", f"note: {noise(result)}"]
    for one in result.failures:
        lines += ["", f"{one.backend} failed: {one.cls}: {one.detail}"]
        lines += [f"  | {word}" for word in one.words]
        lines += [f"  without an answer: {test}" for test in one.tests]
    for left in result.left:
        lines += ["", f"{left.backend}: {len(left.tests)} tests were not run ({left.reason}):"]
        lines += [f"  {test}" for test in left.tests]
    if result.skipped:
        lines += ["", *(f"{name}: not measured: {why}" for name, why in result.skipped.items())]
    return "\n".join(lines)


def compared(found: Mapping[str, Any]) -> str:
    """Give a comparison."""
    head = ("backend", "test", "tokens", "depth", "flash attention", "micro-batch", "A t/s", "B t/s", "ratio")
    rows = [
        (
            str(one["backend"]),
            str(one["kind"]),
            str(one["tokens"]),
            str(one["depth"]),
            str(one["flash_attn"]),
            str(one["n_ubatch"] or "-"),
            f"{one['a']:.1f}",
            f"{one['b']:.1f}",
            f"{one['ratio']:.2f}" + ("  (noise)" if abs(one["ratio"] - 1) <= one["noise"] else "         "),
        )
        for one in found["points"]
    ]
    a, b = found["names"]
    lines = [f"A is {a}", f"B is {b}", "", columns(head, rows), ""]
    lines += [f"{label}: {one or '-'} against {two or '-'}" for label, (one, two) in found["differs"].items()]
    if not found["differs"]:
        lines.append("same GPU, drivers, kernel and image")
    lines += [f"note: {said}" for said in found["warnings"]]
    lines += [f"  only in A: {name}" for name in found["only_a"]]
    lines += [f"  only in B: {name}" for name in found["only_b"]]
    return "\n".join(lines)
