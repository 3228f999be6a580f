"""Follow a build: BuildKit's raw progress in, one moving line on the terminal and a readable log file out."""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TextIO

from amdserve.image import show

# Steps that took less than this (in seconds) leave no line of their own.
WORTH_A_LINE = 2.0
TAIL = 30


@dataclass
class Step:
    """One step of a build, as BuildKit calls it a vertex."""

    number: int
    name: str
    started: float | None = None
    finished: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL))


class Progress:
    """Takes the lines of `buildx bake --progress rawjson`, or `plain` where buildx is too old for that.

    Args:
        log: the whole story goes here.
        line: how far it is goes here.
        clock: monotonic seconds.
    """

    def __init__(self, log: TextIO, line: show.Line, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._line = line
        self._clock = clock
        self._begin = clock()
        self._steps: dict[str, Step] = {}
        self._last = ""
        self.words: deque[str] = deque(maxlen=100)
        self.failed: Step | None = None
        self.errors: list[str] = []
        self.cached = 0

    def feed(self, raw: str) -> None:
        """Take one line."""
        try:
            event = json.loads(raw)
        except ValueError:
            event = None
        if not isinstance(event, dict):
            # No event: what buildx says at the end (where it failed, and why), or all that an old one says.
            if raw.strip():
                self.words.append(raw)
                self._write(raw)
                self._line.update(f"  {self._passed():>12}  {raw}")
            return
        for vertex in event.get("vertexes") or ():
            self._vertex(vertex)
        for entry in event.get("logs") or ():
            self._text(entry)
        self._show()

    def _vertex(self, vertex: dict[str, Any]) -> None:
        key, name = vertex["digest"], " ".join(str(vertex.get("name", "")).split())
        step = self._steps.get(key)
        if step is None:
            step = self._steps[key] = Step(len(self._steps) + 1, name)
        if step.finished:
            return
        if vertex.get("started") and step.started is None:
            step.started = self._clock()
            self._write(f"#{step.number} {step.name}")
        if vertex.get("error"):
            self._write(f"#{step.number} ERROR: {vertex['error']}")
            # Others are canceled when one fails: the one that failed by itself tells why.
            if "context canceled" not in vertex["error"] and self.failed is None:
                self.failed = step
                self.errors.append(str(vertex["error"]))
        if vertex.get("completed"):
            step.finished = True
            self._done(step, vertex)

    def _done(self, step: Step, vertex: dict[str, Any]) -> None:
        if vertex.get("cached"):
            self.cached += 1
            self._write(f"#{step.number} CACHED")
            return
        took = _between(vertex.get("started"), vertex.get("completed"))
        self._write(f"#{step.number} DONE {took:.1f}s")
        if took >= WORTH_A_LINE and not vertex.get("error"):
            self._line.say(f"  {show.seconds(took):>12}  {_short(step.name)}")

    def _text(self, entry: dict[str, Any]) -> None:
        step = self._steps.get(entry.get("vertex", ""))
        try:
            text = base64.b64decode(entry.get("data") or "").decode("utf-8", "replace")
        except binascii.Error:
            return
        for part in text.replace("\r", "\n").splitlines():
            if step is None or not part.strip():
                continue
            step.tail.append(part)
            self._last = part.strip()
            self._write(f"#{step.number} {part}")

    def _show(self) -> None:
        running = [step for step in self._steps.values() if step.started is not None and not step.finished]
        if not running:
            return
        step = max(running, key=lambda one: one.started or 0.0)
        last = f" | {step.tail[-1].strip()}" if step.tail else ""
        self._line.update(f"  {self._passed():>12}  {_short(step.name)}{last}")

    def _passed(self) -> str:
        return show.seconds(self._clock() - self._begin)

    def _write(self, text: str) -> None:
        self._log.write(text + "\n")
        self._log.flush()


def _short(name: str) -> str:
    """Shorten a step's name: `[llama-rocm 2/2] RUN --mount=… cmake` → `[llama-rocm 2/2] RUN cmake`."""
    words = [word for word in name.split() if not word.startswith("--")]
    text = " ".join(words)
    return text if len(text) <= 70 else text[:69] + "…"


def _between(start: str | None, end: str | None) -> float:
    try:
        return (_moment(end) - _moment(start)).total_seconds()
    except (TypeError, ValueError):
        return 0.0


def _moment(text: str | None) -> datetime:
    """Read BuildKit's time stamp, whose nanoseconds Python 3.11 does not take."""
    whole, _, fraction = str(text).removesuffix("Z").partition(".")
    return datetime.fromisoformat(f"{whole}.{fraction[:6]:0<6}+00:00")
