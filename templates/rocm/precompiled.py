#!/usr/bin/env python3
"""Compile HIP with the header that it begins with compiled once: `precompiled.py CLANG WORD...`.

Nearly all of ggml's HIP code begins with one header, and for most files clang needs longer to read that than
for all the rest: twice for each, for the GPU and for the host. What clang has read it can keep. So the first
file that wants the header in a way, that is with all words but those about itself, has it precompiled into
the folder HIP_HEADERS. That is to last no longer than the build: clang takes what it finds there as long as
no header has become another file. HIP_HEADER is the header's name.

A file begins with it if it is what the file includes first, or what that includes first, and so on: clang
reads the same text in the same order then. Two things are otherwise in what comes of it: where the header's
code tells the file that it is in, that is the plain path, and not the way there; and of the GPU's code two
functions are left out that end a program which calls what is purely virtual, which there is none of.

Whatever else is asked for is run as it came, and so is what fails: clang then tells why.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

SOURCES = (".cu", ".hip")
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*|^[ \t]*#[ \t]*pragma[ \t]+once[ \t]*$", re.DOTALL | re.MULTILINE)
FIRST = re.compile(r'\s*#[ \t]*include[ \t]*"([^"\n]+)"')
# Of one file, or about what is made of it.
ABOUT_ONE, ABOUT_ONE_WITH = (
    frozenset({"-c", "-S", "-MD", "-MMD", "-MP"}),
    frozenset({"-o", "-MF", "-MT", "-MQ"}),
)
INNER, INNER_WITH = frozenset({"-sys-header-deps"}), frozenset({"-dependency-file", "-MT"})


def main(words: Sequence[str]) -> int:
    """Compile; give the exit status."""
    folder, name = os.environ.get("HIP_HEADERS"), os.environ.get("HIP_HEADER")
    source = compiled(words)
    header = first(source, name) if source and folder and name else None
    kept = precompiled(words, header, Path(folder)) if header and folder else None
    if kept is None:
        os.execvp(words[0], list(words))
    done = subprocess.run(
        [*words, "-Xclang", "-include-pch", "-Xclang", str(kept)], check=False, stderr=subprocess.PIPE
    )
    if done.returncode:
        os.execvp(words[0], list(words))
    sys.stderr.buffer.write(done.stderr)
    for file in (Path(file) for word, file in pairwise(words) if word == "-MF"):
        # What an object depends on is looked at in another build too, where this is not.
        file.write_text(re.sub(rf"{re.escape(str(begun(kept)))}(?: \\\n *)?", "", file.read_text()))
    return 0


def compiled(words: Sequence[str]) -> Path | None:
    """Give the file that is compiled, if one of HIP is."""
    sources = [word for word in words[1:] if word.endswith(SOURCES) and not word.startswith("-")]
    is_hip = ("-x", "hip") in pairwise(words) and not {"-c", "-S"}.isdisjoint(words) and "-E" not in words
    return Path(sources[0]) if is_hip and len(sources) == 1 else None


def first(file: Path, name: str) -> Path | None:
    """Give the header of a name if that is what a file begins with, by way of others perhaps."""
    for _ in range(9):
        found = FIRST.match(COMMENT.sub("", file.read_text("utf-8", "replace"))) if file.is_file() else None
        if found is None:
            return None
        file = file.parent / found[1]
        if file.name == name:
            return file.resolve() if file.is_file() else None
    return None


def shared(words: Sequence[str]) -> Iterator[str]:
    """Give the words that are the same for all files."""
    following = iter(words)
    for word in following:
        if word in ABOUT_ONE_WITH:
            next(following, None)
        elif word == "-Xclang":
            inner = next(following, "")
            if inner in INNER_WITH:
                next(following, None)
                next(following, None)
            elif inner not in INNER:
                yield from (word, inner)
        elif word not in ABOUT_ONE and not word.startswith("-cuid=") and not word.endswith(SOURCES):
            yield word


def precompiled(words: Sequence[str], header: Path, folder: Path) -> Path | None:
    """Give the header as clang has read it with these words; None if it cannot."""
    asked = [*shared(words), "-c", "-emit-llvm", "-Xclang", "-emit-pch"]
    key = hashlib.sha256("\0".join([*asked, str(header)]).encode()).hexdigest()
    kept = folder / f"{key[:32]}.pch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with kept.with_suffix(".lock").open("w") as lock:
            # One makes it, and the others wait.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not kept.exists():
                make(asked, header, kept)
        return kept if kept.stat().st_size else None
    except OSError:
        return None


def begun(kept: Path) -> Path:
    """Give the file that a precompiled header was made of."""
    return kept.with_suffix(".hip")


def make(asked: Sequence[str], header: Path, kept: Path) -> None:
    """Precompile a header; leave an empty file where that fails, so that it is tried once."""
    # clang looks at this again when it reads what came of it.
    text, made = begun(kept), kept.with_suffix(".new")
    text.write_text(f'#include "{header}"\n')
    command = [*asked, str(text), "-o", str(made)]
    failed = subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode
    if failed or not made.is_file():
        made.write_bytes(b"")
    made.replace(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
