"""`amdserve selftest`: each backend's arithmetic against the reference, on demand."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve.errors import UsageError
from amdserve.process import run as run_command
from amdserve.serve import image as images
from amdserve.serve import planning
from amdserve.serve.classify import Failure
from amdserve.serve.flags import DEVICE_VARIABLE
from amdserve.serve.listing import Listing
from amdserve.serve.llama import reference_command
from amdserve.serve.logs import Log
from amdserve.serve.loop import Loop
from amdserve.serve.memory import Memory
from amdserve.serve.reference import MODEL, TOLERANCE, load
from amdserve.serve.request import ModelLoadRequest, RunOptions
from amdserve.serve.runner import House, environment
from amdserve.serve.selfcheck import check
from amdserve.serve.state import Status

FULL = "test-backend-ops"
FULL_SECONDS = 3600.0


def run(*, as_json: bool, full: bool) -> int:
    """Check every backend of the image that a GPU is here for, and the CPU; 0 if all compute rightly.

    Args:
        as_json: print one JSON document.
        full: also run llama.cpp's own test of every kernel, where it is shipped.

    Raises:
        UsageError: this image has no reference.
    """
    # Each backend is asked, whatever a server shall use. Backends inherit it.
    os.environ.pop(DEVICE_VARIABLE, None)
    environ = dict(os.environ)
    image = images.load(environ)
    folder = planning.reference_folder(image, environ)
    reference = load(folder) if folder else None
    if folder is None or reference is None:
        raise UsageError("this image has no reference to compare with", fix="build it again: invoke build")
    request = ModelLoadRequest(model_path=str(Path(folder) / MODEL))
    planned = planning.make_plan(request, environ)
    spec = planning.spec(planned, RunOptions(), None, environ)
    entries = [entry for entry in spec["entries"] if entry["reference_argv"]]
    entries += _cpu_entry(planned, folder)
    results = []
    with Loop() as loop:
        nowhere = Status(None, port=0, host="")
        house = House(spec, loop, Log(), nowhere, Memory(None, "", ""), reference, None)
        for entry in entries:
            results.append(_one(house, entry))
            if full and entry["device"] == "gpu":
                results.append(_full(entry, image.backends[entry["backend"]].folder))
            if loop.stops:
                return 130
    for name, reason in planned.plan.skipped:
        print(f"{name}: not checked: {reason}", file=sys.stderr)
    if as_json:
        print(json.dumps({"tolerance": TOLERANCE, "results": results}, indent=2))
    else:
        for one in results:
            mark = "right" if one["ok"] else "WRONG"
            print(f"{one['backend']} on {one['device']}: {mark}: {one['detail']} ({one['seconds']:.1f} s)")
    return 0 if all(one["ok"] for one in results) else 1


def _one(house: House, entry: Mapping[str, Any]) -> dict[str, Any]:
    begun = time.monotonic()
    listing = Listing(house, entry)
    failure: Failure | None = listing.find()
    worst = 0.0
    if failure is None:
        failure, worst = check(house, entry, listing.flags)
    detail = f"{failure.cls}: {failure.detail}" if failure else f"{worst:.2g} off, {TOLERANCE} is allowed"
    return {
        "backend": entry["backend"],
        "device": listing.device,
        "ok": failure is None,
        "off": None if failure else worst,
        "detail": detail,
        "seconds": round(time.monotonic() - begun, 2),
    }


def _cpu_entry(planned: planning.Planned, folder: str) -> list[dict[str, Any]]:
    """Give an entry for the CPU: its code differs from that of the machine that built the image."""
    servers = [
        backend for name, backend in planned.job.image.backends.items() if name.startswith("llama-server")
    ]
    if not servers:
        return []
    argv = reference_command(planned.job, servers[0], Path(folder) / MODEL, "cpu")
    entry = {"backend": servers[0].name, "device": "cpu", "device_name": "CPU", "probe": "/health"}
    return [{**entry, "env": {"VK_LOADER_DRIVERS_DISABLE": "*"}, "reference_argv": argv}]


def _full(entry: Mapping[str, Any], folder: str) -> dict[str, Any]:
    program = Path(folder) / FULL
    begun = time.monotonic()
    base = {"backend": f"{entry['backend']} {FULL}", "device": entry["device_name"], "off": None}
    if not program.is_file():
        return {**base, "ok": True, "detail": f"{FULL} is not in this image", "seconds": 0.0}
    result = run_command([str(program), "test"], env=environment(entry), timeout=FULL_SECONDS, check=False)
    last = next(
        (line.strip() for line in reversed(result.out.splitlines()) if line.strip()), "it said nothing"
    )
    return {**base, "ok": result.ok, "detail": last, "seconds": round(time.monotonic() - begun, 1)}
