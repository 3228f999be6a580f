"""Writes GGUF files for tests, right ones and wrong ones, with nothing but `struct`."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

U32, I32, F32, BOOL, STRING, ARRAY, U64 = 4, 5, 6, 7, 8, 9, 10
WIDTHS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def pair(key: str, value: Any) -> bytes:
    """One key: an int is a u32, a float an f32, a list an array of texts or of u32."""
    head = text(key)
    if isinstance(value, bool):
        return head + struct.pack("<I?", BOOL, value)
    if isinstance(value, int):
        return head + struct.pack("<II", U32, value)
    if isinstance(value, float):
        return head + struct.pack("<If", F32, value)
    if isinstance(value, str):
        return head + struct.pack("<I", STRING) + text(value)
    if value and isinstance(value[0], str):
        return head + struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(text(one) for one in value)
    return head + struct.pack("<IIQ", ARRAY, U32, len(value)) + struct.pack(f"<{len(value)}I", *value)


def tensor(name: str, shape: Sequence[int], kind: int = 0, offset: int = 0) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape) + struct.pack("<IQ", kind, offset)


def gguf(keys: dict[str, Any], tensors: Sequence[tuple[str, Sequence[int]]] = (), version: int = 3) -> bytes:
    """A whole file; its tensors are 32-bit floats of zero."""
    infos, data = b"", b""
    for name, shape in tensors:
        infos += tensor(name, shape, 0, len(data))
        count = 1
        for length in shape:
            count *= length
        data += bytes(count * 4)
        data += bytes(-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(keys))
    head += b"".join(pair(key, value) for key, value in keys.items()) + infos
    return head + bytes(-len(head) % 32) + data if tensors else head


LLAMA: dict[str, Any] = {
    "general.architecture": "llama",
    "general.file_type": 0,
    "llama.block_count": 2,
    "llama.context_length": 4096,
    "llama.embedding_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "tokenizer.ggml.tokens": ["a", "b", "c"],
}
BERT: dict[str, Any] = {
    "general.architecture": "bert",
    "bert.block_count": 2,
    "bert.context_length": 512,
    "bert.embedding_length": 64,
    "bert.attention.head_count": 4,
    "bert.pooling_type": 1,
}
RERANKER: dict[str, Any] = {**BERT, "bert.pooling_type": 4}
WEIGHTS = (("token_embd.weight", (64, 32)),)


def write(path: Path, keys: dict[str, Any] = LLAMA, **changes: Any) -> Path:
    """Write a small model; `changes` replace or, with None, remove keys (dots written as `__`)."""
    merged = {**keys, **{name.replace("__", "."): value for name, value in changes.items()}}
    path.write_bytes(gguf({key: value for key, value in merged.items() if value is not None}, WEIGHTS))
    return path
