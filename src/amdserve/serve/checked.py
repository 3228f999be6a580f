"""What was asked for, checked: by pydantic, or as pydantic has checked the same before.

Importing pydantic and making its models takes longer than all else that planning does. But most starts ask
for what was asked for already: for nothing but a model, which the image's build has had checked, or for what
an earlier start was asked for. That is read back, and has as much of the models' interface as planning uses.
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
    key = _key(values)
    for file in (place / FILE if place else None, IMAGE_FILE):
        known = read_object(file) if file else None
        found = _read(known.get(key), values) if known else None
        if found:
            return found
    from amdserve.serve import request  # noqa: PLC0415  (this is what is to be spared)

    made = request.build(dict(values), origins)
    if place is not None:
        with contextlib.suppress(OSError):
            record(place / FILE, values, *made)
    return made


def record(file: Path, values: Mapping[str, Any], request: ModelLoadRequest, options: RunOptions) -> None:
    """Write down what values came to, beside what the file has of the last ones.

    Raises:
        OSError: it cannot be written.
    """
    known = list((read_object(file) or {}).items())[1 - MOST :]
    own = {"request": request.model_dump(mode="json", exclude=set(FREE)), "options": options.model_dump()}
    write_atomically(file, {**dict(known), _key(values): own}, durable=False)


def _key(values: Mapping[str, Any]) -> str:
    """Name what was asked for, and the rules it is checked by."""
    asked = {name: value for name, value in values.items() if name not in FREE}
    return hashlib.sha256(RULES.read_bytes() + json.dumps(asked, sort_keys=True).encode()).hexdigest()


def _read(entry: Any, values: Mapping[str, Any]) -> tuple[ModelLoadRequest, RunOptions] | None:
    """Read what is written down; None where it is damaged, or a free text is none."""
    path, extra = values.get("model_path"), values.get("extra_args", ())
    if not isinstance(path, str) or not path or not all(isinstance(word, str) for word in extra):
        return None
    try:
        free = {"model_path": path, "extra_args": tuple(extra)}
        "\0".join((path, *extra)).encode()
        request, options = ({**entry["request"], **free}, dict(entry["options"]))
    except (KeyError, TypeError, ValueError):
        return None
    if {*request, *options} != {*BY_NAME, "extra_args"}:
        return None
    given = frozenset(values)
    made = Checked(request, given & request.keys()), Checked(options, given & options.keys())
    return cast("tuple[ModelLoadRequest, RunOptions]", made)
