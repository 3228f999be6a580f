"""AMD GPUs as AMD's management library (`amdsmi`, an optional extra) names them.

The library runs in a child process: importing it where ROCm is missing raises KeyError and prints to
standard output. What it does not know (memory an APU may map, own memory or shared, whether the GPU was given
to this container) comes from the kernel's files; devices are matched by render node, else by PCI address,
else by their order, because on some APUs the library reports neither.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amdserve.gpu import child, kfd
from amdserve.gpu.catalogue import gpu_type_of, lookup
from amdserve.gpu.detector import Context
from amdserve.gpu.models import GPU, Finding
from amdserve.values import replace

_LIMIT = 10.0


class AMDSMIDetector:
    """AMD GPUs through amdsmi, completed from sysfs."""

    name = "AMDSMIDetector"
    vendor = "amd"
    limit = _LIMIT + 1

    def __init__(self, probe: child.Probe | None = None) -> None:
        """Take what asks the library; None asks the installed one, if its driver is loaded."""
        self._probe = probe

    def detect(self, context: Context) -> Finding:
        """Ask the library, if it can have an answer."""
        probe = self._probe
        if probe is None:
            if not context.sysroot.real:
                return Finding("skipped", "amdsmi asks the real machine, and AMDSERVE_SYSROOT names another")
            if child.installed("amdsmi") is None:
                return Finding("unavailable", "the Python package amdsmi is not installed")
            if not context.sysroot.exists("/sys/module/amdgpu"):
                return Finding("unavailable", "the amdgpu driver is not loaded")
            probe = child.ChildProbe("amdsmi", _LIMIT)
        answer = probe(context.environ)
        if answer.outcome != "found":
            return Finding(answer.outcome, answer.reason)
        here, absent = kfd.list_gpus(context.sysroot, kfd.read_topology(context.sysroot))
        if not here and absent:
            return Finding(
                "none",
                f"amdsmi lists {kfd.describe(absent)}, but its render node is not here: "
                "start the container with --device /dev/dri",
            )
        gpus = _complete(here, answer.devices) if here else _alone(answer.devices)
        return Finding("found", kfd.describe(gpus), gpus)


def _gfx(device: Mapping[str, Any]) -> str | None:
    """Give the gfx the library names; some versions say `gfx0` or nothing."""
    target = lookup(child.word(device.get("gfx")))
    return target.gfx if target else None


def _alone(devices: tuple[Mapping[str, Any], ...]) -> tuple[GPU, ...]:
    """Make GPUs of the library's words alone, where sysfs cannot be read."""
    gpus = []
    for index, device in enumerate(devices):
        gfx = _gfx(device)
        target = lookup(gfx)
        gpu = child.gpu(device, index, "amd", gpu_type_of(gfx), gfx)
        gpus.append(replace(gpu, integrated=target.integrated if target else gpu.integrated))
    return tuple(gpus)


def _complete(here: tuple[GPU, ...], devices: tuple[Mapping[str, Any], ...]) -> tuple[GPU, ...]:
    """Add the library's words to the GPUs that are here; sysfs decides which those are."""
    said = _alone(devices)
    by_node = {gpu.render_node: gpu for gpu in said if gpu.render_node}
    by_pci = {gpu.pci: gpu for gpu in said if gpu.pci}
    gpus = []
    for place, gpu in enumerate(here):
        match = by_node.get(gpu.render_node or "") or by_pci.get(gpu.pci or "")
        if match is None and len(said) == len(here) and said[place].gfx in (gpu.gfx, None):
            match = said[place]
        gpus.append(gpu if match is None else _merge(gpu, match))
    return tuple(gpus)


def _merge(kernel: GPU, said: GPU) -> GPU:
    """Prefer the library for name, CUs and driver, and the kernel for everything else it knows."""
    return replace(
        kernel,
        name=said.name if said.name != "AMD GPU" else kernel.name,
        gfx=kernel.gfx or said.gfx,
        gpu_type=gpu_type_of(kernel.gfx or said.gfx),
        vram_bytes=kernel.vram_bytes or said.vram_bytes,
        gtt_bytes=kernel.gtt_bytes or said.gtt_bytes,
        compute_units=said.compute_units or kernel.compute_units,
        driver=said.driver or kernel.driver,
    )
