"""The tiny models are what they say: complete, the same every time, float32; and the bad files are bad."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFReader

sys.path.insert(0, str(Path(__file__).parents[2]))
from fixtures import models


def contents(path: Path, key: str) -> object:
    field = GGUFReader(path).fields[key]
    return field.contents()


def test_a_llama_is_small_float32_and_the_same_every_time(tmp_path: Path) -> None:
    one, two, other = tmp_path / "one", tmp_path / "two", tmp_path / "other"
    models.write_llama(one)
    models.write_llama(two)
    models.write_llama(other, seed=2)
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != other.read_bytes()
    assert one.stat().st_size < 3_000_000
    assert {tensor.tensor_type for tensor in GGUFReader(one).tensors} == {GGMLQuantizationType.F32}


def test_a_llama_can_say_words_only(tmp_path: Path) -> None:
    reader = GGUFReader(models.write_llama(tmp_path / "model.gguf"))
    tokens, _, types = models.llama_vocabulary()
    (output,) = [tensor.data for tensor in reader.tensors if tensor.name == "output.weight"]
    said = [token for token, row in zip(tokens, output, strict=True) if row.any()]
    assert said == ["▁" + word for word in models.words(256)]
    assert types[:3] == [models.UNKNOWN, models.CONTROL, models.CONTROL]
    assert len(set(tokens)) == len(tokens)


def test_a_bert_embeds(tmp_path: Path) -> None:
    path = models.write_bert(tmp_path / "bert.gguf")
    assert contents(path, "general.architecture") == "bert"
    assert contents(path, "bert.pooling_type") == 1
    assert {tensor.tensor_type for tensor in GGUFReader(path).tensors} == {GGMLQuantizationType.F32}


def test_bad_files_are_bad_in_their_own_way(tmp_path: Path) -> None:
    good = models.write_llama(tmp_path / "good").stat().st_size
    assert models.write_empty(tmp_path / "empty").stat().st_size == 0
    assert models.write_truncated(tmp_path / "truncated", keep=0.25).stat().st_size == good // 4
    assert models.write_wrong_magic(tmp_path / "page").read_bytes()[:4] != b"GGUF"
    assert (
        contents(models.write_unknown_architecture(tmp_path / "abacus"), "general.architecture") == "abacus"
    )
    assert struct.unpack("<4sI", models.write_future_version(tmp_path / "v").read_bytes()[:8]) == (
        b"GGUF",
        99,
    )
    f64 = {tensor.tensor_type for tensor in GGUFReader(models.write_f64(tmp_path / "f64")).tensors}
    assert f64 == {GGMLQuantizationType.F64}


@pytest.mark.parametrize("missing", [None, 2])
def test_a_split_model(tmp_path: Path, missing: int | None) -> None:
    first = models.write_split(tmp_path / "split", parts=3, missing=missing)
    names = sorted(path.name for path in first.parent.iterdir())
    expected = [f"tiny-0000{number}-of-00003.gguf" for number in (1, 2, 3) if number != missing]
    assert names == expected
