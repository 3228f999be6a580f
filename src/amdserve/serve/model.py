"""What is this model? Read before anything starts: a GGUF header, a Hugging Face folder, or a Hub name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from amdserve.errors import ModelError
from amdserve.serve import gguf
from amdserve.serve.described import Model, Purpose
from amdserve.serve.ggml import FILE_TYPES

__all__ = ["Model", "Purpose", "inspect"]

HUB_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[\w.\-]+(:[\w.\-]+)?")
SPLIT = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
POOLINGS = {0: "none", 1: "mean", 2: "cls", 3: "last", 4: "rank"}
ENCODERS = frozenset(
    {
        "bert",
        "modern-bert",
        "nomic-bert",
        "nomic-bert-moe",
        "neo-bert",
        "jina-bert-v2",
        "jina-bert-v3",
        "eurobert",
        "gemma-embedding",
        "t5encoder",
    }
)
NOT_MODELS = {
    "mmproj": "a projector for images and sound: name it with --mmproj beside its model",
    "adapter": "a LoRA adapter: give it to the backend with `-- --lora FILE` beside its model",
    "imatrix": "an importance matrix, a tool of quantising",
}


def inspect(name: str) -> Model:
    """Find out what a name means and what is behind it.

    Args:
        name: a GGUF file, a folder, or a Hub name.

    Raises:
        ModelError: it is not there, cannot be read, is damaged, or holds no model.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return _folder(path)
        if path.exists():
            return _file(path)
    except (OSError, ValueError) as reason:
        raise ModelError(f"{name} cannot be looked at", cause=str(reason), fix="check the path") from None
    if HUB_NAME.fullmatch(name) and not name.lower().endswith(".gguf"):
        return _hub(name)
    above = path.parent
    raise ModelError(
        f"{name} is not there",
        cause=_what_is_there(above) if above.is_dir() else f"neither is the folder {above}: is it mounted?",
        fix="mount the folder with the model: -v /path/to/models:/models:ro",
    )


def _file(path: Path) -> Model:
    if not path.is_file():
        raise ModelError(f"{path} is no file", cause="a device, pipe or socket", fix="name a GGUF file")
    if path.suffix == ".safetensors":
        raise ModelError(
            f"{path} is one file of a Hugging Face model",
            cause="such a model is a folder",
            fix=f"name the folder: {path.parent}",
        )
    parts = _parts(path)
    first = gguf.read(parts[0])
    heads = [first, *(gguf.read(part) for part in parts[1:])]
    for head in heads:
        if head.data_end > head.file_bytes:
            raise ModelError(
                f"{head.path} is truncated",
                cause=f"its table of tensors needs {head.data_end:,} bytes, the file has {head.file_bytes:,}",
                fix="fetch the file again; compare its size and sha256",
            )
    _refuse_what_is_no_model(first, sum(head.tensors for head in heads))
    expected = first.number("split.tensors.count")
    found = sum(head.tensors for head in heads)
    if expected is not None and expected != found:
        raise ModelError(
            f"{path}: its parts hold {found} tensors, the first part says {expected}",
            cause="parts of different models, or a part is missing",
            fix="fetch every part again",
        )
    return _describe(first, heads)


def _describe(first: gguf.Header, heads: list[gguf.Header]) -> Model:
    arch = first.text("general.architecture")
    if not arch:
        raise ModelError(
            f"{first.path} names no architecture",
            cause="the key general.architecture is missing",
            fix="convert the model again with llama.cpp's convert_hf_to_gguf.py",
        )
    pooling = first.number(f"{arch}.pooling_type")
    notes: list[str] = []
    types: dict[str, int] = {}
    for head in heads:
        for label, size in head.types.items():
            types[label] = types.get(label, 0) + size
    if "F64" in types:
        raise ModelError(
            f"{first.path} has tensors of 64-bit floats",
            cause="llama.cpp does not compute with them, and dies while it loads them",
            fix="convert the model again; numpy makes float64 where nobody asked for it",
        )
    file_type = first.number("general.file_type")
    biggest = max(types, key=lambda label: types[label]) if types else None
    status = first.path.stat()
    return Model(
        path=str(first.path),
        format="gguf",
        architecture=arch,
        purpose=_purpose(first, arch, pooling),
        bytes=sum(head.tensor_bytes for head in heads),
        quant=FILE_TYPES.get(file_type, biggest) if file_type is not None else biggest,
        layers=first.number(f"{arch}.block_count"),
        context=first.number(f"{arch}.context_length"),
        embedding=first.number(f"{arch}.embedding_length"),
        vocabulary=first.lengths.get("tokenizer.ggml.tokens"),
        heads=first.number(f"{arch}.attention.head_count"),
        kv_bytes_per_token=_kv_bytes(first, arch),
        pooling=POOLINGS.get(pooling) if pooling is not None else None,
        files=tuple(str(head.path) for head in heads),
        notes=tuple(notes),
        digest=f"{first.path.name}:{sum(head.file_bytes for head in heads)}:{status.st_mtime_ns}",
    )


def _purpose(head: gguf.Header, arch: str, pooling: int | None) -> Purpose:
    if pooling == 4 or head.markers & {"cls.weight", "cls.output.weight"}:
        return "rerank"
    if arch in ENCODERS or (pooling is not None and pooling > 0):
        return "embedding"
    return "llm"


def _kv_bytes(head: gguf.Header, arch: str) -> int | None:
    """Tell the bytes of keys and values of one token, at 16 bits, every layer counted: an upper bound."""
    if arch in ENCODERS:
        return 0
    layers = head.number(f"{arch}.block_count")
    width = head.number(f"{arch}.embedding_length")
    heads = head.number(f"{arch}.attention.head_count")
    if not layers or not width or not heads or layers > 10_000:
        return None
    key = head.number(f"{arch}.attention.key_length") or width // heads
    value = head.number(f"{arch}.attention.value_length") or width // heads
    per_layer = head.values.get(f"{arch}.attention.head_count_kv", heads)
    if isinstance(per_layer, tuple):  # one number a layer; 0 where the layer has no attention
        count = sum(part for part in per_layer if isinstance(part, int))
    else:
        count = layers * int(per_layer) if isinstance(per_layer, int) else layers * heads
    return max(0, count * (key + value) * 2)


def _refuse_what_is_no_model(head: gguf.Header, tensors: int) -> None:
    kind = head.text("general.type") or ""
    if head.text("general.architecture") == "clip":
        kind = "mmproj"
    if kind in NOT_MODELS:
        raise ModelError(
            f"{head.path} is no model", cause=f"it is {NOT_MODELS[kind]}", fix="name the model's file"
        )
    if tensors == 0:
        raise ModelError(
            f"{head.path} has no weights",
            cause="it holds only a vocabulary",
            fix="name the model's own file",
        )


def _parts(path: Path) -> list[Path]:
    match = SPLIT.fullmatch(path.name)
    if not match:
        return [path]
    count = int(match["count"])
    names = [f"{match['stem']}-{number:05}-of-{count:05}.gguf" for number in range(1, min(count, 10_000) + 1)]
    missing = [name for name in names if not (path.parent / name).is_file()]
    if missing or not names:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise ModelError(
            f"{path} is one of {count} parts, and {len(missing)} of them are missing",
            cause=", ".join(missing[:3]) + more,
            fix=f"fetch every part into {path.parent}",
        )
    return [path.parent / name for name in names]


def _folder(path: Path) -> Model:
    if (path / "config.json").is_file():
        from amdserve.serve.huggingface import read_folder  # noqa: PLC0415  (a GGUF server never needs it)

        return read_folder(path)
    candidates = []
    for file in sorted(path.rglob("*.gguf")):
        split = SPLIT.fullmatch(file.name)
        if (split and int(split["number"]) != 1) or "mmproj" in file.name.lower():
            continue
        candidates.append(file)
    if len(candidates) == 1:
        return _file(candidates[0])
    if not candidates:
        raise ModelError(
            f"{path} holds no model",
            cause=_what_is_there(path),
            fix="put a .gguf file there, or mount the folder that has one: -v /path/to/models:/models:ro",
        )
    shown = ", ".join(str(file.relative_to(path)) for file in candidates[:5])
    raise ModelError(
        f"{path} holds {len(candidates)} models",
        cause=shown + (", …" if len(candidates) > 5 else ""),
        fix=f"name one: {candidates[0]}",
    )


def _hub(name: str) -> Model:
    is_gguf = ":" in name or "gguf" in name.lower()
    return Model(
        path=name,
        format="gguf" if is_gguf else "huggingface",
        purpose=_purpose_by_name(name),
        hub=True,
        notes=("its size and architecture are known only once it is fetched",),
        digest=name,
    )


def _purpose_by_name(name: str) -> Purpose:
    lower = name.lower()
    if "rerank" in lower:
        return "rerank"
    return "embedding" if "embed" in lower else "llm"


def _what_is_there(path: Path) -> str:
    try:
        names = sorted(os.listdir(path))  # noqa: PTH208 - names are wanted, not paths
    except OSError as reason:
        return f"{path} cannot be listed: {reason.strerror}"
    if not names:
        return f"{path} is empty: is the volume mounted?"
    return f"{path} holds {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
