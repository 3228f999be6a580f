"""A model as far as it can be known before a backend starts; `model` makes it."""

from __future__ import annotations

from typing import Any, Literal

from amdserve.values import dataclass

Purpose = Literal["llm", "embedding", "rerank"]
Format = Literal["gguf", "huggingface"]


@dataclass(frozen=True, slots=True)
class Model:
    """A model, as far as it can be known before a backend starts.

    Attributes:
        path: what the backend is given: a file, a folder, or a Hub name.
        format: `gguf` or `huggingface`.
        architecture: as the model calls it, or None where only the Hub knows.
        purpose: what it is for.
        bytes: size of its weights.
        hub: it is a name on the Hub and must be fetched.
        quant: its quantisation.
        layers, context, embedding, vocabulary, heads: its dimensions, or None.
        kv_bytes_per_token: memory of one token of context at 16 bits, or None where it is not known.
        pooling: how it pools embeddings, or None.
        files: every file it is made of.
        notes: what somebody should know.
        digest: tells this model from another at the same path.
    """

    path: str
    format: Format
    purpose: Purpose
    architecture: str | None = None
    bytes: int = 0
    hub: bool = False
    quant: str | None = None
    layers: int | None = None
    context: int | None = None
    embedding: int | None = None
    vocabulary: int | None = None
    heads: int | None = None
    kv_bytes_per_token: int | None = None
    pooling: str | None = None
    files: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    digest: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Give the model as `serve --dry-run --json` prints it."""
        return {
            "path": self.path,
            "format": self.format,
            "architecture": self.architecture,
            "purpose": self.purpose,
            "bytes": self.bytes,
            "hub": self.hub,
            "quant": self.quant,
            "layers": self.layers,
            "context": self.context,
            "embedding": self.embedding,
            "vocabulary": self.vocabulary,
            "heads": self.heads,
            "kv_bytes_per_token": self.kv_bytes_per_token,
            "pooling": self.pooling,
            "files": list(self.files),
            "notes": list(self.notes),
        }
