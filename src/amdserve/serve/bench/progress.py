"""How far the bench is, on standard error: a bar on a terminal, a line for each answer in a pipe."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TextIO

WIDTH = 24
PAUSE = 0.1
CLEAR = "\r\x1b[K"


class Progress:
    """Counts tests.

    Args:
        total: how many there are.
        budget: seconds for all.
        stream: where to write; None is standard error.
    """

    def __init__(self, total: int, budget: float, stream: TextIO | None = None) -> None:
        self.total, self.budget = total, budget
        self.done = 0
        self.begun = time.monotonic()
        self.stream = sys.stderr if stream is None else stream
        self.live = self.stream.isatty() and os.environ.get("TERM") != "dumb"
        self._next = 0.0

    def settled(self, text: str, tests: int = 1) -> None:
        """Say what has become of tests: an answer, a failure, or why they were not run."""
        self.done += tests
        mark = f"[{self.done}/{self.total}] " if self.total else ""
        self._write(f"{CLEAR if self.live else ''}{mark}{text}\n")

    def say(self, text: str) -> None:
        """Write a line that counts nothing."""
        self._write(f"{CLEAR if self.live else ''}{text}\n")

    def now(self, text: str) -> None:
        """Show what is done now; only on a terminal, where it can be taken away again."""
        if not self.live or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + PAUSE
        full = WIDTH * self.done // self.total if self.total else 0
        took = time.monotonic() - self.begun
        bar = "█" * full + "░" * (WIDTH - full)
        line = f"{bar} {self.done}/{self.total}  {took:.0f} s of {self.budget:.0f}  {text}"
        self._write(CLEAR + line[: shutil.get_terminal_size().columns - 1])

    def end(self) -> None:
        """Take the bar away."""
        if self.live:
            self._write(CLEAR)

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()
