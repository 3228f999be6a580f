"""Which of the GPUs to serve on, and how much memory a model can have there."""

from __future__ import annotations

from collections.abc import Mapping

from amdserve.errors import UsageError
from amdserve.gpu.cpu import system_bytes
from amdserve.gpu.models import GPU, GPUDetectionResult
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass

_GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Choice:
    """The GPU to serve on, or None for the CPU, and why."""

    gpu: GPU | None
    reason: str


def usable_bytes(gpu: GPU, sysroot: Sysroot) -> int:
    """Give the bytes a model can have on this device.

    A card: its VRAM. An APU: what the firmware carved out, and of the memory the driver may map (GTT) no more
    than the system and the control group have; the carve-out is not part of the system's memory, so it is
    not capped by it. The CPU: the system's memory.
    """
    system = system_bytes(sysroot)
    if gpu.vendor == "cpu":
        return system
    if not gpu.integrated:
        return gpu.vram_bytes
    return gpu.vram_bytes + (min(gpu.gtt_bytes, system) if system else gpu.gtt_bytes)


def choose(
    result: GPUDetectionResult,
    *,
    index: int | None = None,
    vendor: str | None = None,
    environ: Mapping[str, str],
    sysroot: Sysroot | None = None,
) -> Choice:
    """Choose the GPU: the one asked for; else a card before an APU, then the most usable memory.

    Args:
        result: what detection found.
        index: the GPU asked for, by its index in the result.
        vendor: amd or nvidia; `cpu` for none; None or `auto` for any.
        environ: for the visible-devices variables: what the user hides is not chosen.
        sysroot: the machine whose memory caps an APU's; by default the one `environ` names.

    Raises:
        UsageError: GPUs are here, and none has this index, or the user's own variables hide the one that has.
    """
    sysroot = sysroot or Sysroot.from_environ(environ)
    if vendor == "cpu":
        return Choice(None, "the CPU was asked for")
    gpus = result.accelerators
    if not gpus:
        return Choice(None, "no GPU was found")
    if vendor not in (None, "", "auto"):
        gpus = tuple(gpu for gpu in gpus if gpu.vendor == vendor)
        if not gpus:
            return Choice(None, f"no GPU of {vendor} was found")
    seen = tuple(gpu for gpu in gpus if gpu in visible(gpus, environ))
    said = ", ".join(f"{name}={environ[name]}" for name in _variables(gpus, environ))
    if index is not None:
        return _by_index(gpus, seen, index, said)
    if not seen:
        return Choice(None, f"{said} hides every GPU")
    best = min(seen, key=lambda gpu: (gpu.integrated, -usable_bytes(gpu, sysroot), gpu.index))
    note = f" ({said})" if said else ""
    return Choice(best, _reason(best, seen, sysroot) + note)


def _by_index(gpus: tuple[GPU, ...], seen: tuple[GPU, ...], index: int, said: str) -> Choice:
    for gpu in gpus:
        if gpu.index != index:
            continue
        if gpu not in seen:
            other = f", or --gpu {seen[0].index}" if seen else ""
            raise UsageError(f"GPU {index} is hidden", cause=f"{said} is set", fix=f"unset it{other}")
        return Choice(gpu, f"GPU {index} was asked for")
    known = ", ".join(f"{gpu.index}: {gpu.name}" for gpu in gpus)
    raise UsageError(f"there is no GPU {index}", cause=f"here are {known}", fix=f"--gpu {gpus[0].index}")


def _reason(best: GPU, seen: tuple[GPU, ...], sysroot: Sysroot) -> str:
    size = f"{usable_bytes(best, sysroot) / _GIB:.1f} GiB"
    others = [gpu for gpu in seen if gpu is not best]
    if not others:
        return f"{best.name} is the only GPU, {size} usable"
    if not best.integrated and all(gpu.integrated for gpu in others):
        shared = ", ".join(gpu.name for gpu in others)
        return f"{best.name} has memory of its own, {size}; {shared} shares the system's"
    rivals = [gpu for gpu in others if gpu.integrated == best.integrated]
    if all(usable_bytes(gpu, sysroot) < usable_bytes(best, sysroot) for gpu in rivals):
        return f"{best.name} has the most usable memory, {size}, of {len(seen)} GPUs"
    return f"{best.name} is the first of several with {size} usable"


def _variables(gpus: tuple[GPU, ...], environ: Mapping[str, str]) -> list[str]:
    """Name the variables that decide which of these GPUs a program sees, in the order they work."""
    names: list[str] = []
    if any(gpu.vendor == "amd" for gpu in gpus):
        if "ROCR_VISIBLE_DEVICES" in environ:
            names.append("ROCR_VISIBLE_DEVICES")
        # HIP reads the CUDA name too, where its own is not set.
        names += [name for name in ("HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES") if environ.get(name)][:1]
    elif "CUDA_VISIBLE_DEVICES" in environ:
        names.append("CUDA_VISIBLE_DEVICES")
    return names


def visible(gpus: tuple[GPU, ...], environ: Mapping[str, str]) -> tuple[GPU, ...]:
    """Give the GPUs that the user's visible-devices variables leave; each counts in what the last one left.

    GGML_VK_VISIBLE_DEVICES counts Vulkan's devices, whose order is Vulkan's own: it is left to llama.cpp.
    """
    for name in _variables(gpus, environ):
        kept: list[GPU] = []
        for token in environ[name].split(","):
            found = _match(gpus, token.strip())
            if found is None:
                # Both vendors stop at the first entry that names nothing: `-1` hides all that follow.
                break
            kept.append(found)
        gpus = tuple(kept)
    return gpus


def _match(gpus: tuple[GPU, ...], token: str) -> GPU | None:
    if token.isascii() and token.isdigit():
        return gpus[int(token)] if int(token) < len(gpus) else None
    for gpu in gpus:
        if gpu.unique_id and token.lower() == gpu.unique_id.lower():
            return gpu
    # NVIDIA's UUIDs are not known here; one that is named is taken to be right.
    return gpus[0] if token.startswith(("GPU-", "MIG-")) and len(gpus) == 1 else None
