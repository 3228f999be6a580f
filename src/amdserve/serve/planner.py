"""The process that plans: takes what was asked for, writes what the supervisor needs, and ends.

It begins before anything is asked, to import what it needs. Where there is no plan, it says why, writes
nothing, and its exit code is the one for that.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from amdserve.errors import AmdserveError
from amdserve.process import fork
from amdserve.serve.logs import Log
from amdserve.values import dataclass


@dataclass(frozen=True, slots=True)
class Planner:
    """A process that waits for an order.

    Attributes:
        pid: the process.
        order: file descriptor to write the order to.
        plan: file descriptor to read the plan from.
    """

    pid: int
    order: int
    plan: int


_begun: list[Planner] = []


def begin() -> None:
    """Start a planner, for `take`."""
    (order_from, order_to), (plan_from, plan_to) = os.pipe(), os.pipe()

    def body() -> int:
        os.close(order_to)
        os.close(plan_from)
        return wait(order_from, plan_to)

    pid = fork(body)
    os.close(order_from)
    os.close(plan_to)
    _begun.append(Planner(pid, order_to, plan_from))


def take() -> Planner:
    """Give the planner that was begun, or a new one."""
    if not _begun:
        begin()
    return _begun.pop()


def wait(order_from: int, plan_to: int) -> int:
    """Get ready, take the order, and plan; give the exit code.

    Args:
        order_from: file descriptor for what `amdserve.serve.start` put together; nothing in it is no order.
        plan_to: file descriptor for the plan.
    """
    from amdserve.serve import checked, memory, planning, rights  # noqa: F401, PLC0415

    with os.fdopen(order_from, "rb") as pipe:
        data = pipe.read()
    if not data:
        return 0
    order = json.loads(data)
    rights.raise_memlock()
    rights.drop(os.environ, ())
    os.environ.clear()
    os.environ.update(order["environ"])
    log = Log()
    try:
        made = json.dumps(plan(order, log))
    except AmdserveError as error:
        log.say(str(error), "error", **error.to_dict())
        return error.exit_code
    with os.fdopen(plan_to, "w", encoding="utf-8") as pipe:
        pipe.write(made)
    return 0


def plan(order: dict[str, Any], log: Log) -> dict[str, Any]:
    """Make the plan, say it, and give what the supervisor needs.

    Args:
        order: what `amdserve.serve.start` put together.
        log: where it is said; its form becomes the one that was asked for.

    Raises:
        AmdserveError: it cannot be served.
    """
    from amdserve.serve import checked, memory, planning  # noqa: PLC0415

    place = Path(order["state_dir"]) if order["state_dir"] else None
    values = order["values"]
    asked, options = checked.build(values, order["origins"])
    log.form = options.log_format
    for text in order["notes"]:
        log.say(text, "warning")
    if order["forget"]:
        memory.forget(place)
    planned = planning.make_plan(asked, os.environ, place if options.remember else None)
    for text in planning.describe(planned):
        log.say(text)
    return {**planning.spec(planned, options, place, os.environ), "keep_fds": order["keep_fds"]}
