"""What was asked for, checked: by pydantic, or as pydantic has checked the same before.

Importing pydantic and making its models takes longer than all else that planning does. But most starts ask
for what was checked already: for nothing but a model, for which the image's build has written the defaults
down, or for what an earlier start was asked for. What comes of it has as much of the models' interface as
planning uses.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from amdserve.serve.options import BY_NAME
from amdserve.serve.state import read_object, write_atomically

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest, RunOptions

FILE = "checked.json"
IMAGE_FILE = Path("/etc/amdserve") / FILE
RULES = Path(__file__).with_name("request.py")
MOST = 20
# Any text will do; and what follows `--` may hold a secret, so it is never written down.
FREE = frozenset({"model_path", "extra_args"})


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


def build(
    values: Mapping[str, Any], origins: dict[str, str], place: Path | None
) -> tuple[ModelLoadRequest, RunOptions]:
    """Check merged values, or find that they were.

    Args:
        values: field name to value, from every source; only what was given.
        origins: field name to where its value came from.
        place: the folder for state; None where nothing is remembered there.

    Raises:
        UsageError: a value is wrong.
    """
    defaults = read_object(IMAGE_FILE)
    if defaults and _known(values, place) and (found := _read(defaults, values)):
        return found
    from amdserve.serve import request  # noqa: PLC0415  (this is what is to be spared)

    made = request.build(dict(values), origins)
    if place is not None and _as_given(values, made[0].model_dump() | made[1].model_dump()):
        known = _keys(place)[1 - MOST :]
        with contextlib.suppress(OSError):
            write_atomically(place / FILE, {"keys": [*known, _key(values)]}, durable=False)
    return made


def record(file: Path, request: ModelLoadRequest, options: RunOptions) -> None:
    """Write the defaults down.

    Raises:
        OSError: the file cannot be written.
    """
    own = {"request": request.model_dump(mode="json", exclude=set(FREE)), "options": options.model_dump()}
    write_atomically(file, own)


def _known(values: Mapping[str, Any], place: Path | None) -> bool:
    """Whether these values were checked; of a folder that others may write to, no more is believed."""
    return values.keys() <= FREE or (place is not None and _key(values) in _keys(place))


def _keys(place: Path) -> list[Any]:
    found = (read_object(place / FILE) or {}).get("keys")
    return found if isinstance(found, list) else []


def _key(values: Mapping[str, Any]) -> str:
    """Name what was asked for, and the rules it is checked by."""
    asked = {name: value for name, value in values.items() if name not in FREE}
    return hashlib.sha256(RULES.read_bytes() + json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _as_given(values: Mapping[str, Any], made: Mapping[str, Any]) -> bool:
    """Whether checking has changed nothing."""
    return all(
        name in FREE or (made[name] == value and type(made[name]) is type(value))
        for name, value in values.items()
    )


def _read(
    defaults: Mapping[str, Any], values: Mapping[str, Any]
) -> tuple[ModelLoadRequest, RunOptions] | None:
    """Put values over the defaults; None where those are damaged, or a free text is none."""
    path, extra = values.get("model_path"), values.get("extra_args", ())
    if not isinstance(path, str) or not path or not all(isinstance(word, str) for word in extra):
        return None
    try:
        "\0".join((path, *extra)).encode()
        request, options = dict(defaults["request"]), dict(defaults["options"])
    except (KeyError, TypeError, ValueError):
        return None
    request.update(model_path=path, extra_args=tuple(extra))
    if {*request, *options} != {*BY_NAME, "extra_args"}:
        return None
    for part in (request, options):
        part.update((name, values[name]) for name in part.keys() & values.keys() - FREE)
    given = frozenset(values)
    made = Checked(request, given & request.keys()), Checked(options, given & options.keys())
    return cast("tuple[ModelLoadRequest, RunOptions]", made)
