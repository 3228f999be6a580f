#!/usr/bin/env python3
"""Compile what was not compiled before: `by_text.py COMPILER WORD...`, run by ccache on a miss.

ccache's list of headers says whether one of them is another file, and so is all that includes it, when most
often it has a macro or a function more, which nothing there uses. So the text that GCC or clang has after
preprocessing is asked for, a tenth of what compiling takes, and if that is another one, what of it the code
can depend on (reached.py). What the same came to with the same words is kept in the folder TEXT_CACHE.
TEXT_CACHE_ID names the compiler and all it adds that is no text, as libraries of a target are. Where
something is put in after preprocessing, the place in the file or a macro's value in a pragma, the text does
not say all, and is not looked up. Sources that have TEXT_CACHE_WITHOUT in their names are not asked for.

C and C++ is then compiled from what it can depend on. Of two texts that differ in no more than what is left
out of them, GCC makes the same program, but not always with the same registers: from what is left, a build
comes to the same whatever was built before it. What is wrong with code that nothing uses is not found so. HIP
is compiled from its source.

Without the folder and the compiler's name, and with anything but one result of one text, the compiler is run
as it came. That is done by the program TEXT_CACHE_PREFIX, if there is one.
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
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from reached import MARKER, reached

RESULTS = frozenset({"-c", "-S", "-emit-llvm"})
# The text says what came of these.
OF_TEXT = ("-D", "-U", "-I")
# These have the list of headers written: words of their own, and those with a file or a name after them.
DEPENDENCIES, DEPENDENCIES_OF = frozenset({"-MD", "-MMD", "-MP"}), frozenset({"-MF", "-MT", "-MQ"})
SOURCES = (".c", ".cpp", ".cc", ".cxx", ".cu", ".hip")
# Words that ask for more than one file, or for what is no text, or have code made that nothing names; and those
# that say how a text is read, or belong to the next word.
OTHERWISE = re.compile(
    r"""@|-$|-g(?!0)|-save-temps|--coverage|-m(?:arch|tune|cpu)=native|-specs|-Wp,|-Wa,|-include|-imacros
    |-f(?:profile|sanitize|plugin|keep|gnu89|instrument|lto|short-enums|input-charset)|-Xpreprocessor
    |-[DUI]$|-x.""",
    re.VERBOSE,
)
# These are given the place in the file, the last one by clang, that of a lambda; or another file's content.
PLACES = (
    *(f"__builtin_{what}" for what in ("LINE", "COLUMN", "FILE", "source_location")),
    "__PRETTY_FUNCTION__",
)
FILES = re.compile(r"\.(?:incbin|include)\b")
# Of pragmas, those without a word that could be a macro, which clang leaves as it is till it compiles.
PRAGMA = re.compile(r"[ \t]*#[ \t]*pragma[ \t]+(.*?)[ \t]*")
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
# In these GCC's preprocessor puts the values in.
OPENMP = re.compile(rf"{PLAIN.pattern}|omp\b.*", re.VERBOSE)
TARGET = re.compile(r"\n[ \t]*#[ \t]*pragma[ \t]+GCC[ \t]+target\b")
BLANK = re.compile(r"\n\s*\n")
QUICK = 1


class Known(NamedTuple):
    """The key by which a result is kept; with the last one what it is made of, if not of the source."""

    key: str
    text: str | None = None


def main(words: Sequence[str]) -> int:
    """Compile, or take what was compiled; give the exit status."""
    folder, compiler = os.environ.get("TEXT_CACHE"), os.environ.get("TEXT_CACHE_ID")
    as_it_came = [*os.environ.get("TEXT_CACHE_PREFIX", "").split(), *words]
    asked: list[Path] = []
    text: str | None = None
    if folder and compiler and is_plain(words):
        made = Path(result(words))
        for one in known(words, compiler):
            text = one.text
            asked.append(Path(folder) / one.key[:2] / one.key)
            if take(asked[-1], made):
                share(asked)
                return 0
    if text is not None and not compiled(words, text):
        # By a text that is none, nothing is known.
        asked.pop()
        text = None
    if not asked:
        os.execvp(as_it_came[0], as_it_came)
    if text is None and (status := subprocess.run(as_it_came, check=False).returncode):
        return status
    keep(made, asked[-1])
    share(asked)
    return 0


def is_plain(words: Sequence[str]) -> bool:
    """Say whether one file is asked for, of one source, and of nothing but its text."""
    asks_otherwise = any(OTHERWISE.match(word) for word in words[1:])
    if RESULTS.isdisjoint(words) or len(sources(words)) != 1 or asks_otherwise:
        return False
    if not is_hip(words) and ("-x" in words or not is_listed(words)):
        return False
    # That is C++ too, by whatever version.
    if is_c(words) and "++" in Path(words[0]).name:
        return False
    without = os.environ.get("TEXT_CACHE_WITHOUT")
    if without and without in sources(words)[0]:
        return False
    made = Path(result(words))
    return words.count("-o") == 1 and bool(made.name) and (made.is_file() or not made.exists())


def is_listed(words: Sequence[str]) -> bool:
    """Say whether a list of headers that is asked for is the same if the preprocessor alone is asked."""
    return DEPENDENCIES.isdisjoint(words) or ("-MF" in words and not {"-MT", "-MQ"}.isdisjoint(words))


def is_c(words: Sequence[str]) -> bool:
    """Say whether the source's name is one of C."""
    return sources(words)[0].endswith(".c")


def sources(words: Sequence[str]) -> list[str]:
    """Give the files that are compiled."""
    return [word for word in words[1:] if word.endswith(SOURCES) and not word.startswith("-")]


def is_openmp(words: Sequence[str]) -> bool:
    """Say whether GCC heeds the pragmas of OpenMP."""
    return "-fopenmp" in words and not is_hip(words) and "clang" not in Path(words[0]).name


def result(words: Sequence[str]) -> str:
    """Give the file that is asked for."""
    return dict(pairwise(words)).get("-o", "")


def is_hip(words: Sequence[str]) -> bool:
    """Say whether HIP is compiled."""
    return ("-x", "hip") in pairwise(words)


def known(words: Sequence[str], compiler: str) -> Iterator[Known]:
    """Name what is compiled by its text and all words but the result's name; then by what of it counts.

    There is none where that is not enough. The list of headers that was asked for is written by this.
    """
    at = words.index("-o")
    said = [*words[:at], *words[at + 2 :]]
    with tempfile.TemporaryDirectory(prefix="by-text-") as name:
        file = Path(name) / "text"
        asked = [word for word in said if word not in RESULTS]
        # What fails here fails again, and is told then.
        done = subprocess.run([*asked, "-E", "-o", str(file)], check=False, stderr=subprocess.DEVNULL)
        if done.returncode or not file.is_file():
            return
        text = file.read_bytes().decode("latin-1")
    if is_targeted(text):
        return
    told = [word for word in said if not word.startswith(OF_TEXT)]
    # The second takes longer to find than the first, and is for what the first did not give.
    whole = unplaced(text)
    plain = OPENMP if is_openmp(words) else PLAIN
    is_whole = whole is not None and says_all(whole, plain)
    if whole is not None and is_whole:
        yield Known(key(whole, told, compiler))
    part = left(text, is_cpp=not is_c(words))
    # What the whole does not hold, no part does.
    if part is not None and (is_whole or says_all(part, plain)):
        yield Known(key(part, told, compiler), None if is_hip(words) else part)


def compiled(words: Sequence[str], text: str) -> bool:
    """Say whether a text could be compiled in the source's place; what was wrong with it is told nobody."""
    file = sources(words)[0]
    asked: list[str] = []
    following = iter(words)
    for word in following:
        if word in DEPENDENCIES_OF:
            next(following, None)
        elif word not in DEPENDENCIES and word != file and not word.startswith(OF_TEXT):
            asked.append(word)
    # The object tells the source's name.
    name = re.sub(r'(["\\])', r"\\\1", file)
    given = os.fsencode(f'# 0 "{name}"\n# 1 "own"\n') + text.encode("latin-1")
    command = [*asked, "-x", "cpp-output" if is_c(words) else "c++-cpp-output", "-"]
    return not subprocess.run(command, input=given, check=False, stderr=subprocess.DEVNULL).returncode


def is_targeted(text: str) -> bool:
    """Say whether code that is no system header's changes the target, and macros from there on by that.

    Not every GCC's preprocessor heeds that when it is asked alone: the text is another one than is compiled.
    """
    for found in TARGET.finditer(text := f"\n{text}"):
        marker = MARKER.match(text, max(text.rfind("\n# ", 0, found.start() + 1), 0))
        if not marker or "3" not in marker[2].split():
            return True
    return False


def key(text: str, told: Sequence[str], compiler: str) -> str:
    """Name what is compiled of a text."""
    said_all = "\0".join((compiler, *told, text))
    return hashlib.sha256(said_all.encode("utf-8", "surrogateescape")).hexdigest()


def says_all(text: str, plain: re.Pattern[str]) -> bool:
    """Say whether nothing is put into a text after preprocessing, where these are the plain pragmas."""
    # A plain word is found ten times as quickly as an expression.
    if any(place in text for place in PLACES) or FILES.search(text):
        return False
    return all(plain.fullmatch(pragma) for pragma in set(pragmas(text)))


def pragmas(text: str) -> Iterator[str]:
    """Give what lines of a text tell the compiler."""
    for word in re.finditer("pragma", text):
        at, end = text.rfind("\n", 0, word.start()) + 1, text.find("\n", word.end())
        if found := PRAGMA.fullmatch(text, at, end if end >= 0 else len(text)):
            yield found[1]


def unplaced(text: str) -> str | None:
    """Give a text without where it came from, or None where a string has lines of its own."""
    return None if 'R"' in text else BLANK.sub("\n", MARKER.sub("", f"\n{text}"))


def left(text: str, *, is_cpp: bool) -> str | None:
    """Give what the code can depend on; where that is not understood, the text is compiled."""
    try:
        return reached(text, is_cpp=is_cpp)
    except (ValueError, IndexError, KeyError, StopIteration, RecursionError):
        return None


def share(paths: Sequence[Path]) -> None:
    """Have what the last path holds in the others too."""
    for path in set(paths[:-1]) - {paths[-1]}:
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            path.hardlink_to(paths[-1])


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
        if not made.stat().st_size:
            return
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix="new.", delete=False) as new:
            new.write(zlib.compress(made.read_bytes(), QUICK))
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(kept)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
