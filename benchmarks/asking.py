"""A load client, and two sides that are measured in turn and compared round by round."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from fixtures import models

PATIENCE = 300.0
"""Seconds until an answer."""
LEAST = 3
"""Rounds, if they end within twice their time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One streamed answer: seconds to its first and its last token, and how many tokens."""

    first: float
    last: float
    tokens: int


def chat(address: str, prompt: str, limit: int) -> Answer:
    """Ask for one chat over a connection of its own (llama-server closes one that streamed), to its end.

    Raises:
        OSError, HTTPException: nobody answers yet.
    """
    with contextlib.closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as connection:
        return _read(connection, prompt, limit)


def _read(connection: http.client.HTTPConnection, prompt: str, limit: int) -> Answer:
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": limit, "stream": True}
    text = json.dumps({**body, "temperature": 0, "seed": 1})
    begun = time.perf_counter()
    connection.request("POST", "/v1/chat/completions", text, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    if answer.status != 200:
        raise http.client.HTTPException(f"status {answer.status}: {answer.read()[:300]!r}")
    stamps, finished = [], ""
    for line in answer:
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", ()):
            if choice.get("delta", {}).get("content"):
                stamps.append(time.perf_counter() - begun)
            finished = choice.get("finish_reason") or finished
    if finished != "length" or not stamps:
        raise http.client.HTTPException(f"an answer of {len(stamps)} pieces that ends with {finished!r}")
    return Answer(stamps[0], stamps[-1], limit)


def prompts(count: int, length: int, seed: str) -> list[str]:
    """Give prompts of so many words: the same for both sides, and new for each, so that no cache has them."""
    chance, words = random.Random(seed), models.words(256)
    return [" ".join(chance.choices(words, k=length)) for _ in range(count)]


def load(address: str, clients: int, asked: Sequence[str], limit: int) -> tuple[list[Answer], float]:
    """Ask with parallel clients; give the answers and the seconds of all."""
    shares = [asked[number::clients] for number in range(clients)]
    together = threading.Barrier(clients + 1)

    def one(share: Sequence[str]) -> list[Answer]:
        together.wait()
        return [chat(address, prompt, limit) for prompt in share]

    with ThreadPoolExecutor(clients) as pool:
        waiting = [pool.submit(one, share) for share in shares]
        together.wait()
        begun = time.perf_counter()
        answers = [answer for done in waiting for answer in done.result()]
        return answers, time.perf_counter() - begun


def rounds(seconds: float) -> Iterator[int]:
    """Count rounds while there is time for one more like the longest; two of them in any case."""
    start, longest, number = time.monotonic(), 0.0, 0
    while number < 2 or time.monotonic() - start + longest < (2 if number < LEAST else 1) * seconds:
        begun = time.monotonic()
        yield number
        longest, number = max(longest, time.monotonic() - begun), number + 1


def turns(sides: Mapping[str, Callable[[int], Any]], number: int) -> dict[str, Any]:
    """Do one round: each side once, and another one first than the round before."""
    names = list(sides)
    first = number % len(names)
    return {name: sides[name](number) for name in names[first:] + names[:first]}


def compare(what: str, unit: str, served: list[float], bare: list[float], *, limit: float) -> dict[str, Any]:
    """Compare two rows of samples, round by round; for a limit below 1 more is better, else less.

    The ratio is that of the entrypoint to the bare server for rates and starts, and the reverse for the time
    to a token: it too is then a speed.
    """
    times = unit == "ms"
    ratios = [(b / a if times else a / b) for a, b in zip(served, bare, strict=True)]
    low, ratio, high = statistics.quantiles(ratios, n=4, method="inclusive")
    met = ratio >= limit if limit < 1 else ratio <= limit
    # Of a pass as of a miss: the rounds alone do not tell which it is.
    noise = low <= limit <= high
    medians = {"served": round(statistics.median(served), 3), "bare": round(statistics.median(bare), 3)}
    spread = (max(bare) - min(bare)) / statistics.median(bare)
    return {
        "what": what, "unit": unit, **medians, "rounds": len(ratios), "ratio": round(ratio, 3),
        "quartiles": [round(low, 3), round(high, 3)], "spread": round(spread, 3), "limit": limit, "met": met,
        "noise": noise,
    }  # fmt: skip
