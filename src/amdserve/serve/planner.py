"""The process that plans: takes what was asked for, writes what the supervisor needs, and ends.

It begins before anything is asked, to import what it needs. Where there is no plan, it says why, writes
nothing, and its exit code is the one for that.
"""

from __future__ import annotations

import gc
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from amdserve.errors import AmdserveError
from amdserve.process import fork
from amdserve.serve.logs import Log


class Planner(NamedTuple):
    """A process that waits for an order.

    Attributes:
        pid: the process.
        order: file descriptor to write the order to.
        seen: file descriptor to write to what `amdserve.serve.look` saw.
        plan: file descriptor to read the plan from.
    """

    pid: int
    order: int
    seen: int
    plan: int


_begun: list[Planner] = []


def begin() -> None:
    """Start a planner, for `take`."""
    (order_from, order_to), (seen_from, seen_to), (plan_from, plan_to) = os.pipe(), os.pipe(), os.pipe()

    def body() -> int:
        for end in (order_to, seen_to, plan_from):
            os.close(end)
        return wait(order_from, seen_from, plan_to)

    pid = fork(body)
    for end in (order_from, seen_from, plan_to):
        os.close(end)
    _begun.append(Planner(pid, order_to, seen_to, plan_from))


def take() -> Planner:
    """Give the planner that was begun, or a new one."""
    if not _begun:
        begin()
    return _begun.pop()


def wait(order_from: int, seen_from: int, plan_to: int) -> int:
    """Get ready, take the order, and plan; give the exit code.

    Args:
        order_from: file descriptor for what `amdserve.serve.start` put together; nothing in it is no order.
        seen_from: file descriptor for what was seen meanwhile.
        plan_to: file descriptor for the plan.
    """
    # It ends before there is anything worth collecting, and what these import would have the collector run.
    gc.disable()
    from amdserve.serve import checked, memory, planning, rights, seen  # noqa: F401, PLC0415

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
        made = json.dumps(plan(order, log, seen_from))
    except AmdserveError as error:
        log.say(str(error), "error", **error.to_dict())
        return error.exit_code
    with os.fdopen(plan_to, "w", encoding="utf-8") as pipe:
        pipe.write(made)
    return 0


def plan(order: dict[str, Any], log: Log, seen_from: int) -> dict[str, Any]:
    """Make the plan, say it, and give what the supervisor needs.

    Args:
        order: what `amdserve.serve.start` put together.
        log: where it is said; its form becomes the one that was asked for.
        seen_from: file descriptor for what was seen meanwhile.

    Raises:
        AmdserveError: it cannot be served.
    """
    from amdserve.serve import checked, memory, planning, seen  # noqa: PLC0415

    place = Path(order["state_dir"]) if order["state_dir"] else None
    values = order["values"]
    remembers = values.get("remember", True) and not order["forget"]
    asked, options = checked.build(values, order["origins"], place if remembers else None)
    log.form = options.log_format
    for text in order["notes"]:
        log.say(text, "warning")
    if order["forget"]:
        memory.forget(place)
    found = seen.receive(seen_from)
    planned = planning.make_plan(asked, os.environ, place if options.remember else None, found)
    for text in planning.describe(planned):
        log.say(text)
    return {**planning.spec(planned, options, place, os.environ), "keep_fds": order["keep_fds"]}
