"""Where each value comes from: the command line, then the environment, then a YAML file, then the default."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from amdserve.errors import ConfigError, UsageError
from amdserve.serve.options import BY_NAME, ENV_PREFIX, OPTIONS, OTHER_VARIABLES, Option
from amdserve.values import dataclass, field

# What Kubernetes puts in every container of a namespace that has a Service named `amdserve`.
SERVICE_LINK = re.compile(r"SERVICE_(HOST|PORT(_.*)?)|PORT(_\d+_(TCP|UDP)(_.*)?)?")

TRUE = frozenset({"1", "true", "yes", "on"})
FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(slots=True)
class Merged:
    """Values and where each came from: "command line", the variable's name, "FILE:KEY"."""

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)

    def put(self, name: str, value: Any, origin: str) -> None:
        """Take the value unless a stronger source already gave one."""
        if name not in self.values:
            self.values[name] = value
            self.origins[name] = origin


def merge(
    arguments: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str | None,
    extra_args: tuple[str, ...] = (),
) -> Merged:
    """Put the sources over each other.

    Args:
        arguments: field name to value, only what the command line gave.
        environ: the environment.
        config: path of the YAML file, or None.
        extra_args: what followed `--`.

    Raises:
        UsageError: an unknown variable or key (with the nearest known name), a value of the wrong kind.
    """
    merged = Merged()
    for name, value in arguments.items():
        merged.put(name, value, "command line")
    if extra_args:
        merged.put("extra_args", extra_args, "command line")
    for name, value, variable in _from_environment(environ):
        merged.put(name, value, variable)
    if config:
        for name, value in _from_file(Path(config)).items():
            merged.put(name, value, f"{config}: {name}")
    return merged


def nearest(name: str, known: Iterable[str]) -> str:
    """Give " (did you mean X?)" for the closest known name, or an empty text."""
    import difflib  # noqa: PLC0415  (only who has misspelled something waits for it)

    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else ""


def to_bool(text: str, where: str) -> bool:
    """Read a truth value.

    Raises:
        UsageError: the text is neither yes nor no.
    """
    word = text.strip().lower()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise UsageError(f"{where} cannot be {text!r}", cause="allowed: true or false", fix=f"set {where}=true")


def _from_environment(environ: Mapping[str, str]) -> list[tuple[str, Any, str]]:
    found: list[tuple[str, Any, str]] = []
    variables = {option.variable: option for option in OPTIONS}
    for variable in sorted(environ):
        if not variable.startswith(ENV_PREFIX):
            continue
        text = environ[variable]
        short = variable.removeprefix(ENV_PREFIX)
        if SERVICE_LINK.fullmatch(short) and (short != "PORT" or "://" in text):
            continue
        if variable in variables:
            # An empty variable is what `docker run -e NAME=` and a compose file without a value leave behind.
            if text != "":
                found.append(
                    (variables[variable].name, _convert(variables[variable], text, variable), variable)
                )
        elif short == "MODEL" and text:
            found.append(("model_path", text, variable))
        elif short == "EXTRA_ARGS":
            import shlex  # noqa: PLC0415  (rare, and it costs time at every start)

            found.append(("extra_args", tuple(shlex.split(text)), variable))
        elif short not in OTHER_VARIABLES:
            known = [*variables, *(ENV_PREFIX + name for name in OTHER_VARIABLES)]
            raise UsageError(
                f"{variable} is no option of amdserve",
                cause=nearest(variable, known),
                fix=f"unset {variable}, or see `amdserve serve --help`",
            )
    return found


def _convert(option: Option, text: str, where: str) -> Any:
    if option.kind == "bool":
        return to_bool(text, where)
    try:
        if option.kind == "int":
            return int(text)
        if option.kind == "float":
            return float(text)
    except ValueError:
        raise UsageError(
            f"{where}: {option.name} cannot be {text!r}",
            cause="allowed: a number",
            fix=f"set {where} to a number",
        ) from None
    return text


def _from_file(path: Path) -> dict[str, Any]:
    import yaml  # noqa: PLC0415  (only who has a file pays for it)

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as reason:
        raise ConfigError(f"{path} cannot be read", cause=str(reason), fix="check --config") from None
    except (yaml.YAMLError, UnicodeDecodeError) as reason:
        mark = getattr(reason, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = getattr(reason, "problem", None) or "it is not UTF-8 text"
        raise ConfigError(f"{where} is no YAML", cause=str(problem), fix=f"edit {path}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path} holds no keys", cause=f"its top is a {type(data).__name__}", fix=f"edit {path}"
        )
    known = [*BY_NAME, "extra_args"]
    for key in data:
        if key not in known:
            raise ConfigError(
                f"{path}: unknown key {key!r}",
                cause=nearest(str(key), known),
                fix="the keys are the options of `amdserve serve --help`, with underscores",
            )
        if not isinstance(data[key], str | int | float | list | None):
            raise ConfigError(
                f"{path}: {key} cannot be {data[key]!r}",
                cause=f"to YAML that is a {type(data[key]).__name__}",
                fix=f'put it in quotation marks: {key}: "{data[key]}"',
            )
    if "extra_args" in data:
        extra = data["extra_args"]
        if not isinstance(extra, list):
            raise ConfigError(
                f"{path}: extra_args must be a list", cause=f"it is {extra!r}", fix=f"edit {path}"
            )
        data["extra_args"] = tuple(str(part) for part in extra)
    return {key: value for key, value in data.items() if value is not None}
