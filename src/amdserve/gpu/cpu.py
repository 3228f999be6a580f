"""The CPU: the detector that always answers, and how much memory the system has."""

from __future__ import annotations

import os

from amdserve.gpu.detector import Context
from amdserve.gpu.models import GPU, Finding, GPUType
from amdserve.gpu.sysroot import Sysroot

_NO_LIMIT = 1 << 60


def meminfo(sysroot: Sysroot) -> dict[str, int]:
    """Read `/proc/meminfo` as bytes by name; empty where it cannot be read."""
    found: dict[str, int] = {}
    for line in (sysroot.text("/proc/meminfo") or "").splitlines():
        name, _, rest = line.partition(":")
        words = rest.split()
        if words and words[0].isdigit():
            found[name] = int(words[0]) * (1024 if words[1:] == ["kB"] else 1)
    return found


def cgroup_limit(sysroot: Sysroot) -> int | None:
    """Give the smallest memory limit of the control groups this process is in, in bytes; None for none."""
    limits: list[int] = []
    for line in (sysroot.text("/proc/self/cgroup") or "0::/").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            base, file = "/sys/fs/cgroup", "memory.max"
        elif "memory" in controllers.split(","):
            base, file = "/sys/fs/cgroup/memory", "memory.limit_in_bytes"
        else:
            continue
        # In a container the path may be the host's, of which only the root is mounted here.
        parts = [part for part in path.split("/") if part and part != ".."]
        for depth in range(len(parts), -1, -1):
            limit = sysroot.number("/".join([base, *parts[:depth], file]))
            if limit is not None and 0 < limit < _NO_LIMIT:
                limits.append(limit)
    return min(limits, default=None)


def system_bytes(sysroot: Sysroot) -> int:
    """Give the memory this process may use: RAM, or the control group's limit if that is less; 0 unknown."""
    total = meminfo(sysroot).get("MemTotal", 0)
    limit = cgroup_limit(sysroot)
    return min(total, limit) if total and limit else total or limit or 0


class CPUDetector:
    """The CPU; it is listed, but it is no GPU."""

    name = "CPUDetector"
    vendor = "cpu"
    limit = 5.0

    def detect(self, context: Context) -> Finding:
        """Describe the CPU; always `found`."""
        name, count = "CPU", 0
        for line in (context.sysroot.text("/proc/cpuinfo") or "").splitlines():
            key, _, value = line.partition(":")
            key = key.strip()
            count += key == "processor"
            if key == "model name" and name == "CPU":
                name = value.strip() or name
        cpu = GPU(
            index=0,
            vendor="cpu",
            name=name,
            gfx=None,
            gpu_type=GPUType.CPU,
            vram_bytes=0,
            gtt_bytes=0,
            integrated=False,
            compute_units=count or (os.cpu_count() or 0 if context.sysroot.real else 0),
            pci=None,
            render_node=None,
        )
        return Finding("found", "no GPU answered: the CPU serves", (cpu,))
