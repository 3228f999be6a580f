"""Trying again: what is worth it, how long to wait, when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field

# What a registry, or a proxy before it, says when the same request may succeed a little later.
TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass
class Backoff:
    """How often and how long: `attempts` in a row, the wait doubles from `first` seconds up to `longest`.

    Each wait is drawn between half of that and all of it, so that many clients do not come back together.
    """

    attempts: int = 6
    first: float = 0.5
    longest: float = 30.0
    pause: Callable[[float], None] = time.sleep
    random: Callable[[], float] = field(default=random.random)

    def wait(self, failures: int, asked: float | None = None) -> None:
        """Wait after the `failures`-th failure in a row; `asked`: seconds that the registry asks for."""
        delay = min(self.longest, self.first * 2 ** (failures - 1))
        delay *= 0.5 + self.random() / 2
        self.pause(min(self.longest, max(delay, asked or 0.0)))

    def spent(self, failures: int) -> bool:
        """Tell whether it is time to give up."""
        return failures >= self.attempts


def retry_after(value: str | None) -> float | None:
    """Read a Retry-After header given in seconds; None for none (or a date, which nobody sends)."""
    return float(value) if value and value.isdigit() else None
