"""Which GPUs a library holds code for: its offload bundles, read without LLVM's tools.

Clang puts the code objects of each compiled file, one per target, into a bundle, and the linker lays
all bundles one after the other into the section `.hip_fatbin`. A bundle may be compressed as a whole.

This file runs inside the image too, as `python offload.py LIBRARY`, and prints JSON. So it needs the standard
library only, and nothing newer than Python 3.11.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

SECTION = ".hip_fatbin"
PLAIN, COMPRESSED = b"__CLANG_OFFLOAD_BUNDLE__", b"CCOB"
ZLIB, ZSTD = 0, 1
ELF, EM_AMDGPU = b"\x7fELF", 224
_TARGET = re.compile(r"-(gfx[0-9a-z][0-9a-z-]*)((?::[a-z]+[+-])*)$")


@dataclass(frozen=True, slots=True)
class Entry:
    """One part of a bundle: its id (`hipv4-amdgcn-amd-amdhsa--gfx1151`, or of the host) and its bytes."""

    id: str
    code: bytes

    @property
    def gfx(self) -> str | None:
        """The target's name without features (`:xnack-`), None for the host's part."""
        match = _TARGET.search(self.id)
        return match.group(1) if match else None

    @property
    def is_code_object(self) -> bool:
        """Whether the bytes are an ELF file for AMD GPUs, as they must be for a target."""
        return (
            self.code[:4] == ELF and len(self.code) > 64 and self.code[18:20] == struct.pack("<H", EM_AMDGPU)
        )


def section(data: bytes, name: str) -> bytes | None:
    """Give the content of a section of a 64-bit little-endian ELF file, None where it has none of that name.

    Raises:
        ValueError: it is no such file, or is cut off.
    """
    if data[:6] != ELF + b"\x02\x01":
        raise ValueError("no 64-bit little-endian ELF file")
    try:
        (table,) = struct.unpack_from("<Q", data, 40)
        size, count, names = struct.unpack_from("<3H", data, 58)
        headers = [struct.unpack_from("<IIQQQQ", data, table + size * index) for index in range(count)]
        if not headers:
            return None
        strings = headers[names][4]
        for offset_of_name, _, _, _, offset, length in headers:
            start = strings + offset_of_name
            if data[start : data.index(b"\0", start)].decode("ascii", "replace") == name:
                if offset + length > len(data):
                    raise ValueError(f"its section {name} is cut off")
                return data[offset : offset + length]
    except (struct.error, IndexError, ValueError) as reason:
        raise ValueError(f"its section table cannot be read: {reason}") from reason
    return None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle: its place in the section and its length there, in bytes, and its parts."""

    start: int
    length: int
    entries: tuple[Entry, ...]


def bundles(fatbin: bytes) -> Iterator[Bundle]:
    """Give the bundles of a `.hip_fatbin` section, in order.

    Raises:
        ValueError: there is something else between them, or one cannot be read.
    """
    position = 0
    while position < len(fatbin):
        if fatbin.startswith(COMPRESSED, position):
            plain, length = _decompress(fatbin, position)
            entries, _ = _entries(plain)
        elif fatbin.startswith(PLAIN, position):
            entries, length = _entries(memoryview(fatbin)[position:])
        elif fatbin[position] == 0:
            # Bundles begin on pages; between them is nothing.
            position += 1
            continue
        else:
            raise ValueError(f"no bundle at byte {position} of {len(fatbin)}")
        yield Bundle(position, length, entries)
        position += length


def _entries(data: bytes | memoryview) -> tuple[tuple[Entry, ...], int]:
    """Read one plain bundle; give its parts and how many bytes it takes."""
    data = memoryview(data)
    if bytes(data[: len(PLAIN)]) != PLAIN:
        raise ValueError("what was compressed is no bundle")
    found, end = [], len(PLAIN)
    try:
        (count,) = struct.unpack_from("<Q", data, end)
        end += 8
        head = end
        for _ in range(count):
            offset, size, length = struct.unpack_from("<3Q", data, head)
            head += 24
            ident = bytes(data[head : head + length]).decode("ascii", "replace")
            head += length
            if offset + size > len(data) or head > len(data):
                raise ValueError(f"the part {ident!r} is cut off")
            found.append(Entry(ident, bytes(data[offset : offset + size])))
            end = max(end, head, offset + size)
    except struct.error as reason:
        raise ValueError(f"a bundle's head is cut off: {reason}") from reason
    return tuple(found), end


def _decompress(data: bytes, start: int) -> tuple[bytes, int]:
    """Take the compression off the bundle at `start`; give what was in it and how many bytes it took."""
    try:
        version, method = struct.unpack_from("<HH", data, start + 4)
        if version == 1:
            # This form does not say where it ends: the next bundle's beginning does.
            (size,) = struct.unpack_from("<I", data, start + 8)
            head, after = 20, data.find(COMPRESSED, start + 20)
            total = (after if after > 0 else len(data)) - start
        elif version == 2:
            total, size = struct.unpack_from("<II", data, start + 8)
            head = 24
        elif version == 3:
            total, size = struct.unpack_from("<QQ", data, start + 8)
            head = 32
        else:
            raise ValueError(f"a compressed bundle of version {version}")
    except struct.error as reason:
        raise ValueError(f"a compressed bundle's head is cut off: {reason}") from reason
    body = data[start + head : start + total]
    if start + total > len(data) or not body:
        raise ValueError("a compressed bundle is cut off")
    try:
        if method == ZLIB:
            plain = zlib.decompressobj().decompress(body)
        elif method == ZSTD:
            plain = _zstd(body, size)
        else:
            raise ValueError(f"compression of the unknown kind {method}")
    except zlib.error as reason:
        raise ValueError(f"a compressed bundle: {reason}") from reason
    if len(plain) != size:
        raise ValueError(f"a compressed bundle holds {len(plain)} bytes and says {size}")
    return plain, total


def _zstd(body: bytes, size: int) -> bytes:
    """Decompress one zstd frame with the system's library: Python has its own from 3.14 on only."""
    name = ctypes.util.find_library("zstd") or "libzstd.so.1"
    try:
        library = ctypes.CDLL(name)
    except OSError as reason:
        raise ValueError(f"a bundle is compressed with zstd, and libzstd is not here: {reason}") from reason
    library.ZSTD_findFrameCompressedSize.restype = ctypes.c_size_t
    library.ZSTD_decompress.restype = ctypes.c_size_t
    frame = library.ZSTD_findFrameCompressedSize(body, ctypes.c_size_t(len(body)))
    if library.ZSTD_isError(ctypes.c_size_t(frame)):
        raise ValueError("a compressed bundle holds no whole zstd frame")
    buffer = ctypes.create_string_buffer(max(1, size))
    done = library.ZSTD_decompress(buffer, ctypes.c_size_t(size), body, ctypes.c_size_t(frame))
    if library.ZSTD_isError(ctypes.c_size_t(done)):
        raise ValueError("a compressed bundle's zstd frame cannot be read")
    return buffer.raw[:done]


def targets(data: bytes) -> dict[str, object]:
    """Say what a library holds code for.

    Returns:
        `bundles`: how many there are; `targets`: gfx → in how many of them it has a code object; `empty`:
        the ids of targets whose part of some bundle is no code object.

    Raises:
        ValueError: it cannot be read.
    """
    fatbin = section(data, SECTION)
    if fatbin is None:
        return {"bundles": 0, "targets": {}, "empty": []}
    count, found, empty = 0, dict[str, int](), set[str]()
    for bundle in bundles(fatbin):
        count += 1
        for entry in bundle.entries:
            gfx = entry.gfx
            if gfx is None:
                continue
            if entry.is_code_object:
                found[gfx] = found.get(gfx, 0) + 1
            else:
                empty.add(entry.id)
    return {"bundles": count, "targets": found, "empty": sorted(empty)}


if __name__ == "__main__":
    try:
        print(json.dumps(targets(Path(sys.argv[1]).read_bytes())))
    except (OSError, ValueError) as reason:
        print(json.dumps({"error": str(reason)}))
