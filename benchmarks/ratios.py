"""What was measured on both sides: the ratios, as rows, as Markdown and as a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asking import compare
from sides import LOADS

# Rates through the entrypoint are at least this part of the others; a start takes at most so many times.
RATE, START = 0.98, 1.05


def summary(
    cases: Sequence[dict[str, Any]], benches: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Compare all that was measured."""
    rows = []
    for case in cases:
        for what, unit in LOADS.items() if case["load"]["rounds"] else ():
            pairs = [[one[side][what] for one in case["load"]["rounds"]] for side in ("served", "bare")]
            rows.append({"case": case["name"], **compare(what, unit, pairs[0], pairs[1], limit=RATE)})
        for kind in case["phases"]:
            pairs = [[one[side] for one in case["starts"]] for side in (kind, "bare")]
            what = f"start, {kind} state"
            rows.append({"case": case["name"], **compare(what, "s", pairs[0], pairs[1], limit=START)})
    for name, found in benches.items():
        for what in ("prompt", "generation"):
            pairs = [[one[side][what] for one in found] for side in ("served", "bare")]
            row = compare(f"llama-bench, {what}", "t/s", pairs[0], pairs[1], limit=RATE)
            rows.append({"case": name, **row})
    return rows


NOTES = """
The ratio is the median of the rounds' ratios. Of rates it is through ÷ by hand, of the time to the first
token by hand ÷ through: above 1 it is faster through the entrypoint. Of starts it is the time through ÷ by
hand, from `docker run` (where there is no engine: from the program's start) to the first complete answer.
`kept`: an earlier start has used the state's volume; `fresh`: there is none, and a GPU's arithmetic is
checked first. llama-bench: in a container ÷ without one. Every server has one thread less than there are
cores: the client computes too. For the load both sides are started several times, in either order: two
processes of one program differ by a few percent.

Seconds of a start, as `amdserve status --json` has them (medians; without the engine's own part):
"""


def table(results: dict[str, Any]) -> str:
    """Give the results as Markdown."""
    there, image = results["machine"], results["image"]
    quick = ", --quick" if results["quick"] else ""
    date, seconds, load_before = results["date"], results["seconds"], there["load"]
    hardware = f"{there['cpu']}, {there['cores']} cores, {there['memory_gib']} GiB, Linux {there['kernel']}"
    made = f"{image['ref']} {image['id'][:19]}, llama.cpp {image['llama']}, amdserve {image['amdserve']}"
    lines = ["# Through the entrypoint, against the same server by hand", ""]
    hardware += f", {there['gpu']}" if "gpu" in there else ""
    lines.append(f"{hardware}; load before {load_before}; {date}{quick}, {seconds:.0f} s.")
    lines.append(f"{made}, engine {image['engine']}.")
    sizes = ", ".join(f"{one['parameters'] / 1e6:.0f} ({one['name']})" for one in results["cases"])
    lines += [f"Models: random weights, float32; million parameters: {sizes}.", ""]
    lines.append("| backend | what | through | by hand | ratio | quartiles | rounds | goal |")
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for one in results["summary"]:
        goal = f"{'≥' if one['limit'] < 1 else '≤'} {one['limit']}"
        goal += ", met" if one["met"] else ", missed"
        goal += " within the noise" if one["noise"] else ""
        low, high = one["quartiles"]
        served, bare = (f"{one[side]:.4g} {one['unit']}" for side in ("served", "bare"))
        numbers = f"{served} | {bare} | {one['ratio']:.3f} | {low:.3f}–{high:.3f} | {one['rounds']}"
        lines.append(f"| {one['case']} | {one['what']} | {numbers} | {goal} |")
    lines += NOTES.splitlines()
    lines.append("")
    for case in results["cases"]:
        for kind, told in case["phases"].items():
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in told.items())
            lines.append(f"- {case['name']}, {kind} state: {parts}")
    lines += [f"- {name}: not measured: {why}" for name, why in results["skipped"].items()]
    return "\n".join(lines) + "\n"


def write(results: dict[str, Any], file: Path) -> None:
    """Write the results as JSON, and beside it as Markdown and, where there are rates, as a plot."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    file.with_suffix(".md").write_text(table(results), "utf-8")
    if any(one["limit"] < 1 for one in results["summary"]):
        plot(results, file.with_suffix(".png"))


def plot(results: dict[str, Any], to: Path) -> None:
    """Draw the ratios: rates on the left, starts on the right, with the goals."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    rates = [one for one in results["summary"] if one["limit"] < 1][::-1]
    starts = [one for one in results["summary"] if one["limit"] > 1][::-1]
    heights = [len(rates), max(2, len(starts))]
    figure, both = pyplot.subplots(
        2, 1, figsize=(9, 0.34 * sum(heights) + 1.8), height_ratios=heights, layout="constrained"
    )
    for axes, rows, label in (
        (both[0], rates, "speed ÷ that by hand (black: the goal, yellow: within the noise)"),
        (both[1], starts, "seconds to the first answer ÷ those by hand"),
    ):
        colours = ["#c9a227" if one["noise"] else "#2a7f62" if one["met"] else "#b5452c" for one in rows]
        names = [f"{one['case']}: {one['what']}" for one in rows]
        ratios = [one["ratio"] for one in rows]
        sides = [
            [max(0.0, one["ratio"] - one["quartiles"][0]) for one in rows],
            [max(0.0, one["quartiles"][1] - one["ratio"]) for one in rows],
        ]
        axes.barh(names, ratios, color=colours, height=0.6, xerr=sides, error_kw={"ecolor": "#777777"})
        most = max([1.0, *(one["quartiles"][1] for one in rows)])
        for at, one in enumerate(rows):
            axes.plot([one["limit"]] * 2, [at - 0.4, at + 0.4], color="black", linewidth=2)
            axes.text(most * 1.03, at, f"{one['ratio']:.3f}", va="center")
        axes.set_xlim(0, most * 1.15)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, dpi=120, metadata={"Software": None})
    pyplot.close(figure)
