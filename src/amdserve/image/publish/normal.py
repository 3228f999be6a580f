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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from amdserve.image.publish import compress
from amdserve.image.publish.compress import Compression
from amdserve.image.publish.pieces import Readable

# Flags, time and size of a .pyc that goes by its source's time: four bytes each after the magic number.
_PYC = struct.Struct("<4sIII")
_TIMES = ("mtime", "atime", "ctime", "LIBARCHIVE.creationtime")


@dataclass(frozen=True, slots=True)
class Digests:
    """What a written layer is known by: `digest` and `size` in bytes as compressed, `diff_id` as unpacked."""

    digest: str
    size: int
    diff_id: str
    compression: Compression

    @property
    def media_type(self) -> str:
        """What a manifest calls it."""
        return compress.MEDIA_TYPES[compress.form(self.compression)]


class Sink:
    """Takes a tar stream; writes it compressed and counts both digests on the way."""

    def __init__(self, to: IO[bytes], compression: Compression) -> None:
        self._to, self._compression = to, compression
        self._compressor = compress.compressor(compression)
        self._inner, self._outer, self._size = hashlib.sha256(), hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        """Take some bytes of the tar stream."""
        self._inner.update(data)
        self._put(self._compressor.compress(data))
        return len(data)

    def _put(self, data: bytes) -> None:
        self._outer.update(data)
        self._size += len(data)
        self._to.write(data)

    def end(self) -> Digests:
        """End the stream and give what it is known by."""
        self._put(self._compressor.flush())
        digest, diff_id = (f"sha256:{one.hexdigest()}" for one in (self._outer, self._inner))
        return Digests(digest, self._size, diff_id, self._compression)


def write(
    source: Path, to: Path, *, epoch: int | None, compression: Compression = compress.DEFAULT
) -> Digests:
    """Write a layer, compressed.

    Args:
        source: the layer as a tar file, compressed with zstd, with gzip or not.
        to: the file that is written.
        epoch: the latest time that may stay in it, in seconds; None leaves the archive byte for byte.
        compression: with what it is written.

    Raises:
        tarfile.TarError: the source is no tar archive, or its compression is broken.
    """
    with opened(source) as tar, to.open("wb") as file:
        sink = Sink(file, compression)
        if epoch is None:
            while data := tar.read(1 << 20):
                sink.write(data)
        else:
            clamp(tar, sink, epoch)
            # Past the archive's end there is still the checksum of what was compressed.
            while tar.read(1 << 20):
                pass
        return sink.end()


@contextmanager
def opened(source: Path) -> Iterator[compress.Plain]:
    """Open a layer for reading as a plain tar stream."""
    with source.open("rb") as file:
        yield compress.Plain(file)


def clamp(source: Readable, sink: Any, epoch: int) -> None:
    """Copy a tar stream with no time later than the epoch; everything else stays, the order too."""
    with (
        tarfile.open(fileobj=source, mode="r|", bufsize=1 << 20) as before,  # type: ignore[call-overload]
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
