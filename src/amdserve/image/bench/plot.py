"""The result as one PNG: prefill and generation by depth, a bar for each backend."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

SHORT = {"llama-server-vulkan": "Vulkan", "llama-server-rocm": "ROCm", "llama-cpp-python": "CPU"}
COLOURS = {"llama-server-vulkan": "#2f6fde", "llama-server-rocm": "#d9542b", "llama-cpp-python": "#6f7785"}
INK, SOFT, LINE = "#1c1d21", "#5d6068", "#e3e4e8"
BAR = 0.34  # inches of a bar's row


def series(found: Mapping[str, Any], kind: str) -> list[tuple[str, str, float, float]]:
    """Give the bars of one kind: group, backend, rate and deviation, each backend with its chosen settings.

    Where a backend was not measured with them, its best measurement stands for it.
    """
    chosen = {one["backend"]: one for one in found["chosen"]}
    order = [one["backend"] for one in found["backends"]]
    best: dict[tuple[int, int, str], tuple[bool, float, float]] = {}
    for one in found["points"]:
        if one["kind"] != kind:
            continue
        key = (one["depth"], one["tokens"], one["backend"])
        value = (_is_chosen(one, chosen.get(one["backend"])), one["rate"], one["stddev"])
        best[key] = max(value, best.get(key, value))
    keys = sorted(best, key=lambda key: (key[0], key[1], order.index(key[2])))
    return [
        (_title(kind, depth, tokens), name, *best[depth, tokens, name][1:]) for depth, tokens, name in keys
    ]


def _is_chosen(one: Mapping[str, Any], pick: Mapping[str, Any] | None) -> bool:
    if pick is None or one["flash_attn"] != pick["flash_attn"]:
        return False
    return one["n_ubatch"] is None or bool(one["n_ubatch"] == min(one["tokens"], pick["n_ubatch"]))


def _title(kind: str, depth: int, tokens: int) -> str:
    what = f"prompt of {tokens}" if kind == "prefill" else f"{tokens} tokens"
    return f"{what}, depth {depth}"


def write(found: Mapping[str, Any], file: Path) -> None:
    """Draw the plot."""
    import matplotlib as mpl  # noqa: PLC0415 - half a second

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    panels = [(kind, bars) for kind in ("prefill", "generation") if (bars := series(found, kind))]
    if not panels:
        return
    heights = [len(bars) + 0.9 * len({bar[0] for bar in bars}) + 0.6 for _, bars in panels]
    size = (9.0, sum(heights) * BAR + 0.75 * len(panels) + 0.9)
    with mpl.rc_context({"font.size": 9.5, "text.color": INK, "axes.edgecolor": LINE, "xtick.color": SOFT}):
        figure, axes = pyplot.subplots(
            len(panels), 1, figsize=size, squeeze=False, gridspec_kw={"height_ratios": heights}
        )
        for (kind, bars), axis in zip(panels, axes[:, 0], strict=True):
            _panel(axis, kind, bars)
        machine = found["machine"]
        where = machine["gpu"] or machine["vulkan"] or machine["cpu"]
        figure.text(0.02, 1 - 0.36 / size[1], found["model"]["name"], fontsize=14, fontweight="bold")
        under = " · ".join(part for part in (where, machine["gfx"], found["date"][:10]) if part)
        figure.text(0.02, 1 - 0.6 / size[1], under, color=SOFT, fontsize=9.5)
        figure.tight_layout(rect=(0, 0, 1, 1 - 0.75 / size[1]))
        figure.savefig(file, dpi=150, facecolor="white")
        pyplot.close(figure)


def _panel(axis: Any, kind: str, bars: list[tuple[str, str, float, float]]) -> None:
    y, group, ticks = 0.0, "", []
    most = max(rate + deviation for _, _, rate, deviation in bars)
    for title, name, rate, deviation in bars:
        if title != group:
            y += 0.9 if group else 0.35
            axis.text(0, y - 0.12, title, fontweight="bold", va="center", fontsize=9.5)
            group, y = title, y + 0.75
        error = {"ecolor": INK, "elinewidth": 1, "capsize": 2.5, "alpha": 0.7}
        axis.barh(y, rate, 0.72, color=COLOURS.get(name, "#8a63c9"), xerr=deviation or None, error_kw=error)
        axis.text(
            rate + deviation + most * 0.015, y, f"{rate:,.1f} ± {deviation:,.1f}", va="center", fontsize=9
        )
        ticks.append((y, SHORT.get(name, name)))
        y += 1
    axis.set_yticks([at for at, _ in ticks], [name for _, name in ticks])
    axis.set_ylim(y - 0.3, -0.3)
    axis.set_xlim(0, most * 1.22)
    axis.set_title("Prefill, t/s" if kind == "prefill" else "Generation, t/s", loc="left", fontsize=11, pad=8)
    axis.tick_params(length=0)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axis.spines[side].set_visible(False)
