"""Bar charts as SVG: a group for each depth and length, a bar for each backend, numbers beside. Pure.

Colours and fonts are classes of the page, so that the same drawing is right in light and dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from amdserve.values import dataclass

WIDTH, NAMES, VALUES = 760, 168, 132  # of the drawing, of the column of names, of that of numbers
BAR, GAP, HEAD = 18, 7, 30  # heights of a bar, of what is between two, of a group's title
TICKS = 4


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar: whose, how long, how far repetitions lie apart; or why there is none."""

    name: str
    colour: int
    rate: float | None
    stddev: float = 0.0
    missing: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Bars that are to be compared, under one title."""

    title: str
    bars: tuple[Bar, ...]


def draw(groups: Sequence[Group], label: str) -> str:
    """Draw a chart.

    Args:
        groups: from top to bottom.
        label: what it shows, for who cannot see it.
    """
    most = max((bar.rate + bar.stddev for group in groups for bar in group.bars if bar.rate), default=1.0)
    top = _round_up(most)
    scale = (WIDTH - NAMES - VALUES) / top
    parts: list[str] = []
    y = 6.0
    for group in groups:
        parts.append(f'<text class="group" x="0" y="{y + 16:.0f}">{escape(group.title)}</text>')
        y += HEAD
        for bar in group.bars:
            parts.append(_bar(bar, y, scale))
            y += BAR + GAP
        y += 8
    grid = []
    for number in range(TICKS + 1):
        x = NAMES + top * number / TICKS * scale
        grid.append(f'<line class="grid" x1="{x:.1f}" y1="6" x2="{x:.1f}" y2="{y:.0f}"/>')
        grid.append(f'<text class="tick" x="{x:.1f}" y="{y + 16:.0f}">{_short(top * number / TICKS)}</text>')
    unit = f'<text class="unit" x="{WIDTH - VALUES + 34}" y="{y + 16:.0f}">t/s</text>'
    return (
        f'<svg viewBox="0 0 {WIDTH} {y + 24:.0f}" role="img" aria-label="{escape(label, quote=True)}">'
        + "".join(grid)
        + unit
        + "".join(parts)
        + "</svg>"
    )


def _bar(bar: Bar, y: float, scale: float) -> str:
    middle = y + BAR / 2
    name = f'<text class="name" x="{NAMES - 10}" y="{middle + 4:.1f}">{escape(bar.name)}</text>'
    if bar.rate is None:
        return (
            name + f'<text class="missing" x="{NAMES + 6}" y="{middle + 4:.1f}">{escape(bar.missing)}</text>'
        )
    length = max(2.0, bar.rate * scale)
    spread = bar.stddev * scale
    whisker = ""
    if spread >= 1.5:
        low, high = NAMES + max(0.0, length - spread), NAMES + length + spread
        whisker = (
            f'<path class="spread" d="M{low:.1f} {middle:.1f}H{high:.1f}M{high:.1f} {middle - 4:.1f}v8"/>'
        )
    text = f"{number(bar.rate)} ± {number(bar.stddev)}"
    at = NAMES + length + max(0.0, spread) + 8
    return (
        name
        + f'<rect class="bar b{bar.colour}" x="{NAMES}" y="{y:.1f}" '
        + f'width="{length:.1f}" height="{BAR}" rx="3"/>'
        + whisker
        + f'<text class="value" x="{at:.1f}" y="{middle + 4:.1f}">{text}</text>'
    )


def number(value: float) -> str:
    """Give a rate with as many digits as tell something."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def _short(value: float) -> str:
    return f"{value:,.10g}"


def _round_up(value: float) -> float:
    """Give the next number whose fourths are round: 1, 2, 4 or 8 times a power of ten, or 1.2, 1.6, 6."""
    power = 1.0
    while power * 10 <= value:
        power *= 10
    while power > value:
        power /= 10
    return next(step * power for step in (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8, 10) if step * power >= value)
