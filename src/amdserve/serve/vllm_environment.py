"""The environment of vLLM on ROCm: what its own images set, the GPUs it sees, where compiled kernels stay.

Variables and flags of releases that are gone are not passed on in silence: each is said in today's words, or
refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from amdserve.errors import UsageError
from amdserve.gpu.models import GPU
from amdserve.serve.line import Job

# What the official ROCm images set. HSA_NO_SCRATCH_RECLAIM keeps RCCL from stalling, HIP_FORCE_DEV_KERNARG
# puts kernel arguments into device memory.
OFFICIAL = {
    "HSA_NO_SCRATCH_RECLAIM": "1",
    "HIP_FORCE_DEV_KERNARG": "1",
    "SAFETENSORS_FAST_GPU": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTORCH_NVML_BASED_CUDA_CHECK": "1",
}
# A server does not report to anybody how it is used.
PRIVATE = {"VLLM_NO_USAGE_STATS": "1"}
# Compiled kernels and graphs: minutes at the first start, nothing at the next.
CACHES = {"VLLM_CACHE_ROOT": "vllm", "TRITON_CACHE_DIR": "triton", "TORCHINDUCTOR_CACHE_DIR": "inductor"}
DEFAULT_CACHE = "/var/lib/amdserve/cache"

VARIABLES = frozenset(
    {
        *OFFICIAL, *PRIVATE, *CACHES, "VLLM_API_KEY",
        "CUDA_VISIBLE_DEVICES", "HIP_PATH", "HIP_VISIBLE_DEVICES", "HSA_OVERRIDE_GFX_VERSION",
        "ROCM_PATH", "ROCR_VISIBLE_DEVICES",
    }
)  # fmt: skip
"""Every variable that can be set for vLLM. Those that begin with VLLM_ are vLLM's own."""

ATTENTION = "VLLM_ATTENTION_BACKEND"
TRITON = "VLLM_USE_TRITON_FLASH_ATTN"
ATTENTION_FLAG = "--attention-backend"
# Names of attention backends that are gone, and what does their work now.
RENAMED = {
    "ROCM_FLASH": "ROCM_ATTN",
    "TRITON_ATTN_VLLM_V1": "TRITON_ATTN",
    "ROCM_AITER_FA_VLLM_V1": "ROCM_AITER_FA",
}
# Those that make sense on AMD; the whole list is vLLM's.
ATTENTIONS = (
    "ROCM_ATTN", "TRITON_ATTN", "ROCM_AITER_FA", "ROCM_AITER_UNIFIED_ATTN", "ROCM_AITER_MLA", "TRITON_MLA",
    "ROCM_AITER_TRITON_MLA", "ROCM_AITER_MLA_SPARSE", "FLEX_ATTENTION", "TORCH_SDPA", "CPU_ATTN",
)  # fmt: skip


VISIBLE = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")


def environment(job: Job, gpus: Sequence[GPU]) -> dict[str, str]:
    """Give what vLLM needs; what the user has set himself stays as it is.

    Args:
        job: whose image says where vLLM's ROCm lies, and whose machine holds the user's variables.
        gpus: the GPUs it shall see; none for a build for the CPU.
    """
    given = job.machine.environ
    env = {name: value for name, value in PRIVATE.items() if name not in given}
    root = given.get("XDG_CACHE_HOME") or DEFAULT_CACHE
    env |= {name: f"{root}/{part}" for name, part in CACHES.items() if name not in given}
    if not gpus:
        env["TOKENIZERS_PARALLELISM"] = OFFICIAL["TOKENIZERS_PARALLELISM"]
        return env
    env |= {name: value for name, value in OFFICIAL.items() if name not in given}
    if gpus[0].vendor != "amd":
        return env
    own = job.image.data.get("vllm") or {}
    prefix = own.get("rocm_prefix") if own else job.image.rocm_prefix
    if prefix:
        env["ROCM_PATH"] = env["HIP_PATH"] = str(prefix)
    if not any(given.get(name) for name in VISIBLE):
        # ROCR hides all others; what it leaves counts from 0. vLLM stops where HIP's list and CUDA's differ.
        env["ROCR_VISIBLE_DEVICES"] = ",".join(gpu.unique_id or str(gpu.index) for gpu in gpus)
        env["HIP_VISIBLE_DEVICES"] = env["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(len(gpus))))
    if given.get("HSA_OVERRIDE_GFX_VERSION"):
        env["HSA_OVERRIDE_GFX_VERSION"] = given["HSA_OVERRIDE_GFX_VERSION"]
    return env


def leave_behind(
    environ: Mapping[str, str], extra: Sequence[str]
) -> tuple[str | None, tuple[str, ...], list[str]]:
    """Say what the user set for an older vLLM in today's words.

    Args:
        environ: the user's variables.
        extra: what goes to vLLM unchanged; an attention backend that is named there wins.

    Returns:
        The attention backend to ask for, or None; the variables to remove; a sentence for each of them.

    Raises:
        UsageError: a value means nothing any more.
    """
    _check_extra(extra)
    named = any(part.split("=", 1)[0].replace("_", "-") == ATTENTION_FLAG for part in extra)
    chosen: str | None = None
    gone: list[str] = []
    notes: list[str] = []
    if TRITON in environ:
        gone.append(TRITON)
        if environ[TRITON].strip().lower() in ("1", "true"):
            chosen = "TRITON_ATTN"
            notes.append(f"{TRITON} is gone from vLLM: said as {ATTENTION_FLAG} {chosen}")
        else:
            notes.append(f"{TRITON}={environ[TRITON]} is gone from vLLM and changes nothing: removed")
    if ATTENTION in environ:
        gone.append(ATTENTION)
        chosen = _today(environ[ATTENTION], ATTENTION)
        notes.append(f"{ATTENTION} is gone from vLLM: said as {ATTENTION_FLAG} {chosen}")
    if named and chosen:
        notes.append(f"{ATTENTION_FLAG} was given too, and is what counts")
    return None if named else chosen, tuple(gone), notes


def _today(value: str, where: str) -> str:
    name = value.strip().upper()
    name = RENAMED.get(name, name)
    if name in ATTENTIONS:
        return name
    raise UsageError(
        f"{where}={value}: vLLM has no such attention backend any more",
        cause=f"{ATTENTION} itself is gone; the names that work on AMD: {', '.join(ATTENTIONS[:4])}",
        fix=f"unset {where}, and give the name after `--`: -- {ATTENTION_FLAG} ROCM_ATTN",
    )


def _check_extra(extra: Sequence[str]) -> None:
    """Refuse a name of an attention backend that is gone, where it was given as a flag.

    Raises:
        UsageError: it is one.
    """
    words = [word for part in extra for word in part.split("=", 1)]
    for flag, value in pairwise(words):
        if flag.replace("_", "-") == ATTENTION_FLAG and value.strip().upper() in RENAMED:
            today = RENAMED[value.strip().upper()]
            raise UsageError(
                f"{ATTENTION_FLAG} {value}: vLLM has no such attention backend any more",
                cause=f"what did its work is called {today} now",
                fix=f"-- {ATTENTION_FLAG} {today}",
            )
