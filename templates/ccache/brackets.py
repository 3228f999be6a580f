"""Words and brackets of preprocessed C and C++."""

from __future__ import annotations

import re

# Texts are bytes as Latin-1: no letter but those of ASCII is one.
ASCII, LONG = re.ASCII, re.ASCII | re.VERBOSE
WORD = re.compile(r"[A-Za-z_$]\w*", ASCII)
TEMPLATE = re.compile(r"\s*template\s*<\s*(?=[^>\s])", ASCII)
# None goes on behind a statement: a comparison is no bracket.
ANGLES = re.compile(r"<[^<>;{}]*>")
QUOTED = r'"(?:[^"\\\n]|\\.)*"|\'(?:[^\'\\\n]|\\.)\''
ATTRIBUTE = re.compile(r"__attribute__\s*\(|\[\[", ASCII)
PAIRS = {pair: re.compile(f"{QUOTED}|[{re.escape(pair)}]") for pair in ("{}", "()", "[]")}


def words(text: str) -> frozenset[str]:
    """Give the words of a text."""
    return frozenset(WORD.findall(text))


def blank(text: str) -> str:
    """Put a mark for each pair of outermost parentheses and what is in them; nothing where one is missing."""
    found: list[str] = []
    depth, start = 0, 0
    for mark in re.finditer(r"[()]", text):
        if mark[0] == "(" and not depth:
            found += [text[start : mark.start()], "\x02"]
        depth += 1 if mark[0] == "(" else -1
        start = mark.end()
        if depth < 0:
            break
    return "".join(found) + text[start:] if depth == 0 else ""


def without_attributes(text: str) -> tuple[str, frozenset[str]]:
    """Give a text without attributes, and their names."""
    kept: list[str] = []
    names: set[str] = set()
    at = 0
    for found in ATTRIBUTE.finditer(text):
        if found.start() < at:
            continue
        is_new = found[0] == "[["
        end = closing(text, found.end(), "[]" if is_new else "()")
        names |= words(blank(text[found.end() : end - 1].strip()[not is_new : None if is_new else -1]))
        kept.append(text[at : found.start()])
        at = end + is_new
    return " ".join((*kept, text[at:])).strip(), frozenset(names)


def closing(text: str, at: int, pair: str = "{}") -> int:
    """Give where what is open at a place of a text has ended, or the text's end."""
    depth = 1
    for mark in PAIRS[pair].finditer(text, at):
        depth += (mark[0] == pair[0]) - (mark[0] == pair[1])
        if depth == 0:
            return mark.end()
    return len(text)


def after_template(text: str) -> str:
    """Give a template's declaration without its parameters, another one as it is."""
    if not TEMPLATE.match(text):
        return text
    angles, depth = 0, 0
    for mark in re.finditer(r"[<>()]", text):
        if mark[0] in "()":
            depth += 1 if mark[0] == "(" else -1
        elif depth == 0:
            angles += 1 if mark[0] == "<" else -1
            if angles == 0:
                return text[mark.end() :].lstrip()
    return ""


def without_angles(text: str) -> str:
    """Give a text without what is in angle brackets."""
    while (left := ANGLES.sub("", text)) != text:
        text = left
    return text
