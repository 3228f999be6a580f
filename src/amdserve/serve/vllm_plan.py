"""Whether vLLM may serve a model here, on which GPUs, and what else can be done where it may not. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amdserve.gpu.catalogue import lookup
from amdserve.gpu.models import GPU, GPUDetectionResult
from amdserve.gpu.select import visible
from amdserve.serve.line import Job, Refused
from amdserve.serve.vllm import alike, check_gfx, equals, split_by_hand

POOLED = {"embedding": "embedding models", "rerank": "rerankers"}


def own(job: Job) -> Mapping[str, Any]:
    """Give what the image says of its vLLM: version, variant, gfx, `rocm_prefix`, `device` rocm or cpu."""
    found = job.image.data.get("vllm")
    return found if isinstance(found, dict) else {}


def devices(job: Job, gpu: GPU | None, why: str, detection: GPUDetectionResult, *, forced: bool) -> list[GPU]:
    """Give the GPUs to serve on, all alike; none means the CPU, for an image whose vLLM is built for that.

    Args:
        job: what is served, from what image, on what machine.
        gpu: the chosen GPU, or None.
        why: the reason for that choice.
        detection: every GPU here.
        forced: whether the user asked for this backend by name.

    Raises:
        Refused: it may not, or cannot; the text says why.
    """
    record = own(job)
    if job.purpose in POOLED and not forced:
        raise Refused(
            f"{POOLED[job.purpose]} run on a GPU only when asked for (--backend vllm): there they were "
            "what crashed"
        )
    if record.get("device") == "cpu":
        if job.request.require_gpu:
            raise Refused("it is built for the CPU, and a GPU is required")
        return []
    if gpu is None:
        raise Refused(f"vLLM needs a GPU, and {why or 'no GPU was found'}")
    if gpu.vendor == "amd":
        _check_amd(job, gpu, record)
    elif record.get("device") == "rocm":
        raise Refused(f"it is built for AMD's GPUs, and {gpu.name} is none")
    if job.request.gpu is not None:
        return [gpu]
    seen = visible(detection.accelerators, job.machine.environ)
    if split_by_hand(job.request.extra_args):
        return equals(gpu, seen)
    return alike(gpu, seen, job.model.heads)


def _check_amd(job: Job, gpu: GPU, record: Mapping[str, Any]) -> None:
    if record:
        check_gfx(gpu, tuple(record.get("gfx") or ()), str(record.get("version") or ""))
    else:
        target = lookup(gpu.gfx)
        if target is None or target.vllm_built_since is None:
            raise Refused(f"vLLM is not built for {gpu.gfx or 'this GPU'}")
    if not job.machine.kfd:
        raise Refused("/dev/kfd is not here (start the container with --device /dev/kfd)")


def way_out(job: Job, gpu: GPU | None) -> str:
    """Say what else can be done with a Hugging Face model that nothing in this image serves."""
    ways = []
    target = lookup(gpu.gfx) if gpu else None
    if "vllm" not in job.image.backends:
        if gpu is None or (target is not None and target.vllm_built_since):
            gfx = f" --gfx {target.gfx}" if target else ""
            ways.append(f"the image `full` (invoke build --image full{gfx}), which holds vLLM")
    elif job.purpose in POOLED and job.request.backend == "auto":
        ways.append("--backend vllm serves it on the GPU")
    elif target is not None and target.vllm_built_since and target.gfx not in (own(job).get("gfx") or ()):
        ways.append(f"an image for this GPU: invoke build --image full --gfx {target.gfx}")
    name = job.model.path.rstrip("/").rsplit("/", 1)[-1]
    ways.append(f"a GGUF of the same model (search the Hub for `{name} GGUF`): Vulkan serves it on any GPU")
    return "; or ".join(ways)
