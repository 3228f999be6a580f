"""At image build: makes the reference model and records the CPU's answers.

Run as `python -m amdserve.serve.record --server /opt/llama/vulkan/llama-server --out FOLDER`.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from amdserve.errors import AmdserveError, BuildError
from amdserve.serve import refmodel
from amdserve.serve.logs import Log
from amdserve.serve.loop import Loop
from amdserve.serve.memory import Memory
from amdserve.serve.reference import ANSWER, FLAGS, FOLDER, MODEL, logits
from amdserve.serve.runner import House
from amdserve.serve.selfcheck import ask_all
from amdserve.serve.state import Status

SPEC = {"load_stall": 120.0, "probe_timeout": 60.0, "serve_stall": 120.0}


def record(server: str, out: Path) -> int:
    """Make the model and record what the CPU computes.

    Args:
        server: a llama-server.
        out: the folder for model and answers.

    Returns:
        The number of answers.

    Raises:
        BuildError: the server does not answer.
    """
    out.mkdir(parents=True, exist_ok=True)
    refmodel.make(out / MODEL)
    answers: list[list[float]] = []

    def keep(number: int, answer: Any) -> str:
        found = logits(answer)
        if found is None:
            return f"answer {number} has no probabilities"
        answers.append([round(value, 4) for value in found])
        return ""

    entry = {
        "backend": "llama-server",
        "device": "cpu",
        "probe": "/health",
        "env": {"VK_LOADER_DRIVERS_DISABLE": "*"},
        "reference_argv": [server, "--model", str(out / MODEL), *FLAGS, "--device", "none"],
    }
    with Loop() as loop:
        house = House(SPEC, loop, Log(), Status(None, port=0, host=""), Memory(None, "", ""), None, None)
        failure = ask_all(house, entry, (), keep)
    if failure is not None or loop.stops:
        why = failure.detail if failure else "stopped"
        raise BuildError(
            f"{server} gave no reference answer", cause=why, fix=f"{server} --device none --help"
        )
    (out / ANSWER).write_text(json.dumps({"schema": 1, "answers": answers}) + "\n", encoding="utf-8")
    return len(answers)


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        prog="amdserve.serve.record", description="make the reference of an image"
    )
    parser.add_argument("--server", required=True, help="a llama-server")
    parser.add_argument("--out", type=Path, default=Path(FOLDER), help="folder for model and answers")
    options = parser.parse_args()
    try:
        count = record(options.server, options.out)
    except AmdserveError as error:
        print(f"amdserve: error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} answers in {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
