"""How the toolkit speaks: answers on standard output, everything else on standard error.

Colour and moving lines only on a terminal; in a pipe the same facts come as plain lines.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from typing import TextIO

from amdserve.errors import AmdserveError

RED, GREEN, YELLOW, BOLD, DIM = "31", "32", "33", "1", "2"
CLEAR_LINE = "\r\x1b[K"
MARKS = {True: "ok", False: "FAILED", None: "?"}


def on_terminal(stream: TextIO | None = None) -> bool:
    """Tell whether a stream (standard error by default) is a terminal that takes colour."""
    stream = sys.stderr if stream is None else stream
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def paint(text: str, style: str, stream: TextIO | None = None) -> str:
    """Give text in a colour where the stream takes it and NO_COLOR is not set."""
    return f"\x1b[{style}m{text}\x1b[0m" if on_terminal(stream) and not os.environ.get("NO_COLOR") else text


def say(text: str = "") -> None:
    """Print a line on standard error."""
    print(text, file=sys.stderr, flush=True)


def answer(value: object) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def error(failure: AmdserveError) -> None:
    """Print an error on standard error: what failed, the likely cause, the next command."""
    first, *rest = str(failure).splitlines()
    say(paint(f"error: {first}", f"{BOLD};{RED}"))
    for line in rest:
        say(line)


def table(rows: Iterable[Sequence[object]], head: Sequence[str]) -> str:
    """Give rows as aligned columns under a head, each row on one line."""
    texts = [tuple(head), *(tuple("; ".join(str(cell).splitlines()) for cell in row) for row in rows)]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in texts
    )


def megabytes(size: float) -> str:
    """Give a size in bytes as `76.6 MB` (10^6), as `docker images` counts."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.2f} GB"


def seconds(duration: float) -> str:
    """Give a duration in seconds as `7 s` or `12 min 05 s`."""
    whole = round(duration)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02} s"


class Line:
    """One line that says how far something is: rewritten in place on a terminal, now and then in a pipe.

    Args:
        every: seconds between two lines where they cannot be rewritten.
    """

    def __init__(self, every: float = 30.0) -> None:
        self._live = on_terminal()
        self._pause = 0.1 if self._live else every
        self._next = time.monotonic() + (0.0 if self._live else every)

    def update(self, text: str) -> None:
        """Show where it stands, unless the last time was a moment ago."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._pause
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            print(CLEAR_LINE + text[:width], end="", file=sys.stderr, flush=True)
        else:
            say(text)

    def say(self, text: str) -> None:
        """Print a line that stays."""
        self.clear()
        say(text)

    def clear(self) -> None:
        """Take the moving line away."""
        if self._live:
            print(CLEAR_LINE, end="", file=sys.stderr, flush=True)
