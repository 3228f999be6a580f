"""`amdserve bench`: how fast is each backend with this model, here?"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from amdserve.errors import BackendsFailedError
from amdserve.process import run as run_command
from amdserve.serve import memory, planning, state
from amdserve.serve.request import ModelLoadRequest, RunOptions
from amdserve.serve.runner import environment

TIMEOUT = 3600.0
PROMPT, GENERATED, TIMES = "512", "64", "3"


def run(model_path: str, *, as_json: bool, remember: bool) -> int:
    """Measure each backend with llama-bench: prompt and generation in tokens per second.

    Args:
        model_path: a GGUF file.
        as_json: print one JSON document.
        remember: start this model with the fastest from now on.

    Raises:
        AmdserveError: the model cannot be served, or no backend could be measured.
    """
    environ = dict(os.environ)
    planned = planning.make_plan(ModelLoadRequest(model_path=model_path), environ)
    place, _ = state.folder(environ)
    spec = planning.spec(planned, RunOptions(), place, environ)
    results = [_measure(planned, entry) for entry in spec["entries"]]
    good = [one for one in results if one["generation"]]
    if not good:
        tried = "; ".join(f"{one['backend']}: {one['detail']}" for one in results)
        raise BackendsFailedError("no backend could be measured", cause=tried, fix="amdserve doctor")
    best = max(good, key=lambda one: float(one["generation"]))
    if remember:
        memory.Memory(place, spec["about"], spec["proof"]).prefer(best["backend"])
    if as_json:
        print(
            json.dumps(
                {"model": planned.job.model.path, "results": results, "best": best["backend"]}, indent=2
            )
        )
        return 0
    print(f"{'backend':24} {'prompt t/s':>12} {'generation t/s':>15}")
    for one in results:
        row = f"{one['prompt'] or 0:12.1f} {one['generation'] or 0:15.1f}" if one in good else one["detail"]
        print(f"{one['backend']:24} {row}")
    print(f"fastest to generate: {best['backend']}" + (", now first for this model" if remember else ""))
    return 0


def _measure(planned: planning.Planned, entry: Mapping[str, Any]) -> dict[str, Any]:
    image, model = planned.job.image, planned.job.model
    name = str(entry["backend"])
    measured: dict[str, Any] = {"backend": name, "prompt": None, "generation": None, "detail": ""}
    # The binding has no bench of its own; its libraries are those of the servers, so theirs stands for it.
    owner = image.backends.get(name if entry["device"] == "gpu" else "llama-server-vulkan")
    if owner is None or not owner.folder or name == "vllm":
        return {**measured, "detail": "there is no llama-bench for it"}
    where = ["-ngl", "999"] if entry["device"] == "gpu" else ["-ngl", "0", "-dev", "none"]
    argv = [f"{owner.folder}/llama-bench", "-m", model.path, "-p", PROMPT, "-n", GENERATED, "-r", TIMES]
    print(f"measuring {name} …", file=sys.stderr)
    result = run_command([*argv, "-o", "json", *where], env=environment(entry), timeout=TIMEOUT, check=False)
    if not result.ok:
        words = result.err.strip().splitlines() or [f"exit status {result.code}"]
        return {**measured, "detail": words[-1][:200]}
    try:
        for row in json.loads(result.out):
            kind = "generation" if row["n_gen"] else "prompt"
            measured[kind] = round(float(row["avg_ts"]), 2)
            measured["detail"] = str(row.get("gpu_info") or row.get("cpu_info") or "")
    except (ValueError, KeyError, TypeError) as reason:
        return {**measured, "detail": f"llama-bench's answer cannot be read: {reason}"}
    return measured
