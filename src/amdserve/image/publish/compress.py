"""How a layer is compressed: with zstd, or with gzip for who cannot unpack zstd. Either is read.

What is published is packed once and pulled many times, so zstd takes its time; `zstd-fast` is for a registry
next door. Each writes the same bytes for the same content: no time and no name stand in their heads, and none
depends on how many threads there are or in which pieces the content comes.
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, Protocol, get_args

import zstandard

from amdserve.errors import UsageError
from amdserve.image.publish.pieces import Pieces, Readable

Compression = Literal["zstd", "zstd-fast", "gzip"]
COMPRESSIONS: tuple[Compression, ...] = get_args(Compression)
Format = Literal["zstd", "gzip"]
FORMATS: tuple[Format, ...] = get_args(Format)
DEFAULT: Compression = "zstd"
MEDIA_TYPES: Mapping[Format, str] = {
    "zstd": "application/vnd.oci.image.layer.v1.tar+zstd",
    "gzip": "application/vnd.oci.image.layer.v1.tar+gzip",
}
# 19 takes 25 times as long to write as 9 and makes a ninth less of it, 15 ten times as long for two per cent.
ZSTD_LEVELS: Mapping[Compression, int] = {"zstd": 19, "zstd-fast": 3}
# 8 MiB, which everything that unpacks zstd must be able to hold, and what level 19 takes by itself. Looking
# further back than the window is of no use, so long distance matching stays off.
ZSTD_WINDOW = 23
# Twice as fast as the usual 6, and two per cent larger.
GZIP_LEVEL = 4
GZIP_MAGIC, ZSTD_MAGIC = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# Bytes that are unpacked at once: hostile ones become some thirty thousand times as many.
_FEED = 8 << 10


class Compressor(Protocol):
    """Takes a stream in pieces."""

    def compress(self, data: bytes, /) -> bytes:
        """Take some bytes; give what is ready."""

    def flush(self) -> bytes:
        """End the stream; give the rest."""


def named(word: str) -> Compression:
    """Give the compression of that name.

    Raises:
        UsageError: there is none.
    """
    for one in COMPRESSIONS:
        if one == word:
            return one
    raise UsageError(
        f"layers are not compressed with {word!r}", fix=f"--compression {' or '.join(COMPRESSIONS)}"
    )


def of_media_type(media_type: str) -> Format | None:
    """Give what a layer of such a media type is compressed with, OCI's or Docker's; None for nothing."""
    return next((one for one in FORMATS if media_type.endswith((f"+{one}", f".{one}"))), None)


def form(compression: Compression) -> Format:
    """Give the format that a compression writes."""
    return "gzip" if compression == "gzip" else "zstd"


def of_layers(manifest: Mapping[str, Any]) -> str:
    """Give what the layers of an image are compressed with, in words, as its manifest says."""
    found = {of_media_type(str(layer.get("mediaType"))) for layer in manifest.get("layers") or ()}
    return " and ".join(sorted(one or "nothing" for one in found))


def compressor(compression: Compression) -> Compressor:
    """Give what compresses one stream; zstd does it in threads of its own."""
    if compression == "gzip":
        return zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVELS[compression],
        window_log=ZSTD_WINDOW,
        write_checksum=1,
        # At least one: without any it cuts the stream otherwise than with one or with many.
        threads=max(1, min(4, os.cpu_count() or 1)),
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


class Plain:
    """A layer as a plain stream, however it is compressed.

    `compression` is what it was compressed with, as its first bytes say and no matter what anybody calls it:
    None for nothing, or as long as nothing was read.
    """

    def __init__(self, source: Readable) -> None:
        self.compression: Format | None = None
        self._pieces = Pieces(self._unpacked(source))

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes, fewer only at the end.

        Raises:
            tarfile.ReadError: the compressed stream is broken, or ends too early.
        """
        return self._pieces.read(size)

    def _unpacked(self, source: Readable) -> Iterator[bytes]:
        head = source.read(4)
        pieces = _pieces(head, source)
        if head == ZSTD_MAGIC or _skipped(head):
            self.compression = "zstd"
            yield from _parts(pieces, zstandard.ZstdDecompressor().decompressobj)
        elif head[:2] == GZIP_MAGIC:
            self.compression = "gzip"
            yield from _parts(pieces, lambda: zlib.decompressobj(31))
        else:
            yield from pieces


def _skipped(head: bytes) -> bool:
    """Tell whether this begins a frame of zstd that holds something else than content."""
    return len(head) == 4 and head[0] >> 4 == 5 and head[1:] == b"\x2a\x4d\x18"


def _pieces(head: bytes, source: Readable) -> Iterator[bytes]:
    while head:
        yield head
        head = source.read(_FEED)


def _parts(pieces: Iterable[bytes], begin: Callable[[], Any]) -> Iterator[bytes]:
    """Unpack the parts of a stream, of which there may be several: frames of zstd, members of gzip."""
    part: Any = None
    try:
        for piece in pieces:
            rest = piece
            while rest:
                part = part or begin()
                if data := part.decompress(rest):
                    yield data
                rest = part.unused_data if part.eof else b""
                part = None if part.eof else part
    except (zlib.error, zstandard.ZstdError) as reason:
        raise tarfile.ReadError(str(reason)) from reason
    if part:
        raise tarfile.ReadError("its compressed stream ends too early")
