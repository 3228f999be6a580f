"""What the plan must know of this machine beyond the GPUs: nodes passed in, drivers, limits, memory."""

from __future__ import annotations

import glob
import resource
from collections.abc import Mapping

from amdserve.gpu.cpu import system_bytes
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass, field

ICD_FOLDERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about the machine; plain values, so that a plan can be made for any machine anywhere.

    Attributes:
        render_nodes: `/dev/dri/renderD…` that are there.
        kfd: whether `/dev/kfd` is there.
        icds: manifests of Vulkan drivers that are there.
        memlock: bytes this process may lock; None is no limit.
        ram_bytes: memory that this container may use.
        environ: the environment.
    """

    render_nodes: tuple[str, ...] = ()
    kfd: bool = False
    icds: tuple[str, ...] = ()
    memlock: int | None = None
    ram_bytes: int = 0
    environ: Mapping[str, str] = field(default_factory=dict)


def look(environ: Mapping[str, str]) -> Machine:
    """Look at this machine, or at the one that `AMDSERVE_SYSROOT` lays out."""
    sysroot = Sysroot.from_environ(environ)
    nodes = (f"/dev/dri/{name}" for name in sysroot.names("/dev/dri") if name.startswith("renderD"))
    icds = [file for folder in ICD_FOLDERS for file in sorted(glob.glob(f"{folder}/*.json"))]  # noqa: PTH207
    return Machine(
        render_nodes=tuple(nodes),
        kfd=sysroot.exists("/dev/kfd"),
        icds=tuple(icds),
        memlock=memlock_limit(),
        ram_bytes=system_bytes(sysroot),
        environ=dict(environ),
    )


def memlock_limit() -> int | None:
    """Give the bytes that this process may lock in memory; None is no limit."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return None if soft == resource.RLIM_INFINITY or _may_lock() else soft


def _may_lock() -> bool:
    """Whether CAP_IPC_LOCK lifts the limit."""
    try:
        with open("/proc/self/status", encoding="utf-8", errors="replace") as status:  # noqa: PTH123
            for line in status:
                if line.startswith("CapEff:"):
                    return bool(int(line.split()[1], 16) >> 14 & 1)
    except OSError:
        pass
    return False
