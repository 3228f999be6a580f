"""What the header of a GGUF file comes to: made by `gguf`, asked by `model`."""

from __future__ import annotations

from pathlib import Path

from amdserve.values import dataclass, field

Value = str | int | float | bool | tuple[int | float | bool, ...]


@dataclass(slots=True)
class Header:
    """What a GGUF file says about itself.

    Attributes:
        path: the file.
        version: of the format.
        values: key to value; of long texts and arrays nothing is kept.
        lengths: key to number of elements, for every array.
        tensors: how many.
        tensor_bytes: bytes of weights.
        types: tensor type to bytes of weights of that type.
        markers: those of `WATCHED` that name a tensor here.
        data_start: where the weights begin, in bytes from the file's start.
        data_end: the file must be at least this long.
        file_bytes: how long it is.
    """

    path: Path
    version: int = 0
    values: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    tensors: int = 0
    tensor_bytes: int = 0
    types: dict[str, int] = field(default_factory=dict)
    markers: set[str] = field(default_factory=set)
    data_start: int = 0
    data_end: int = 0
    file_bytes: int = 0

    def text(self, key: str) -> str | None:
        """Give a text, or None where there is none."""
        value = self.values.get(key)
        return value if isinstance(value, str) else None

    def number(self, key: str) -> int | None:
        """Give a whole number; of an array its greatest one."""
        value = self.values.get(key)
        if isinstance(value, tuple):
            whole = [part for part in value if isinstance(part, int)]
            return max(whole) if whole else None
        return value if isinstance(value, int) and not isinstance(value, bool) else None
