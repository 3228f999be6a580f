"""What a piece of C or C++ declares, if it leads to no code where nothing names it.

That is asked narrowly: a prototype, an extern variable, a static or inline function, a template, a type, an
enumeration, a static table of numbers, each in a common form. Anything else, and what is in doubt, is given
no name, and stays.
"""

from __future__ import annotations

import re
from typing import NamedTuple

WORD = re.compile(r"[A-Za-z_$]\w*")
SCOPE = re.compile(r'\s*(?:(?:inline\s+)?namespace\b[\w\s:]*|extern\s*"C(?:\+\+)?"\s*)')
ATTRIBUTE = re.compile(r"__attribute__\s*\(\((.*?)\)\)(?=\s*[^)\s])|\[\[([\w:, ]*)\]\]", re.DOTALL)


def words(text: str) -> frozenset[str]:
    """Give the words of a text."""
    return frozenset(WORD.findall(text))


# Attributes that lead to nothing by themselves. A `global` is a kernel: compiled, unless it is a template.
HARMLESS = words(
    """visibility default __visibility__ noinline always_inline host device unused maybe_unused deprecated
    nodiscard warn_unused_result noreturn format const pure nothrow aligned packed malloc hot cold"""
)
OF_KERNELS = HARMLESS | words("global amdgpu_flat_work_group_size amdgpu_waves_per_eu launch_bounds")
# Words of what may lead to code, or be meant, where nobody names it.
UNPLAIN = words(
    """asm __asm__ __asm operator friend concept requires export import module thread_local _Thread_local
    __thread alignas"""
)
NUMBERS = words(
    """static const constexpr inline unsigned signed char short int long float double bool size_t int8_t
    int16_t int32_t int64_t uint8_t uint16_t uint32_t uint64_t"""
)
BUILT_IN = NUMBERS - words("static inline") | words("void _Bool")
INLINE = words("static inline __inline __inline__ constexpr")
ASSERTION = re.compile(r"\s*(?:static_assert|_Static_assert)\b[^{}]*;\s*\Z")
TEMPLATE = re.compile(r"\s*template\s*<\s*(?=[^>\s])")
TYPE = re.compile(
    r"(?:typedef\s+)?(?:struct|class|union)\b\s*(\w*)\s*(?:final\s*)?(?::[^:;{}()][^;{}()]*)?\{"
)
TYPE_END = re.compile(r"\}\s*(\w*)\s*;\Z")
# In C these are declared outside too.
INNER = re.compile(r"\b(?:struct|class|union)\s+(\w+)\s*[:{]|\benum\b([^{};()]*\{[^{}]*\})")
FORWARD = re.compile(r"(?:struct|class|union)\s+(\w+)\s*;\Z")
ALIAS = re.compile(
    r"""using\s+(\w+)\s*=[^{};]*;\Z
    |typedef\s+[^(){}\[\],;]*?\b(\w+)\s*;\Z
    |typedef\s+[^(){}\[\],;]*\(\s*\*\s*(\w+)\s*\)\s*\([^()]*\)\s*;\Z""",
    re.VERBOSE,
)
ENUM = re.compile(
    r"""(?P<typedef>typedef\s+)?enum\s+(?P<scoped>(?:class|struct)\s+)?(?P<tag>\w*)\s*
    (?::\s*(?P<base>[\w\s:]+?)\s*)?\{(?P<values>[^{}]*)\}\s*(?P<name>\w*)\s*;\Z""",
    re.VERBOSE,
)
# Parentheses and what is in them are one mark here.
FUNCTION = re.compile(
    r"""(?P<before>[\w\s*&:<>,]*?[\s*&>])(?P<name>\w+)\s*\x02\s*
    (?:const\b|noexcept\b|->[\w\s:<>*&,]+)?\s*[;{]\Z""",
    re.VERBOSE,
)
EXTERN = re.compile(r"extern\s+[\w\s*]*?\b(\w+)\s*(?:\[[^\[\]]*\]\s*)*;\Z")
TABLE = re.compile(r"(?P<before>(?:\w+\s+)+)(?P<name>\w+)\s*(?:\[[^\[\]]*\]\s*)*=(?P<value>[^()\"]*);\Z")
INTEGER = re.compile(r"(-?)\s*(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9]\d*)[uUlL]*")
SHIFT = re.compile(r"\(?\s*(\d+)[uUlL]*\s*<<\s*(\d+)\s*\)?")


class Unit(NamedTuple):
    """A piece of text at the outermost level.

    `names` are what it declares, None if it stays in any case; `words` are all of its; of an enumeration,
    `head` says what it is, and `values` are the numbers.
    """

    text: str
    names: frozenset[str] | None
    words: frozenset[str]
    is_assertion: bool = False
    head: str = ""
    values: tuple[tuple[str, int], ...] = ()


def unit(text: str) -> Unit:
    """Tell what a piece declares."""
    if ASSERTION.match(text):
        return Unit(text, None, words(text), is_assertion=True)
    is_template = bool(TEMPLATE.match(text))
    attributes = (words(blank(found[1] or found[2])) for found in ATTRIBUTE.finditer(text))
    if not frozenset().union(*attributes) <= (OF_KERNELS if is_template else HARMLESS):
        return Unit(text, None, words(text))
    plain = after_template(ATTRIBUTE.sub(" ", text).strip())
    if not is_template and (enum := ENUM.match(plain)) and (found := enumeration(text, enum)):
        return found
    names = filter(None, declared_type(plain) or declared(plain, is_template=is_template))
    return Unit(text, frozenset(names) or None, words(text))


def declared_type(text: str) -> tuple[str, ...]:
    """Give the names that a type, or another name for one, declares."""
    for form in (FORWARD, ALIAS):
        if found := form.match(text):
            return tuple(name or "" for name in found.groups())
    found, end = TYPE.match(text), TYPE_END.search(text)
    # A static inline member may be computed, and what follows a type that is no typedef is a variable.
    if not found or not end or words("static inline") <= words(text):
        return ()
    if not (end[1] if text.startswith("typedef") else found[1] and not end[1]):
        return ()
    return (found[1], end[1], *(name for one in INNER.finditer(text) for name in words(one[1] or one[2])))


def declared(text: str, *, is_template: bool) -> tuple[str, ...]:
    """Give the name that a function or a variable declares, if it leads to no code by itself."""
    head, brace, _ = text.partition("{")
    if not UNPLAIN.isdisjoint(words(head)):
        return ()
    if found := FUNCTION.match(blank(head + brace)):
        before = words(found["before"])
        if brace:
            leads_to_none = (is_template or not before.isdisjoint(INLINE)) and "extern" not in before
        else:
            leads_to_none = "static" not in before and has_parameters(head)
        # `template` without parameters is what has one compiled.
        if before and "template" not in before and text.endswith("}") == bool(brace) and leads_to_none:
            return (found["name"],)
    elif found := EXTERN.match(text):
        return (found[1],)
    elif found := TABLE.match(text):
        before = words(found["before"])
        is_one = "," not in re.sub(r"\{(?:[^{}]|\{[^{}]*\})*\}", "", found["value"])
        if is_one and before <= NUMBERS and not before.isdisjoint(words("static constexpr")):
            return (found["name"],)
    return ()


def has_parameters(text: str) -> bool:
    """Say whether what is in the outermost parentheses can only be parameters, and no values."""
    inside = text[text.index("(") + 1 : text.rindex(")")]
    flat = re.sub(r"<[^<>]*>", " ", blank(inside.replace("[", "(").replace("]", ")")))
    return all(is_parameter(one.partition("=")[0].strip()) for one in flat.split(","))


def is_parameter(text: str) -> bool:
    """Say whether this is one: a type of the language's own, a pointer, or a type and a name."""
    found = WORD.findall(text)
    return (
        text in {"", "..."} or not BUILT_IN.isdisjoint(found) or len(found) > 1 or text.endswith(("*", "&"))
    )


def enumeration(text: str, found: re.Match[str]) -> Unit | None:
    """Tell an enumeration's names and values; None where one is no plain number."""
    if found["name"] and not found["typedef"]:
        return None
    values: dict[str, int] = {}
    following = 0
    for one in filter(str.strip, found["values"].split(",")):
        key, equals, said = (part.strip() for part in one.partition("="))
        number = value(said, values) if equals else following
        if number is None or not WORD.fullmatch(key):
            return None
        values[key] = number
        following = number + 1
    # How the numbers are stored follows from these two.
    kind = (min(values.values(), default=0) < 0, max(map(abs, values.values()), default=0) >= 1 << 31)
    head = f"enum {found['scoped'] or ''}{found['tag']} {found['base'] or ''} {found['name']} {kind}"
    names = frozenset(filter(None, (found["tag"], found["name"], *values)))
    return Unit(text, names or None, words(found["base"] or ""), head=head, values=tuple(values.items()))


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
    plain = blank(after_template(ATTRIBUTE.sub(" ", head).strip()))
    return "\x02" in plain and "=" not in plain


def blank(text: str) -> str:
    """Put a mark for each pair of outermost parentheses and what is in them."""
    found: list[str] = []
    depth, start = 0, 0
    for mark in re.finditer(r"[()]", text):
        if mark[0] == "(" and not depth:
            found += [text[start : mark.start()], "\x02"]
        depth += 1 if mark[0] == "(" else -1
        start = mark.end()
    return "".join(found) + text[start:] if depth == 0 else ""


def after_template(text: str) -> str:
    """Give a template's declaration without its parameters, another one as it is."""
    if not TEMPLATE.match(text):
        return text
    depth = 0
    for mark in re.finditer(r"[<>()]", text):
        depth += 1 if mark[0] in "<(" else -1
        if depth == 0:
            return text[mark.end() :].lstrip()
    return ""
