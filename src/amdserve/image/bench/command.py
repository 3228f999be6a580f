"""Puts `invoke bench` together: measure, or compare; then files, table and plot."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve import process
from amdserve.errors import AmdserveError, ProcessError, UsageError
from amdserve.image import show
from amdserve.image.bench import run as running
from amdserve.image.bench.launch import Launch
from amdserve.image.container import EXITS

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

PLOT, PAGE = "plot.png", "report.html"


def measure(
    launch: Launch, engine: Engine, root: Path, name: str, *, as_json: bool, dry: bool = False
) -> int:
    """Measure, write the files under build/bench, and show the result; give the exit code.

    Args:
        launch: what to start.
        engine: where.
        root: the checkout.
        name: of the folder for the result; empty for one of model, GPU and time.
        as_json: print the result as one JSON document instead of a table.
        dry: print the line only.

    Raises:
        AmdserveError: there is no result.
    """
    folder = root / running.FOLDER / (name or f".{time.time_ns()}")
    code = running.run(launch, engine, folder, dry=dry)
    if code is None:
        return 0
    found = json.loads((folder / running.RESULT).read_text("utf-8"))
    if not name:
        folder = folder.rename(folder.with_name(name_of(found)))
    from amdserve.image.bench import plot, tables  # noqa: PLC0415 - rich and matplotlib take their time

    plot.write(found, folder / PLOT)
    show.answer(found) if as_json else tables.result(found, tables.console())
    for file in (running.RESULT, PAGE, PLOT):
        if (folder / file).exists():
            show.say(f"{(folder / file).relative_to(root)}")
    if found["saved"]:
        show.say("saved: `./inv run` and `amdserve serve` use this order and these settings from now on")
    return code


def name_of(found: Mapping[str, Any]) -> str:
    """Give a result's folder its name: model, GPU, time."""
    model = Path(found["model"]["name"]).name.removesuffix(".gguf")
    when = "".join(sign for sign in found["date"] if sign.isdigit())
    return f"{model}-{found['machine']['gfx'] or 'cpu'}-{when}"


def compare(names: str, *, as_json: bool) -> None:
    """Show the ratio of two results, point by point.

    Args:
        names: two results, with a comma between them: files or folders.
        as_json: print one JSON document instead of a table.

    Raises:
        UsageError: there are not two, or they cannot be compared.
    """
    both = [part.strip() for part in names.split(",") if part.strip()]
    if len(both) != 2:
        raise UsageError(f"--compare {names!r} does not name two results", fix="./inv bench --compare A,B")
    # The container's own command does it: what is compared is defined once.
    argv = [sys.executable, "-m", "amdserve.serve.cli", "bench", "--json", "--compare", *both]
    done = process.run(argv, check=False, timeout=60)
    try:
        found = json.loads(done.out)
    except ValueError:
        raise process.failed(done, error=ProcessError) from None
    if not done.ok:
        kind = EXITS.get(done.code, AmdserveError)
        raise kind(found["what"], cause=found["cause"], fix=found["next"])
    if as_json:
        show.answer(found)
        return
    from amdserve.image.bench import tables  # noqa: PLC0415

    tables.comparison(found, tables.console())
