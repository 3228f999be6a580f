"""Reads a Hugging Face folder: `config.json`, and whether every file of weights is there and whole."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from amdserve.errors import ModelError
from amdserve.serve.described import Model, Purpose

MOST_JSON = 64 << 20
MOST_SAFETENSORS_HEADER = 100_000_000  # the format's own limit


def read_folder(path: Path) -> Model:
    """Describe the model in a folder.

    Raises:
        ModelError: `config.json` is no JSON object, or a file of weights is missing or truncated.
    """
    config = _object(path / "config.json")
    names = config.get("architectures")
    architecture = str(names[0]) if isinstance(names, list) and names else str(config.get("model_type") or "")
    if not architecture:
        raise ModelError(
            f"{path}/config.json names no architecture",
            cause="neither `architectures` nor `model_type` is in it",
            fix="fetch the model's config.json again",
        )
    files = _weights(path)
    total = sum(_whole(file) for file in files)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    assert isinstance(text, dict)
    return Model(
        path=str(path),
        format="huggingface",
        architecture=architecture,
        purpose=_purpose(path, architecture),
        bytes=total,
        quant=_quant(config),
        layers=_number(text, "num_hidden_layers"),
        context=_number(text, "max_position_embeddings"),
        embedding=_number(text, "hidden_size"),
        vocabulary=_number(text, "vocab_size"),
        heads=_number(text, "num_attention_heads"),
        kv_bytes_per_token=_kv_bytes(text),
        files=tuple(str(file) for file in files),
        digest=f"{path.name}:{total}:{(path / 'config.json').stat().st_mtime_ns}",
    )


def _weights(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        table = _object(index).get("weight_map")
        if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
            raise ModelError(f"{index} has no weight_map", cause="a damaged file", fix="fetch it again")
        names = sorted(set(table.values()))
        missing = [name for name in names if not (path / name).is_file()]
        if missing:
            raise ModelError(
                f"{path} lacks {len(missing)} of {len(names)} files of weights",
                cause=", ".join(missing[:3]),
                fix="fetch the model again: hf download ORG/REPO --local-dir FOLDER",
            )
        return [path / name for name in names]
    files = sorted(path.glob("*.safetensors"))
    if files:
        return files
    old = sorted(path.glob("pytorch_model*.bin"))
    if old:
        raise ModelError(
            f"{path} holds its weights only as pickles",
            cause=f"{old[0].name}: loading one runs code from it, so it is not served",
            fix="take a revision with .safetensors files",
        )
    raise ModelError(
        f"{path} has a config.json and no weights",
        cause="no .safetensors file is in it",
        fix="fetch the model again: hf download ORG/REPO --local-dir FOLDER",
    )


def _whole(file: Path) -> int:
    """Check one safetensors file against its own header; give its size."""
    size = file.stat().st_size
    try:
        with file.open("rb") as data:
            start = data.read(8)
            length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
            if not 0 < length <= min(MOST_SAFETENSORS_HEADER, size - 8):
                raise ValueError("its header does not fit in it")
            header = json.loads(data.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max((int(end) for end in ends), default=0)
    except OSError as reason:
        raise ModelError(f"{file} cannot be read", cause=str(reason), fix=f"ls -l {file}") from None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as reason:
        raise ModelError(
            f"{file} is damaged",
            cause=str(reason) or "its header is no table of tensors",
            fix="fetch the file again (a Git LFS pointer is a text of 130 bytes)",
        ) from None
    if size < needed:
        raise ModelError(
            f"{file} is truncated",
            cause=f"its header needs {needed:,} bytes, the file has {size:,}",
            fix="fetch the file again",
        )
    return size


def _object(file: Path) -> dict[str, Any]:
    try:
        if file.stat().st_size > MOST_JSON:
            raise ValueError("it is too long")
        data = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as reason:
        raise ModelError(
            f"{file} is no readable JSON", cause=str(reason), fix="fetch the file again"
        ) from None
    if not isinstance(data, dict):
        raise ModelError(
            f"{file} holds no JSON object", cause=f"a {type(data).__name__}", fix="fetch it again"
        )
    return data


def _purpose(path: Path, architecture: str) -> Purpose:
    if "SequenceClassification" in architecture:
        return "rerank"
    if "ForCausalLM" in architecture or "ConditionalGeneration" in architecture:
        # Embedding models made of a language model bring sentence-transformers' list of modules.
        return "embedding" if (path / "modules.json").is_file() else "llm"
    if architecture.endswith(("Model", "ForMaskedLM")) or (path / "modules.json").is_file():
        return "embedding"
    return "llm"


def _quant(config: dict[str, Any]) -> str | None:
    quantisation = config.get("quantization_config")
    if isinstance(quantisation, dict) and isinstance(quantisation.get("quant_method"), str):
        return str(quantisation["quant_method"])
    kind = config.get("dtype") or config.get("torch_dtype")
    return kind if isinstance(kind, str) else None


def _number(table: dict[str, Any], key: str) -> int | None:
    value = table.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _kv_bytes(text: dict[str, Any]) -> int | None:
    layers, width = _number(text, "num_hidden_layers"), _number(text, "hidden_size")
    heads = _number(text, "num_attention_heads")
    if not layers or not width or not heads:
        return None
    each = _number(text, "head_dim") or width // heads
    return layers * (_number(text, "num_key_value_heads") or heads) * each * 2 * 2
