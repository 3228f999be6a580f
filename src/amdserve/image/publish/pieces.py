"""Something that comes in pieces, as a file to read from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Readable(Protocol):
    """As much of a file as a stream is read with."""

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, fewer only at the end."""


class Pieces:
    """Gives as many bytes as are asked for, out of pieces of any size."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces, self._piece, self._at = filter(None, pieces), b"", 0

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, fewer only at the end."""
        found = []
        while size > 0:
            if self._at >= len(self._piece):
                self._piece, self._at = next(self._pieces, b""), 0
                if not self._piece:
                    break
            data = self._piece[self._at : self._at + size]
            self._at += len(data)
            size -= len(data)
            found.append(data)
        return b"".join(found)
