"""What a backend's own `--help` says it understands.

llama.cpp renames and removes options from month to month, and an unknown one ends the server with 1. So
nothing is passed on that the shipped binary's help, recorded when the image was built, does not name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import pairwise

LIST = "--list-devices"
DEVICE = ("--device", "-dev")
DEVICE_VARIABLE = "LLAMA_ARG_DEVICE"
# Flags by which a user chooses devices himself.
SPLITTING = frozenset({*DEVICE, "--tensor-split", "-ts", "--split-mode", "-sm", "--main-gpu", "-mg"})
_FLAG = re.compile(r"(?<![\w-])(--?[A-Za-z][\w\-]*)")


def no_device(words: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Tell whether llama-server's own arguments, or else its variable, say that it shall use no GPU."""
    chosen = [value for flag, value in pairwise(words) if flag in DEVICE]
    return (chosen[-1] if chosen else environ.get(DEVICE_VARIABLE)) == "none"


class Help:
    """The text of one `--help`, and the flags in it.

    Args:
        text: the help; an empty one means that nothing is known, and then nothing is refused.
    """

    def __init__(self, text: str) -> None:
        self.text = text

    @property
    def known(self) -> bool:
        """Whether there is a help text at all."""
        return bool(self.text.strip())

    @cached_property
    def groups(self) -> tuple[tuple[tuple[str, ...], str], ...]:
        """Each option: its spellings, and its text up to the next option."""
        found: list[tuple[tuple[str, ...], list[str]]] = []
        for line in self.text.splitlines():
            # llama.cpp begins an option in the first column, argparse after two blanks.
            if re.match(r" {0,2}-{1,2}[A-Za-z]", line):
                found.append((_spellings(line), [line]))
            elif found:
                found[-1][1].append(line)
        return tuple((names, "\n".join(lines)) for names, lines in found if names)

    @cached_property
    def flags(self) -> frozenset[str]:
        """Every spelling of every option."""
        return frozenset(name for names, _ in self.groups for name in names)

    def has(self, flag: str) -> bool:
        """Tell whether the backend knows the flag; where no help was recorded, it is taken to."""
        return not self.known or flag in self.flags

    def describes(self, flag: str) -> str:
        """Give the text of the option with this spelling, or an empty one."""
        return next((text for names, text in self.groups if flag in names), "")

    def aliases(self, flag: str) -> frozenset[str]:
        """Give every spelling of the flag's option, its own among them."""
        return next((frozenset(names) for names, _ in self.groups if flag in names), frozenset({flag}))


def _spellings(line: str) -> tuple[str, ...]:
    """Take the spellings off the start of an option's line: `-c,    --ctx-size N    size of …`."""
    head = re.split(r"\s{2,}(?![\s-])", line.strip(), maxsplit=1)[0]
    names = []
    for part in re.split(r",\s*", head):
        match = _FLAG.match(part.strip())
        if not match:
            break
        names.append(match.group(1))
    return tuple(names)
