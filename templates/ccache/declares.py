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
# What is told of a member, but its value or body.
MEMBER = re.compile(r"[^;={}]+")
# In a body, what is declared so outside too has another name for the linker, or attributes.
LABELLED = re.compile(r"\bextern\b|\)\s*(?:asm|__asm|__asm__|__attribute__)\b", ASCII)
# A type that is told of, and may be here for the first time; a parameter of a template is none.
TOLD = re.compile(
    r"\b((?:struct|union)\s+\w+\b(?!\s*[;:{])|class\s+\w+\b(?=\s*[\w*&)]))(?!\s*final\b)", ASCII
)
MADE = re.compile(r"(?:typedef\s+)?((?:struct|class|union)\s+\w+)\b(?:[^;{()]*\{|\s*;)", ASCII)
INTEGER = re.compile(r"(-?)\s*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)", ASCII)
SHIFT = re.compile(r"\(?\s*([1-9]\d?)\s*<<\s*(0|[1-9]\d?)\s*\)?", ASCII)
WIDTHS = (7, 8, 15, 16, 31)


class Unit(NamedTuple):
    """A piece of text at the outermost level.

    `names` are what it declares, None if it stays in any case; `words` are all of its. Of an enumeration,
    `head` and `tail` are what is about the braces, `values` the numbers, and `bounds` other ones, by which
    the type is as wide as all values have it, and has a sign if one has. A template `is_source` of variables
    that are made where code names it, even code that is left out. `told` are the types that it calls by what
    they are, and may declare by that; `made` those that are declared where it is.
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
    told: frozenset[tuple[str, str]] = frozenset()
    made: frozenset[tuple[str, str]] = frozenset()


def unit(text: str, *, is_cpp: bool) -> Unit:
    """Tell what a piece declares."""
    if ASSERTION.match(text):
        return Unit(text, None, words(text), is_assertion=True, told=types_told(text))
    is_template = bool(TEMPLATE.match(text))
    plain, attributes = without_attributes(text)
    plain = after_template(plain)
    rooted = Unit(
        text,
        None,
        words(text),
        is_source=is_template and makes_objects(plain),
    )
    # A plain word is found much more quickly than an expression.
    if any(word in plain for word in ("struct", "union", "class")):
        rooted = rooted._replace(told=types_told(plain), made=types_made(plain, is_cpp=is_cpp))
    if (
        not attributes <= (OF_KERNELS if is_template else HARMLESS)
        or rooted.is_source
        or SYSTEM in text
        or LABELLED.search(text, text.find("{") + 1 or len(text))
        or not all(HARMLESS_LINE.match(line) for line in LINE.findall(text))
    ):
        return rooted
    # How wide an enumeration is may be said by an attribute.
    if not is_template and plain == text.strip() and (enum := ENUM.fullmatch(plain)):
        return enumeration(text, enum) or rooted
    names = declared_type(plain) or declared(plain, is_template=is_template, is_cpp=is_cpp)
    return rooted._replace(names=frozenset(filter(None, names)) or None)


def types_told(text: str) -> frozenset[tuple[str, str]]:
    """Give types that are called by what they are, by their names: what was not declared may be so."""
    return frozenset((said.split()[1], said) for said in TOLD.findall(text))


def types_made(text: str, *, is_cpp: bool) -> frozenset[tuple[str, str]]:
    """Give those that are declared where this is, and not within it, as in C parameters are."""
    # What a type's members may declare is left out.
    if found := MADE.match(text):
        return frozenset({(found[1].split()[1], found[1])})
    head = re.split(r"[={]", text, maxsplit=1)[0]
    return types_told(head if is_cpp else blank(head))


def makes_objects(text: str) -> bool:
    """Say whether a template or a type has variables that even code which is left out may have made.

    Where that is in doubt for a template, nothing is left out of the file.
    """
    if re.match(r"(?:typedef\s+)?(?:struct|class|union)\b", text):
        members = (member for member in MEMBER.findall(without_angles(text)) if "inline" in member)
        return any(is_inline_variable(member) for member in members)
    head = re.split(r"[={]", text, maxsplit=1)[0]
    if not text.endswith(";") or not words(head).isdisjoint(words("constexpr using concept")):
        return False
    found = FUNCTION.fullmatch(blank(head))
    return not found or not is_prototype(words(found["before"]), head)


def is_inline_variable(member: str) -> bool:
    """Say whether a member is static and in line, and no function; what is constant leads to nothing."""
    told = words(member)
    if "static" not in told or told.isdisjoint(INLINE) or "constexpr" in told:
        return False
    found = FUNCTION.fullmatch(f"{blank(member)};")
    # A variable's name may be in parentheses.
    return not found or found["name"] in NUMBERS or not words(found["before"]) - SPECIFIERS


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
            leads_to_none = is_own and text.endswith("}")
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
    # What is made by `new` can end as a parameter does.
    if any(mark in inside for mark in "\"'<>") or "new" in words(inside):
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
