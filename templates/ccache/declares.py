"""What a piece of C or C++ declares, if it leads to no code where nothing names it.

That is asked narrowly: a prototype, an extern variable, a static or inline function, a template, a type, an
enumeration, a static table of numbers, each in a common form. Anything else, and what is in doubt, is given
no name, and stays. Templates by which code can tell what was made of others before, by their friends, are not
understood.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from brackets import (
    ASCII,
    LONG,
    TEMPLATE,
    WORD,
    after_template,
    blank,
    closing,
    without_angles,
    without_attributes,
    words,
)

SYSTEM = "\x01\n"
SCOPE = re.compile(r'\s*(?:(?:inline\s+)?namespace\b[\w\s:]*|extern\s*"C(?:\+\+)?"\s*)', ASCII)


# Attributes that lead to nothing by themselves. A `global` is a kernel: compiled, unless it is a template.
HARMLESS = words(
    """visibility default __visibility__ noinline always_inline host device unused maybe_unused deprecated
    nodiscard warn_unused_result noreturn format const pure nothrow aligned packed malloc hot cold
    fallthrough"""
)
OF_KERNELS = HARMLESS | words("global amdgpu_flat_work_group_size amdgpu_waves_per_eu launch_bounds")
HARMLESS_LINE = re.compile(
    r"[ \t]*#[ \t]*pragma[ \t]+(?:(?:GCC[ \t]+)?(?:no)?unroll|(?:GCC|clang)[ \t]+diagnostic)\b"
)
LINE = re.compile(r"^[ \t]*#.*$", re.MULTILINE)
# Words of what may lead to code, or be meant, where nobody names it.
UNPLAIN = words(
    """asm __asm__ __asm operator friend concept requires export import module thread_local _Thread_local
    __thread alignas"""
)
NUMBERS = words(
    """static const constexpr unsigned signed char short int long float double bool size_t int8_t int16_t
    int32_t int64_t uint8_t uint16_t uint32_t uint64_t"""
)
INLINE = words("inline __inline __inline__ constexpr")
SPECIFIERS = INLINE | words(
    "static const volatile struct class union enum template typename virtual explicit"
)
ASSERTION = re.compile(r"\s*(?:static_assert|_Static_assert)\b[^{}]*;\s*\Z", ASCII)
TYPE = re.compile(
    r"(?:typedef\s+)?(?:struct|class|union)\b\s*(\w*)\s*(?:final\s*)?(?::[^:;{}()][^;{}()]*)?\{", ASCII
)
TYPE_END = re.compile(r"\s*(\w*)\s*;", ASCII)
# In C these are declared outside too.
INNER = re.compile(r"\b(?:struct|class|union)\s+(\w+)\s*[:{]|\benum\b([^{};()]*\{[^{}]*\})", ASCII)
FORWARD = re.compile(r"(?:struct|class|union)\s+(\w+)\s*;", ASCII)
ALIAS = re.compile(
    r"""using\s+(\w+)\s*=[^{};]*;
    |typedef\s+[^(){}\[\],;]*?\b(\w+)\s*;
    |typedef\s+[^(){}\[\],;]*\(\s*\*\s*(\w+)\s*\)\s*\([^()]*\)\s*;""",
    LONG,
)
ENUM = re.compile(
    r"""(?P<typedef>typedef\s+)?enum\s+(?P<scoped>(?:class|struct)\s+)?(?P<tag>\w*)\s*
    (?::\s*(?P<base>[\w\s:]+?)\s*)?\{(?P<values>[^{}]*)\}\s*(?P<name>\w*)\s*;""",
    LONG,
)
# Parentheses and what is in them are one mark here.
FUNCTION = re.compile(
    r"""(?P<before>[\w\s*&:<>,]*?[\s*&>])(?P<name>\w+)\s*\x02\s*
    (?:const\b|noexcept\b|->[\w\s:<>*&,]+)?\s*[;{]""",
    LONG,
)
EXTERN = re.compile(r"extern\s+[\w\s*]*?\b(\w+)\s*(?:\[[^\[\]{}]*\]\s*)*;", ASCII)
# Numbers alone, with nothing that changes one.
TABLE = re.compile(
    r"""(?P<before>(?:\w+\s+)+)(?P<name>\w+)\s*(?:\[[^\[\]{}]*\]\s*)*=
    (?P<value>(?:[\s{},*/|&~<>]|[+-](?![+-])|\.?\d(?:[eEpP][+-]|[\w.])*)*);""",
    LONG,
)
# How no value can begin, or end, so that what is in parentheses are parameters.
PARAMETER = re.compile(
    r"""[^\x02]*[*&]\s*(?:\.\.\.\s*)?\Z|\s*(?:const|volatile|struct|class|union|enum|\.\.\.
    |(?:void|_Bool|bool|unsigned|signed|char|short|int|long|float|double|size_t|u?int(?:8|16|32|64)_t)(?=\s+\w|\s*[*&]|\s*\Z))
    (?!\w)""",
    LONG,
)
INLINE_MEMBER = re.compile(
    r"\b(?:static\b[\w\s]*?\b(?:__)?inline|(?:__)?inline(?:__)?\b[\w\s]*?\bstatic)\b[^;={]*", ASCII
)
# Its name, its parameters, and what may follow them.
METHOD = re.compile(r"[^\x02]*\w\s*\x02\s*(?:(?:const|noexcept|&&?)\s*)*(?:->[^\x02]*)?", ASCII)
# A type that is told of, and may be here for the first time; nothing of its own is in braces.
TOLD = re.compile(r"\b((?:struct|union)\s+(\w+))\b(?=\s*[\w*&)>,])(?!\s*final\b)", ASCII)
TAG = re.compile(r"\b(?:struct|class|union|enum)\s+(\w+)", ASCII)
INTEGER = re.compile(r"(-?)\s*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)", ASCII)
SHIFT = re.compile(r"\(?\s*([1-9]\d?)\s*<<\s*(0|[1-9]\d?)\s*\)?", ASCII)
WIDTHS = (7, 8, 15, 16, 31)


class Unit(NamedTuple):
    """A piece of text at the outermost level.

    `names` are what it declares, None if it stays in any case; `words` are all of its. Of an enumeration,
    `head` and `tail` are what is about the braces, `values` the numbers, and `bounds` other ones, by which
    the type is as wide as all values have it, and has a sign if one has. A template `is_source` of variables
    that are made where code names it, even code that is left out. `tags` are the types that it calls by what
    they are, `told` those of them that it may declare by that, with the words that do.
    """

    text: str
    names: frozenset[str] | None
    words: frozenset[str]
    is_assertion: bool = False
    is_source: bool = False
    head: str = ""
    tail: str = ""
    values: tuple[tuple[str, int], ...] = ()
    bounds: tuple[int, ...] = ()
    tags: frozenset[str] = frozenset()
    told: tuple[tuple[str, str], ...] = ()


def unit(text: str, *, is_cpp: bool) -> Unit:
    """Tell what a piece declares."""
    if ASSERTION.match(text):
        return Unit(text, None, words(text), is_assertion=True, tags=frozenset(TAG.findall(text)))
    is_template = bool(TEMPLATE.match(text))
    plain, attributes = without_attributes(text)
    plain = after_template(plain)
    rooted = Unit(
        text,
        None,
        words(text),
        is_source=is_template and makes_objects(plain),
        tags=frozenset(TAG.findall(text)),
    )
    if (
        not attributes <= (OF_KERNELS if is_template else HARMLESS)
        or rooted.is_source
        or SYSTEM in text
        or not all(HARMLESS_LINE.match(line) for line in LINE.findall(text))
    ):
        return rooted
    # How wide an enumeration is may be said by an attribute.
    if not is_template and plain == text.strip() and (enum := ENUM.fullmatch(plain)):
        return enumeration(text, enum) or rooted
    names = declared_type(plain) or declared(plain, is_template=is_template, is_cpp=is_cpp)
    told = types_told(plain, is_cpp=is_cpp) if rooted.tags else ()
    return rooted._replace(names=frozenset(filter(None, names)) or None, told=told)


def types_told(text: str, *, is_cpp: bool) -> tuple[tuple[str, str], ...]:
    """Give types that a declaration calls by what they are, as it does: those that were not declared are so.

    What a function's body tells is its own, and in C what its parameters tell too.
    """
    is_type = re.match(r"(?:typedef\s+)?(?:struct|class|union)\b[^;()]*\{", text)
    head = text if is_type else text.partition("{")[0]
    return tuple((tag, said) for said, tag in TOLD.findall(head if is_cpp else blank(head)))


def makes_objects(text: str) -> bool:
    """Say whether a template or a type has variables that even code which is left out may have made."""
    if re.match(r"(?:typedef\s+)?(?:struct|class|union)\b", text):
        members = (member[0] for member in INLINE_MEMBER.finditer(without_angles(text)))
        return any("constexpr" not in one and not METHOD.fullmatch(blank(one)) for one in members)
    head = re.split(r"[={]", text, maxsplit=1)[0]
    if not text.endswith(";") or not words(head).isdisjoint(words("constexpr using concept")):
        return False
    found = FUNCTION.fullmatch(blank(head))
    return not found or not is_prototype(words(found["before"]), head)


def declared_type(text: str) -> tuple[str, ...]:
    """Give the names that a type, or another name for one, declares."""
    for form in (FORWARD, ALIAS):
        if found := form.fullmatch(text):
            return tuple(name or "" for name in found.groups())
    found = TYPE.match(text)
    end = TYPE_END.fullmatch(text, closing(text, found.end())) if found else None
    # A static inline member may be computed, a friend is declared outside, and what follows a type that is no
    # typedef is a variable.
    if not found or not end or "friend" in words(text) or makes_objects(text):
        return ()
    if not (end[1] if text.startswith("typedef") else found[1] and not end[1]):
        return ()
    return (found[1], end[1], *(name for one in INNER.finditer(text) for name in words(one[1] or one[2])))


def declared(text: str, *, is_template: bool, is_cpp: bool) -> tuple[str, ...]:
    """Give the name that a function or a variable declares, if it leads to no code by itself."""
    head, brace, _ = text.partition("{")
    if not UNPLAIN.isdisjoint(words(head)):
        return ()
    if found := FUNCTION.fullmatch(blank(head + brace)):
        before = words(found["before"])
        if brace:
            # In C another declaration may have an inline function compiled.
            is_own = "static" in before or (is_cpp and (is_template or not before.isdisjoint(INLINE)))
            # What is declared in its body as it is outside may have another name for the linker.
            leads_to_none = is_own and text.endswith("}") and "extern" not in words(text)
        else:
            leads_to_none = "static" not in before and (not is_cpp or is_prototype(before, head))
        # `template` without parameters is what has one compiled; a comma is between two declarations.
        is_one = "template" not in before and "," not in re.sub(r"<[^<>]*>", "", found["before"])
        return (found["name"],) if is_one and leads_to_none and before - SPECIFIERS else ()
    if found := EXTERN.fullmatch(text):
        return (found[1],)
    if found := TABLE.fullmatch(text):
        before = words(found["before"])
        is_one = "," not in re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "", found["value"])
        return (found["name"],) if is_one and "static" in before and before <= NUMBERS else ()
    return ()


def is_prototype(before: frozenset[str], text: str) -> bool:
    """Say whether what is in the outermost parentheses can only be parameters, and no values."""
    inside = without_angles(text[text.index("(") + 1 : text.rindex(")")])
    if any(mark in inside for mark in "\"'<>"):
        return False
    parameters = blank(inside.replace("[", "(").replace("]", ")")).split(",")
    returns_nothing = before - SPECIFIERS == {"void"} and "*" not in text[: text.index("(")]
    return returns_nothing or not inside.strip() or any(PARAMETER.match(one) for one in parameters)


def enumeration(text: str, found: re.Match[str]) -> Unit | None:
    """Tell an enumeration's names and values; None where one is no plain number."""
    if found["name"] and not found["typedef"]:
        return None
    values: dict[str, int] = {}
    following = 0
    for one in filter(str.strip, found["values"].split(",")):
        key, equals, said = (part.strip() for part in one.partition("="))
        number = value(said, values) if equals else following
        if number is None or abs(number) >= 1 << WIDTHS[-1] or not WORD.fullmatch(key):
            return None
        values[key] = number
        following = number + 1
    # How the numbers are stored follows from these.
    most = next((1 << one) - 1 for one in WIDTHS if all(abs(number) < 1 << one for number in values.values()))
    bounds = (most, -most) if min(values.values(), default=0) < 0 else (most,)
    base = found["base"]
    head = f"{found['typedef'] or ''}enum {found['scoped'] or ''}{found['tag']}{f' : {base}' if base else ''}"
    return Unit(
        text,
        frozenset(filter(None, (found["tag"], found["name"], *values))) or None,
        words(base or ""),
        head=head,
        tail=found["name"],
        values=tuple(values.items()),
        bounds=() if base else bounds,
    )


def value(said: str, known: dict[str, int]) -> int | None:
    """Give the number that an expression is, if it is a plain one."""
    if found := INTEGER.fullmatch(said):
        is_octal = found[2].isdigit() and found[2].startswith("0")
        return (-1 if found[1] else 1) * int(found[2], 8 if is_octal else 0)
    if found := SHIFT.fullmatch(said):
        return int(found[1]) << int(found[2])
    return known.get(said)


def has_body(head: str) -> bool:
    """Say whether the brace after this opens a function, which ends with it."""
    plain = blank(after_template(without_attributes(head)[0]))
    return "\x02" in plain and "=" not in re.sub(r"\boperator\s*[^\s\w]+", "", plain)
