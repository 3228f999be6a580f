"""The heavy half of a start: from what was asked for to a plan, and to what the supervisor needs of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.errors import ModelError, UsageError
from amdserve.gpu.chain import UnifiedGPUDetector
from amdserve.gpu.models import GPU, GPUDetectionResult
from amdserve.gpu.select import choose, usable_bytes
from amdserve.gpu.sysroot import Sysroot
from amdserve.serve import image as images
from amdserve.serve import machine, measured, memory, model, plan
from amdserve.serve.flags import LIST, no_device
from amdserve.serve.line import Job
from amdserve.serve.llama import reference_command
from amdserve.serve.options import OPTIONS
from amdserve.serve.reference import ANSWER, FOLDER, MODEL, VARIABLE
from amdserve.serve.sources import Merged
from amdserve.values import dataclass

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest, RunOptions


@dataclass(frozen=True, slots=True)
class Planned:
    """A job, what was found, the plan made for it, and the saved measurement it follows, if any."""

    job: Job
    detection: GPUDetectionResult
    plan: plan.Plan
    measured: measured.Measured | None = None


def make_plan(request: ModelLoadRequest, environ: Mapping[str, str], place: Path | None = None) -> Planned:
    """Look at image, model and machine, and plan.

    Args:
        request: what is asked for.
        environ: the environment.
        place: the folder where a measurement may be saved; None uses none.

    Raises:
        AmdserveError: one of them does not allow it.
    """
    image = images.load(environ)
    try:
        found = model.inspect(request.model_path)
    except ModelError as reason:
        raise _with_rights(reason, request.model_path) from None
    for name in ("mmproj", "api_key_file"):
        file = getattr(request, name)
        if file is not None and not os.access(file, os.R_OK):
            cause = f"uid {os.getuid()} may not read it" if Path(file).exists() else "it is not there"
            raise UsageError(
                f"{name} cannot be read: {file}", cause=cause, fix="check the mount and its rights"
            )
    sysroot = Sysroot.from_environ(environ)
    detection = UnifiedGPUDetector(sysroot, environ, request.vendor).detect()
    choice = choose(detection, index=request.gpu, vendor=request.vendor, environ=environ, sysroot=sysroot)
    facts = machine.look(environ)
    usable = usable_bytes(choice.gpu, sysroot) if choice.gpu else 0
    job = Job(request, found, image, facts)
    saved = _saved(job, choice.gpu, place)
    return Planned(
        job, detection, plan.make(job, detection, (choice.gpu, choice.reason), usable, saved), saved
    )


def about(job: Job, gpu: GPU | None) -> str:
    """Name what a memory of this model here is about: model, gfx, driver and image."""
    gfx, driver = (gpu.gfx, gpu.driver) if gpu else (None, None)
    return memory.key(job.model.path, job.model.digest, gfx, driver, job.image.hash)


def _saved(job: Job, gpu: GPU | None, place: Path | None) -> measured.Measured | None:
    """Give what was measured and saved; it holds for a model that is on the GPU whole."""
    if place is None or job.request.n_gpu_layers >= 0:
        return None
    if no_device(job.request.extra_args, job.machine.environ):
        return None
    return measured.read(memory.Memory(place, about(job, gpu), "").bench())


def dry_run(planned: Planned) -> dict[str, Any]:
    """Give what `serve --dry-run --json` prints."""
    made = planned.plan
    return {
        "request": planned.job.request.model_dump(mode="json"),
        "model": planned.job.model.to_dict(),
        "detection": planned.detection.to_dict(),
        "plan": [entry.to_dict() for entry in made.entries],
        "skipped": made.skipped_dicts(),
        "gpu": {"index": made.gpu.index if made.gpu else None, "reason": made.gpu_reason},
        "memory": made.fit.to_dict(),
        **({"measured": planned.measured.to_dict()} if planned.measured else {}),
    }


def explain(merged: Merged, request: ModelLoadRequest, options: RunOptions) -> str:
    """Give one line for each option: its value and where it came from."""
    lines = []
    for option in OPTIONS:
        value = getattr(request if option.group == "model" else options, option.name)
        lines.append(f"{option.name:18} {value!s:28} {merged.origins.get(option.name, 'default')}")
    extra = " ".join(request.extra_args) or "-"
    lines.append(f"{'extra_args':18} {extra:28} {merged.origins.get('extra_args', 'default')}")
    return "\n".join(lines)


def describe(planned: Planned) -> list[str]:
    """Give the plan in words, for the log."""
    found, made = planned.job.model, planned.plan
    size = f", {found.bytes / 2**30:.2f} GiB" if found.bytes else ""
    lines = [
        f"model: {found.path} ({found.architecture or 'unknown'} {found.quant or ''}{size}, {found.purpose})"
    ]
    lines += [f"model: {note}" for note in found.notes]
    lines.append(f"GPU: {made.gpu_reason}")
    lines.append(f"memory: {made.fit.say()}")
    if planned.measured:
        lines.append(
            f"plan: as `amdserve bench` measured it on {planned.measured.date} (--forget takes it back)"
        )
    lines += [
        f"plan: {number}. {entry.backend}: {entry.reason}" for number, entry in enumerate(made.entries, 1)
    ]
    lines += [f"plan: without {name}: {reason}" for name, reason in made.skipped]
    return lines


def spec(
    planned: Planned, options: RunOptions, place: Path | None, environ: Mapping[str, str]
) -> dict[str, Any]:
    """Give what the supervisor needs, as JSON; no secret is in it, only the names of files that hold them."""
    request, found, image = planned.job.request, planned.job.model, planned.job.image
    made = planned.plan
    folder = reference_folder(image, environ)
    driver = made.gpu.driver if made.gpu else None
    gfx = made.gpu.gfx if made.gpu else None
    entries = []
    for entry in made.entries:
        is_llama = entry.backend.startswith("llama-server")
        backend = image.backends[entry.backend]
        entries.append(
            {
                "backend": entry.backend,
                "reason": entry.reason,
                "program": list(backend.argv),
                "argv": entry.command.argv,
                "env": entry.command.env,
                "unset": list(entry.command.unset),
                "env_files": entry.command.env_files,
                "notes": entry.command.notes,
                "device": entry.device,
                "device_name": _device_name(made.gpu) if entry.device == "gpu" else "CPU",
                "probe": entry.probe,
                "hints": list(entry.hints),
                "ordinal": _ordinal(planned),
                "reference_argv": reference_command(
                    measured.apply(planned.measured, planned.job, entry.backend),
                    backend,
                    Path(folder) / MODEL,
                )
                if is_llama and entry.device == "gpu" and folder
                else None,
                "offload": entry.offload and is_llama and not _log_level_changed(request.extra_args),
                "lists_devices": is_llama and backend.help.has(LIST),
                "slots": is_llama and "--no-slots" not in request.extra_args,
                "asks": planned.job.purpose if is_llama else None,
            }
        )
    return {
        "schema": 1,
        "host": request.host,
        "port": request.port,
        "model": found.path,
        "about": about(planned.job, made.gpu),
        "proof": memory.key(gfx, driver, image.hash, *_attention(planned)),
        "reference": folder,
        "require_gpu": request.require_gpu,
        "api_key_file": request.api_key_file,
        "advice": made.fit.advice,
        "state_dir": str(place) if place else None,
        "measured": planned.measured.to_dict() if planned.measured else None,
        "detect": round(sum(attempt.ms for attempt in planned.detection.attempts) / 1e3, 3),
        "entries": entries,
        **options.model_dump(),
    }


def reference_folder(image: images.Image, environ: Mapping[str, str]) -> str | None:
    """Give the folder of the reference model and the CPU's answers; None where the image has none."""
    folder = environ.get(VARIABLE) or str(image.data.get("reference") or FOLDER)
    return folder if (Path(folder) / ANSWER).is_file() else None


def _attention(planned: Planned) -> tuple[str, ...]:
    """Give the flash attention that backends are proven with: it decides which kernels run."""
    jobs = (measured.apply(planned.measured, planned.job, one.backend) for one in planned.plan.entries)
    found = tuple(job.request.flash_attn for job in jobs)
    return found[:1] if len(set(found)) == 1 else found


def _ordinal(planned: Planned) -> int:
    """Count the GPUs of the chosen one's kind that stand before it."""
    gpu = planned.plan.gpu
    if gpu is None:
        return 0
    return sum(one.gfx == gpu.gfx and one.index < gpu.index for one in planned.detection.gpus)


def _device_name(gpu: GPU | None) -> str:
    return gpu.name if gpu else "a GPU"


def _log_level_changed(extra: tuple[str, ...]) -> bool:
    return bool({"-lv", "--verbosity", "--log-verbosity", "--log-disable", "--log-file"} & set(extra))


def _with_rights(reason: ModelError, path: str) -> ModelError:
    """Name the user where a model is there and only its permissions forbid to read it."""
    if "Permission denied" in reason.cause:
        return ModelError(
            reason.what,
            cause=f"{reason.cause} for uid {os.getuid()}",
            fix=f"on the host: chmod a+rX {path} (and its folders), or start the container with --user",
        )
    return reason
