"""Is a certificate of this host in any layer of an image: every file of every layer is read.

A certificate authority that a network adds to its machines is needed while an image is built, and must not
be shipped in it. What a later layer removed is still in the earlier one, so the layers are read and not the
file system that they add up to.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import re
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from amdserve.errors import VerifyError
from amdserve.image import index
from amdserve.image.publish import compress

LOCAL = Path("/usr/local/share/ca-certificates")
PUBLIC = Path("/usr/share/ca-certificates")
CHUNK = 8 << 20
# No certificate is longer than this, in bytes; so much of a chunk is looked at again with the next one.
LONGEST = 32 << 10
_PEM = re.compile(rb"-----BEGIN (?:TRUSTED )?CERTIFICATE-----(.{64,32768}?)-----END", re.DOTALL)
# A SEQUENCE of up to 64 KiB that begins with another one: how every certificate begins.
_DER = re.compile(rb"\x30\x82(..)\x30\x82", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Found:
    """A certificate of the host and the file of the layer that it is in."""

    sha256: str
    layer: str
    path: str

    def __str__(self) -> str:
        return f"{self.path} in layer {self.layer[:12]} (certificate {self.sha256[:16]}…)"


def certificates(data: bytes) -> Iterator[str]:
    """Give the sha256 of every certificate in some bytes, as text (PEM) or as it is (DER)."""
    for match in _PEM.finditer(data):
        body = match.group(1).replace(b"\\n", b"").replace(b"\\r", b"")
        try:
            yield hashlib.sha256(base64.b64decode(b"".join(body.split()), validate=True)).hexdigest()
        except binascii.Error:
            continue
    for match in _DER.finditer(data):
        start, length = match.start(), int.from_bytes(match.group(1), "big") + 4
        if start + length <= len(data):
            yield hashlib.sha256(memoryview(data)[start : start + length]).hexdigest()


def of_host(
    environ: Mapping[str, str] | None = None,
    *,
    local: Path = LOCAL,
    public: Path = PUBLIC,
) -> frozenset[str]:
    """Give the sha256 of the certificates that this host trusts and that no distribution ships.

    Args:
        environ: names the host's bundle; None: this process's own.
        local: the folder of what the host's administrator added.
        public: the folder of what the host's distribution ships.
    """
    files = [*local.rglob("*.crt"), *local.rglob("*.pem")] if local.is_dir() else []
    if bundle := index.ca_bundle(environ):
        files.append(bundle)
    shipped = list(public.rglob("*.crt")) if public.is_dir() else []
    try:
        import certifi  # noqa: PLC0415 - comes with the Docker SDK, and is not needed by itself

        shipped.append(Path(certifi.where()))
    except ImportError:
        pass
    return frozenset(_of_files(files)) - frozenset(_of_files(shipped))


def _of_files(paths: Iterable[Path]) -> Iterator[str]:
    for path in paths:
        try:
            yield from certificates(path.read_bytes())
        except OSError:
            continue


def search(archive: Iterable[bytes], wanted: Set[str]) -> tuple[list[Found], int]:
    """Look for certificates in an image's archive, as `docker save` gives it.

    Args:
        archive: its bytes, in pieces.
        wanted: the sha256 of each certificate to look for.

    Returns:
        where they are, and how many layers there were.

    Raises:
        VerifyError: the archive or a layer cannot be read.
    """
    found: list[Found] = []
    layers = 0
    for name, layer in opened(archive):
        layers += isinstance(layer, tarfile.TarFile)
        with _readable():
            found.extend(_search_layer(layer, name, wanted))
    return found, layers


@contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError, EOFError) as reason:
        raise VerifyError("the image's layers cannot be read", cause=str(reason)) from reason


def opened(archive: Iterable[bytes]) -> Iterator[tuple[str, tarfile.TarFile | bytes]]:
    """Give each file of an image's archive with its name: opened where it is a layer, else its bytes.

    Raises:
        VerifyError: the archive cannot be read.
    """
    with _readable(), tarfile.open(fileobj=_Reader(archive), mode="r|", bufsize=CHUNK) as outer:
        for member in outer:
            if file := outer.extractfile(member) if member.isfile() else None:
                yield member.name.removesuffix("/layer.tar").rpartition("/")[2], _layer(file)


def _layer(file: IO[bytes]) -> tarfile.TarFile | bytes:
    """Give a file of the archive opened as a layer, or its bytes where it is none (the configuration)."""
    peeked = io.BufferedReader(file, CHUNK)  # type: ignore[type-var]
    head = peeked.peek(512)
    if head.startswith((compress.ZSTD_MAGIC, compress.GZIP_MAGIC)):
        plain = compress.Plain(peeked)
        return tarfile.open(fileobj=plain, mode="r|", bufsize=CHUNK)  # type: ignore[call-overload, no-any-return]
    # A layer that changes nothing is an archive of nothing: two blocks of zeros.
    if head[257:262] == b"ustar" or head[:512] == bytes(512):
        return tarfile.open(fileobj=peeked, mode="r|", bufsize=CHUNK)
    return peeked.read()


def _search_layer(layer: tarfile.TarFile | bytes, name: str, wanted: Set[str]) -> Iterator[Found]:
    if isinstance(layer, bytes):
        for one in sorted(wanted & set(certificates(layer))):
            yield Found(one, name, "the image's own description")
        return
    for member in layer:
        file = layer.extractfile(member) if member.isreg() else None
        if file is None:
            continue
        hits: set[str] = set()
        rest = b""
        while chunk := file.read(CHUNK):
            data = rest + chunk
            hits |= wanted & set(certificates(data))
            rest = data[-LONGEST:]
        for one in sorted(hits):
            yield Found(one, name, "/" + member.name.removeprefix("./"))


class _Reader(io.RawIOBase):
    """Pieces of bytes as a file that is read once from its beginning."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        """Give up to `size` bytes; fewer only at the end."""
        parts: list[memoryview] = []
        missing = size
        while missing:
            if not self._rest:
                piece = next(self._pieces, b"")
                if not piece:
                    break
                self._rest = memoryview(piece)
            part = self._rest[:missing] if missing > 0 else self._rest
            self._rest = self._rest[len(part) :]
            parts.append(part)
            missing -= len(part) if missing > 0 else 0
        return b"".join(parts)
