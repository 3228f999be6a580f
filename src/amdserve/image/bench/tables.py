"""Results and comparisons as tables on a terminal, and as plain columns in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

HEAD = ("backend", "test", "tokens", "depth", "flash attention", "micro-batch")
NUMBERS = frozenset(
    {
        "tokens",
        "depth",
        "micro-batch",
        "t/s",
        "±",
        "A t/s",
        "B t/s",
        "ratio",
        "seconds",
        "prefill",
        "generation",
    }
)
WIDE = 140  # columns of a pipe: nothing is cut off there


def console() -> Console:
    """Give the console for answers."""
    terminal = sys.stdout.isatty()
    return Console(file=sys.stdout, width=None if terminal else WIDE, highlight=False, markup=False)


def result(found: Mapping[str, Any], to: Console) -> None:
    """Print a result: every measurement, what was chosen, what failed, what was left."""
    order = [one["backend"] for one in found["backends"]]
    points = sorted(
        found["points"], key=lambda one: (order.index(one["backend"]), one["kind"] != "prefill", *_place(one))
    )
    if points:
        rows = [(*_test(one), f"{one['rate']:.1f}", f"{one['stddev']:.1f}") for one in points]
        to.print(_table((*HEAD, "t/s", "±"), rows))
    if found["chosen"]:
        rows = [
            (
                str(place),
                one["backend"],
                f"{one['seconds']:.2f}",
                f"{one['prefill']:.1f}",
                f"{one['generation']:.1f}" if one["generation"] else "-",
                one["flash_attn"],
                str(one["n_ubatch"]),
            )
            for place, one in enumerate(found["chosen"], 1)
        ]
        head = ("", "backend", "seconds", "prefill", "generation", "flash attention", "micro-batch")
        to.print(_table(head, rows, title="a typical request, the fastest first"))
    for one in found["failures"]:
        to.print(Text(f"{one['backend']} failed: {one['class']}: {one['detail']}", style="red"))
        to.print("\n".join(f"  | {word}" for word in one["words"]))
    for one in found["left"]:
        to.print(f"{one['backend']}: {len(one['tests'])} tests were not run: {one['reason']}")
    for name, why in found["skipped"].items():
        to.print(f"{name}: not measured: {why}")


def comparison(found: Mapping[str, Any], to: Console) -> None:
    """Print a comparison: the ratio of B to A at each point, and what differs."""
    a, b = found["names"]
    rows: list[tuple[str | Text, ...]] = [
        (*_test(one), f"{one['a']:.1f}", f"{one['b']:.1f}", _ratio(one)) for one in found["points"]
    ]
    to.print(f"A is {a}\nB is {b}")
    to.print(_table((*HEAD, "A t/s", "B t/s", "ratio"), rows))
    for label, (one, two) in found["differs"].items():
        to.print(f"{label}: {one or '-'} against {two or '-'}")
    if not found["differs"]:
        to.print("same GPU, drivers, kernel and image")
    for said in found["warnings"]:
        to.print(Text(f"note: {said}", style="yellow"))


def _ratio(one: Mapping[str, Any]) -> Text:
    ratio = float(one["ratio"])
    if abs(ratio - 1) <= one["noise"]:
        return Text(f"{ratio:.2f} ~", style="dim")
    return Text(f"{ratio:.2f}  ", style="green" if ratio > 1 else "red")


def _place(one: Mapping[str, Any]) -> tuple[int, int, bool, int]:
    return one["depth"], one["tokens"], one["flash_attn"] != "off", one["n_ubatch"] or 0


def _test(one: Mapping[str, Any]) -> tuple[str, ...]:
    size = str(one["n_ubatch"]) if one["n_ubatch"] else "-"
    return one["backend"], one["kind"], str(one["tokens"]), str(one["depth"]), one["flash_attn"], size


def _table(head: Sequence[str], rows: Iterable[Sequence[str | Text]], title: str = "") -> Table:
    made = Table(box=SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for name in head:
        made.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made
