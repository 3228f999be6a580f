"""Embeddings from a real vLLM, which serves them only when it is asked for by name."""

from __future__ import annotations

import math

from .conftest import Start
from .hf_model import WIDTH
from .server import ANSWER


def test_embeddings(start: Start) -> None:
    server = start("--backend", "vllm", "--server-type", "embedding", "--alias", "tiny").wait()
    found = server.openai().embeddings.create(model="tiny", input=["one text", "another text"])
    vectors = [one.embedding for one in found.data]
    assert [len(vector) for vector in vectors] == [WIDTH, WIDTH]
    assert vectors[0] != vectors[1]
    assert all(math.isclose(sum(x * x for x in vector), 1, abs_tol=1e-3) for vector in vectors)
    again = server.openai().embeddings.create(model="tiny", input="one text").data[0].embedding
    assert all(math.isclose(a, b, abs_tol=1e-4) for a, b in zip(again, vectors[0], strict=True))
    assert server.status()["backend"] == "vllm"
    server.stop()
    assert server.end(ANSWER) == 0, server.log


def test_without_being_asked_for_it_is_refused_with_the_way_out(start: Start) -> None:
    server = start("--server-type", "embedding")
    assert server.end(ANSWER) == 3, server.log
    assert "--backend vllm serves it on the GPU" in server.log
    assert "GGUF" in server.log
