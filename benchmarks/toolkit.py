"""How long the toolkit itself takes: a build with nothing to do, rendering everything, starting.

Run it from a checkout on an idle machine whose engine has the image: `python benchmarks/toolkit.py`.
It writes results/toolkit.{json,md} and exits with 1 where a median is over its limit.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine

from amdserve import process
from amdserve.image.models import Request
from amdserve.image.plan import ALL
from amdserve.image.project import Project

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"


def command(*words: str) -> Callable[[], str]:
    """Give a measurement of a whole command, from the shell's view."""
    return lambda: process.run([str(ROOT / "inv"), *words], cwd=ROOT, timeout=3600).err


def render() -> str:
    """Plan and render every image for every target of every provider, in this process."""
    project, count = Project(ROOT), 0
    for provider in project.sources.rocm.providers:
        request = project.matrix(Request(images=(ALL,), provider=provider, lenient=True))
        for cell in project.plan(request).cells:
            project.renderer.dockerfile(cell, project.sources, project.llama, jobs=2)
            count += 1
    return f"{count} images"


# What, how, the limit of the median in seconds, and a word that what was measured must have said.
CASES: tuple[tuple[str, Callable[[], str], float, str], ...] = (
    (
        "`./inv build --gfx gfx1151`, nothing changed",
        command("build", "--gfx", "gfx1151"),
        3.0,
        "nothing changed",
    ),
    ("plan and render every image for every target", render, 1.0, "images"),
    ("`./inv --list`", command("--list"), 1.0, ""),
)


def measure(run: Callable[[], str], runs: int, said: str) -> dict[str, Any]:
    """Run once to warm up and then some times; give the seconds.

    Raises:
        SystemExit: it did something else than what is measured.
    """
    if said not in (words := run()):
        sys.exit(f"not what was to be measured; build the image first\n{words}")
    times = []
    for _ in range(runs):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return {"median": statistics.median(times), "best": min(times), "worst": max(times)}


def table(results: dict[str, Any]) -> str:
    """Give the results as Markdown."""
    machine = f"{results['cpu']}, {results['cores']} cores, Linux {results['kernel']}"
    lines = [
        f"{machine}, Python {results['python']}, {results['date']}, load before {results['load']}.",
        "",
        "| what | median s | best | worst | limit |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, one in results["cases"].items():
        lines.append(
            f"| {name} | {one['median']:.2f} | {one['best']:.2f} | {one['worst']:.2f} | {one['limit']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    there = machine()
    results: dict[str, Any] = {
        "cpu": there["cpu"],
        "cores": there["cores"],
        "kernel": there["kernel"],
        "python": platform.python_version(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 2),
        "runs": runs,
        "cases": {name: measure(run, runs, said) | {"limit": limit} for name, run, limit, said in CASES},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "toolkit.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    (RESULTS / "toolkit.md").write_text(table(results), "utf-8")
    print(table(results))
    return int(any(one["median"] > one["limit"] for one in results["cases"].values()))


if __name__ == "__main__":
    sys.exit(main())
