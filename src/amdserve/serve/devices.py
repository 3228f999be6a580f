"""What a llama.cpp binary itself sees: its `--list-devices`, and which of them is the GPU that was chosen."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from amdserve.serve.patterns import patterns
from amdserve.values import dataclass

_LINE = re.compile(
    r"^  (?P<name>[A-Za-z]+\d+): (?P<text>.*?)(?: \((?P<total>\d+) MiB, (?P<free>\d+) MiB free\))?$"
)


@dataclass(frozen=True, slots=True)
class Device:
    """One line of `--list-devices`: the name for `--device`, its text, MiB in all and free."""

    name: str
    text: str
    total: int = 0
    free: int = 0


def parse(lines: Iterable[str]) -> tuple[Device, ...]:
    """Read the output of `--list-devices`; log lines between are passed over."""
    found = []
    for line in lines:
        match = _LINE.match(line.rstrip())
        if match and match["name"].rstrip("0123456789") not in ("CPU", "BLAS"):
            found.append(
                Device(match["name"], match["text"], int(match["total"] or 0), int(match["free"] or 0))
            )
    return tuple(found)


def none_listed(lines: Iterable[str]) -> str:
    """Say that the list is empty, with the binary's own reason if it gives one."""
    pattern = dict(patterns())["no-device"]
    said = next((line.strip()[:300] for line in lines if pattern.search(line)), "")
    return "its own list of devices is empty" + (f": {said}" if said else "")


def pick(devices: Sequence[Device], hints: Sequence[str], ordinal: int = 0) -> Device | None:
    """Find the device that is meant.

    Args:
        devices: what the binary lists.
        hints: gfx and name of the GPU, the surer first.
        ordinal: how many GPUs of the same kind stand before it.

    Returns:
        The one whose text has the first hint that any has; None where no hint helps, which leaves the
        choice to the backend.
    """
    for hint in hints:
        word = re.compile(rf"(?<![a-z0-9]){re.escape(hint.lower())}(?![a-z0-9])")
        found = [device for device in devices if word.search(device.text.lower())]
        if found:
            return found[min(ordinal, len(found) - 1)]
    return None
