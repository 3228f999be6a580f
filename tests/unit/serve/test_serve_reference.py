"""The reference: its model, its questions, how far off is too far; the self-test before a backend serves."""

from __future__ import annotations

import hashlib
import json
import math
import random
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st
from serve_bed import CPU, VULKAN, Bed

from amdserve.serve import model, record, reference, refmodel
from amdserve.serve.reference import FORCED, PROMPT_LENGTH, TOLERANCE, VOCABULARY, distance, logits, questions

# Answers `/completion` from a list of answers; each is a list of logits, null (no probabilities), or a fault.
SERVER = Path(__file__).with_name("serve_reference_stub.py")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("reference") / reference.MODEL
    refmodel.make(path)
    return path


def test_the_model_is_the_same_bytes_every_time(made: Path, tmp_path: Path) -> None:
    refmodel.make(tmp_path / "again.gguf")
    assert (tmp_path / "again.gguf").read_bytes() == made.read_bytes()
    assert made.stat().st_size < 2 << 20
    # An answer recorded for other bytes is worth nothing: who changes the model must mean to.
    assert hashlib.sha256(made.read_bytes()).hexdigest().startswith("2647112d7de34d87")


def test_the_model_is_one(made: Path) -> None:
    found = model.inspect(str(made))
    assert (found.purpose, found.layers, found.vocabulary) == ("llm", 2, VOCABULARY)
    assert found.context is not None
    assert found.context > PROMPT_LENGTH + FORCED


def test_the_weights_are_what_was_meant(made: Path) -> None:
    """Read by another reader: each matrix has no lean, and the spread that keeps a signal alive."""
    kinds = set()
    for tensor in GGUFReader(made).tensors:
        kinds.add(tensor.tensor_type.name)
        weights = dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(weights).all()
        if weights.ndim == 2:
            gain = float(weights.std()) * float(tensor.shape[0]) ** 0.5
            name = tensor.name.split(".")[-2]
            expected = {"attn_q": 2, "attn_k": 2, "ffn_down": 2, "output": 3, "token_embd": 16}.get(name, 1)
            assert gain == pytest.approx(expected, rel=0.06), tensor.name
            assert abs(float(weights.mean())) < 0.15 * float(weights.std())
    assert kinds == {"F32", "F16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"}


def test_the_questions_cover_batches_and_single_tokens() -> None:
    asked = list(questions())
    assert len(asked) == FORCED + 2
    assert len(asked[0].tokens) > 4 * reference.UBATCH
    for before, after in pairwise(asked[:-1]):
        assert after.tokens[: len(before.tokens)] == before.tokens
        assert len(after.tokens) == len(before.tokens) + 1
        assert after.reuse
    assert asked[-1].tokens == asked[-2].tokens
    assert not asked[-1].reuse
    assert all(0 <= token < VOCABULARY for one in asked for token in one.tokens)
    assert asked[0].body()["n_probs"] == VOCABULARY


def answer(values: list[float]) -> dict[str, Any]:
    listed = [{"id": token, "logprob": value} for token, value in enumerate(values)]
    random.Random(1).shuffle(listed)
    return {"completion_probabilities": [{"id": 1, "top_logprobs": listed}]}


def test_logits_are_sorted_by_token() -> None:
    values = [float(number) for number in range(VOCABULARY)]
    assert logits(answer(values)) == values


@pytest.mark.parametrize(
    "wrong",
    [None, [], {}, {"completion_probabilities": []}, {"completion_probabilities": [{}]}, answer([1.0] * 5),
     {"completion_probabilities": [{"top_logprobs": [{"id": "x", "logprob": 1}]}]}],
)  # fmt: skip
def test_an_answer_without_them_is_none(wrong: Any) -> None:
    assert logits(wrong) is None


def honest(seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    return [chance.gauss(0, 3) for _ in range(VOCABULARY)]


def test_distances() -> None:
    base = honest()
    assert distance(base, base) == 0
    assert distance(base, [value + 5 for value in base]) == pytest.approx(0, abs=1e-12)
    noise = random.Random(3)
    # What CPU variants and flash attention differ by is 5e-4 at most.
    assert distance(base, [value + noise.gauss(0, 0.06) for value in base]) < TOLERANCE / 20
    assert distance(base, honest(2)) > 1
    assert distance(base, [0.0] * VOCABULARY) == pytest.approx(1)
    assert distance(base, [value * 1.25 for value in base]) > TOLERANCE
    assert distance(base, [*base[1:], base[0]]) > TOLERANCE
    assert distance(base, [-value for value in base]) > TOLERANCE


@given(st.lists(st.floats(), min_size=3, max_size=3))
def test_no_numbers_break_it(values: list[float]) -> None:
    found = distance([1.0, 2.0, 4.0], values)
    assert found >= 0 or math.isnan(found) is False
    if not all(math.isfinite(value) for value in values):
        assert found == math.inf


def folder(place: Path, answers: list[Any]) -> Path:
    place.mkdir(exist_ok=True)
    (place / reference.MODEL).touch()
    (place / reference.ANSWER).write_text(json.dumps({"schema": 1, "answers": answers}), encoding="utf-8")
    return place


RIGHT = [honest(seed) for seed in range(FORCED + 2)]


@pytest.mark.parametrize("answers", [[], RIGHT[:-1], [[1.0]] * 10, "text", None, [["x"] * VOCABULARY] * 10])
def test_a_reference_that_is_none(tmp_path: Path, answers: Any) -> None:
    assert reference.load(str(folder(tmp_path / "r", answers))) is None
    assert reference.load(str(tmp_path / "nowhere")) is None


def nudged(by: float, which: int | None = None) -> list[list[float]]:
    chance = random.Random(9)
    return [
        [value + chance.gauss(0, by) if which in (None, number) else value for value in row]
        for number, row in enumerate(RIGHT)
    ]


def checked(bed: Bed, answers: Any, **behaviour: Any) -> dict[str, Any]:
    """An entry whose self-test gives these answers."""
    entry = bed.entry(VULKAN, **behaviour)
    file = bed.folder / "answers.json"
    file.write_text(json.dumps(answers), encoding="utf-8")
    entry["reference_argv"] = [sys.executable, "-I", "-S", str(SERVER), str(file)]
    return entry


def spec(bed: Bed, entry: dict[str, Any], **changes: Any) -> dict[str, Any]:
    place = folder(bed.folder / "reference", RIGHT)
    return bed.spec(entry, bed.entry(CPU), reference=str(place), **changes)


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_right_arithmetic_serves_and_is_remembered(bed: Bed) -> None:
    entry = checked(bed, nudged(0.05))
    for expected in (True, False):
        with bed.supervise(spec(bed, entry)) as run:
            told = run.until("ready", VULKAN)["phases"]
            run.stop()
            assert ("self-test:" in run.log) is expected
            assert ("selftest" in told) is expected
    with bed.supervise(spec(bed, entry, proof="another driver")) as run:
        run.until("ready", VULKAN)
        run.stop()
        assert "computes as the CPU does" in run.log
    bed.nothing_left()


@pytest.mark.parametrize(
    "answers",
    [
        nudged(1.5),
        nudged(1.5, which=4),
        nudged(1.5, which=9),
        [None] * 10,
        [[0.0] * VOCABULARY] * 10,
    ],
    ids=["all", "one token", "the last", "none", "flat"],
)
def test_wrong_arithmetic_goes_to_the_next_before_the_model_is_loaded(bed: Bed, answers: Any) -> None:
    record_file = bed.folder / "starts"
    entry = checked(bed, answers, record=str(record_file))
    with bed.supervise(spec(bed, entry)) as run:
        status = run.until("ready", CPU)
        assert [failure["class"] for failure in status["history"]] == ["wrong-output"]
        run.stop()
    assert bed.starts(record_file) == []
    with bed.supervise(spec(bed, entry, about="another model")) as run:
        assert run.until("ready", CPU)["history"] == []
        run.stop()
    bed.nothing_left()


@pytest.mark.parametrize(
    ("answers", "cls"),
    [(["SIGSEGV"] * 10, "crash"), (["status"] * 10, "crash"), (["hang"] * 10, "hang")],
)
def test_a_self_test_that_dies_or_hangs_is_no_arithmetic(bed: Bed, answers: Any, cls: str) -> None:
    with bed.supervise(spec(bed, checked(bed, answers), serve_stall=1.0)) as run:
        status = run.until("ready", CPU)
        assert [failure["class"] for failure in status["history"]] == [cls]
        run.stop()
    bed.nothing_left()


def test_a_stop_during_the_self_test(bed: Bed) -> None:
    with bed.supervise(spec(bed, checked(bed, ["hang"] * 10))) as run:
        run.until("starting", VULKAN)
        assert run.stop() == 0
    bed.nothing_left()


def test_no_self_test_where_it_is_not_wanted(bed: Bed) -> None:
    with bed.supervise(spec(bed, checked(bed, nudged(1.5)), selftest=False)) as run:
        run.until("ready", VULKAN)
        run.stop()


def test_no_reference_is_told(bed: Bed) -> None:
    with bed.supervise(bed.spec(checked(bed, RIGHT), bed.entry(CPU))) as run:
        run.until("ready", VULKAN)
        run.stop()
        assert "no backend's arithmetic is checked" in run.log


def test_recording_writes_what_the_server_said(tmp_path: Path) -> None:
    answers = tmp_path / "answers.json"
    answers.write_text(json.dumps(RIGHT), encoding="utf-8")
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {SERVER} {answers} "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    assert record.record(str(program), tmp_path / "out") == FORCED + 2
    loaded = reference.load(str(tmp_path / "out"))
    assert loaded is not None
    for number, row in enumerate(RIGHT):
        assert loaded.judge(number, answer(row))[1] == ""
