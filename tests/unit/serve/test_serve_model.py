"""What a path means: files, parts, folders, names on the Hub; and what each model is for."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, ClassVar

import pytest
import serve_files
from serve_files import BERT, LLAMA, WEIGHTS, gguf, write

from amdserve.errors import ModelError
from amdserve.serve.model import inspect


def refused(path: Path | str) -> ModelError:
    with pytest.raises(ModelError) as caught:
        inspect(str(path))
    return caught.value


def test_describes_a_model(tmp_path: Path) -> None:
    found = inspect(str(write(tmp_path / "m.gguf")))
    assert (found.format, found.purpose, found.architecture, found.quant) == ("gguf", "llm", "llama", "F32")
    assert (found.layers, found.context, found.embedding, found.vocabulary) == (2, 4096, 64, 3)
    assert found.bytes == 64 * 32 * 4
    # 2 layers × 2 heads of keys and values × (16 + 16) × 2 bytes
    assert found.kv_bytes_per_token == 2 * 2 * 32 * 2


def test_the_digest_changes_with_the_file(tmp_path: Path) -> None:
    first = inspect(str(write(tmp_path / "m.gguf"))).digest
    assert inspect(str(write(tmp_path / "m.gguf", llama__context_length=1))).digest != first


@pytest.mark.parametrize(
    ("keys", "purpose", "pooling"),
    [
        (LLAMA, "llm", None),
        (BERT, "embedding", "mean"),
        ({**BERT, "bert.pooling_type": 4}, "rerank", "rank"),
        ({**LLAMA, "llama.pooling_type": 3}, "embedding", "last"),
        ({**LLAMA, "llama.pooling_type": 0}, "llm", "none"),
        ({**LLAMA, "general.architecture": "gemma-embedding"}, "embedding", None),
    ],
)
def test_what_it_is_for(tmp_path: Path, keys: dict[str, Any], purpose: str, pooling: str | None) -> None:
    found = inspect(str(write(tmp_path / "m.gguf", keys)))
    assert (found.purpose, found.pooling) == (purpose, pooling)


def test_a_classifier_without_a_pooling_key_is_a_reranker(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(gguf({**BERT, "bert.pooling_type": 2}, [*WEIGHTS, ("cls.output.weight", (64, 1))]))
    assert inspect(str(path)).purpose == "rerank"


def test_layers_without_attention_need_no_memory_for_it(tmp_path: Path) -> None:
    found = inspect(str(write(tmp_path / "m.gguf", llama__attention__head_count_kv=[2, 0])))
    assert found.kv_bytes_per_token == 2 * 32 * 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"general__type": "mmproj"}, "--mmproj"),
        ({"general__architecture": "clip"}, "--mmproj"),
        ({"general__type": "adapter"}, "LoRA"),
        ({"general__architecture": None}, "names no architecture"),
    ],
)
def test_files_that_are_no_models(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    assert words in str(refused(write(tmp_path / "m.gguf", **changes)))


def test_a_vocabulary_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(gguf(LLAMA))
    assert "no weights" in refused(tmp_path / "m.gguf").what


def test_tensors_of_64_bits_are_refused(tmp_path: Path) -> None:
    info = serve_files.tensor("token_embd.weight", [4, 4], kind=28)
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + serve_files.pair("general.architecture", "llama") + info
    (tmp_path / "m.gguf").write_bytes(head + bytes(-len(head) % 32) + bytes(128))
    assert "64-bit" in refused(tmp_path / "m.gguf").what


def parts(folder: Path, count: int, said: int | None = None) -> list[Path]:
    made = []
    for number in range(1, count + 1):
        keys: dict[str, Any] = {**LLAMA, "split.no": number - 1, "split.count": count}
        keys["split.tensors.count"] = count if said is None else said
        path = folder / f"m-{number:05}-of-{count:05}.gguf"
        path.write_bytes(gguf(keys, [(f"blk.{number}.w", (64, 32))]))
        made.append(path)
    return made


def test_every_part_of_a_split_model_counts(tmp_path: Path) -> None:
    made = parts(tmp_path, 3)
    for named in (made[0], made[2], tmp_path):
        found = inspect(str(named))
        assert found.path == str(made[0])
        assert found.files == tuple(str(path) for path in made)
        assert found.bytes == 3 * 64 * 32 * 4


def test_a_missing_part_is_named(tmp_path: Path) -> None:
    made = parts(tmp_path, 3)
    made[1].unlink()
    assert "m-00002-of-00003.gguf" in refused(made[0]).cause


def test_a_truncated_part_is_named(tmp_path: Path) -> None:
    made = parts(tmp_path, 3)
    made[2].write_bytes(made[2].read_bytes()[:-5])
    assert str(made[2]) in refused(made[0]).what


def test_parts_of_different_models_are_noticed(tmp_path: Path) -> None:
    assert "the first part says 9" in refused(parts(tmp_path, 2, said=9)[0]).what


def test_folders(tmp_path: Path) -> None:
    assert "is empty" in refused(tmp_path).cause
    (tmp_path / "notes.txt").touch()
    assert "notes.txt" in refused(tmp_path).cause
    write(tmp_path / "mmproj-model.gguf", general__type="mmproj")
    deep = tmp_path / "deep"
    deep.mkdir()
    only = write(deep / "a.gguf")
    assert inspect(str(tmp_path)).path == str(only)
    write(tmp_path / "b.gguf")
    assert "a.gguf" in refused(tmp_path).cause


def test_what_is_not_there_says_what_is(tmp_path: Path) -> None:
    write(tmp_path / "real.gguf")
    assert "real.gguf" in refused(tmp_path / "reel.gguf").cause
    assert "is it mounted" in refused(tmp_path / "no" / "m.gguf").cause
    assert "device" in refused("/dev/null").cause


@pytest.mark.parametrize(
    ("name", "kind", "purpose"),
    [
        ("ggml-org/gemma-3-1b-it-GGUF", "gguf", "llm"),
        ("ggml-org/gemma-3-1b-it-GGUF:Q8_0", "gguf", "llm"),
        ("someone/model:Q4_K_M", "gguf", "llm"),
        ("Qwen/Qwen3-8B", "huggingface", "llm"),
        ("Qwen/Qwen3-Embedding-0.6B-GGUF", "gguf", "embedding"),
        ("BAAI/bge-reranker-v2-m3", "huggingface", "rerank"),
    ],
)
def test_names_on_the_hub(name: str, kind: str, purpose: str) -> None:
    found = inspect(name)
    assert (found.path, found.hub, found.format, found.purpose) == (name, True, kind, purpose)


class TestHuggingFace:
    CONFIG: ClassVar[dict[str, Any]] = {
        "architectures": ["LlamaForCausalLM"],
        "num_hidden_layers": 2,
        "hidden_size": 64,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "torch_dtype": "bfloat16",
    }

    def weights(self, path: Path, size: int = 8) -> Path:
        header = json.dumps(
            {"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "data_offsets": [0, 8]}}
        ).encode()
        path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(size))
        return path

    def folder(self, path: Path, **changes: Any) -> Path:
        (path / "config.json").write_text(json.dumps({**self.CONFIG, **changes}), encoding="utf-8")
        return path

    def test_a_whole_folder(self, tmp_path: Path) -> None:
        self.weights(tmp_path / "model.safetensors")
        found = inspect(str(self.folder(tmp_path)))
        assert (found.format, found.purpose, found.architecture) == ("huggingface", "llm", "LlamaForCausalLM")
        assert (found.quant, found.kv_bytes_per_token) == ("bfloat16", 2 * 2 * 16 * 2 * 2)

    @pytest.mark.parametrize(
        ("architecture", "purpose"),
        [
            ("BertModel", "embedding"),
            ("XLMRobertaForSequenceClassification", "rerank"),
            ("Qwen3ForCausalLM", "llm"),
        ],
    )
    def test_what_it_is_for(self, tmp_path: Path, architecture: str, purpose: str) -> None:
        self.weights(tmp_path / "model.safetensors")
        assert inspect(str(self.folder(tmp_path, architectures=[architecture]))).purpose == purpose

    def test_modules_make_an_embedding_model(self, tmp_path: Path) -> None:
        self.weights(tmp_path / "model.safetensors")
        (tmp_path / "modules.json").write_text("[]", encoding="utf-8")
        assert inspect(str(self.folder(tmp_path))).purpose == "embedding"

    def test_every_file_of_the_index_must_be_there(self, tmp_path: Path) -> None:
        index = {"weight_map": {"a": "m-1.safetensors", "b": "m-2.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
        self.weights(tmp_path / "m-1.safetensors")
        assert "m-2.safetensors" in refused(self.folder(tmp_path)).cause
        self.weights(tmp_path / "m-2.safetensors")
        assert len(inspect(str(tmp_path)).files) == 2

    @pytest.mark.parametrize(
        "data", [b"", b"1234", b"\xff" * 20, struct.pack("<Q", 4) + b"null", b"version https"]
    )
    def test_damaged_weights(self, tmp_path: Path, data: bytes) -> None:
        (tmp_path / "model.safetensors").write_bytes(data)
        assert "damaged" in refused(self.folder(tmp_path)).what

    def test_truncated_weights(self, tmp_path: Path) -> None:
        self.weights(tmp_path / "model.safetensors", size=3)
        assert "truncated" in refused(self.folder(tmp_path)).what

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"architectures": []}', "[" * 100_000])
    def test_a_config_that_is_none(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert "config.json" in refused(tmp_path).what

    def test_pickles_are_not_served(self, tmp_path: Path) -> None:
        (tmp_path / "pytorch_model.bin").touch()
        assert "pickles" in refused(self.folder(tmp_path)).what
        (tmp_path / "pytorch_model.bin").unlink()
        assert "no weights" in refused(tmp_path).what

    def test_one_file_of_a_folder_names_the_folder(self, tmp_path: Path) -> None:
        assert str(tmp_path) in refused(self.weights(tmp_path / "model.safetensors")).fix
