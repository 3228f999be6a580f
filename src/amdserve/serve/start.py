"""`amdserve serve`: rights are given up, the planner is started, and this process becomes the supervisor.

The plan needs pydantic, YAML and the GPU detectors, up to 0.1 s of imports; the supervisor, which stays for
weeks, needs none of them. So the plan is made by a copy of this process, another process asks the driver for
its devices, and this one turns into a second, slim interpreter that gets ready meanwhile and then takes the
plan from a pipe.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from amdserve.serve import planner, rights, state
from amdserve.serve.options import DEFAULT_FOLDER
from amdserve.serve.sources import Merged, merge

SUPERVISOR = Path(__file__).with_name("supervisor.py")


def serve(
    arguments: Mapping[str, Any], *, config: str | None, extra: tuple[str, ...], forget: bool = False
) -> NoReturn:
    """Serve: this process becomes the supervisor.

    Args:
        arguments: field name to value, as the command line gave them.
        config: a YAML file, or None.
        extra: what goes to the backend unchanged.
        forget: forget which backends failed before.

    Raises:
        AmdserveError: it cannot be served.
    """
    merged = sources(arguments, os.environ, config, extra)
    keep: list[int] = []
    held = rights.hold_secret(str(merged.values.get("api_key_file") or ""))
    if held is not None:
        merged.values["api_key_file"] = held[0]
        keep.append(held[1])
    rights.raise_memlock()
    environ, notes = rights.drop(os.environ, (state.candidates(os.environ)[0],))
    place, note = state.folder(environ)
    if place is not None:
        environ.setdefault("XDG_CACHE_HOME", str(place / "cache"))
        environ.setdefault("LLAMA_CACHE", str(place / "cache" / "llama.cpp"))
    # One that was begun before a secret was held has no file descriptor of it.
    plans = planner.take()
    if held is not None:
        os.close(plans.order)
        planner.begin()
        plans = planner.take()
    order = {
        "values": merged.values,
        "origins": merged.origins,
        "state_dir": str(place) if place else None,
        "notes": [text for text in (*notes, note) if text],
        "keep_fds": keep,
        "forget": forget,
        "environ": environ,
    }
    with os.fdopen(plans.order, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(order))
    from amdserve.serve import ahead  # noqa: PLC0415  (the planner, which everything waits for, is under way)

    question = ahead.guess(merged.values, environ)
    become_supervisor(plans.plan, plans.pid, environ, ahead.ask(question, environ) if question else None)


def sources(
    arguments: Mapping[str, Any], environ: Mapping[str, str], config: str | None, extra: tuple[str, ...]
) -> Merged:
    """Merge what was asked for; without a model, the folder where models lie.

    Raises:
        UsageError: a name or a value is wrong.
    """
    merged = merge(arguments, environ, config, extra)
    if "model_path" not in merged.values and os.path.isdir(DEFAULT_FOLDER):  # noqa: PTH112
        merged.put("model_path", DEFAULT_FOLDER, "default")
    return merged


def become_supervisor(
    plan_from: int, pid: int, environ: Mapping[str, str], asked: str | None = None
) -> NoReturn:
    """Replace this process by the supervisor.

    Args:
        plan_from: file descriptor it reads the plan from.
        pid: the process that writes it.
        environ: its environment, and so that of its backends.
        asked: what `ahead.ask` gave.
    """
    os.set_inheritable(plan_from, True)
    # -I and -S: neither the environment nor site-packages reach into it, and it starts in half the time.
    argv = [sys.executable, "-I", "-S", str(SUPERVISOR), str(plan_from), str(pid), asked or ""]
    os.execve(sys.executable, argv, dict(environ))


def look(
    arguments: Mapping[str, Any], *, config: str | None, extra: tuple[str, ...], as_json: bool, origins: bool
) -> int:
    """Plan and print, start nothing.

    Args:
        arguments: field name to value, as the command line gave them.
        config: a YAML file, or None.
        extra: what goes to the backend unchanged.
        as_json: print the plan as JSON.
        origins: print where each value comes from, instead of a plan.

    Raises:
        AmdserveError: it could not be served.
    """
    from amdserve.serve import memory, planning  # noqa: PLC0415
    from amdserve.serve.request import build  # noqa: PLC0415

    merged = sources(arguments, os.environ, config, extra)
    request, options = build(merged.values, merged.origins)
    if origins:
        print(planning.explain(merged, request, options))
        return 0
    planned = planning.make_plan(request, os.environ, memory.find(os.environ) if options.remember else None)
    print(
        json.dumps(planning.dry_run(planned), indent=2) if as_json else "\n".join(planning.describe(planned))
    )
    return 0
