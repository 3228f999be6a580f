"""A YAML file that is checked against a model, with errors that name file, line and key.

YAML gives the lines, pydantic says what is wrong where: the file is read as YAML nodes, which remember their
line, and the location of an error is looked up in them.
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from amdserve.errors import ConfigError

AnyModel = TypeVar("AnyModel", bound=BaseModel)
Location = tuple[int | str, ...]


class Document:
    """One YAML file: its content, and the line of each of its keys."""

    def __init__(self, name: str, node: yaml.Node, content: object) -> None:
        self.name = name
        self.node = node
        self.content = content

    @classmethod
    def read(cls, root: Path, name: str) -> Document:
        """Read `root/name`.

        Raises:
            ConfigError: it is missing, is no YAML, is empty, or names a key twice.
        """
        try:
            content = (root / name).read_bytes()
        except OSError as reason:
            raise ConfigError(
                f"{name} cannot be read",
                cause=reason.strerror or str(reason),
                fix="run this in the root of a checkout of amdserve",
            ) from reason
        try:
            node, found = _parse(name, content.decode("utf-8"))
        except UnicodeDecodeError as reason:
            raise _no_yaml(name, content.count(b"\n", 0, reason.start) + 1, str(reason)) from reason
        return cls(name, node, found)

    def validate(self, model: type[AnyModel]) -> AnyModel:
        """Turn the content into `model`.

        Raises:
            ConfigError: it does not hold; every fault with its line, the first one as what failed.
        """
        try:
            return model.model_validate(self.content)
        except ValidationError as failure:
            # A key that is written wrong is missing too: the first says more.
            errors = sorted(failure.errors(), key=lambda error: error["type"] == "missing")
            faults = [self._fault(model, error) for error in errors]
        raise self._error(*faults)

    def known(self, location: Location, value: str, names: Mapping[str, object]) -> None:
        """Refuse a value that is not one of `names`."""
        if value not in names:
            self.refuse(location, f"{value!r} is not one of {', '.join(names)}{_nearest(value, names)}")

    def refuse(self, location: Location, why: str) -> None:
        """Raise the ConfigError for what stands at `location`."""
        raise self._error((self.line(location), _dotted(location), why))

    def line(self, location: Location) -> int:
        """Give the line (from 1) of the key or item at `location`, or of the nearest one around it."""
        node: yaml.Node = self.node
        line = node.start_mark.line
        for step in location:
            if isinstance(node, yaml.MappingNode):
                found = next((pair for pair in node.value if pair[0].value == str(step)), None)
                if found is None:
                    break
                line, node = found[0].start_mark.line, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line
            else:
                break
        return line + 1

    def _fault(self, model: type[BaseModel], error: Any) -> tuple[int, str, str]:
        location: Location = tuple(step for step in error["loc"] if step != "[key]")
        why = str(error["msg"])
        if error["type"] == "extra_forbidden":
            why = "this key is not known" + _nearest(str(location[-1]), _fields(model, location[:-1]))
        elif error["type"] == "missing":
            why = "this key is missing"
        elif error["type"] == "string_type" and isinstance(error["input"], int | float):
            why = f"{error['input']!r} is a number here: put it in quotes"
        else:
            why = f"{why[0].lower()}{why[1:]}, not {error['input']!r}"
        return self.line(location), _dotted(location), why

    def _error(self, first: tuple[int, str, str], *more: tuple[int, str, str]) -> ConfigError:
        line, key, why = first
        return ConfigError(
            f"{self.name}, line {line}: {key}: {why}",
            cause="; ".join(f"also line {line}: {key}: {why}" for line, key, why in more),
            fix=f"$EDITOR +{line} {self.name}",
        )


def _parse(name: str, text: str) -> tuple[yaml.Node, object]:
    """Give the nodes of a YAML text and what they come to.

    Raises:
        ConfigError: it is no YAML, is empty, or names a key twice.
    """
    # The parser in C, where this PyYAML has it, takes a tenth of the time.
    kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    loader = None
    try:
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            raise ConfigError(f"{name}, line 1: it is empty", fix=f"git checkout -- {name}")
        _check(name, loader, node, ())
        return node, loader.construct_document(node)
    except yaml.MarkedYAMLError as reason:
        mark = reason.problem_mark or reason.context_mark
        where = f"column {mark.column + 1}: " if mark else ""
        why = where + " ".join(part for part in (reason.problem, reason.context) if part)
        raise _no_yaml(name, mark.line + 1 if mark else 1, why) from reason
    except yaml.reader.ReaderError as reason:
        raise _no_yaml(name, text.count("\n", 0, reason.position) + 1, reason.reason) from reason
    finally:
        if loader is not None:
            loader.dispose()


def _check(name: str, loader: Any, node: yaml.Node, around: tuple[yaml.Node, ...]) -> None:
    """Refuse what the parser lets through: a key twice, a value not of its kind, an endless alias."""
    line = node.start_mark.line + 1
    if any(node is one for one in around):
        raise _no_yaml(name, line, "an alias stands inside of what it names")
    if isinstance(node, yaml.ScalarNode):
        try:
            loader.construct_object(node)
        except ValueError as reason:
            raise _no_yaml(name, line, f"{node.value!r}: {reason}") from reason
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check(name, loader, item, (*around, node))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                line = key.start_mark.line + 1
                raise ConfigError(
                    f"{name}, line {line}: the key `{key.value}` stands there a second time",
                    fix="keep one of them: YAML silently drops the other",
                )
            seen.add(str(key.value))
            _check(name, loader, value, (*around, node))


def _no_yaml(name: str, line: int, why: str) -> ConfigError:
    return ConfigError(f"{name}, line {line}: this is no YAML", cause=why, fix=f"$EDITOR +{line} {name}")


def _dotted(location: Location) -> str:
    return ".".join(str(step) for step in location) or "the whole file"


def _nearest(name: str, names: Mapping[str, object] | list[str]) -> str:
    close = get_close_matches(name, list(names), n=1)
    return f" (did you mean `{close[0]}`?)" if close else ""


def _fields(model: type[BaseModel], location: Location) -> list[str]:
    """Give the keys that are known at `location` inside `model`."""
    here: Any = model
    for step in location:
        fields = _fields_of(here)
        # Of `dict[str, Image]` and `tuple[Name, ...]` the kind of what is in it.
        here = fields.get(str(step)) if fields else next(reversed(get_args(here)), None)
    return list(_fields_of(here))


def _fields_of(kind: Any) -> dict[str, Any]:
    """Give key → type of a model, nothing for another type."""
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return {}
    return {field.alias or name: field.annotation for name, field in kind.model_fields.items()}
