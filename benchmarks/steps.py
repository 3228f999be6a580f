"""What each step of a build costs: `python benchmarks/steps.py [--json FILE] COMMAND...`, beside the engine.

It runs a command that builds (`./inv build …`), as root, and reads meanwhile how much the control groups have
computed in which BuildKit runs its steps. So the product's own build is measured, with its caches as they
are, whatever else the machine does; time on the clock is told too, and means something on an idle one alone.

It ends with a table of the steps that took a second or more of CPU, and with the command's exit status.
"""

from __future__ import annotations

import argparse
import datetime
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from machine import machine

from amdserve import process

# The first version of control groups has a tree for each resource, the second one tree for all.
TREES = ((Path("/sys/fs/cgroup/cpuacct"), "cpuacct.usage"), (Path("/sys/fs/cgroup"), "cpu.stat"))
PAUSE = 0.5
# What tells a step: a word of its command line, and the name it gets here.
NAMES = (
    ("-DGGML_VULKAN=ON", "llama.cpp for Vulkan, and the CPU's libraries"),
    ("-DGGML_HIP=ON", "llama.cpp for ROCm"),
    ("allow-noblas", "numpy, and the locked packages"),
    ("npm ", "the web page"),
    ("LLAMA_BUILD=OFF", "the Python binding"),
    ("apt-get", "packages"),
    ("fatbin.py", "kernels of the targets"),
)


@dataclass(slots=True)
class Step:
    """A control group of a build: its name here, seconds of CPU, and the seconds on the clock it was seen."""

    name: str = "other"
    cpu: float = 0.0
    first: float = 0.0
    last: float = 0.0


def tree() -> tuple[Path, str]:
    """Give the folder of the control groups and the file that tells what one has computed."""
    for folder, file in TREES:
        if (folder / file).is_file():
            return folder, file
    raise SystemExit("no control groups are here: run it beside the engine, not in a container")


def computed(file: Path) -> float:
    """Give the seconds of CPU that a group has computed."""
    text = file.read_text("ascii")
    if text.strip().isdigit():
        return int(text) / 1e9
    found = re.search(r"^usage_usec (\d+)$", text, re.MULTILINE)
    return int(found.group(1)) / 1e6 if found else 0.0


def name(group: Path) -> str:
    """Name a step after what its processes were called with."""
    for number in (group / "cgroup.procs").read_text("ascii").split():
        words = Path(f"/proc/{number}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        for word, known in NAMES:
            if word in words:
                return known
    return "other"


def watch(steps: dict[Path, Step], folder: Path, file: str) -> None:
    """Look once at every step that runs."""
    now = time.monotonic()
    for place in folder.glob(f"**/buildkit/*/{file}"):
        step = steps.setdefault(place.parent, Step(first=now))
        try:
            step.cpu, step.last = computed(place), now
            if step.name == "other":
                step.name = name(place.parent)
        except OSError:
            continue  # It has just ended.


def table(rows: list[dict[str, float | str]]) -> str:
    """Give the steps as Markdown."""
    lines = ["| step | CPU s | on the clock, s |", "|---|---:|---:|"]
    lines += [f"| {row['name']} | {row['cpu']:.0f} | {row['clock']:.0f} |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Run the command, watch, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write the steps there too")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what builds")
    asked = parser.parse_args()
    if not asked.command:
        parser.error("no command")
    steps: dict[Path, Step] = {}
    groups = tree()
    builder = process.spawn(asked.command)
    while builder.poll() is None:
        time.sleep(PAUSE)
        watch(steps, *groups)
    rows: list[dict[str, float | str]] = [
        {"name": step.name, "cpu": round(step.cpu, 1), "clock": round(step.last - step.first, 1)}
        for step in steps.values()
        if step.cpu >= 1
    ]
    print(table(rows))
    if asked.json:
        date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        result = {"command": asked.command, "date": date, "machine": machine(), "steps": rows}
        asked.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return builder.returncode


if __name__ == "__main__":
    sys.exit(main())
