"""Log lines: the backend's, passed through with its name before them, and our own."""

from __future__ import annotations

import json
import os
import re
import time
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

KEPT_LINES = 200
MOST_LINE = 8192
SECRET = re.compile(r"(api[_-]?keys?:?\s*)\S+", re.IGNORECASE)


class Log:
    """Writes lines to a file descriptor, as text or as one JSON object each, with secrets taken out.

    Args:
        form: `text` or `json`.
        secrets: words that must never be seen.
        fd: where to write.
    """

    def __init__(self, form: str = "text", secrets: Iterable[str] = (), fd: int = 2) -> None:
        self.form = form
        self.secrets = tuple(secret for secret in secrets if len(secret) >= 4)
        self.fd = fd
        self._held: list[bytes] | None = None

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what is said in this block at its end, at once: each write takes time from the backend."""
        self._held = []
        try:
            yield
        finally:
            held, self._held = self._held, None
            self._put(b"".join(held))

    def say(self, message: str, level: str = "info", **fields: object) -> None:
        """Write a line of our own; `fields` appear only in JSON."""
        self._write("amdserve", message, level, fields)

    def passed(self, source: str, line: str) -> str:
        """Write a backend's line; give it as it was written, without secrets."""
        clean = self.clean(line)
        self._write(source, clean, "", {})
        return clean

    def clean(self, line: str) -> str:
        """Take secrets out of a line."""
        for secret in self.secrets:
            line = line.replace(secret, "****")
        return SECRET.sub(r"\1****", line) if "key" in line or "KEY" in line else line

    def _write(self, source: str, message: str, level: str, fields: dict[str, object]) -> None:
        if self.form == "json":
            data: dict[str, object] = {"time": stamp(), "source": source, "message": message, **fields}
            if level:
                data["level"] = level
            text = json.dumps(data, ensure_ascii=False)
        else:
            mark = f"{source}: {level}: " if level not in ("", "info") else f"{source}: "
            text = mark + message
        line = (text + "\n").encode("utf-8", "replace")
        if self._held is None:
            self._put(line)
        else:
            self._held.append(line)

    def _put(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self.fd, data) :]
            except BlockingIOError:
                time.sleep(0.005)
            except OSError:  # nobody reads any more; serving goes on
                return


class Lines:
    """Cuts a stream of bytes into lines, and keeps the last ones.

    Attributes:
        kept: the last lines.
        count: lines so far; one that only repeats the line before it is not counted, for it tells nothing.
    """

    def __init__(self) -> None:
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        self.partial = b""
        self.count = 0
        self._last: str | None = None

    def feed(self, data: bytes) -> list[str]:
        """Take bytes; give the lines they complete."""
        whole, _, rest = (self.partial + data).rpartition(b"\n")
        if len(rest) > MOST_LINE:  # a progress bar without an end
            whole, rest = whole + b"\n" + rest if whole else rest, b""
        self.partial = rest
        if not whole:
            return []
        found = [text.decode("utf-8", "replace").rstrip("\r")[:MOST_LINE] for text in whole.split(b"\n")]
        self.count += sum(one != before for before, one in zip([self._last, *found], found, strict=False))
        self._last = found[-1]
        return found

    def end(self) -> list[str]:
        """Give what is left without an end of line."""
        return self.feed(b"\n") if self.partial else []


def stamp(seconds: float | None = None) -> str:
    """Give a time as people and machines read it: 2026-11-23T22:49:00Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
