"""The process that plans: takes what was asked for, writes what the supervisor needs, and ends.

Where there is no plan, it says why, writes nothing, and its exit code is the one for that.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve.errors import AmdserveError
from amdserve.serve.logs import Log


def plan(order: dict[str, Any], log: Log) -> dict[str, Any]:
    """Make the plan, say it, and give what the supervisor needs.

    Args:
        order: what `amdserve.serve.start` wrote down.
        log: where it is said; its form becomes the one that was asked for.

    Raises:
        AmdserveError: it cannot be served.
    """
    # It ends before there is anything worth collecting, and what these import would have the collector run.
    gc.disable()
    from amdserve.serve import memory, planning  # noqa: PLC0415
    from amdserve.serve.request import build  # noqa: PLC0415

    request, options = build(order["values"], order["origins"])
    log.form = options.log_format
    for text in order["notes"]:
        log.say(text, "warning")
    place = Path(order["state_dir"]) if order["state_dir"] else None
    if order["forget"]:
        memory.forget(place)
    planned = planning.make_plan(request, os.environ, place if options.remember else None)
    for text in planning.describe(planned):
        log.say(text)
    return {**planning.spec(planned, options, place, os.environ), "keep_fds": order["keep_fds"]}


def run(order: dict[str, Any], plan_to: int, environ: Mapping[str, str]) -> int:
    """Plan in a process of its own; give its exit code.

    Args:
        order: what was asked for, as `amdserve.serve.start` put it together.
        plan_to: file descriptor for the plan.
        environ: the environment to plan for: that of a process that gave its rights away.
    """
    os.environ.clear()
    os.environ.update(environ)
    log = Log()
    try:
        made = json.dumps(plan(order, log))
    except AmdserveError as error:
        log.say(str(error), "error", **error.to_dict())
        return error.exit_code
    with os.fdopen(plan_to, "w", encoding="utf-8") as pipe:
        pipe.write(made)
    return 0
