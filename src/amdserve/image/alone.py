"""One build at a time in a checkout: what is rendered, the bake file and the logs are one build's own."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

FILE = "build/.lock"


@contextlib.contextmanager
def alone(root: Path, say: Callable[[str], None]) -> Iterator[bool]:
    """Hold the lock of a checkout; wait for whoever holds it. It ends with its process, however that ends.

    Args:
        root: the checkout.
        say: is told for whom this waits.

    Yields:
        whether it had to wait: what was known before may have changed.
    """
    file = root / FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    # Never removed: who waits for a file that is replaced would wait for nothing.
    with file.open("a+", encoding="utf-8") as handle:
        waited = False
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            holder = handle.read().strip() or "?"
            say(f"another build runs in this checkout (process {holder}): waiting for it")
            waited = True
            fcntl.flock(handle, fcntl.LOCK_EX)
        handle.seek(0)
        handle.truncate()
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield waited
