#!/usr/bin/env python3
"""Compile what was not compiled before: `by_text.py COMPILER WORD...`, run by ccache on a miss.

ccache's list of headers says whether one of them is another file, and so is all that includes it, when most
often it has a macro or a function more, which nothing there uses. So the text that GCC or clang has after
preprocessing is asked for, a tenth of what compiling takes, and of that what the code can depend on
(reached.py). What the same came to with the same words is kept in the folder TEXT_CACHE. TEXT_CACHE_ID names
the compiler and all it adds that is no text, as libraries of a target are. Where something is put in after
preprocessing, the place in the file or a macro's value in a pragma, the text does not say all, and is not
looked up.

Without the two variables, and with anything but one result of one text, the compiler is run as it came.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from reached import reached

RESULTS = frozenset({"-c", "-S", "-emit-llvm"})
# These are given the place in the file, the last one by clang, that of a lambda.
PLACES = re.compile(r"__builtin_(?:LINE|COLUMN|FILE|source_location)|__PRETTY_FUNCTION__")
# Of pragmas, those without a word that could be a macro, which clang leaves as it is till it compiles.
PRAGMA = re.compile(r"^[ \t]*#[ \t]*pragma[ \t]+(.*?)[ \t]*$", re.MULTILINE)
PLAIN = re.compile(
    r"""once
    |(?:GCC|clang)\ diagnostic\ (?:push|pop|\w+\ "[^"]*")
    |GCC\ visibility\ (?:push\((?:default|hidden)\)|pop)
    |GCC\ (?:push|pop)_options|GCC\ target\ ?\("[^"]*"\)
    |clang\ force_cuda_host_device\ (?:begin|end)
    |clang\ fp\ contract\((?:on|off|fast)\)
    |(?:GCC\ )?(?:no)?unroll(?:\ *\(?\d+\)?)?""",
    re.VERBOSE,
)
QUICK = 1


def main(words: Sequence[str]) -> int:
    """Compile, or take what was compiled; give the exit status."""
    folder, compiler = os.environ.get("TEXT_CACHE"), os.environ.get("TEXT_CACHE_ID")
    if not folder or not compiler or RESULTS.isdisjoint(words) or words.count("-o") != 1:
        os.execvp(words[0], list(words))
    made = Path(words[words.index("-o") + 1])
    key = text_key(words, compiler)
    if key is None:
        os.execvp(words[0], list(words))
    kept = Path(folder) / key[:2] / key
    if take(kept, made):
        return 0
    status = subprocess.run(words, check=False).returncode
    if status == 0:
        keep(made, kept)
    return status


def text_key(words: Sequence[str], compiler: str) -> str | None:
    """Name what is compiled by its text and all words but the result's name; None where that is not enough.

    The list of headers that was asked for is written by this.
    """
    at = words.index("-o")
    said = [*words[:at], *words[at + 2 :]]
    # The text says what came of these.
    told = [word for word in said if not word.startswith(("-D", "-U", "-I"))]
    with tempfile.TemporaryDirectory(prefix="by-text-") as name:
        file = Path(name) / "text"
        asked = [word for word in said if word not in RESULTS]
        # What fails here fails again, and is told then.
        done = subprocess.run([*asked, "-E", "-o", str(file)], check=False, stderr=subprocess.DEVNULL)
        if done.returncode:
            return None
        text = reached(file.read_text("latin-1"))
    if PLACES.search(text) or not all(PLAIN.fullmatch(pragma) for pragma in PRAGMA.findall(text)):
        return None
    return hashlib.sha256("\0".join((compiler, *told, text)).encode("utf-8", "surrogateescape")).hexdigest()


def take(kept: Path, made: Path) -> bool:
    """Take what is kept, if it is, and note that it was of use."""
    try:
        made.write_bytes(zlib.decompress(kept.read_bytes()))
        kept.touch()
    except (OSError, zlib.error):
        return False
    return True


def keep(made: Path, kept: Path) -> None:
    """Keep a result, if that is possible, and in full: another build may look at the same moment."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix="new.", delete=False) as new:
            new.write(zlib.compress(made.read_bytes(), QUICK))
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
