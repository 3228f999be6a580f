"""The reference: questions to a tiny model, the CPU's answers, and how far another answer may be from them.

A GPU that computes wrongly does not say so: it serves fluent or not so fluent rubbish. So before a backend
serves for the first time on a GPU, driver and image, it computes the reference model, and its logits are
compared with those of the CPU, recorded when the image was built.

How far apart may they be? The measure is the normalised mean squared error of the logits over the whole
vocabulary: 0 is the same, 1 is what an unrelated answer of the same size has. llama.cpp's own test of kernels
allows 5e-4 for one matrix multiplication; a logit here has gone through some 15 of them. `TOLERANCE` lies
between what honest backends differ by and what rubbish differs by; docs/serving.md has the measurements.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from amdserve.values import dataclass

FOLDER = "/etc/amdserve/reference"
VARIABLE = "AMDSERVE_REFERENCE"
MODEL, ANSWER = "model.gguf", "answer.json"
TOLERANCE = 0.03
UBATCH = 64
# Five micro-batches, the last of them not full.
PROMPT_LENGTH = 300
FORCED = 8
VOCABULARY = 259
LETTER = 3 + ord("A")
FLAGS = (
    "--ctx-size", "1024", "--batch-size", "256", "--ubatch-size", str(UBATCH), "--parallel", "1",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """One request: these tokens; what of them was computed before may be reused, or not."""

    name: str
    tokens: tuple[int, ...]
    reuse: bool

    def body(self) -> dict[str, Any]:
        """Give the request for llama-server's `/completion`: one token, and the logits of all."""
        return {
            "prompt": list(self.tokens),
            "n_predict": 1,
            "n_probs": VOCABULARY,
            "temperature": 0.0,
            # Always this letter is chosen, whose answer the server never holds back as half a character or as
            # an end; the logits that come back are those before any choice.
            "logit_bias": [[LETTER, 1000.0]],
            "cache_prompt": self.reuse,
            "id_slot": 0,
        }


def tokens() -> list[int]:
    """Give the tokens of the longest question: repeatable, and of every byte."""
    state, made = 12345, [1]
    while len(made) < PROMPT_LENGTH + FORCED:
        state = (state * 1103515245 + 12345) & 0x7FFFFFFF
        made.append(3 + (state >> 8) % 256)
    return made


def questions() -> Iterator[Question]:
    """Give the questions in order: the prompt at once, one token after the other, all at once again.

    The tokens that follow are given, not those the model would choose: so one near tie cannot send two honest
    backends on different ways.
    """
    given = tuple(tokens())
    yield Question("prompt in micro-batches", given[:PROMPT_LENGTH], False)
    for more in range(1, FORCED + 1):
        yield Question(f"token {more} alone", given[: PROMPT_LENGTH + more], True)
    yield Question("all in micro-batches", given, False)


def logits(answer: Any) -> list[float] | None:
    """Take the log-probabilities, by token, off llama-server's answer; None: they are not there."""
    try:
        listed = answer["completion_probabilities"][0]["top_logprobs"]
        found = {int(entry["id"]): float(entry["logprob"]) for entry in listed}
        return [found[token] for token in range(VOCABULARY)]
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def distance(expected: Sequence[float], found: Sequence[float]) -> float:
    """Give the normalised mean squared error of logits; what lifts them all alike is left out of account."""
    if len(expected) != len(found) or not all(math.isfinite(value) for value in found):
        return math.inf
    mean_e, mean_f = sum(expected) / len(expected), sum(found) / len(found)
    apart = [(e - mean_e) - (f - mean_f) for e, f in zip(expected, found, strict=True)]
    error = sum(value * value for value in apart)
    size = sum((e - mean_e) * (e - mean_e) for e in expected)
    return error / size if size else math.inf


@dataclass(frozen=True, slots=True)
class Reference:
    """The model's file and the CPU's answers, a list of logits for each question."""

    model: Path
    answers: tuple[tuple[float, ...], ...]

    def judge(self, number: int, answer: Any) -> tuple[float, str]:
        """Compare an answer; give the distance, and what is wrong or an empty text."""
        found = logits(answer)
        if found is None:
            return math.inf, "no probabilities came back"
        off = distance(self.answers[number], found)
        wrong = f"the logits are off by {off:.3g}, {TOLERANCE} is allowed" if not off <= TOLERANCE else ""
        return off, wrong


def load(folder: str) -> Reference | None:
    """Read the reference of an image; None where the image has none."""
    place = Path(folder)
    try:
        data: Mapping[str, Any] = json.loads((place / ANSWER).read_text(encoding="utf-8"))
        answers = tuple(tuple(float(value) for value in row) for row in data["answers"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    asked = list(questions())
    if len(answers) != len(asked) or any(len(row) != VOCABULARY for row in answers):
        return None
    return Reference(place / MODEL, answers) if (place / MODEL).is_file() else None
