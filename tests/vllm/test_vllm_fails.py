"""What a real vLLM does when it fails, and what becomes of that."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from . import hf_model
from .conftest import Start
from .server import ANSWER

SMALL = ("--alias", "tiny", "--n-ctx", "1024")


def test_a_killed_engine_core_is_a_crash(start: Start) -> None:
    """vLLM itself ends with 0 then, as if it had been asked to."""
    server = start(*SMALL).wait()
    server.kill("VLLM::EngineCore")
    assert server.end(ANSWER) == 5, server.log
    status = server.status()
    assert status["state"] == "failed"
    (failure,) = status["history"]
    assert failure["backend"] == "vllm"
    assert failure["class"] == "crash"
    assert failure["detail"] == "vLLM's engine core died"
    assert server.children() == {}


def test_a_kv_cache_that_is_too_small_names_what_would_fit(start: Start, tmp_path: Path) -> None:
    """A token takes 16 KB here, so that the 1 GiB which vLLM has for its cache holds half of the context."""
    deep = hf_model.write(tmp_path / "deep", layers=32, kv_heads=4, context=131072)
    server = start("--alias", "tiny", "--n-ctx", "131072", of=deep)
    assert server.end() == 6, server.log
    (failure,) = server.status()["history"]
    assert failure["class"] == "oom"
    assert "the KV cache is too small: 131072 tokens need" in failure["detail"]
    assert "This would fit: --n-ctx " in failure["detail"]
    assert 60000 < int(failure["detail"].rsplit(" ", 1)[1]) <= 65536


def test_an_architecture_that_vllm_does_not_know(start: Start, model: Path, tmp_path: Path) -> None:
    strange = shutil.copytree(model, tmp_path / "strange")
    config = json.loads((strange / "config.json").read_text())
    config |= {"architectures": ["NobodysForCausalLM"], "model_type": "nobodys"}
    (strange / "config.json").write_text(json.dumps(config))
    server = start(*SMALL, of=strange)
    assert server.end() == 3, server.log
    assert server.status()["history"][0]["class"] == "model"


@pytest.mark.parametrize(
    ("variable", "value", "word"),
    [("VLLM_ATTENTION_BACKEND", "NO_SUCH", "no such attention backend any more")],
)
def test_a_value_that_means_nothing_any_more_is_refused(
    start: Start, variable: str, value: str, word: str
) -> None:
    server = start(*SMALL, **{variable: value})
    assert server.end(ANSWER) == 2, server.log
    assert word in server.log
    assert "starting vllm" not in server.log
