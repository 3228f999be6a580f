"""Two results, point by point: how many times as fast is B as A, and what differs between the two. Pure."""

from __future__ import annotations

from typing import Any

from amdserve.errors import UsageError
from amdserve.serve.bench.result import Measurement, Result

# What may differ between two machines, and is worth knowing where the numbers do.
FACTS = (
    ("gfx", "machine.gfx"),
    ("GPU", "machine.gpu"),
    ("Vulkan driver", "machine.vulkan"),
    ("ROCm", "machine.rocm"),
    ("kernel driver", "machine.kernel_driver"),
    ("kernel", "machine.kernel"),
    ("CPU", "machine.cpu"),
    ("CPUs", "machine.cpus"),
    ("clocks", "machine.clocks"),
    ("image", "image.hash"),
    ("image digest", "image.digest"),
    ("llama.cpp", "image.llama"),
    ("amdserve", "image.amdserve"),
    ("repetitions", "grid.repeat"),
)


def compare(a: Result, b: Result, names: tuple[str, str] = ("A", "B")) -> dict[str, Any]:
    """Compare two results.

    Returns:
        `points` (each with `a`, `b`, `ratio` of B to A, and `noise`: the spread of both, relative), `differs`
        (fact → both values), `only_a` and `only_b` (points without a partner), `warnings`.

    Raises:
        UsageError: they are about different models, or have no point in common.
    """
    if a.model.fingerprint != b.model.fingerprint:
        raise UsageError(
            "these results are about different models",
            cause=f"{names[0]}: {_model(a)}; {names[1]}: {_model(b)}",
            fix="measure the same file on both machines",
        )
    left, right = ({(one.backend, one.test): one for one in result.points} for result in (a, b))
    common = [key for key in left if key in right]
    if not common:
        raise UsageError(
            "these results have no point in common",
            cause=f"{names[0]}: {_settings(a)}; {names[1]}: {_settings(b)}",
            fix="measure both with the same --prompts, --generate, --depths, --flash-attn and --ubatch",
        )
    differs = {
        label: [first, second] for label, path in FACTS if (first := _at(a, path)) != (second := _at(b, path))
    }
    only = [
        [_name(one) for key, one in mine.items() if key not in other]
        for mine, other in ((left, right), (right, left))
    ]
    return {
        "schema": 1,
        "names": list(names),
        "model": a.model.model_dump(),
        "points": [_pair(left[key], right[key]) for key in common],
        "differs": differs,
        "only_a": only[0],
        "only_b": only[1],
        "warnings": _warnings(a, b, names, only),
    }


def _pair(a: Measurement, b: Measurement) -> dict[str, Any]:
    return {
        "backend": a.backend,
        "kind": a.kind,
        "tokens": a.tokens,
        "depth": a.depth,
        "flash_attn": a.flash_attn,
        "n_ubatch": a.n_ubatch,
        "a": a.rate,
        "b": b.rate,
        "ratio": round(b.rate / a.rate, 4),
        "noise": round(a.stddev / a.rate + b.stddev / b.rate, 4),
    }


def _warnings(a: Result, b: Result, names: tuple[str, str], only: list[list[str]]) -> list[str]:
    said = []
    if any(only):
        counts = " and ".join(
            f"{len(some)} only in {name}" for some, name in zip(only, names, strict=True) if some
        )
        said.append(f"not the same points were measured: {counts}; they are left out")
    for result, name in ((a, names[0]), (b, names[1])):
        if result.interrupted:
            said.append(f"{name} was stopped before its end")
    if a.grid.repeat != b.grid.repeat:
        said.append(f"repeated {a.grid.repeat} times in {names[0]}, {b.grid.repeat} times in {names[1]}")
    return said


def _at(result: Result, path: str) -> Any:
    value: Any = result
    for part in path.split("."):
        value = getattr(value, part)
    if path == "machine.clocks":  # what it happened to be meanwhile differs from run to run
        return {name: one for name, one in value.items() if name != "highest_mhz"}
    return value


def _model(result: Result) -> str:
    return f"{result.model.name}, {result.model.bytes:,} bytes, {result.model.fingerprint[:19]}"


def _settings(result: Result) -> str:
    grid = result.grid
    parts = (("prompts", grid.prompts), ("generate", grid.generate), ("depths", grid.depths))
    backends = ", ".join(one.backend for one in result.backends)
    return f"{backends}; " + ", ".join(f"{name} {list(values)}" for name, values in parts)


def _name(one: Measurement) -> str:
    return f"{one.backend}: {one.test}"
