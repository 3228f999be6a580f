"""`amdserve serve`: rights are given up, the planner gets its order, and this process becomes the supervisor.

The supervisor, which stays for weeks, needs little of what planning does. So the plan is made by a copy of
this process, which ends with it, while this one gets ready to supervise, asks the driver for its devices, and
then takes the plan from a pipe.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
from collections.abc import Mapping
from typing import Any, NoReturn

from amdserve.process import get_ready
from amdserve.serve import planner, rights, state
from amdserve.serve.options import DEFAULT_FOLDER
from amdserve.serve.sources import Merged, merge


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
        state.keep_caches(place, environ)
    # One that was begun before a secret was held has no file descriptor of it.
    plans = planner.take()
    if held is not None:
        os.close(plans.order)
        os.close(plans.plan)
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
    # A planner that is gone has an exit code, which the supervisor gives.
    with contextlib.suppress(BrokenPipeError), os.fdopen(plans.order, "w", encoding="utf-8") as pipe:
        pipe.write(json.dumps(order))
    os.environ.clear()
    os.environ.update(environ)
    supervise(plans.plan, plans.pid, merged.values)


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


def supervise(plan_from: int, planner_pid: int = 0, values: Mapping[str, Any] | None = None) -> NoReturn:
    """Be the supervisor: get ready, take the plan, and see it through.

    Args:
        plan_from: file descriptor it reads the plan from.
        planner_pid: the process that writes it, if that is a child of ours.
        values: what was asked for, if the driver is to be asked for its devices meanwhile.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        # Until there is a plan, nothing has been started that would not end with this process.
        signal.signal(number, lambda *_: os._exit(0))
    from amdserve.serve import ahead  # noqa: PLC0415  (the planner is under way)

    question = ahead.guess(values, os.environ) if values else None
    asked = ahead.Ahead(question, os.environ) if question else None
    from amdserve.serve import supervise  # noqa: PLC0415  (the driver is under way too)

    get_ready()
    with os.fdopen(plan_from, "rb") as pipe:
        data = pipe.read()
    if not data:
        # The planner has said why there is no plan; its exit code is ours.
        status = os.waitpid(planner_pid, 0)[1] if planner_pid else 0
        os._exit(max(1, os.waitstatus_to_exitcode(status)))
    # Else its end is noticed by the loop, as that of any child.
    supervisor = supervise.Supervisor(json.loads(data), asked)
    # What was imported stays and is not looked at again; what serving makes is collected.
    gc.freeze()
    gc.enable()
    # No clean-up of the interpreter: a signal that comes now shall find the handlers still there.
    os._exit(supervisor.run())


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
