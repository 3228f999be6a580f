"""Take the code for other GPUs out of a library: `fatbin.py LIBRARY RESULT GFX...`, run in a build stage.

A library of ROCm that a distribution ships holds code objects for every GPU, in the section `.hip_fatbin`:
one bundle for each compiled file, found through the pointers in `.hipFatBinSegment`, which the loader
relocates. Each bundle is made again here from the parts that are wanted and packed to the section's start.
What comes after the section keeps its addresses, since code refers to them; only its place in the file moves
up. For that its segment is cut in two, and the second half takes the program header of the build id's note.

The result is read again and compared: every code object that was wanted is there, byte for byte.
"""

from __future__ import annotations

import ctypes
import hashlib
import struct
import sys
from collections.abc import Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path

from amdserve.gpu import offload

PAGE = 4096
WRAPPERS = ".hipFatBinSegment"
PT_LOAD, PT_NOTE = 1, 4
SHT_RELA, SHT_NOBITS = 4, 8
R_X86_64_RELATIVE = 8
# One wrapper: magic "HIPF", version, pointer to the bundle, unused.
WRAPPER, MAGIC = struct.Struct("<IIQQ"), 0x48495046
RELA = struct.Struct("<QQq")
LEVEL = 12
"""Of zstd: the code is read once at every start, so that it unpacks quickly counts as much as its size."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A program header of ELF64."""

    FORM = struct.Struct("<IIQQQQQQ")

    type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int

    def pack(self) -> bytes:
        """Give the header's bytes."""
        return self.FORM.pack(
            self.type, self.flags, self.offset, self.vaddr, self.paddr, self.filesz, self.memsz, self.align
        )


@dataclass(frozen=True, slots=True)
class Section:
    """A section header of ELF64; `name` is the text."""

    FORM = struct.Struct("<IIQQQQIIQQ")

    name: str
    index: int
    type: int
    addr: int
    offset: int
    size: int


class Elf:
    """The headers of a 64-bit little-endian ELF file."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError("no 64-bit little-endian ELF file")
        self.data = data
        self.segments_at, self.sections_at = struct.unpack_from("<QQ", data, 32)
        _, count, _, sections, names = struct.unpack_from("<5H", data, 54)
        self.segments = [
            Segment(*Segment.FORM.unpack_from(data, self.segments_at + Segment.FORM.size * number))
            for number in range(count)
        ]
        raw = [
            Section.FORM.unpack_from(data, self.sections_at + Section.FORM.size * number)
            for number in range(sections)
        ]
        strings = raw[names][4]
        self.sections = [
            Section(_text(data, strings + one[0]), number, one[1], one[3], one[4], one[5])
            for number, one in enumerate(raw)
        ]

    def section(self, name: str) -> Section:
        """Give a section; a ValueError where there is none."""
        for one in self.sections:
            if one.name == name:
                return one
        raise ValueError(f"no section {name}")


def _text(data: bytes, start: int) -> str:
    return data[start : data.index(b"\0", start)].decode("ascii")


def _up(value: int) -> int:
    return -(-value // PAGE) * PAGE


def wanted(entry: offload.Entry, gfx: Set[str]) -> bool:
    """Tell whether a part stays: the host's, that of a GPU asked for, and code for a whole generation."""
    return entry.gfx is None or entry.gfx in gfx or entry.gfx.endswith("-generic")


def bundle(entries: Sequence[offload.Entry]) -> bytes:
    """Lay parts out as one bundle, as clang does: the head, then each part on a page of its own."""
    head = len(offload.PLAIN) + 8 + sum(24 + len(entry.id) for entry in entries)
    table, body = [offload.PLAIN, struct.pack("<Q", len(entries))], bytearray()
    for entry in entries:
        body += bytes(_up(head + len(body)) - head - len(body))
        ident = entry.id.encode("ascii")
        table += [struct.pack("<3Q", head + len(body), len(entry.code), len(ident)), ident]
        body += entry.code
    return b"".join(table) + bytes(body)


def compressed(plain: bytes) -> bytes:
    """Compress a bundle as clang does: head of version 3, zstd, and the first half of its MD5."""
    library = ctypes.CDLL("libzstd.so.1")
    library.ZSTD_compressBound.restype = library.ZSTD_compress.restype = ctypes.c_size_t
    room = library.ZSTD_compressBound(ctypes.c_size_t(len(plain)))
    buffer = ctypes.create_string_buffer(room)
    size = library.ZSTD_compress(buffer, ctypes.c_size_t(room), plain, ctypes.c_size_t(len(plain)), LEVEL)
    if library.ZSTD_isError(ctypes.c_size_t(size)):
        raise ValueError("zstd failed")
    digest = hashlib.md5(plain, usedforsecurity=False).digest()[:8]
    head = offload.COMPRESSED + struct.pack("<HHQQ", 3, offload.ZSTD, 32 + size, len(plain)) + digest
    return head + buffer.raw[:size]


def packed(fatbin: bytes, gfx: Set[str]) -> tuple[bytes, dict[int, int]]:
    """Make the section anew with what is wanted; give it and where each bundle went."""
    content, moved = bytearray(), dict[int, int]()
    for one in offload.bundles(fatbin):
        plain = bundle([entry for entry in one.entries if wanted(entry, gfx)])
        content += bytes(_up(len(content)) - len(content))
        moved[one.start] = len(content)
        content += compressed(plain) if fatbin.startswith(offload.COMPRESSED, one.start) else plain
    return bytes(content), moved


def trim(data: bytes, gfx: Set[str]) -> bytes:
    """Give the library with the code for these GPUs alone; as it is where that would save nothing.

    Raises:
        ValueError: it is laid out in a way that this does not know. Nothing is guessed.
    """
    elf = Elf(data)
    fat = elf.section(offload.SECTION)
    content, moved = packed(data[fat.offset : fat.offset + fat.size], gfx)
    old = next(one for one in elf.segments if one.type == PT_LOAD and _holds(one, fat))
    if any(one.align > PAGE for one in elf.segments if one.type == PT_LOAD):
        raise ValueError("its segments are aligned to more than a page")
    result = bytearray(data)
    _relocate(result, elf, fat, moved)
    # The page that the section's end shares with what follows stays, with zeros for what was the section's.
    follows = (fat.offset + fat.size) // PAGE * PAGE
    result[follows : fat.offset + fat.size] = bytes(fat.offset + fat.size - follows)
    end = fat.offset + len(content)
    gone = follows - _up(end)
    if gone < PAGE:
        return data
    result[fat.offset : follows] = content + bytes(_up(end) - end)
    cut = end - old.offset
    rest = follows - old.offset
    first = replace(old, filesz=cut, memsz=cut)
    second = replace(
        old,
        offset=follows - gone,
        vaddr=old.vaddr + rest,
        paddr=old.paddr + rest,
        filesz=old.filesz - rest,
        memsz=old.memsz - rest,
    )
    _write_segments(result, elf, {old: (first, second)}, follows, gone)
    _write_sections(result, elf, fat, len(content), gone)
    return bytes(result)


def _holds(segment: Segment, section: Section) -> bool:
    return (
        segment.offset <= section.offset and section.offset + section.size <= segment.offset + segment.filesz
    )


def _relocate(result: bytearray, elf: Elf, fat: Section, moved: dict[int, int]) -> None:
    """Point each wrapper to where its bundle went; anything else that points into the section is unknown."""
    wrappers = elf.section(WRAPPERS)
    slots = {
        wrappers.addr + start + 8
        for start in range(0, wrappers.size, WRAPPER.size)
        if WRAPPER.unpack_from(elf.data, wrappers.offset + start)[0] == MAGIC
    }
    found = set()
    for table in (one for one in elf.sections if one.type == SHT_RELA):
        for at in range(table.offset, table.offset + table.size, RELA.size):
            place, info, addend = RELA.unpack_from(elf.data, at)
            if not fat.addr <= addend < fat.addr + fat.size or info & 0xFFFFFFFF != R_X86_64_RELATIVE:
                continue
            if place not in slots or addend - fat.addr not in moved:
                raise ValueError(f"something at {place:#x} points to {addend:#x}, which is no bundle")
            RELA.pack_into(result, at, place, info, fat.addr + moved[addend - fat.addr])
            found.add(place)
    if found != slots or len(slots) != len(moved):
        raise ValueError(f"{len(moved)} bundles, {len(slots)} wrappers, {len(found)} of them relocated")


def _write_segments(
    result: bytearray, elf: Elf, cut: dict[Segment, tuple[Segment, ...]], follows: int, gone: int
) -> None:
    note = next((one for one in elf.segments if one.type == PT_NOTE), None)
    if note is None:
        raise ValueError("no program header can be spared")
    table: list[Segment] = []
    for one in elf.segments:
        if one is note:
            continue
        moved = replace(one, offset=one.offset - gone) if one.offset >= follows else one
        table += cut.get(one, (moved,))
    result[elf.segments_at : elf.segments_at + Segment.FORM.size * len(table)] = b"".join(
        one.pack() for one in table
    )


def _write_sections(result: bytearray, elf: Elf, fat: Section, size: int, gone: int) -> None:
    at = elf.sections_at - gone
    struct.pack_into("<Q", result, 40, at)
    for one in elf.sections:
        header = at + Section.FORM.size * one.index
        if one.index == fat.index:
            struct.pack_into("<Q", result, header + 32, size)
        elif one.offset >= fat.offset + fat.size:
            struct.pack_into("<Q", result, header + 24, one.offset - gone)


def check(before: bytes, after: bytes, gfx: Set[str]) -> int:
    """Compare every part that was to stay; give how many code objects there are.

    Raises:
        ValueError: one is not what it was.
    """
    sections = [offload.section(data, offload.SECTION) or b"" for data in (before, after)]
    old, new = (list(offload.bundles(section)) for section in sections)
    count = 0
    for was, now in zip(old, new, strict=True):
        kept = [(entry.id, entry.code) for entry in was.entries if wanted(entry, gfx)]
        if kept != [(entry.id, entry.code) for entry in now.entries]:
            raise ValueError(f"the bundle at {was.start} is not what it was")
        count += sum(entry.is_code_object for entry in now.entries)
    if not count:
        raise ValueError(f"it has no code for {', '.join(sorted(gfx))}")
    return count


def main(words: Sequence[str]) -> int:
    """Trim a library; what is printed goes into the build's log."""
    source, result, *gfx = words
    data = Path(source).read_bytes()
    trimmed = trim(data, set(gfx))
    Path(result).write_bytes(trimmed)
    if trimmed is data:
        print(f"{source}: nothing would be saved, it stays as it is")
        return 0
    count = check(data, trimmed, set(gfx))
    print(f"{source}: {len(data) / 1e6:.1f} MB, {len(trimmed) / 1e6:.1f} MB with {count} code objects alone")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
