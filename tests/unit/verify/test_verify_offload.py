"""Code objects are read from real libraries (two files compiled for two GPUs) and from what can be wrong."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from amdserve.gpu import offload

SAMPLES = Path(__file__).with_name("samples")
SECTION_OF_SAMPLE = ".hip_fatbin"


def sample(name: str) -> bytes:
    return gzip.decompress((SAMPLES / f"hip-{name}.so.gz").read_bytes())


def fatbin(name: str) -> bytes:
    found = offload.section(sample(name), SECTION_OF_SAMPLE)
    assert found is not None
    return found


@pytest.mark.parametrize("name", ["plain", "zstd"])
def test_two_files_for_two_gpus(name: str) -> None:
    assert offload.targets(sample(name)) == {
        "bundles": 2,
        "targets": {"gfx1151": 2, "gfx1201": 2},
        "empty": [],
    }


def test_features_of_a_target_are_not_part_of_its_name() -> None:
    (bundle,) = offload.bundles(fatbin("xnack"))
    assert [entry.id for entry in bundle.entries if entry.gfx] == ["hipv4-amdgcn-amd-amdhsa--gfx90a:xnack-"]
    assert offload.targets(sample("xnack"))["targets"] == {"gfx90a": 1}


def compressed(plain: bytes, version: int, method: int = offload.ZLIB) -> bytes:
    """Make a compressed bundle the way clang lays it out."""
    body = zlib.compress(plain)
    sizes = {
        1: struct.pack("<I", len(plain)),
        2: struct.pack("<II", 24 + len(body), len(plain)),
        3: struct.pack("<QQ", 32 + len(body), len(plain)),
    }[version]
    return b"CCOB" + struct.pack("<HH", version, method) + sizes + b"\x11" * 8 + body


@pytest.mark.parametrize("version", [1, 2, 3])
def test_zlib_in_every_version_of_the_head(version: int) -> None:
    plain = fatbin("plain")
    bundle = compressed(plain, version)
    padded = bundle + bytes(-len(bundle) % 4096) + bundle
    found = [[entry.gfx for entry in one.entries] for one in offload.bundles(padded)]
    assert found == [[None, "gfx1151", "gfx1201"]] * 2


def test_a_target_without_code_is_not_counted() -> None:
    data = bytearray(sample("plain"))
    # The magic of the first code object for gfx1151: an ELF file inside the section.
    section = data.index(offload.PLAIN)
    data[data.index(offload.ELF, section)] = 0
    found = offload.targets(bytes(data))
    assert found["targets"] == {"gfx1151": 1, "gfx1201": 2}
    assert found["empty"] == ["hipv4-amdgcn-amd-amdhsa--gfx1151"]


def test_a_library_without_gpu_code() -> None:
    data = sample("plain").replace(b".hip_fatbin\0", b".something_\0")
    assert offload.targets(data) == {"bundles": 0, "targets": {}, "empty": []}


@pytest.mark.parametrize(
    ("data", "word"),
    [
        (b"", "no 64-bit"),
        (b"<!doctype html>", "no 64-bit"),
        (sample("plain")[:20000], "cannot be read"),
        (sample("plain").replace(offload.PLAIN, b"__CLANG_OFFLOAD_BUNDLE??"), "no bundle at byte"),
        (sample("zstd").replace(b"CCOB\x03\x00", b"CCOB\x09\x00"), "version 9"),
        (sample("zstd").replace(b"CCOB\x03\x00\x01", b"CCOB\x03\x00\x07"), "unknown kind 7"),
        (sample("zstd").replace(b"\x28\xb5\x2f\xfd", b"\x28\xb5\x2f\x00"), "zstd frame"),
    ],
)
def test_what_cannot_be_read_is_said(data: bytes, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        offload.targets(data)


def test_a_bundle_that_is_cut_off() -> None:
    whole = fatbin("plain")
    first = whole.index(offload.PLAIN, 1)
    with pytest.raises(ValueError, match="cut off"):
        list(offload.bundles(whole[: first - 5000]))
    with pytest.raises(ValueError, match="cut off"):
        list(offload.bundles(compressed(whole, 2)[:-10]))


def test_it_runs_as_a_program_of_its_own(tmp_path: Path) -> None:
    library = tmp_path / "libggml-hip.so"
    library.write_bytes(sample("plain"))
    program = [sys.executable, "-I", offload.__file__]
    good = subprocess.run([*program, library], capture_output=True, text=True, check=True)
    assert '"gfx1151": 2' in good.stdout
    bad = subprocess.run([*program, tmp_path / "missing"], capture_output=True, text=True, check=True)
    assert '"error"' in bad.stdout
