"""Taking other GPUs' code out of a library: what stays is byte for byte what it was, and the file holds."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
from pathlib import Path
from types import ModuleType

import pytest

from amdserve.gpu import offload

ROOT = Path(__file__).resolve().parents[3]
TOOL = ROOT / "templates/rocm/fatbin.py"


def load() -> ModuleType:
    """The tool is no part of a package: a build stage runs it as a file."""
    spec = importlib.util.spec_from_file_location("fatbin", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fatbin"] = module
    spec.loader.exec_module(module)
    return module


fatbin = load()


def sample(name: str = "plain") -> bytes:
    return gzip.decompress((Path(__file__).with_name("samples") / f"hip-{name}.so.gz").read_bytes())


def code(data: bytes) -> list[dict[str, bytes]]:
    section = offload.section(data, offload.SECTION)
    assert section is not None
    return [{e.gfx: e.code for e in one.entries if e.gfx} for one in offload.bundles(section)]


def memory(data: bytes) -> dict[int, bytes]:
    """What the loader would map, a page of it at a time, without the section that is packed anew."""
    elf = fatbin.Elf(data)
    fat = elf.section(offload.SECTION)
    pages: dict[int, bytes] = {}
    for one in elf.segments:
        if one.type != fatbin.PT_LOAD:
            continue
        assert one.offset % 4096 == one.vaddr % 4096
        for at in range(0, one.filesz, 16):
            address = one.vaddr + at
            if not fat.addr - 16 < address < fat.addr + 65536:
                pages[address] = data[one.offset + at : one.offset + min(at + 16, one.filesz)]
    return pages


@pytest.mark.parametrize("gfx", ["gfx1151", "gfx1201"])
def test_what_was_asked_for_stays_and_nothing_else(gfx: str) -> None:
    before = sample()
    after = fatbin.trim(before, {gfx})
    assert code(after) == [{gfx: part[gfx]} for part in code(before)]
    assert fatbin.check(before, after, {gfx}) == 2
    assert len(after) < len(before) - 3000


def test_each_pointer_leads_to_a_bundle() -> None:
    after = fatbin.trim(sample(), {"gfx1151"})
    elf = fatbin.Elf(after)
    fat, wrappers = elf.section(offload.SECTION), elf.section(".hipFatBinSegment")
    bundles = {fat.addr + one.start for one in offload.bundles(after[fat.offset : fat.offset + fat.size])}
    pointers = set()
    for section in (one for one in elf.sections if one.type == fatbin.SHT_RELA):
        for at in range(section.offset, section.offset + section.size, 24):
            place, _, addend = struct.unpack_from("<QQq", after, at)
            if wrappers.addr <= place < wrappers.addr + wrappers.size:
                pointers.add(addend)
    assert pointers == bundles
    assert len(pointers) == 2


def test_nothing_else_in_memory_moves() -> None:
    before, after = memory(sample()), memory(fatbin.trim(sample(), {"gfx1151"}))
    relocations = fatbin.Elf(sample()).section(".rela.dyn")
    fat = fatbin.Elf(sample()).section(offload.SECTION)
    differing = {
        address
        for address in before.keys() | after.keys()
        if before.get(address) != after.get(address)
        # The headers at the beginning, and the relocations, are what is changed.
        and address >= 4096
        and not relocations.addr - 16 < address < relocations.addr + relocations.size
        and not fat.addr <= address < fat.addr + fat.size
    }
    assert differing == set()


def test_sections_are_where_their_headers_say() -> None:
    before, after = sample(), fatbin.trim(sample(), {"gfx1151"})
    old, new = fatbin.Elf(before), fatbin.Elf(after)
    assert [one.name for one in new.sections] == [one.name for one in old.sections]
    for was, now in zip(old.sections, new.sections, strict=True):
        assert (now.addr, now.type) == (was.addr, was.type)
        if was.name not in (offload.SECTION, ".rela.dyn") and was.type != fatbin.SHT_NOBITS:
            assert after[now.offset : now.offset + now.size] == before[was.offset : was.offset + was.size]


def test_a_bundle_is_made_as_clang_makes_it() -> None:
    """From all its parts comes what clang made: the compressed form has its length and its sum."""
    section = offload.section(sample("zstd"), offload.SECTION)
    assert section is not None
    first = next(iter(offload.bundles(section)))
    again = fatbin.compressed(fatbin.bundle(first.entries))
    assert struct.unpack_from("<HH", section, 4) == (3, offload.ZSTD)
    assert again[:8] == section[:8]
    assert again[16:32] == section[16:32]
    (found,) = offload.bundles(again)
    assert found.entries == first.entries


def test_where_nothing_would_be_saved_it_stays() -> None:
    for name, gfx in (("plain", {"gfx1151", "gfx1201"}), ("zstd", {"gfx1201"}), ("xnack", {"gfx90a"})):
        assert fatbin.trim(sample(name), gfx) == sample(name)


def test_code_for_a_generation_stays() -> None:
    entry = offload.Entry("hipv4-amdgcn-amd-amdhsa--gfx11-generic", b"")
    assert fatbin.wanted(entry, {"gfx1151"})
    assert not fatbin.wanted(offload.Entry("hipv4-amdgcn-amd-amdhsa--gfx1100", b""), {"gfx1151"})
    assert fatbin.wanted(offload.Entry("hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-", b""), {"gfx90a"})


def test_a_layout_that_is_not_known_is_refused() -> None:
    broken = bytearray(sample())
    elf = fatbin.Elf(bytes(broken))
    wrappers = elf.section(".hipFatBinSegment")
    struct.pack_into("<I", broken, wrappers.offset, 0)
    with pytest.raises(ValueError, match="is no bundle"):
        fatbin.trim(bytes(broken), {"gfx1151"})
    with pytest.raises(ValueError, match="no section"):
        fatbin.trim(sample().replace(b".hipFatBinSegment", b".hipFatBinSegmemt"), {"gfx1151"})


def test_a_part_that_changed_is_seen() -> None:
    before = sample()
    after = bytearray(fatbin.trim(before, {"gfx1151"}))
    at = bytes(after).index(code(before)[1]["gfx1151"])
    after[at + 100] ^= 1
    with pytest.raises(ValueError, match="not what it was"):
        fatbin.check(before, bytes(after), {"gfx1151"})
    with pytest.raises(ValueError, match="no code for gfx900"):
        fatbin.check(before, fatbin.trim(before, {"gfx900"}), {"gfx900"})


def test_it_runs_as_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, result = tmp_path / "lib.so", tmp_path / "trimmed.so"
    source.write_bytes(sample())
    assert fatbin.main([str(source), str(result), "gfx1151"]) == 0
    assert "2 code objects alone" in capsys.readouterr().out
    assert offload.targets(result.read_bytes())["targets"] == {"gfx1151": 2}
