"""The command of llama-server, on Vulkan, on ROCm, or with `--device none` on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from amdserve.gpu.models import GPU
from amdserve.serve.environment import rocm_environment, vulkan_driver
from amdserve.serve.flags import SPLITTING
from amdserve.serve.image import Backend
from amdserve.serve.line import MEMLOCK_FIX, Command, Device, Job, Line, Refused
from amdserve.serve.reference import FLAGS

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest

# At this level llama-server says how many layers went to the GPU; below it the line is not printed. It says
# much more at it, for each request, so it is asked for only where something shall be on a GPU.
LOG_LEVEL = "4"


def llama_server(job: Job, backend: Backend, device: Device, gpu: GPU | None = None) -> Command:
    """Make the command of `llama-server-vulkan` or `llama-server-rocm`.

    Args:
        job: what is served, and where.
        backend: which binary, with its help.
        device: `gpu`, or `cpu` for `--device none`.
        gpu: the GPU chosen; None on the CPU, or where only the driver knows it.

    Raises:
        Refused: its binary lacks a flag that was asked for.
    """
    request, model = job.request, job.model
    command = Command(list(backend.argv))
    line = Line(command, backend, request)
    line.add("", "--hf-repo" if model.hub else "--model", model.path)
    line.add("", "--host", request.host)
    line.add("", "--port", request.port)
    line.add("n_ctx", "--ctx-size", request.n_ctx)
    line.add("n_batch", "--batch-size", request.n_batch)
    line.add("n_ubatch", "--ubatch-size", request.n_ubatch)
    if device == "cpu":
        line.add("", "--device", "none")
    _layers(line, request, device)
    _flash_attention(line, request)
    line.add("fit_memory", "--fit", "on" if request.fit_memory else "off")
    _locking(line, job, device)
    line.add("cont_batching", "--cont-batching" if request.cont_batching else "--no-cont-batching")
    _purpose(line, job)
    _kept_prompts(line, job, device)
    for name, flag in (("threads", "--threads"), ("parallel", "--parallel"), ("mmproj", "--mmproj")):
        value = getattr(request, name)
        if value is not None:
            line.add(name, flag, value)
    if request.alias:
        line.add("alias", "--alias", request.alias)
    if request.api_key_file:
        line.add("api_key_file", "--api-key-file", request.api_key_file)
    if device == "gpu" and request.offloads and line.has("--log-verbosity"):
        line.add("log", "--log-verbosity", LOG_LEVEL)
    command.argv += request.extra_args
    _environment(job, command, backend, device, gpu)
    return command


def reference_command(job: Job, backend: Backend, model: Path, device: Device = "gpu") -> list[str]:
    """Make the command with which a backend computes the reference model; the address is still to be added.

    Args:
        job: whose flash attention is used: it decides which kernels run.
        backend: which binary.
        model: the reference model's file.
        device: `gpu`, or `cpu` for `--device none`.
    """
    command = Command(list(backend.argv))
    # What the user gave after `--` is for his model, not for this one.
    line = Line(command, backend, job.request.model_copy(update={"extra_args": ()}))
    line.add("", "--model", model)
    command.argv += FLAGS
    if device == "cpu":
        line.add("", "--device", "none")
    _layers(line, job.request.model_copy(update={"n_gpu_layers": -1}), device)
    _flash_attention(line, job.request)
    line.add("fit_memory", "--fit", "off")
    if device == "gpu" and line.has("--log-verbosity"):
        line.add("log", "--log-verbosity", LOG_LEVEL)
    return command.argv


def _layers(line: Line, request: ModelLoadRequest, device: Device) -> None:
    if device == "cpu":
        line.add("", "--n-gpu-layers", 0)
        return
    # A server older than the word `all` takes any number above the model's own for it.
    everything = "all" if "'all'" in line.help.describes("--n-gpu-layers") or not line.help.known else "999"
    line.add(
        "n_gpu_layers", "--n-gpu-layers", everything if request.n_gpu_layers < 0 else request.n_gpu_layers
    )


def _flash_attention(line: Line, request: ModelLoadRequest) -> None:
    text = line.help.describes("--flash-attn")
    if line.help.known and text and "auto" not in text:
        # Once it was a switch, off unless given; it had no `auto`.
        if request.flash_attn == "on":
            line.add("flash_attn", "--flash-attn")
        return
    line.add("flash_attn", "--flash-attn", request.flash_attn)


def _kept_prompts(line: Line, job: Job, device: Device) -> None:
    """Have no prompts kept in memory where a GPU would give them back in far too many pieces.

    Without flash attention the values of a context lie transposed, and what belongs to one client is read
    number by number, each a round trip to the GPU, while nobody is answered. After four parallel clients an
    H100 did so for 37 s a client with a model of 31 million parameters, for over 100 s with a larger one.
    """
    request = job.request
    if device != "gpu" or not request.offloads or job.purpose != "llm" or request.flash_attn != "off":
        return
    chosen = "--flash-attn" in line.extra or "LLAMA_ARG_CACHE_RAM" in job.machine.environ
    if not chosen and line.has("--cache-ram"):
        line.add("", "--cache-ram", 0)


def _locking(line: Line, job: Job, device: Device) -> None:
    """Say `mlock` in the binary's words, or in none where the limit forbids it."""
    if {"--load-mode", "--mlock", "--no-mmap"} & line.extra or not job.request.mlock:
        return
    modern = line.has("--load-mode")
    if not job.lockable:
        limit = f"{(job.machine.memlock or 0) / 2**20:.0f} MiB"
        line.command.notes.append(
            f"the model is not locked in memory: the limit is {limit}. Start the container with {MEMLOCK_FIX}"
        )
        # A mapped file is what makes large models hang while they load onto a GPU; `none` reads instead.
        if device == "gpu":
            line.command.argv += ["--load-mode", "none"] if modern else ["--no-mmap"]
        return
    if modern:
        line.command.argv += ["--load-mode", "mlock"]
    elif line.has("--mlock"):
        line.command.argv += ["--mlock"]
    elif "mlock" in line.given:
        raise Refused("it has neither --load-mode nor --mlock, needed for mlock")


def _purpose(line: Line, job: Job) -> None:
    request, model, kind = job.request, job.model, job.purpose
    if kind == "rerank":
        line.add("", "--rerank")
        return
    if kind == "embedding":
        line.add("", "--embedding")
        if request.pooling:
            line.add("pooling", "--pooling", request.pooling)
        elif model.pooling in (None, "none", "rank") and not model.hub:
            # Without one, a vector for every token comes back, which no OpenAI client can read.
            line.add("pooling", "--pooling", "mean")
        return
    line.add("jinja", "--jinja" if request.jinja else "--no-jinja")
    line.add("reasoning_format", "--reasoning-format", request.reasoning_format)
    if request.pooling:
        line.add("pooling", "--pooling", request.pooling)


def _environment(job: Job, command: Command, backend: Backend, device: Device, gpu: GPU | None) -> None:
    if backend.name == "llama-server-rocm":
        # Who splits a model over several GPUs himself must see them all.
        one = None if SPLITTING & set(job.request.extra_args) else gpu
        command.env.update(rocm_environment(job.image, one, job.machine.environ))
        command.unset = ("CUDA_VISIBLE_DEVICES",)
        return
    if device == "cpu":
        # The Vulkan loader would still load every driver, and a broken one can take the server down with it.
        command.env["VK_LOADER_DRIVERS_DISABLE"] = "*"
        return
    icd = vulkan_driver(job.image, job.machine, gpu.vendor if gpu else None)
    if icd:
        command.env["VK_DRIVER_FILES"] = command.env["VK_ICD_FILENAMES"] = icd
