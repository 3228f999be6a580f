"""What must be known of machine, image and model for two results to be compared: looked at, once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve.gpu.models import GPU
from amdserve.gpu.sysroot import Sysroot
from amdserve.process import run as run_command
from amdserve.serve import image as images
from amdserve.serve.bench import result
from amdserve.serve.described import Model
from amdserve.serve.devices import Device, pick
from amdserve.serve.planning import Planned

# Of each file of a model so many blocks, spread over it, stand for the whole: reading 100 GB takes minutes.
BLOCKS, BLOCK = 64, 1 << 16
VULKAN_SECONDS = 30.0
_STATE = re.compile(r"^\s*\w+:\s*(\d+)\s*Mhz\s*(\*?)", re.IGNORECASE | re.MULTILINE)


def model(found: Model) -> result.Model:
    """Describe the model."""
    return result.Model(
        name=Path(found.path).name if not found.hub else found.path,
        fingerprint=fingerprint(found),
        architecture=found.architecture,
        quant=found.quant,
        purpose=found.purpose,
        bytes=found.bytes,
    )


def fingerprint(found: Model) -> str:
    """Give what is the same for the same bytes on any machine: a hash of size and blocks of each file."""
    if found.hub or not found.files:
        return f"name:{found.path}"
    digest = hashlib.sha256()
    for name in found.files:
        size = os.stat(name).st_size  # noqa: PTH116
        digest.update(str(size).encode())
        with open(name, "rb") as file:  # noqa: PTH123
            for number in range(BLOCKS):
                file.seek(max(0, size - BLOCK) * number // (BLOCKS - 1))
                digest.update(file.read(BLOCK))
    return f"sha256:{digest.hexdigest()}"


def image(found: images.Image, digest: str = "") -> result.Image:
    """Describe the image; its digest only the engine knows, so whoever started the container says it."""
    llama = found.data.get("llama") or {}
    return result.Image(
        name=found.name,
        hash=found.hash,
        digest=digest,
        llama=str(llama.get("commit", "")),
        amdserve=str(found.data.get("amdserve", "")),
    )


def machine(planned: Planned, environ: Mapping[str, str]) -> result.Machine:
    """Describe the machine."""
    sysroot = Sysroot.from_environ(environ)
    gpu, found = planned.plan.gpu, planned.job.image
    rocm = found.data.get("rocm") or {}
    cpu, cpus = _cpu(sysroot)
    return result.Machine(
        gpu=gpu.name if gpu else None,
        gfx=gpu.gfx if gpu else None,
        kernel_driver=gpu.driver if gpu else None,
        vulkan=vulkan_driver(planned),
        rocm=f"{rocm['version']} ({rocm.get('provider')})" if rocm.get("version") else None,
        kernel=sysroot.text("/proc/sys/kernel/osrelease") or os.uname().release,
        cpu=cpu,
        cpus=cpus,
        memory_bytes=planned.job.machine.ram_bytes,
        clocks=clocks(gpu, sysroot),
    )


def vulkan_driver(planned: Planned) -> str | None:
    """Give the driver of the device Vulkan computes on, such as `radv Mesa 26.1.6`; None where none does."""
    entry = next((one for one in planned.plan.entries if one.backend == "llama-server-vulkan"), None)
    if entry is None or entry.device != "gpu":
        return None
    env = {**os.environ, **entry.command.env}
    asked = run_command(
        [sys.executable, "-m", "amdserve.serve.bench.vulkan"], env=env, timeout=VULKAN_SECONDS, check=False
    )
    try:
        listed = json.loads(asked.out) if asked.ok else []
    except ValueError:
        listed = []
    if not listed:
        return None
    devices = [Device(str(number), one["device"]) for number, one in enumerate(listed)]
    chosen = pick(devices, entry.hints)
    one = listed[int(chosen.name)] if chosen else listed[0]
    return " ".join(part for part in (one["driver"], one["info"]) if part) or None


def clocks(gpu: GPU | None, sysroot: Sysroot) -> dict[str, Any]:
    """Give what sysfs says of an AMD GPU's clocks, in MHz: the states, and how they are governed."""
    folder = _folder(gpu)
    if folder is None:
        return {}
    found: dict[str, Any] = {}
    for name, file in (("core_mhz", "pp_dpm_sclk"), ("memory_mhz", "pp_dpm_mclk")):
        states = sorted({int(number) for number, _ in _STATE.findall(sysroot.text(f"{folder}/{file}") or "")})
        if states:
            found[name] = states
    level = sysroot.text(f"{folder}/power_dpm_force_performance_level")
    if level:
        found["governed"] = level
    return found


class ClockWatch:
    """Looks at the core clock now and then while something is measured.

    Args:
        gpu: whose.
        sysroot: where sysfs is.

    Attributes:
        seen: `highest_mhz`, once sysfs has said something.
    """

    def __init__(self, gpu: GPU | None, sysroot: Sysroot) -> None:
        self.sysroot, self.seen = sysroot, dict[str, int]()
        folder = _folder(gpu)
        self.file = f"{folder}/pp_dpm_sclk" if folder else None

    def look(self) -> None:
        """Take note of the clock at this moment."""
        text = self.sysroot.text(self.file) if self.file else None
        now = [int(number) for number, active in _STATE.findall(text or "") if active]
        if now:
            self.seen["highest_mhz"] = max([*now, *self.seen.values()])


def _folder(gpu: GPU | None) -> str | None:
    if gpu is None or gpu.vendor != "amd" or not gpu.render_node:
        return None
    return f"/sys/class/drm/{Path(gpu.render_node).name}/device"


def _cpu(sysroot: Sysroot) -> tuple[str, int]:
    text = sysroot.text("/proc/cpuinfo") or ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    count = len(re.findall(r"^processor\s*:", text, re.MULTILINE))
    return (name[1].strip() if name else ""), (len(os.sched_getaffinity(0)) if sysroot.real else count)
