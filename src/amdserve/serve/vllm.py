"""vLLM's command: `vllm serve` with what was asked for, in the words of the release that the image holds.

What is emitted, flags and variables, stands in `FLAGS` and in `vllm_environment.VARIABLES`: both are held
against the pinned release's own source.
"""

from __future__ import annotations

from collections.abc import Sequence

from amdserve.gpu.models import GPU
from amdserve.serve import vllm_parsers
from amdserve.serve.image import Backend
from amdserve.serve.line import Command, Job, Line, Refused
from amdserve.serve.vllm_environment import environment, leave_behind

FLAGS = frozenset(
    {
        "--attention-backend", "--disable-access-log-for-endpoints", "--enable-auto-tool-choice",
        "--gpu-memory-utilization", "--host", "--max-model-len", "--max-num-batched-tokens", "--max-num-seqs",
        "--pooler-config", "--port", "--reasoning-parser", "--runner", "--served-model-name",
        "--shutdown-timeout", "--tensor-parallel-size", "--tool-call-parser",
    }
)  # fmt: skip

# vLLM aborts what it answers when it is told to end, unless it is given time; how long it really gets is for
# the supervisor to say, which ends it after that.
DRAIN_SECONDS = 600
POOLINGS = {"mean": "MEAN", "cls": "CLS", "last": "LAST"}
# Said after `--`, one of them decides how many GPUs serve, and together how.
PARALLEL = frozenset(
    {
        "--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp", "--data-parallel-size", "-dp",
    }
)  # fmt: skip
IGNORED = frozenset(
    {"n_ubatch", "n_gpu_layers", "flash_attn", "mlock", "threads", "mmproj", "cont_batching"}
)  # fmt: skip


def command(job: Job, backend: Backend, gpus: Sequence[GPU], usable: int = 0) -> Command:
    """Make vLLM's command.

    Args:
        job: what is served, from what image, on what machine.
        backend: vLLM, as the image describes it.
        gpus: the GPUs to serve on, all alike, the chosen one first; none for a build for the CPU.
        usable: bytes that the model can have on one of them; 0 where that is not known.

    Raises:
        Refused: it cannot do what was asked for.
        UsageError: a variable or flag of an older vLLM has a value that nothing of today stands for.
    """
    request, model = job.request, job.model
    made = Command([*backend.argv, model.path])
    line = Line(made, backend, request)
    line.add("", "--host", request.host)
    line.add("", "--port", request.port)
    _length(job, line)
    if request.parallel is not None:
        line.add("parallel", "--max-num-seqs", request.parallel)
    if "n_batch" in request.model_fields_set:
        line.add("n_batch", "--max-num-batched-tokens", request.n_batch)
    if request.alias:
        line.add("alias", "--served-model-name", request.alias)
    if job.purpose == "llm":
        _parsers(job, line)
    else:
        _pooling(job, line)
    if len(gpus) > 1 and not split_by_hand(request.extra_args):
        line.add("", "--tensor-parallel-size", len(gpus))
    share = memory_share(gpus[0], usable) if gpus else None
    if share is not None:
        line.add("fit_memory", "--gpu-memory-utilization", f"{share:.2f}")
    attention, made.unset, notes = leave_behind(job.machine.environ, request.extra_args)
    made.notes += notes
    if attention:
        line.add("", "--attention-backend", attention)
    for flag, value in (
        ("--shutdown-timeout", str(DRAIN_SECONDS)),
        ("--disable-access-log-for-endpoints", "/health"),
    ):
        if line.has(flag):
            line.add("", flag, value)
    _notes(job, made)
    if request.api_key_file:
        made.env_files["VLLM_API_KEY"] = request.api_key_file
    made.argv += request.extra_args
    made.env.update(environment(job, gpus))
    made.unset = tuple(name for name in (*made.unset, *_strangers(job)) if name not in made.env)
    return made


def _length(job: Job, line: Line) -> None:
    request, own = job.request, job.model.context
    if request.fit_memory and "n_ctx" not in request.model_fields_set:
        line.add("fit_memory", "--max-model-len", "auto")
        return
    limit = min(request.n_ctx, own) if own and request.n_ctx else request.n_ctx
    if limit:
        line.add("n_ctx", "--max-model-len", limit)


def _parsers(job: Job, line: Line) -> None:
    """Add what reads thoughts and tool calls out of the model's text, as its chat template tells."""
    found = vllm_parsers.choose(job.model)
    if job.request.reasoning_format != "none" and found.reasoning:
        line.add("", "--reasoning-parser", found.reasoning)
    if not job.request.jinja:
        return
    if found.tools:
        line.add("", "--enable-auto-tool-choice")
        line.add("", "--tool-call-parser", found.tools)
    elif found.note:
        line.command.notes.append(found.note)


def _pooling(job: Job, line: Line) -> None:
    line.add("", "--runner", "pooling")
    asked = job.request.pooling
    if asked is None or job.purpose == "rerank":
        return
    if asked not in POOLINGS:
        raise Refused(f"it pools by {', '.join(POOLINGS)}, not by {asked}")
    line.add("pooling", "--pooler-config", f'{{"pooling_type": "{POOLINGS[asked]}"}}')


def _notes(job: Job, made: Command) -> None:
    unused = sorted(IGNORED & job.request.model_fields_set)
    if job.request.n_gpu_layers == 0 and "n_gpu_layers" in unused:
        raise Refused("it has no layers on the CPU (n_gpu_layers 0)")
    if unused:
        made.notes.append(f"vLLM has nothing like {', '.join(unused)}: ignored")


def _strangers(job: Job) -> tuple[str, ...]:
    """Name the variables of the image that mean llama.cpp's ROCm, where vLLM brings its own."""
    own = job.image.data.get("vllm") or {}
    return ("ROCM_PATH", "HIP_PATH") if own and not own.get("rocm_prefix") else ()


def memory_share(gpu: GPU, usable: int) -> float | None:
    """Give the share of an APU's memory that vLLM may take; None for a card, whose memory is its own.

    vLLM takes its share of all that the device calls its own at once, and on an APU that is memory which the
    system, and vLLM's own processes beside the GPU, live in too.

    Args:
        gpu: the device.
        usable: bytes that a model can have there.
    """
    whole = gpu.vram_bytes + gpu.gtt_bytes
    if not gpu.integrated or not usable or not whole:
        return None
    spared = max(4 << 30, usable // 8)
    return max(0.05, min(0.9, int((usable - spared) / whole * 100) / 100))


def alike(chosen: GPU, gpus: Sequence[GPU], heads: int | None) -> list[GPU]:
    """Give the GPUs that one model can be split over: as many like the chosen one as divide its heads.

    Args:
        chosen: the GPU that would serve alone.
        gpus: every GPU that may be used.
        heads: attention heads of the model; None where they are not known, and then nothing is split.
    """
    if chosen.integrated or not heads:
        return [chosen]
    together = equals(chosen, gpus)
    count = next(count for count in range(len(together), 0, -1) if heads % count == 0)
    return together[:count] if count > 1 else [chosen]


def equals(chosen: GPU, gpus: Sequence[GPU]) -> list[GPU]:
    """Give every GPU of the chosen one's kind, itself among them, by their index."""
    kind = (chosen.vendor, chosen.gfx, chosen.vram_bytes)
    others = [gpu for gpu in gpus if gpu != chosen and (gpu.vendor, gpu.gfx, gpu.vram_bytes) == kind]
    return sorted([chosen, *others], key=lambda gpu: gpu.index)


def split_by_hand(extra: Sequence[str]) -> bool:
    """Tell whether what goes to vLLM unchanged says how the model is spread over GPUs."""
    return any(part.split("=", 1)[0].replace("_", "-") in PARALLEL for part in extra)


def check_gfx(gpu: GPU, image_gfx: Sequence[str], version: str) -> None:
    """Refuse a GPU that the image's vLLM holds no code for.

    Raises:
        Refused: it holds none; the text says for which it does.
    """
    if gpu.vendor == "amd" and gpu.gfx not in image_gfx:
        built = ", ".join(image_gfx) or "no target"
        raise Refused(f"vLLM {version} of this image is built for {built}, and {gpu.name} is {gpu.gfx}")
