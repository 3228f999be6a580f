"""Of preprocessed C or C++, what the code that is made of it can depend on: a text that can be compiled.

A header's declaration that nothing names leads to no code: one more function of a library, a value of an
enumeration, a table. Without those, most files have the text that they had in the release before. Which
declarations are of that kind is told by declares.py; everything else stays, and all that it names by any word
in it; so does what a system's header declares.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, partial
from itertools import islice

from declares import SCOPE, SYSTEM, Unit, has_body, unit

# The line that tells which file follows, with the end of the line before it: what begins so is quickly found.
MARKER = re.compile(r'\n# \d+ ("(?:[^"\\]|\\.)*")([ \d]*)(?=\n)')
# What ends a declaration or encloses something, and what may hold such a character without meaning it.
MARK = re.compile(
    r"""(\b(?:u8|[uUL])?R"([^()\s\\]{0,16})\(.*?\)\2")
    |"(?:[^"\\\n]|\\.)*"
    |(?<![\w.])\.?\d[\w'.]*
    |'(?:[^'\\\n]|\\.)*'
    |(?P<line>^[ \t]*\#[^\n]*\n|\x01\n)
    |[{}()\[\];]""",
    re.ASCII | re.VERBOSE | re.MULTILINE | re.DOTALL,
)
RAW = re.compile(r'\b(?:u8|[uUL])?R"([^()\s\\]{0,16})\(', re.ASCII)
# A blank for every byte that is in no word.
BETWEEN = bytes(byte if re.match(rb"[\w$]", bytes([byte])) else 32 for byte in range(256))
OF_SCOPES = frozenset({"namespace", "extern", "C"})
# The language itself asks for these.
MEANT = frozenset(
    {"begin", "end", "get", "tuple_size", "tuple_element", "initializer_list", "coroutine_traits"}
)


def reached(text: str, *, is_cpp: bool) -> str | None:
    """Give what is left of a text without the declarations that nothing names, and where it came from.

    What is left can be compiled in place of the text, and comes to the same. Of where it came from it says no
    more than what is a system header's: those are compiled with more leniency.

    Args:
        text: as `-E` gives it, with the lines that tell which file follows, a character for each byte.
        is_cpp: whether it is C++, in which other things lead to code than in C.

    Returns:
        None for a text in which a string looks like such a line, or has what stands for a system's header.
    """
    if any(MARKER.search(text, raw.end(), text.find(f'){raw[1]}"', raw.end())) for raw in raws(text)):
        return None
    if SYSTEM in text:
        return None
    own, system = parts(text)
    # Much is there many times over, what stands for system headers above all.
    tell = cache(partial(unit, is_cpp=is_cpp))
    units = [tell(piece) for piece in pieces(own)]
    if any(one.is_source for one in units):
        return joined(own, system)
    alive = live(units, named("\n".join(system)))
    dead = {name for one in units for name in one.names or ()} - alive
    of_use = useful(units, alive, dead, system)
    if of_use is None:
        return joined(own, system)
    kept = full(of_use, alive)
    # A line of its own for each: some tell the compiler something, and are looked for as lines.
    return joined("\n".join((*(shown(one, alive, at) for at, one in enumerate(kept)), "")), system)


def raws(text: str) -> Iterator[re.Match[str]]:
    """Give where strings of many lines begin."""
    at = text.find('R"')
    while at >= 0:
        # What may stand before it is at most as long as `u8`.
        found = (RAW.match(text, max(0, at - before)) for before in (2, 1, 0))
        yield from islice(filter(None, found), 1)
        at = text.find('R"', at + 1)


def parts(text: str) -> tuple[str, list[str]]:
    """Give the project's own text, with a mark where a system's header stood, and what those said."""
    text = f"\n{text}"
    markers = list(MARKER.finditer(text))
    # What a system's macro came to in a file of the project is marked as the system's too, not as entered.
    entering = {flags for flags in {marker[2] for marker in markers} if {"1", "3"} <= set(flags.split())}
    files = {marker[1] for marker in markers if marker[2] in entering}
    own: list[str] = []
    system: list[str] = []
    at, is_system = 1, False
    for marker in (*markers, None):
        piece = text[at : marker.start() + 1 if marker else len(text)]
        if piece and not piece.isspace():
            own.append(SYSTEM if is_system else piece)
            if is_system:
                system.append(piece)
        if marker:
            at, is_system = marker.end() + 1, marker[1] in files
    return "".join(own), system


def joined(own: str, system: Iterable[str]) -> str:
    """Give a text with what the system's headers said where the marks for them are, and told apart."""
    headers = (f'# 1 "system" 3\n{piece}\n# 1 "own"\n' for piece in system)
    first, *others = own.split(SYSTEM)
    return "".join((first, *(part for pair in zip(headers, others, strict=True) for part in pair)))


def named(text: str) -> set[str]:
    """Give all words of a text, and its numbers: quickly, for millions of characters."""
    return set(text.encode("latin-1").translate(BETWEEN).decode("ascii").split())


def pieces(text: str) -> Iterator[str]:
    """Give what a text has at its outermost level, and within a namespace's or a language's braces."""
    start, depth = 0, 0
    is_function = False
    for mark in MARK.finditer(text):
        one, end = mark[0], mark.end()
        if mark["line"] and depth == 0:
            yield text[start : mark.start()]
        elif one == "{" and depth == 0 and SCOPE.fullmatch(text, start, mark.start()):
            pass
        elif one in {"(", "[", "{"}:
            if one == "{" and depth == 0:
                is_function = has_body(text[start : mark.start()])
            depth += 1
            continue
        elif one in {")", "]", "}"} and depth:
            depth -= 1
            if one != "}" or depth or not is_function:
                continue
        elif depth or one not in {"}", ";"}:
            continue
        yield text[mark.start() if mark["line"] else start : end]
        start = end
    yield text[start:]


def live(units: Iterable[Unit], named: Iterable[str]) -> set[str]:
    """Give all words that can be reached from what stays."""
    declaring: dict[str, list[Unit]] = {}
    waiting: set[str] = {*MEANT, *named}
    for one in units:
        if one.names is None and not one.is_assertion and not opens(one):
            waiting |= one.words
        for name in one.names or ():
            declaring.setdefault(name, []).append(one)
    alive: set[str] = set()
    while waiting:
        word = waiting.pop()
        alive.add(word)
        for one in declaring.get(word, ()):
            waiting |= one.words - alive
    return alive


def stays(one: Unit, alive: set[str], dead: set[str]) -> bool:
    """Say whether a unit is of use; what asserts something about a thing is as long as the thing is."""
    if one.is_assertion:
        return one.words.isdisjoint(dead)
    return one.names is None or not one.names.isdisjoint(alive)


def useful(
    units: Iterable[Unit], alive: set[str], dead: set[str], system: Sequence[str]
) -> list[Unit] | None:
    """Give the units that are of use; for one that is not, the types that it is the first to tell of.

    None where such a type may be declared in a way that is not understood.
    """
    known: dict[tuple[str, ...], set[str]] = {}
    kept: list[Unit] = []
    for scope, one in scoped(units):
        told = one.made
        if stays(one, alive, dead):
            kept.append(one)
        else:
            within = [known.get(scope[:depth], ()) for depth in range(len(scope) + 1)]
            told = frozenset(
                (name, said)
                for name, said in one.told
                if name in alive and not any(name in names for names in within) and not defines(system, name)
            )
            # In a namespace it could be one more type of that name; outside, it is the same one once more.
            if told and (scope or not one.made.issuperset(told)):
                return None
            kept += (Unit(f"{said};\n", None, frozenset()) for _, said in sorted(told))
        known.setdefault(scope, set()).update(name for name, _ in told)
    return kept


def defines(system: Sequence[str], name: str) -> bool:
    """Say whether a system's header has a type of C of a name, which is not within another one."""
    found = re.compile(rf"^(?:struct|union)\s+{name}\s*[{{;]", re.MULTILINE)
    return any(found.search(text) for text in system if name in text)


def scoped(units: Iterable[Unit]) -> Iterator[tuple[tuple[str, ...], Unit]]:
    """Give each unit with the namespaces that it is in."""
    opened: list[str] = []
    for one in units:
        if opens(one):
            # One without a name is as good as one of that name.
            name = one.text.rpartition("namespace")[2].strip(" \n{") or "namespace"
            opened.append("" if "extern" in one.words else name)
        elif opened and one.text.strip() == "}":
            opened.pop()
        yield tuple(filter(None, opened)), one


def opens(one: Unit) -> bool:
    """Say whether a unit is the begin of a namespace, or of what has a language's linkage."""
    return one.names is None and one.text.endswith("{") and bool(SCOPE.fullmatch(one.text[:-1]))


def full(units: Iterable[Unit], alive: set[str]) -> Iterator[Unit]:
    """Leave out blanks, and namespaces with nothing in them, if they can be missed."""
    opened: list[Unit] = []
    for one in units:
        if opens(one):
            opened.append(one)
            if "inline" in one.words or not (one.words - OF_SCOPES).isdisjoint(alive):
                yield from opened
                opened = []
        elif opened and one.text.strip() == "}":
            opened.pop()
        elif one.text.strip(" \t\n"):
            yield from opened
            yield one
            opened = []


def shown(one: Unit, alive: set[str], at: int) -> str:
    """Give a unit's text, without what is about it on the page; of an enumeration's values the named ones.

    Its bounds have names of this tool, which tell where the unit is.
    """
    if one.head:
        bounds = ((f"amdserve_{at}_{place}", number) for place, number in enumerate(one.bounds))
        told = (*(value for value in one.values if value[0] in alive), *bounds)
        return f"{one.head} {{ {', '.join(f'{name} = {number}' for name, number in told)} }} {one.tail};\n"
    return one.text if 'R"' in one.text else re.sub(r"[ \t]*\n\s*", "\n", one.text)
