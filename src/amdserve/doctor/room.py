"""Checks of memory, disk, and the host's engine."""

from __future__ import annotations

from amdserve.doctor.facts import EngineFacts, Facts
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu.cpu import cgroup_limit

GIB = 1 << 30
_CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi", "/run/cdi")
_STATE = "/var/lib/amdserve"
_NEEDED = {"host": 30 * GIB, "container": 2 * GIB}
_LEAST_MEMORY = 2 * GIB


def memory(facts: Facts) -> Check:
    """Is there memory left to load a model?"""
    free = facts.memory.get("MemAvailable")
    if free is None:
        return void("memory", "/proc/meminfo cannot be read")
    if (on_card := _on_card(facts)) is not None:
        return on_card
    limit = cgroup_limit(facts.sysroot)
    seen = f"{free / GIB:.1f} GiB free" + (
        f", limit of the control group {limit / GIB:.1f} GiB" if limit else ""
    )
    least = min(free, limit) if limit else free
    on_gpu = facts.gpu is not None and not facts.gpu.integrated
    needed = _LEAST_MEMORY if facts.model_bytes is None or on_gpu else facts.model_bytes
    if least >= needed:
        return good("memory", seen)
    return bad(
        "memory",
        f"{seen}, {needed / GIB:.1f} GiB are needed",
        "stop what uses it, raise --memory, or take a smaller model",
    )


def _on_card(facts: Facts) -> Check | None:
    """Judge the model against the memory of a card; None where it fits, or there is no card or model."""
    gpu, model = facts.gpu, facts.model_bytes or 0
    if gpu is None or gpu.integrated or not gpu.vram_bytes or model <= gpu.vram_bytes:
        return None
    cards = [one for one in facts.detection.accelerators if not one.integrated]
    every = sum(one.vram_bytes for one in cards)
    size = f"the model has {model / GIB:.1f} GiB"
    if model <= every:
        return good("memory", f"{size}, {len(cards)} GPUs together {every / GIB:.1f} GiB: it must be split")
    return bad(
        "memory",
        f"{gpu.name} has {gpu.vram_bytes / GIB:.1f} GiB, {size}",
        "take a smaller model or quantization, or leave layers on the CPU: --n-gpu-layers N",
    )


def disk(facts: Facts) -> Check:
    """Is there room for state (container), or for building images (host)?"""
    if facts.disk is None:
        return void("disk", "not asked")
    images = facts.engine.root if isinstance(facts.engine, EngineFacts) else ""
    place = _STATE if facts.place == "container" else images or "/var/lib"
    free = facts.disk(place)
    if free is None:
        return void("disk", f"the room on {place} cannot be asked")
    needed = _NEEDED[facts.place]
    seen = f"{free / GIB:.0f} GiB free on {place}"
    if free >= needed:
        return good("disk", seen)
    fix = (
        "docker system df, then remove what is not needed"
        if facts.place == "host"
        else f"a volume at {_STATE} with more room"
    )
    return bad("disk", f"{seen}, {needed // GIB} GiB are needed", fix)


def engine(facts: Facts) -> Check:
    """Does a Docker Engine answer?"""
    found = facts.engine
    if isinstance(found, EngineFacts):
        rootless = ", without root" if found.rootless else ""
        kind = "Podman" if found.podman else "Docker"
        return good("engine", f"{kind} {found.version} at {found.host}{rootless}")
    if facts.place == "container" or found is None:
        return void("engine", "does not matter here")
    if "Permission denied" in found:
        return bad("engine", found, "sudo usermod -aG docker $USER, then log in again")
    return bad("engine", found, "./inv engine finds, starts or installs one")


def buildx(facts: Facts) -> Check:
    """Is there a buildx to build with?"""
    found = facts.engine
    if facts.place == "container" or found is None:
        return void("buildx", "does not matter here")
    if isinstance(found, EngineFacts) and found.buildx:
        return good("buildx", found.buildx)
    return bad(
        "buildx",
        "docker buildx does not answer: images cannot be built",
        "./inv engine finds or installs one",
    )


def cdi(facts: Facts) -> Check:
    """Are AMD GPUs described for engines that take devices by name?"""
    if facts.place == "container":
        return void("cdi", "does not matter here")
    for folder in _CDI_FOLDERS:
        for name in facts.sysroot.names(folder):
            if "amd.com/gpu" in (facts.sysroot.text(f"{folder}/{name}") or ""):
                return good(
                    "cdi", f"{folder}/{name}: --device amd.com/gpu=all may stand in place of the devices"
                )
    return void("cdi", "no description of AMD GPUs; the run line below names the devices themselves")
