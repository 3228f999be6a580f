"""llama-bench: the command line of a job, and what its lines say. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from amdserve.serve.bench.grid import Job, Test
from amdserve.serve.bench.result import Measurement
from amdserve.serve.classify import Failure

# As many layers as any model has; older ones do not know -1 for all.
ALL_LAYERS = "999"
# llama-bench cuts a micro-batch down to the batch; this is the batch that `serve` has by default.
BATCH = 2048
# What it says each time.
LOADED = "load_backend: loaded"
_STEP = re.compile(r"llama-bench: benchmark \d+/\d+: (.+)")
_WRONG_WORD = re.compile(r"error: invalid parameter for argument: (\S+)")


class What(NamedTuple):
    """What every job of one backend has in common.

    Attributes:
        program: its llama-bench.
        model: a path, or a name on the Hub.
        hub: which of the two.
        device: `gpu` or `cpu`.
        flags: more words: the device, the way to load.
        embedding: the model embeds.
    """

    program: str
    model: str
    hub: bool
    device: str
    flags: tuple[str, ...] = ()
    embedding: bool = False


def argv(what: What, job: Job, repeat: int) -> list[str]:
    """Give the command line of a job."""
    size = job.n_ubatch
    place = (
        ("--n-gpu-layers", ALL_LAYERS)
        if what.device == "gpu"
        else ("--n-gpu-layers", "0", "--device", "none")
    )
    return [
        what.program,
        *("--hf-repo" if what.hub else "--model", what.model),
        *("--output", "jsonl", "--progress", "--repetitions", str(repeat)),
        *("--n-prompt", _list(job.counts("prefill")), "--n-gen", _list(job.counts("generation"))),
        *("--n-depth", str(job.depth), "--flash-attn", job.flash_attn),
        *(("--batch-size", str(max(BATCH, size)), "--ubatch-size", str(size)) if size else ()),
        *place,
        *what.flags,
        *(("--embeddings", "1") if what.embedding else ()),
    ]


def _list(counts: Sequence[int]) -> str:
    # Without a number it takes its own default; 0 is none.
    return ",".join(str(count) for count in counts) or "0"


def load_mode(server: Sequence[str]) -> tuple[str, ...]:
    """Give the words that load the model as the server would, of the same release."""
    words = list(server)
    at = words.index("--load-mode") if "--load-mode" in words else -1
    return tuple(words[at : at + 2]) if at >= 0 else ()


def row(line: str) -> dict[str, Any] | None:
    """Give the result that a line holds, or None for a line of another kind."""
    if not line.startswith("{"):
        return None
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) and "avg_ts" in found else None


def measurement(backend: str, job: Job, data: Mapping[str, Any]) -> Measurement | None:
    """Read a result; None where it answers no test of the job, or its numbers are none.

    Args:
        backend: whose it is.
        job: what was asked for.
        data: as `row` gave it.
    """
    try:
        kind = "generation" if data["n_gen"] else "prefill"
        tokens = int(data["n_gen"] or data["n_prompt"])
        rate, deviation = float(data["avg_ts"]), float(data["stddev_ts"])
        samples = tuple(round(float(one), 3) for one in data.get("samples_ts", ()))
        test = next(
            one
            for one in job.tests
            if (one.kind, one.tokens, one.depth) == (kind, tokens, int(data["n_depth"]))
        )
    except (KeyError, TypeError, ValueError, StopIteration):
        return None
    if not math.isfinite(rate) or rate <= 0:
        return None
    return Measurement(
        backend=backend,
        kind=test.kind,
        tokens=tokens,
        depth=test.depth,
        flash_attn=test.flash_attn,
        n_ubatch=test.n_ubatch,
        rate=round(rate, 3),
        stddev=round(deviation, 3) if math.isfinite(deviation) else 0.0,
        samples=samples,
    )


def step(line: str) -> str:
    """Give what it says that it does now (`prompt run 2/3`), or an empty text."""
    match = _STEP.match(line)
    return match[1] if match else ""


def reason(failure: Failure, lines: Iterable[str]) -> Failure:
    """Give the failure with what llama-bench alone says, in words that no server uses."""
    wrong = next((match[1] for line in lines if (match := _WRONG_WORD.search(line))), None)
    if wrong is None:
        return failure
    return Failure("usage", f"its llama-bench does not accept {wrong}", failure.exit, failure.seconds)


def last_words(lines: Iterable[str], most: int = 6) -> tuple[str, ...]:
    """Give the last lines that tell something: neither results nor progress."""
    telling = (line.strip() for line in lines if row(line) is None and not step(line))
    said = [line[:300] for line in telling if line and not line.startswith(LOADED)]
    return tuple(said[-most:])


def unanswered(job: Job, measured: Iterable[Measurement]) -> tuple[Test, ...]:
    """Give the tests of a job that have no result yet."""
    found = {one.test for one in measured}
    return tuple(test for test in job.tests if test not in found)
