"""Reads the header of a GGUF file, and nothing else of it.

The `gguf` package maps the whole file and needs numpy: 0.4 s and 60 MB before the first key. Here the header
is read front to back through one buffer of a fixed size; of the long arrays (the vocabulary) only the
length is kept. Whatever the bytes are, the outcome is a `Header` or a `ModelError`.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from amdserve.errors import ModelError
from amdserve.serve.ggml import ARRAY, SCALARS, STRING, TYPES
from amdserve.serve.header import Header, Value

__all__ = ["Header", "Value", "read"]

MAGIC = b"GGUF"
LEGACY = {b"ggml": "GGML", b"ggmf": "GGMF", b"ggjt": "GGJT", b"lmgg": "GGML"}
VERSIONS = (2, 3)

# Far above any real file (the largest vocabularies take 20 MB), far below what would hurt.
MOST_HEADER_BYTES = 512 << 20
MOST_KEYS = 65_536
MOST_TENSORS = 65_536
MOST_STRINGS = 4_000_000
MOST_DIMENSIONS = 4
NAME_BYTES = 64  # llama.cpp refuses a tensor name of 64 bytes or more
KEEP_STRING = 512
KEEP_ARRAY = 4096
# What the names and values of all keys may take in memory: a hundred times what a real file's do.
MOST_KEPT = 16 << 20
CHUNK = 1 << 20

WATCHED = frozenset({"token_embd.weight", "cls.weight", "cls.output.weight", "cls.bias"})


def read(path: Path) -> Header:
    """Read a header.

    Args:
        path: the file.

    Raises:
        ModelError: it cannot be read, is no GGUF, is of the wrong byte order or version, is damaged, or is
            shorter than its own table of tensors says.
    """
    try:
        with path.open("rb", buffering=0) as file:
            size = file.seek(0, 2)
            file.seek(0)
            return _Reader(path, file, size).header()
    except OSError as reason:
        raise ModelError(
            f"{path} cannot be read",
            cause=reason.strerror or str(reason),
            fix=f"ls -l {path}; check the mount",
        ) from None
    except (MemoryError, OverflowError, ValueError, struct.error) as reason:  # pragma: no cover - a last net
        raise ModelError(f"{path} is damaged", cause=str(reason), fix="fetch the file again") from None


class _Reader:
    """One pass over a file, front to back, through a buffer of `CHUNK` bytes."""

    def __init__(self, path: Path, file: BinaryIO, size: int) -> None:
        self.path = path
        self.file = file
        self.size = size
        self.buffer = b""
        self.start = 0  # where in the file the buffer begins
        self.at = 0  # where in the buffer reading goes on
        self.kept = 0  # bytes of memory, at most, that names and values of keys take

    def header(self) -> Header:
        head = Header(self.path, file_bytes=self.size)
        self._preamble(head)
        n_tensors, n_keys = self._counts()
        for _ in range(n_keys):
            self._key(head)
        alignment = head.values.get("general.alignment", 32)
        if (
            not isinstance(alignment, int)
            or alignment <= 0
            or alignment & (alignment - 1)
            or alignment > 1 << 20
        ):
            raise self.damaged(f"its alignment is {alignment}")
        offset = 0
        for _ in range(n_tensors):
            offset = self._tensor(head, offset, alignment)
        head.tensors = n_tensors
        here = self.start + self.at
        head.data_start = -(-here // alignment) * alignment
        head.data_end = head.data_start + head.tensor_bytes if n_tensors else here
        return head

    def _preamble(self, head: Header) -> None:
        if self.size == 0:
            raise ModelError(f"{self.path} is empty", cause="an interrupted copy", fix="fetch the file again")
        magic = self.take(4) if self.size >= 4 else b""
        if magic != MAGIC:
            legacy = LEGACY.get(magic[::-1]) or LEGACY.get(magic)
            if magic == MAGIC[::-1]:
                cause = "its bytes are swapped: it was written on a machine of the other byte order"
            elif legacy:
                cause = f"it is in the old {legacy} format, which llama.cpp no longer reads"
            elif magic[:1] in (b"<", b"{", b"v"):
                cause = "it looks like a text: an error page, or a Git LFS pointer instead of the file"
            else:
                cause = f"it begins with {magic!r} instead of {MAGIC!r}"
            raise ModelError(f"{self.path} is no GGUF file", cause=cause, fix="fetch the file again")
        head.version = self.unpack("I", 4)
        if head.version and head.version & 0xFFFF == 0:
            raise ModelError(
                f"{self.path} has the wrong byte order",
                cause="it was converted for a big-endian machine",
                fix="fetch the little-endian file",
            )
        if head.version not in VERSIONS:
            raise ModelError(
                f"{self.path} is GGUF version {head.version}",
                cause=f"llama.cpp here reads {VERSIONS[0]} and {VERSIONS[-1]}",
                fix="convert the model again, or take a newer image",
            )

    def _counts(self) -> tuple[int, int]:
        n_tensors, n_keys = self.unpack("Q", 8), self.unpack("Q", 8)
        if n_tensors > MOST_TENSORS or n_keys > MOST_KEYS:
            raise self.damaged(f"it claims {n_tensors} tensors and {n_keys} keys")
        return n_tensors, n_keys

    def _key(self, head: Header) -> None:
        name = self.string(KEEP_STRING)
        if not name:
            raise self.damaged("a key has no name, or one that is too long")
        kind = self.unpack("I", 4)
        if kind in SCALARS:
            code = SCALARS[kind]
            value: Value | None = self.unpack_any(code)
        elif kind == STRING:
            value = self.string(KEEP_STRING)
        elif kind == ARRAY:
            value = self._array(head, name)
        else:
            raise self.damaged(f"key {name!r} has the unknown type {kind}")
        if value is not None:
            head.values[name] = value
        # A sign takes 4 bytes at most, a number in a tuple 40.
        self.kept += 200 + 4 * len(name)
        self.kept += 4 * len(value) if isinstance(value, str) else 0
        self.kept += 40 * len(value) if isinstance(value, tuple) else 0
        if self.kept > MOST_KEPT:
            raise self.damaged("its keys hold more than those of any model")

    def _array(self, head: Header, name: str) -> Value | None:
        kind, count = self.unpack("I", 4), self.unpack("Q", 8)
        head.lengths[name] = count
        if kind == STRING:
            self._skip_strings(name, count)
            return None
        if kind not in SCALARS:
            raise self.damaged(f"array {name!r} has elements of the unknown type {kind}")
        code = SCALARS[kind]
        width = struct.calcsize("<" + code)
        if count > KEEP_ARRAY:
            self.skip(count * width)
            return None
        return struct.unpack(f"<{count}{code}", self.take(count * width))

    def _skip_strings(self, name: str, count: int) -> None:
        if count > MOST_STRINGS:
            raise self.damaged(f"array {name!r} claims {count} texts")
        # The one hot loop: a vocabulary has some 300,000 texts.
        length_at = struct.Struct("<Q").unpack_from
        buffer, at, end = self.buffer, self.at, len(self.buffer) - 8
        for _ in range(count):
            if at > end:
                self.at = at
                self.need(8)
                buffer, at, end = self.buffer, self.at, len(self.buffer) - 8
            at += 8 + length_at(buffer, at)[0]
        self.at = at
        if self.start + at > min(self.size, MOST_HEADER_BYTES):
            raise self.truncated(f"in the texts of {name!r}")

    def _tensor(self, head: Header, offset: int, alignment: int) -> int:
        name = self.string(NAME_BYTES - 1)
        if name is None:
            raise self.damaged("a tensor's name is too long")
        dimensions = self.unpack("I", 4)
        if dimensions > MOST_DIMENSIONS:
            raise self.damaged(f"tensor {name!r} has {dimensions} dimensions")
        shape = [self.unpack("Q", 8) for _ in range(dimensions)]
        kind, claimed = self.unpack("I", 4), self.unpack("Q", 8)
        if kind not in TYPES:
            raise ModelError(
                f"{self.path}: tensor {name!r} is of the unknown type {kind}",
                cause="the file is damaged, or newer than this image's llama.cpp",
                fix="fetch the file again, or take a newer image",
            )
        label, block, width = TYPES[kind]
        row = shape[0] if shape else 1
        if row % block:
            raise self.damaged(f"tensor {name!r} has rows of {row}, no multiple of {label}'s {block}")
        elements = 1
        for length in shape:
            elements *= length
        if elements >= 1 << 60:
            raise self.damaged(f"tensor {name!r} has the impossible shape {shape}")
        if claimed != offset:
            raise self.damaged(f"tensor {name!r} lies at {claimed}, expected {offset}")
        size = elements // block * width
        if name in WATCHED:
            head.markers.add(name)
        head.types[label] = head.types.get(label, 0) + size
        head.tensor_bytes = offset + size
        return -(-(offset + size) // alignment) * alignment

    def need(self, count: int) -> None:
        """Have `count` bytes in the buffer from `at` on; `at` may lie past the buffer's end.

        Raises:
            ModelError: the file ends before.
        """
        if self.at + count <= len(self.buffer):
            return
        position = self.start + self.at
        if position + count > self.size:
            raise self.truncated(f"at byte {self.size}, inside its header")
        if position + count > MOST_HEADER_BYTES:
            raise self.damaged("its header does not end")
        self.file.seek(position)
        wanted, parts = max(count, CHUNK), []
        while wanted > 0 and (part := self.file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        self.buffer, self.start, self.at = b"".join(parts), position, 0
        if len(self.buffer) < count:
            raise self.truncated("while it was read")

    def take(self, count: int) -> bytes:
        self.need(count)
        taken = self.buffer[self.at : self.at + count]
        self.at += count
        return taken

    def skip(self, count: int) -> None:
        self.at += count
        if self.start + self.at > self.size:
            raise self.truncated("inside its header")

    def unpack(self, code: str, width: int) -> int:
        self.need(width)
        value: int = struct.unpack_from("<" + code, self.buffer, self.at)[0]
        self.at += width
        return value

    def unpack_any(self, code: str) -> int | float | bool:
        value: int | float | bool = struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]
        return value

    def string(self, most: int) -> str | None:
        """Read a text; of one longer than `most` bytes only the place is taken, and None given."""
        length = self.unpack("Q", 8)
        if length > most:
            self.skip(length)
            return None
        return self.take(length).decode("utf-8", "replace")

    def damaged(self, cause: str) -> ModelError:
        return ModelError(
            f"{self.path} is damaged", cause=cause, fix="fetch the file again; compare its sha256"
        )

    def truncated(self, where: str) -> ModelError:
        return ModelError(
            f"{self.path} is truncated",
            cause=f"it ends {where}: an interrupted download or copy",
            fix="fetch the file again; compare its size and sha256",
        )
