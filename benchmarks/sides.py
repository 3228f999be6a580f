"""One server through the entrypoint and the same one by hand, asked in turn and started in turn."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from asked import Asked
from asking import PATIENCE, chat, load, prompts, rounds, turns
from fixtures import models

from amdserve.image import show

MODEL, STATE = "/models/llama.gguf", "/var/lib/amdserve"
VULKAN, PYTHON = "llama-server-vulkan", "llama-cpp-python"
SHAPE = models.Shape(layers=9, width=512, heads=8, feed_forward=1536)
LARGE = models.Shape(layers=20, width=2048, heads=16, feed_forward=5632)
SMALL = models.Shape(layers=6, width=256, heads=4, feed_forward=768)
USER = "10001:10001"
# The client gets a core of its own: it would elsewhere have another machine.
THREADS = max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True)
class Case:
    """A backend on a device, and what is asked of it.

    `words` and `extra` are of `amdserve serve`; `prompt` is in words, `answer` in tokens; `checked`: a start
    without state computes the reference first; `loads`: without, only starts are measured.
    """

    name: str
    backend: str
    words: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    lavapipe: bool = False
    prompt: int = 16
    answer: int = 24
    clients: int = 4
    checked: bool = False
    loads: bool = True
    shape: models.Shape = SHAPE

    @property
    def options(self) -> tuple[str, ...]:
        """Give the words of `amdserve serve` before `--`."""
        return (*self.words, "--threads", str(THREADS))


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds for each case's load, starts and llama-bench; how often both sides are started for the load."""

    load: float
    starts: float
    bench: float
    pairs: int


FULL, QUICK = Budget(120, 45, 25, 16), Budget(20, 15, 10, 2)


@dataclass(slots=True)
class Place(ABC):
    """Where both sides run, and what they share; `servers` are those that run there."""

    servers: list[Asked] = field(default_factory=list, init=False)

    @abstractmethod
    def served(self, case: Case, state: Path | None) -> Asked:
        """Start the entrypoint, with a folder for its state or without."""

    @abstractmethod
    def bare(self, case: Case, argv: Sequence[str], environment: dict[str, str]) -> Asked:
        """Start the server by hand."""

    def clear(self) -> None:
        """Take every server away."""
        while self.servers:
            self.servers.pop().remove()


def command(server: Asked, case: Case) -> tuple[list[str], dict[str, str]]:
    """Give the command line of the backend that serves, as its process has it, and what it adds to the
    environment.
    """
    code, text = server.exec("amdserve", "serve", MODEL, *case.options, "--dry-run", "--json", *case.extra)
    assert code == 0, text
    entry = next(one for one in json.loads(text)["plan"] if one["backend"] == case.backend)
    head = " ".join(entry["argv"][:3])
    line = next(line for line in server.processes().values() if line.startswith(head))
    return line.split(), entry["env"]


# What a round gives, and its unit.
LOADS = {
    "prompt": "t/s",
    "generation": "t/s",
    "first token": "ms",
    "parallel": "t/s",
    "first token, parallel": "ms",
    "parallel, per second of CPU": "t",
}


def ask(server: Asked, case: Case, per_word: float, number: int) -> dict[str, float]:
    """Put one round of the load on a server."""
    address, seed = where(server), str(number)
    long, single = prompts(2, 4 * case.prompt, seed + "a"), prompts(3, case.prompt, seed + "b")
    read, seconds = load(address, 1, long, 1)
    alone, _ = load(address, 1, single, case.answer)
    before = server.computed()
    many, wall = load(address, case.clients, prompts(case.clients, case.prompt, seed + "c"), case.answer)
    computed = server.computed() - before
    assert len(read) == len(long)
    spent = sum(one.last - one.first for one in alone)
    return {
        "prompt": len(long) * 4 * case.prompt * per_word / seconds,
        "generation": sum(one.tokens - 1 for one in alone) / spent,
        "first token": statistics.median(one.first for one in alone) * 1e3,
        "parallel": sum(one.tokens for one in many) / wall,
        "first token, parallel": statistics.median(one.first for one in many) * 1e3,
        "parallel, per second of CPU": sum(one.tokens for one in many) / computed,
    }


def where(server: Asked) -> str:
    """Give host and port of a server."""
    return server.url.removeprefix("http://")


def per_word(server: Asked) -> float:
    """Give the tokens of one word of a prompt, as the server counts them."""
    counts = []
    for prompt in prompts(1, 2, "x") + prompts(1, 4, "x"):
        message = [{"role": "user", "content": prompt}]
        counts.append(server.post("/v1/chat/completions", messages=message, max_tokens=1)["usage"])
    return float(counts[1]["prompt_tokens"] - counts[0]["prompt_tokens"]) / 2


def first_answer(server: Asked, begun: float) -> float:
    """Give the seconds from a moment to the first complete answer."""
    address = where(server)
    while True:
        try:
            chat(address, "Hello", 4)
            return time.monotonic() - begun
        except (OSError, http.client.HTTPException):
            if time.monotonic() - begun > PATIENCE or not server.running():
                raise
        time.sleep(0.01)


def measure(place: Place, case: Case, budget: Budget, model: Path) -> dict[str, Any]:
    """Measure one case; give its samples, round by round.

    Args:
        place: where.
        case: what.
        budget: for how long.
        model: the file to write, which the servers find at `MODEL`.
    """
    models.write_llama(model, shape=case.shape).chmod(0o644)
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        state.chmod(0o1777)
        try:
            show.say(f"{case.name}: looking at its command line")
            through = place.served(case, state).wait_for(case.backend, PATIENCE)
            bare = argv, environment = command(through, case)
            place.clear()
            loads = _loads(place, case, state, bare, budget) if case.loads else {"rounds": []}
            show.say(f"{case.name}: starting in turn")
            starts, phases = _starts(place, case, state, bare, budget.starts)
        finally:
            place.clear()
    return {
        "name": case.name,
        "argv": argv,
        "environment": environment,
        "load": loads,
        "starts": starts,
        "phases": phases,
        "parameters": model.stat().st_size // 4,
    }


def _loads(
    place: Place, case: Case, state: Path, bare: tuple[list[str], dict[str, str]], budget: Budget
) -> dict[str, Any]:
    """Ask several pairs of servers, each in turn; give what was asked, and the rounds."""
    tokens, found = 0.0, []
    starts = {
        "served": lambda: place.served(case, state).wait_for(case.backend, PATIENCE),
        "bare": lambda: place.bare(case, *bare).wait(PATIENCE),
    }
    for pair in range(budget.pairs):
        names = list(starts) if pair % 2 else list(starts)[::-1]
        servers = {name: starts[name]() for name in names}
        # Compiles what is still to be compiled, and does not count.
        turns({name: partial(ask, server, case, 1) for name, server in servers.items()}, -1)
        tokens = tokens or per_word(servers["bare"])
        show.say(f"{case.name}: asking both in turn, pair {pair + 1} of {budget.pairs}")
        sides = {name: partial(ask, server, case, tokens) for name, server in servers.items()}
        found += [turns(sides, number) for number in rounds(budget.load / budget.pairs)]
        place.clear()
    return {
        "prompt_words": case.prompt,
        "tokens_per_word": tokens,
        "answer_tokens": case.answer,
        "clients": case.clients,
        "pairs": budget.pairs,
        "rounds": found,
    }


def _starts(
    place: Place, case: Case, state: Path, bare: tuple[list[str], dict[str, str]], seconds: float
) -> tuple[list[dict[str, float]], dict[str, dict[str, float]]]:
    """Start in turn; give the seconds of each round, and the median phases of the entrypoint's starts."""
    seen: dict[str, list[dict[str, float]]] = {"kept": [], "fresh": []}

    def start(name: str, _: int) -> float:
        begun = time.monotonic()
        if name == "bare":
            server = place.bare(case, *bare)
        else:
            server = place.served(case, state if name == "kept" else None)
        took = first_answer(server, begun)
        if name != "bare":
            seen[name].append(server.status()["phases"])
        place.clear()
        return took

    names = ("bare", "kept", "fresh") if case.checked else ("bare", "kept")
    found = []
    for number in rounds(seconds):
        found.append(turns({name: partial(start, name) for name in names}, number))
    phases = {}
    for name, told in seen.items():
        every = list(dict.fromkeys(phase for one in told for phase in one))
        phases[name] = {
            phase: round(statistics.median(one.get(phase, 0.0) for one in told), 3) for phase in every
        }
    return found, {name: one for name, one in phases.items() if one}
