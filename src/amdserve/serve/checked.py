"""What was asked for, checked: by pydantic's rules without pydantic where they are simple, and else by it.

Importing pydantic and making its models takes longer than all else that planning does. So an image's build
writes down what the models give by default and what they allow, as their JSON Schema says it: types, words,
bounds. A value that such a rule allows is what pydantic would make of it. Any other goes to pydantic, which
converts it or says what is wrong. What comes of it has as much of the models' interface as planning uses.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from amdserve import __version__
from amdserve.serve.options import BY_NAME
from amdserve.serve.state import read_object, write_atomically

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest, RunOptions

IMAGE_FILE = Path("/etc/amdserve/checked.json")
TYPES = {"string": str, "integer": int, "number": float, "boolean": bool}
# What a rule may hold; and what stands beside it in a schema and forbids nothing.
KEYS = frozenset({"type", "enum", "pattern", "minLength", "minimum", "maximum", "exclusiveMinimum"})
IDLE = frozenset({"title", "description", "default"})
# Lists of words: they are looked at here.
LISTS = frozenset({"extra_args"})


class Checked:
    """Values that were checked; frozen."""

    def __init__(self, values: Mapping[str, Any], given: frozenset[str]) -> None:
        self.__dict__.update(values, model_fields_set=given)

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"{name} cannot be set: what was asked for is frozen")

    @property
    def offloads(self) -> bool:
        """As of `ModelLoadRequest`."""
        return bool(self.__dict__["n_gpu_layers"] != 0)

    def model_dump(self, **_: object) -> dict[str, Any]:
        """Give the values."""
        return {name: value for name, value in self.__dict__.items() if name != "model_fields_set"}

    def model_copy(self, *, update: Mapping[str, Any]) -> Checked:
        """Give a copy with other values, which then count as given."""
        given: frozenset[str] = self.__dict__["model_fields_set"]
        return Checked({**self.model_dump(), **update}, given | update.keys())


def build(values: Mapping[str, Any], origins: dict[str, str]) -> tuple[ModelLoadRequest, RunOptions]:
    """Check merged values.

    Args:
        values: field name to value, from every source; only what was given.
        origins: field name to where its value came from.

    Raises:
        UsageError: a value is wrong.
    """
    if found := _read(read_object(IMAGE_FILE) or {}, values):
        return found
    from amdserve.serve import request  # noqa: PLC0415  (this is what is to be spared)

    return request.build(dict(values), origins)


def record(file: Path) -> None:
    """Write down what the models give by default, and what they allow.

    Raises:
        OSError: the file cannot be written.
        ValueError: they allow something in words that are not understood here.
    """
    from amdserve.serve import request as models  # noqa: PLC0415  (an image's build has the time)

    request, options = models.build({"model_path": "-"}, {})
    schemas = [model.model_json_schema()["properties"] for model in (type(request), type(options))]
    own = {
        "version": __version__,
        "request": request.model_dump(mode="json", exclude={"model_path", *LISTS}),
        "options": options.model_dump(),
        "rules": {name: rule(one) for schema in schemas for name, one in schema.items() if name not in LISTS},
    }
    write_atomically(file, own)


def rule(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Give what a field's JSON Schema allows; that nothing is given is no value, and not part of it.

    Raises:
        ValueError: it says so in words that are not understood here.
    """
    found = {key: value for key, value in schema.items() if key not in IDLE}
    some = [one for one in found.pop("anyOf", ()) if one != {"type": "null"}]
    if len(some) == 1 and not found:
        found = rule(some[0])
    if some[1:] or not found.keys() <= KEYS or found.get("type") not in TYPES:
        raise ValueError(f"no simple rule: {dict(schema)}")
    return found


def _allows(rule: Mapping[str, Any], value: Any) -> bool:
    if type(value) is not TYPES[rule["type"]]:
        return False
    if isinstance(value, str) and not (
        len(value) >= rule.get("minLength", 0)
        and re.fullmatch(rule.get("pattern", "(?s:.*)"), value)
        and _is_text(value)
    ):
        return False
    if isinstance(value, int | float) and not (
        rule.get("minimum", value) <= value <= rule.get("maximum", value)
        and value > rule.get("exclusiveMinimum", -math.inf)
    ):
        return False
    return value in rule.get("enum", (value,))


def _is_text(value: str) -> bool:
    """Whether it can be written in UTF-8; the name of a file may not be."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(known: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[ModelLoadRequest, RunOptions] | None:
    """Put values over the defaults; None where those are damaged, or a value is pydantic's to judge."""
    extra = values.get("extra_args", ())
    if "model_path" not in values or not isinstance(extra, list | tuple):
        return None
    if not all(isinstance(word, str) and _is_text(word) for word in extra):
        return None
    try:
        request, options, rules = dict(known["request"]), dict(known["options"]), known["rules"]
        if known["version"] != __version__ or {*request, *options, "model_path"} != {*BY_NAME}:
            return None
        if not all(_allows(rules[name], value) for name, value in values.items() if name not in LISTS):
            return None
    except (KeyError, TypeError, ValueError, re.error):
        return None
    request.update(model_path="", extra_args=tuple(extra))
    for part in (request, options):
        part.update((name, values[name]) for name in part.keys() & values.keys() - LISTS)
    given = frozenset(values)
    made = Checked(request, given & request.keys()), Checked(options, given & options.keys())
    return cast("tuple[ModelLoadRequest, RunOptions]", made)
