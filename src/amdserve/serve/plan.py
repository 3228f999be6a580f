"""The plan: which backends, in which order and why, and what was left out and why. Pure.

Model × detection × image × request → entries. Nothing here looks at the machine: `machine.look` did.
"""

from __future__ import annotations

from collections.abc import Callable

from amdserve.errors import ModelError, NoGPUError, UsageError
from amdserve.gpu.catalogue import lookup
from amdserve.gpu.models import GPU, GPUDetectionResult
from amdserve.serve import commands
from amdserve.serve import measured as measuring
from amdserve.serve.environment import vulkan_driver
from amdserve.serve.fit import Fit, estimate
from amdserve.serve.flags import no_device
from amdserve.serve.image import Backend
from amdserve.serve.line import Command, Device, Entry, Job, Refused
from amdserve.serve.llama import llama_server
from amdserve.values import dataclass, field

VULKAN, ROCM, CPU, VLLM = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python", "vllm"
NO_DEVICE = "it is to use no device (--device none)"


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be tried, in order; what will not, and why; whether it fits."""

    entries: tuple[Entry, ...]
    skipped: tuple[tuple[str, str], ...]
    fit: Fit
    gpu: GPU | None
    gpu_reason: str = ""

    def skipped_dicts(self) -> list[dict[str, str]]:
        """Give what was left out as `serve --dry-run --json` prints it."""
        return [{"backend": backend, "reason": reason} for backend, reason in self.skipped]


@dataclass(slots=True)
class _Maker:
    job: Job
    gpu: GPU | None
    gpu_reason: str
    detection: GPUDetectionResult
    usable: int = 0
    measured: measuring.Measured | None = None
    entries: list[Entry] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def forced(self) -> str | None:
        return None if self.job.request.backend == "auto" else self.job.request.backend

    @property
    def on_cpu(self) -> bool:
        """Whether the kind of model is best served on the CPU, and nobody asks for anything else."""
        return self.job.purpose != "llm" and not self.job.request.require_gpu and not self.forced

    def consider(self, name: str, make: Callable[[Backend], Entry]) -> None:
        """Put a backend in the plan, or among what was left out."""
        if self.forced and name != self.forced:
            self.skip(name, f"{self.forced} was asked for")
            return
        backend = self.job.image.backends.get(name)
        if backend is None:
            self.skip(name, f"it is not in this image ({self.job.image.name})")
            return
        try:
            self.entries.append(make(backend))
        except Refused as reason:
            self.skip(name, str(reason))

    def skip(self, name: str, reason: str) -> None:
        self.skipped.append((name, reason))

    def vulkan(self, backend: Backend) -> Entry:
        reason = self._vulkan_reason()
        command = self._llama(backend, "gpu")
        return Entry(VULKAN, reason, command, "gpu", "/health", self._hints(), self.job.request.offloads)

    def _vulkan_reason(self) -> str:
        gpu = self.gpu
        if gpu is not None:
            if gpu.vendor == "nvidia" and not vulkan_driver(self.job.image, self.job.machine, gpu.vendor):
                raise Refused(
                    "no Vulkan driver for NVIDIA is here (start with NVIDIA_DRIVER_CAPABILITIES=all)"
                )
            if gpu.vendor == "amd" and not gpu.render_node and not self.forced:
                raise Refused(
                    f"{gpu.name} has no render node here (start the container with --device /dev/dri)"
                )
            return f"first choice for GGUF, on {gpu.name}"
        if self.forced:
            return "it was asked for; no GPU was found, its driver is asked"
        if self.job.machine.environ.get("GGML_VK_VISIBLE_DEVICES"):
            return "GGML_VK_VISIBLE_DEVICES names a device"
        if self.job.machine.render_nodes and not self._hidden():
            return f"{self.job.machine.render_nodes[0]} is here, of a GPU that detection does not know"
        raise Refused(self.gpu_reason or "no GPU was found")

    def _hidden(self) -> bool:
        """Whether the user, not the machine, is why there is no GPU."""
        return "hides" in self.gpu_reason or "asked" in self.gpu_reason or self.job.request.vendor is not None

    def rocm(self, backend: Backend) -> Entry:
        gpu = self.gpu
        override: str | None = None
        if gpu is None and not self.forced:
            raise Refused(self.gpu_reason or "no GPU was found")
        if gpu is not None and gpu.vendor != "amd":
            raise Refused(f"{gpu.name} is not AMD's")
        if gpu is not None and not self.job.machine.kfd and not self.forced:
            raise Refused("/dev/kfd is not here (start the container with --device /dev/kfd)")
        if gpu is not None:
            override = self._rocm_override(gpu)
        command = self._llama(backend, "gpu")
        if override:
            command.env["HSA_OVERRIDE_GFX_VERSION"] = override
        name = gpu.name if gpu else "a GPU that its own runtime must find"
        place = "second choice for GGUF" if not self.forced else "it was asked for"
        reason = f"{place}, on {name}" + (f" by HSA_OVERRIDE_GFX_VERSION={override}" if override else "")
        return Entry(ROCM, reason, command, "gpu", "/health", self._hints(), self.job.request.offloads)

    def _rocm_override(self, gpu: GPU) -> str | None:
        """Tell which override makes this image's code run on the GPU; None where none is needed.

        Raises:
            Refused: no code in the image fits.
        """
        if gpu.gfx in self.job.image.gfx or self.job.machine.environ.get("HSA_OVERRIDE_GFX_VERSION"):
            return None
        target = lookup(gpu.gfx)
        if target and target.rocm_override and target.stand_in in self.job.image.gfx:
            return target.rocm_override
        built = ", ".join(self.job.image.gfx) or "no target"
        raise Refused(f"it is built for {built}, and {gpu.name} is {gpu.gfx or 'of an unknown target'}")

    def cpu_llama_server(self, backend: Backend) -> Entry:
        if self.job.request.require_gpu:
            raise Refused(f"{NO_DEVICE}, and a GPU is required")
        command = self._llama(backend, "cpu")
        why = {"embedding": "embedding models run on the CPU", "rerank": "rerankers run on the CPU"}
        reason = f"{why[self.job.purpose]}, with --device none" if self.on_cpu else f"on the CPU: {NO_DEVICE}"
        return Entry(backend.name, reason, command, "cpu", "/health")

    def second_on_cpu(self, backend: Backend) -> Entry:
        if VULKAN in self.job.image.backends and not self.forced:
            raise Refused(f"{NO_DEVICE}: on the CPU it is {VULKAN} again")
        return self.cpu_llama_server(backend)

    def cpu_python(self, backend: Backend) -> Entry:
        if self.job.request.require_gpu:
            raise Refused("it computes on the CPU, and a GPU is required")
        job = measuring.apply(self.measured, self.job, backend.name)
        command = commands.llama_cpp_python(job, backend)
        reason = "it was asked for" if self.forced else "last choice: the CPU, which always works"
        return Entry(CPU, reason, command, "cpu", "/health")

    def vllm(self, backend: Backend) -> Entry:
        from amdserve.serve import vllm, vllm_plan  # noqa: PLC0415  (no GGUF file needs them)

        forced = self.forced == VLLM
        gpus = vllm_plan.devices(self.job, self.gpu, self.gpu_reason, self.detection, forced=forced)
        command = vllm.command(self.job, backend, gpus, self.usable)
        self.usable *= max(1, len(gpus))
        where = (f"{len(gpus)} × " if len(gpus) > 1 else "") + gpus[0].name if gpus else "the CPU"
        device: Device = "gpu" if gpus else "cpu"
        return Entry(VLLM, f"for Hugging Face models, on {where}", command, device, "/health")

    def _llama(self, backend: Backend, device: Device) -> Command:
        gpu = self.gpu if device == "gpu" else None
        return llama_server(measuring.apply(self.measured, self.job, backend.name), backend, device, gpu)

    def _hints(self) -> tuple[str, ...]:
        if self.gpu is None:
            return ()
        return tuple(word for word in (self.gpu.gfx, self.gpu.name) if word)


def make(
    job: Job,
    detection: GPUDetectionResult,
    choice: tuple[GPU | None, str],
    usable: int = 0,
    measured: measuring.Measured | None = None,
) -> Plan:
    """Make the plan.

    Args:
        job: what is served, from what image, on what machine.
        detection: every GPU here.
        choice: the GPU to use, or None, and why.
        usable: bytes of memory on the chosen device; 0 for not known.
        measured: what `amdserve bench --save` found here, or None.

    Raises:
        UsageError: the backend asked for cannot serve this request.
        ModelError: nothing in this image serves this kind of model.
        NoGPUError: a GPU is required, and there is none.
    """
    gpu, gpu_reason = choice
    maker = _Maker(job, gpu, gpu_reason, detection, usable, measured)
    if job.model.format == "huggingface":
        maker.consider(VLLM, maker.vllm)
        for name in (VULKAN, ROCM, CPU):
            maker.skip(name, "it serves GGUF files, and this is a Hugging Face model")
    else:
        _gguf(maker)
        maker.skip(VLLM, "GGUF files are llama.cpp's")
    if not maker.entries:
        raise _nothing(maker, detection)
    if measured is not None:
        maker.entries = measuring.arrange(measured, job, maker.entries)
    on_gpu = maker.entries[0].device == "gpu"
    where = gpu.name if gpu and on_gpu else "this machine"
    fit = estimate(job.request, job.model, maker.usable if gpu and on_gpu else job.machine.ram_bytes, where)
    return Plan(tuple(maker.entries), tuple(maker.skipped), fit, gpu, gpu_reason)


def _gguf(maker: _Maker) -> None:
    if maker.on_cpu:
        server = next((name for name in (VULKAN, ROCM) if name in maker.job.image.backends), VULKAN)
        maker.consider(server, maker.cpu_llama_server)
        for name in (VULKAN, ROCM):
            if name != server:
                maker.skip(
                    name, f"an {maker.job.purpose} model runs on the CPU unless a GPU backend is asked for"
                )
    elif no_device(maker.job.request.extra_args, maker.job.machine.environ):
        maker.consider(VULKAN, maker.cpu_llama_server)
        maker.consider(ROCM, maker.second_on_cpu)
    else:
        maker.consider(VULKAN, maker.vulkan)
        maker.consider(ROCM, maker.rocm)
    maker.consider(CPU, maker.cpu_python)


def _nothing(maker: _Maker, detection: GPUDetectionResult) -> UsageError | ModelError | NoGPUError:
    """Choose the error for a plan without entries, from what was left out and why."""
    reasons = "; ".join(
        f"{name}: {reason}" for name, reason in maker.skipped if "was asked for" not in reason
    )
    if maker.job.request.require_gpu and maker.gpu is None:
        return NoGPUError(
            "a GPU is required, and there is none to use",
            cause=maker.gpu_reason or "none was found",
            fix="amdserve doctor says what is missing; --no-require-gpu serves from the CPU",
        )
    if maker.job.model.format == "huggingface":
        from amdserve.serve import vllm_plan  # noqa: PLC0415

        return ModelError(
            f"nothing here serves {maker.job.model.path}, a Hugging Face model",
            cause=reasons,
            fix=vllm_plan.way_out(maker.job, maker.gpu),
        )
    if maker.forced:
        return UsageError(
            f"{maker.forced} cannot serve this", cause=reasons, fix="--backend auto takes one that can"
        )
    found = ", ".join(gpu.name for gpu in detection.gpus) or "no GPU"
    return UsageError("no backend can serve this", cause=f"{reasons} (here: {found})", fix="amdserve doctor")
