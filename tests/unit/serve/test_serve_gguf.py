"""The GGUF reader: right files, wrong files, and whatever the bytes are, a header or a ModelError."""

from __future__ import annotations

import contextlib
import random
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import gguf as package
import numpy as np
import pytest
import serve_files
from hypothesis import given, settings
from hypothesis import strategies as st

from amdserve.errors import ModelError
from amdserve.serve import ggml, gguf, model

MIB = 1 << 20
EXTREMES = (0, 1, 255, 1 << 31, 1 << 32, 1 << 63, (1 << 64) - 1)


# Reads a model in an interpreter of its own, and prints what came of it and the most memory it ever held.
READ_ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
from amdserve.serve.model import inspect
try:
    inspect(sys.argv[2])
    kind = "Model"
except Exception as error:
    kind = type(error).__name__
most = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(kind, most.split()[1])
"""


# Each is within what one key may hold; it is their number that would hurt.
MANY_ARRAYS = b"".join(
    serve_files.text(f"{number}") + struct.pack("<IIQ4096B", 9, 0, 4096, *bytes(4096))
    for number in range(3000)
)
MANY_TEXTS = b"".join(
    serve_files.text(f"{number:0512}") + struct.pack("<I", 8) + serve_files.text(b"\xff" * 500)
    for number in range(50_000)
)


def put(folder: Path, data: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(data)
    return path


def test_reads_what_the_gguf_package_writes(tmp_path: Path) -> None:
    path = tmp_path / "written.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_block_count(3)
    writer.add_context_length(2048)
    writer.add_embedding_length(64)
    writer.add_head_count([4, 4, 0])
    writer.add_token_list([f"token {number}" for number in range(9000)])
    writer.add_string("general.description", "x" * 5000)
    writer.add_bool("a.bool", True)
    writer.add_float64("a.double", 0.5)
    writer.add_tensor("token_embd.weight", np.zeros((9000, 64), dtype=np.float16))
    writer.add_tensor("blk.0.attn_q.weight", np.zeros((64, 64), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    head = gguf.read(path)
    assert head.text("general.architecture") == "llama"
    assert head.number("llama.block_count") == 3
    assert head.values["llama.attention.head_count"] == (4, 4, 0)
    assert head.lengths["tokenizer.ggml.tokens"] == 9000
    assert "general.description" not in head.values
    assert (head.values["a.bool"], head.values["a.double"]) == (True, 0.5)
    assert head.types == {"F16": 9000 * 64 * 2, "F32": 64 * 64 * 4}
    assert head.markers == {"token_embd.weight"}
    assert head.data_end == head.file_bytes == path.stat().st_size
    reader = package.GGUFReader(path)
    assert (head.tensors, head.data_start) == (len(reader.tensors), reader.tensors[0].data_offset)


def test_knows_every_type_and_size_that_the_package_knows() -> None:
    for kind, (block, size) in package.GGML_QUANT_SIZES.items():
        if kind.name != "Q8_1":  # never in a file; the package has its size before it was halved
            assert ggml.TYPES[kind.value] == (kind.name, block, size)
    for file_type in package.LlamaFileType:
        if file_type.name.startswith("MOSTLY_") and file_type.value in ggml.FILE_TYPES:
            assert ggml.FILE_TYPES[file_type.value] == file_type.name.removeprefix("MOSTLY_")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"GG", "no GGUF"),
        (b"<!DOCTYPE html>", "looks like a text"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (b"FUGG" + bytes(20), "bytes are swapped"),
        (b"tjgg" + bytes(20), "GGJT"),
        (b"GGUF", "truncated"),
        (b"GGUF" + struct.pack(">I", 3) + bytes(16), "wrong byte order"),
        (b"GGUF" + struct.pack("<I", 1) + bytes(16), "version 1"),
        (b"GGUF" + struct.pack("<I", 99) + bytes(16), "version 99"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1 << 60), "claims"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 62), "truncated"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + serve_files.text("k") + struct.pack("<I", 77),
            "unknown type 77",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + serve_files.text("") + struct.pack("<I", 4), "no name"),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 0, 1)
            + serve_files.text("k")
            + struct.pack("<IIQ", 9, 8, 1 << 50),
            "claims",
        ),
        (
            b"GGUF"
            + struct.pack("<IQQ", 3, 0, 1)
            + serve_files.text("k")
            + struct.pack("<IIQ", 9, 4, 1 << 61),
            "truncated",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + serve_files.text("k") + struct.pack("<IIQ", 9, 9, 2),
            "unknown",
        ),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t" * 64, [4]), "too long"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t", [1] * 5), "5 dimensions"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t", [4], kind=31), "unknown type 31"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t", [33], kind=2), "no multiple"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t", [1 << 40, 1 << 40]), "impossible"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + serve_files.tensor("t", [4], offset=64), "expected 0"),
        (serve_files.gguf({"general.alignment": 3}, serve_files.WEIGHTS), "alignment"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, data: bytes, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        gguf.read(put(tmp_path, data))
    assert words in str(caught.value)
    assert caught.value.fix


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        gguf.read(tmp_path)


@pytest.mark.parametrize("cut", [1, 1000, 8191])
def test_weights_that_are_cut_off_are_noticed(tmp_path: Path, cut: int) -> None:
    whole = serve_files.gguf(serve_files.LLAMA, serve_files.WEIGHTS)
    with pytest.raises(ModelError) as caught:
        model.inspect(str(put(tmp_path, whole[:-cut])))
    assert "truncated" in caught.value.what
    assert f"{len(whole) - cut:,}" in caught.value.cause


def test_every_cut_of_a_file_is_a_model_error(tmp_path: Path) -> None:
    whole = serve_files.gguf(serve_files.LLAMA, serve_files.WEIGHTS)
    for length in (*range(0, 640, 3), *range(640, len(whole), 640)):
        with pytest.raises(ModelError):
            model.inspect(str(put(tmp_path, whole[:length])))


def corpus() -> list[bytes]:
    """Right files, damaged in 400 seeded ways: flipped, cut, doubled, and with extreme numbers put in."""
    chance = random.Random(7)
    seeds = [
        serve_files.gguf(keys, serve_files.WEIGHTS)
        for keys in (serve_files.LLAMA, serve_files.BERT, {**serve_files.LLAMA, "general.alignment": 64})
    ]
    made = []
    for _ in range(400):
        data = bytearray(chance.choice(seeds)[:900])
        for _ in range(chance.randint(1, 8)):
            at = chance.randrange(len(data))
            match chance.randrange(5):
                case 0:
                    data[at] ^= 1 << chance.randrange(8)
                case 1:
                    del data[at:]
                    data += bytes(chance.randrange(64))
                case 2:
                    data[at : at + 8] = struct.pack("<Q", chance.choice(EXTREMES))
                case 3:
                    data[at:at] = data[max(0, at - 40) : at]
                case _:
                    data[at : at + 4] = chance.randbytes(4)
        made.append(bytes(data))
    return made


def test_a_fixed_corpus_of_damaged_files_never_escapes(tmp_path: Path) -> None:
    tracemalloc.start()
    refused = 0
    for data in corpus():
        try:
            model.inspect(str(put(tmp_path, data)))
        except ModelError:
            refused += 1
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert refused > 300
    assert peak < 16 * MIB


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_no_bytes_make_it_raise_anything_else(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = put(tmp_path_factory.getbasetemp(), b"GGUF" + struct.pack("<I", 3) + data, "any.gguf")
    with contextlib.suppress(ModelError):
        model.inspect(str(path))


@pytest.mark.parametrize(
    "head",
    [
        struct.pack("<IQQ", 3, 0, 1) + serve_files.text("k") + struct.pack("<IIQ", 9, 8, 3_900_000),
        struct.pack("<IQQ", 3, 0, 1) + serve_files.text("k") + struct.pack("<IIQ", 9, 0, 1 << 33),
        struct.pack("<IQQ", 3, 60_000, 0),
        struct.pack("<IQQ", 3, 0, 60_000),
        struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1 << 33),
        struct.pack("<IQQ", 3, 0, 60_000) + MANY_ARRAYS,
        struct.pack("<IQQ", 3, 0, 60_000) + MANY_TEXTS,
    ],
    ids=["texts", "bytes", "tensors", "keys", "name", "many arrays", "many texts"],
)
def test_a_huge_file_costs_little_memory(tmp_path: Path, head: bytes) -> None:
    """A file of 16 GiB, of which nothing is on the disk."""
    path = put(tmp_path, b"GGUF" + head)
    with path.open("r+b") as file:
        file.truncate(16 << 30)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", READ_ALONE, str(Path(model.__file__).parents[2]), str(path)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    kind, kibibytes = done.stdout.split()
    assert kind == "ModelError"
    assert int(kibibytes) < 64 * 1024
