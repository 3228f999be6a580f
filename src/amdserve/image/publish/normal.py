"""A layer with the times of day taken out, so that the same content has the same digest.

Docker's own builder leaves the moment of the build in every file it writes, and can rewrite it only with
some of its exporters. Here it is done to the layers on their way to the registry, whoever built them: a
time later than the epoch becomes the epoch, in the archive and in compiled Python that keeps its source's.
"""

from __future__ import annotations

import hashlib
import io
import struct
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

# Twice as fast as the usual 6, and two per cent larger.
LEVEL = 4
GZIP_MAGIC = b"\x1f\x8b"
# Flags, time and size of a .pyc that goes by its source's time: four bytes each after the magic number.
_PYC = struct.Struct("<4sIII")
_TIMES = ("mtime", "atime", "ctime", "LIBARCHIVE.creationtime")


@dataclass(frozen=True, slots=True)
class Digests:
    """What a written layer is known by: `digest` and `size` as compressed, `diff_id` as it is unpacked."""

    digest: str
    size: int
    diff_id: str


class Sink:
    """Takes a tar stream; writes it compressed and counts both digests on the way."""

    def __init__(self, to: IO[bytes]) -> None:
        self._to = to
        # No name and no time in gzip's header: the same content gives the same bytes.
        self._gzip = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
        self._inner, self._outer, self._size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take some bytes of the tar stream."""
        self._inner.update(data)
        self._put(self._gzip.compress(data))
        return len(data)

    def _put(self, data: bytes) -> None:
        self._outer.update(data)
        self._size += len(data)
        self._to.write(data)

    def end(self) -> Digests:
        """End the stream and give what it is known by."""
        self._put(self._gzip.flush())
        return Digests("sha256:" + self._outer.hexdigest(), self._size, "sha256:" + self._inner.hexdigest())


def write(source: Path, to: Path, *, epoch: int | None) -> Digests:
    """Write a layer, compressed.

    Args:
        source: the layer as a tar file, compressed with gzip or not.
        to: the file that is written.
        epoch: the latest time that may stay in it, in seconds; None leaves the archive byte for byte.
    """
    with opened(source) as tar, to.open("wb") as file:
        sink = Sink(file)
        if epoch is None:
            while data := tar.read(1 << 20):
                sink.write(data)
        else:
            clamp(tar, sink, epoch)
        return sink.end()


def opened(source: Path) -> BinaryIO:
    """Open a layer for reading as a plain tar stream."""
    import gzip  # noqa: PLC0415

    with source.open("rb") as file:
        compressed = file.read(2) == GZIP_MAGIC
    return gzip.open(source, "rb") if compressed else source.open("rb")  # type: ignore[return-value]


def clamp(source: IO[bytes], sink: Any, epoch: int) -> None:
    """Copy a tar stream with no time later than the epoch; everything else stays, the order too."""
    with (
        tarfile.open(fileobj=source, mode="r|", bufsize=1 << 20) as before,
        tarfile.open(fileobj=sink, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as after,
    ):
        for entry in before:
            entry.mtime = min(int(entry.mtime), epoch)
            entry.pax_headers = _timeless(entry.pax_headers)
            content = before.extractfile(entry) if entry.isreg() else None
            if content is not None and entry.name.endswith(".pyc"):
                after.addfile(entry, io.BytesIO(clamp_pyc(content.read(), epoch)))
            else:
                after.addfile(entry, content)


def _timeless(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key not in _TIMES}


def clamp_pyc(content: bytes, epoch: int) -> bytes:
    """Give compiled Python the time that its source now has, or it would count as stale."""
    if len(content) < _PYC.size:
        return content
    magic, flags, time, size = _PYC.unpack_from(content)
    if flags or time <= epoch:
        return content
    return _PYC.pack(magic, flags, epoch, size) + content[_PYC.size :]
