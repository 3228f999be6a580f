"""Which backends of a plan can be measured, and with what: those that have a llama-bench in the image."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amdserve.serve.bench import tool
from amdserve.serve.bench.grid import Grid
from amdserve.serve.bench.measure import Candidate, candidate
from amdserve.serve.plan import CPU, ROCM, VULKAN
from amdserve.serve.planning import Planned

BINARY = "llama-bench"


def find(
    planned: Planned, entries: Sequence[Mapping[str, Any]], grid: Grid, without: Sequence[str] = ()
) -> tuple[list[Candidate], dict[str, str]]:
    """Give the candidates in the plan's order, and the backends that are none, with the reason.

    Args:
        planned: the plan.
        entries: its entries, as the supervisor gets them.
        grid: what is measured of each.
        without: backends that are not wanted.
    """
    found: list[Candidate] = []
    none: dict[str, str] = {}
    model = planned.job.model
    for entry in entries:
        name = str(entry["backend"])
        if name in without:
            continue
        program = _program(planned, name)
        if program is None:
            none[name] = f"there is no {BINARY} for it in this image"
            continue
        device, flags = str(entry["device"]), tool.load_mode(entry["argv"])
        what = tool.What(program, model.path, model.hub, device, flags, planned.job.purpose != "llm")
        twin = next((one for one in found if one.what[:4] == what[:4]), None)
        if twin is not None:
            none[name] = f"its libraries are those of {twin.name}, which is measured"
            continue
        found.append(candidate(entry, what, grid))
    return found, none


def _program(planned: Planned, backend: str) -> str | None:
    """Give a backend's llama-bench; the CPU's libraries are those of the servers, so theirs stands for it."""
    names = (VULKAN, ROCM) if backend == CPU else (backend,)
    owners = (planned.job.image.backends.get(name) for name in names)
    paths = (Path(owner.folder) / BINARY for owner in owners if owner and owner.folder)
    return next((str(path) for path in paths if os.access(path, os.X_OK)), None)
