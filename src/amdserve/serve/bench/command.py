"""`amdserve bench`: takes what was asked for apart, measures, decides, and says what came of it."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from amdserve.errors import AmdserveError, BackendsFailedError, ModelError, UsageError
from amdserve.gpu.sysroot import Sysroot
from amdserve.serve import flags, memory, planning, rights, state
from amdserve.serve.bench import candidates, choose, facts, page, table
from amdserve.serve.bench.candidates import BINARY
from amdserve.serve.bench.compare import compare
from amdserve.serve.bench.grid import Grid
from amdserve.serve.bench.measure import Bench
from amdserve.serve.bench.options import MEASURABLE
from amdserve.serve.bench.progress import Progress
from amdserve.serve.bench.result import JSON_FILE, PAGE_FILE, Result, load
from amdserve.serve.bench.schedule import count
from amdserve.serve.classify import EXIT_CODES
from amdserve.serve.logs import Log, stamp
from amdserve.serve.loop import Loop
from amdserve.serve.measured import Measured, Setting
from amdserve.serve.reference import load as load_reference
from amdserve.serve.request import ModelLoadRequest, RunOptions
from amdserve.serve.runner import House
from amdserve.serve.state import Status
from amdserve.serve.supervise import ERRORS

STOPPED = 130


def run(options: dict[str, Any]) -> int:
    """Measure, or compare; give the exit code: 0, or 130 where it was stopped before its end.

    Args:
        options: as the parser gave them.

    Raises:
        AmdserveError: wrong usage, a model that cannot be served, or no backend that could be measured.
    """
    if options["compare"]:
        return _compare(*options["compare"], as_json=options["json"])
    if not options["model_path"]:
        raise UsageError("no model was named", fix="amdserve bench /models/FILE.gguf")
    grid = _grid(options)
    out = Path(options["out"]) if options["out"] else None
    environ, place = _ready(out)
    planned, skipped = _plan(options, environ)
    if planned.job.purpose != "llm":
        grid = grid.model_copy(update={"generate": ()})
    found = _measure((planned, skipped), grid, (environ, place), options)
    if options["save"] and found.chosen:
        found = _save(found, planned, place)
    if out is not None:
        _write(out, found)
    if options["json"]:
        print(found.to_json())
    else:
        print(table.text(found))
        _say_saved(found, out)
    if found.interrupted:
        return STOPPED
    if found.points:
        return 0
    error = _nothing(found)
    if not options["json"]:
        raise error
    print(f"amdserve: error: {error}", file=sys.stderr)  # standard output has its one document
    return error.exit_code


def _compare(a: str, b: str, *, as_json: bool) -> int:
    found = compare(load(Path(a)), load(Path(b)), (a, b))
    print(json.dumps(found, indent=2) if as_json else table.compared(found))
    return 0


def _grid(options: Mapping[str, Any]) -> Grid:
    given = {name: options[name] for name in Grid.model_fields if name in options}
    if given.get("generate") == (0,):
        given["generate"] = ()
    try:
        return Grid(**given)
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        name = "ubatch" if first["loc"][0] == "n_ubatch" else str(first["loc"][0]).replace("_", "-")
        allowed = str(first["msg"]).removeprefix("Input should be ")
        raise UsageError(
            f"--{name} cannot be {first['input']!r}", cause=f"allowed: {allowed}", fix="amdserve bench --help"
        ) from None


def _ready(out: Path | None) -> tuple[dict[str, str], Path | None]:
    """Give up rights as `serve` does, so that what is written belongs to the same user; find the folders.

    Raises:
        UsageError: the folder for the result cannot be written.
    """
    rights.raise_memlock()
    first = state.candidates(os.environ)[0]
    environ, notes = rights.drop(os.environ, (first, out) if out else (first,))
    place, note = state.folder(environ)
    if place is not None:
        state.keep_caches(place, environ)
    environ.pop(flags.DEVICE_VARIABLE, None)  # what a GPU can do is asked, not what a server shall use
    # Backends and the Vulkan loader inherit it.
    os.environ.clear()
    os.environ.update(environ)
    log = Log()
    for text in (*notes, note):
        if text:
            log.say(text, "warning")
    if out is not None:
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as reason:
            raise _unwritable(out, str(reason.strerror)) from None
        if not os.access(out, os.W_OK | os.X_OK):
            raise _unwritable(out, f"uid {os.getuid()} may not write there")
    return environ, place


def _unwritable(out: Path, why: str) -> UsageError:
    fix = 'start the container with --user "$(id -u):$(id -g)", or name another --out'
    return UsageError(f"{out} cannot be written", cause=why, fix=fix)


def _plan(options: Mapping[str, Any], environ: Mapping[str, str]) -> tuple[planning.Planned, dict[str, str]]:
    """Plan as `serve` would without a saved result; give the plan, and the backends without a test and why.

    Raises:
        AmdserveError: the model cannot be served, or a name is no backend's.
    """
    wanted = options["backend"]
    unknown = [name for name in wanted if name not in ("auto", *MEASURABLE)]
    if unknown:
        cause = (
            "vLLM has a bench of its own" if unknown == ["vllm"] else f"there are: {', '.join(MEASURABLE)}"
        )
        raise UsageError(
            f"{unknown[0]} cannot be measured with {BINARY}", cause=cause, fix="amdserve bench --help"
        )
    one: Any = wanted[0] if len(wanted) == 1 else "auto"
    request = ModelLoadRequest(model_path=options["model_path"], backend=one, gpu=options["gpu"])
    planned = planning.make_plan(request, environ)
    if planned.job.model.format != "gguf":
        raise ModelError(
            f"{planned.job.model.path} is no GGUF model",
            cause=f"{BINARY} measures nothing else; vLLM has a bench of its own",
            fix="docker run … --entrypoint /usr/local/bin/vllm IMAGE bench serve --help",
        )
    if "," in planned.job.model.path:
        raise UsageError(
            f"{planned.job.model.path} has a comma in its path",
            cause=f"{BINARY} takes it for two",
            fix="rename it",
        )
    skipped = dict(planned.plan.skipped)
    if "auto" not in wanted:
        skipped |= {
            e.backend: "others were asked for" for e in planned.plan.entries if e.backend not in wanted
        }
    return planned, skipped


def _measure(
    plan: tuple[planning.Planned, Mapping[str, str]],
    grid: Grid,
    where: tuple[Mapping[str, str], Path | None],
    options: Mapping[str, Any],
) -> Result:
    (planned, skipped), (environ, place) = plan, where
    spec = planning.spec(planned, RunOptions(selftest=options["selftest"]), place, environ)
    found, none = candidates.find(planned, spec["entries"], grid, without=tuple(skipped))
    machine = facts.machine(planned, environ)
    model, image = facts.model(planned.job.model), facts.image(planned.job.image, options["image_digest"])
    clock = facts.ClockWatch(planned.plan.gpu, Sysroot.from_environ(environ))
    begun, date = time.monotonic(), stamp()
    with Loop() as loop:
        reference = load_reference(spec["reference"]) if spec["reference"] else None
        kept = memory.Memory(place, spec["about"], spec["proof"])
        house = House(spec, loop, Log(), Status(None, port=0, host=""), kept, reference, None)
        total = sum(count(one.turn.pending) for one in found)
        measuring = Bench(house, found, grid, Progress(total, grid.budget), clock.look)
        measuring.run()
    chosen = choose.decide(grid, measuring.points, [one.name for one in found])
    return Result(
        date=date,
        seconds=round(time.monotonic() - begun, 1),
        model=model,
        image=image,
        machine=machine.model_copy(update={"clocks": {**machine.clocks, **clock.seen}}),
        grid=grid,
        backends=measuring.backends(),
        skipped={**skipped, **none},
        points=tuple(measuring.points),
        failures=tuple(measuring.failures),
        left=tuple(measuring.left),
        order=tuple(one.backend for one in chosen),
        chosen=chosen,
        interrupted=measuring.stopped,
    )


def _save(found: Result, planned: planning.Planned, place: Path | None) -> Result:
    if place is None:
        raise UsageError(
            "nothing can be saved",
            cause="no folder for state can be written",
            fix="mount a volume at /var/lib/amdserve",
        )
    made = Measured(
        found.date[:10],
        {
            one.backend: Setting(one.flash_attn, one.n_ubatch, one.prefill, one.generation, one.seconds)
            for one in found.chosen
        },
        tuple(one.backend for one in found.backends if one.state == "failed"),
    )
    about = planning.about(planned.job, planned.plan.gpu)
    memory.Memory(place, about, "").keep_bench(made.to_dict())
    return found.model_copy(update={"saved": True})


def _write(out: Path, found: Result) -> None:
    try:
        (out / JSON_FILE).write_text(found.to_json() + "\n", encoding="utf-8")
        (out / PAGE_FILE).write_text(page.page(found), encoding="utf-8")
    except OSError as reason:
        raise _unwritable(out, str(reason.strerror or reason)) from None


def _say_saved(found: Result, out: Path | None) -> None:
    if found.saved:
        print("\nsaved: this model is served so from now on (`amdserve serve --forget` takes it back)")
    if out is not None:
        print(f"\n{out / JSON_FILE}\n{out / PAGE_FILE}")


def _nothing(found: Result) -> AmdserveError:
    """Give the error for a bench without a number: of the class that all failures have, else the general."""
    tried = "; ".join(f"{one.backend}: {one.cls}: {one.detail}" for one in found.failures)
    tried = tried or "; ".join(f"{name}: {why}" for name, why in found.skipped.items())
    classes = {one.cls for one in found.failures}
    cls = classes.pop() if len(classes) == 1 else ""
    kind = ERRORS[cls] if cls in EXIT_CODES else BackendsFailedError
    return kind("no backend could be measured", cause=tried, fix="amdserve doctor")
