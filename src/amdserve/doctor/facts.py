"""What the doctor judges: this machine's files, and what only asking can tell, as plain values."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

from amdserve.doctor.report import Place
from amdserve.gpu import drm, kfd
from amdserve.gpu.cpu import meminfo
from amdserve.gpu.models import GPU, GPUDetectionResult
from amdserve.gpu.select import Choice, choose
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass, field

IMAGE_JSON = "/etc/amdserve/image.json"
# CAP_IPC_LOCK: who has it may lock memory whatever the limit says.
_IPC_LOCK = 14
NOTHING = GPUDetectionResult(False, "CPUDetector", (), ())


@dataclass(frozen=True, slots=True)
class Who:
    """The user who asks: effective uid, and every gid."""

    uid: int
    gids: frozenset[int]
    may_lock_all: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """What a backend lists when asked for its devices, or why it could not be asked."""

    devices: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """An engine that answered: where, its version, whether it runs without root, and its buildx.

    `root` is the folder where it keeps images, `podman` that it only speaks Docker's language.
    """

    host: str
    version: str
    rootless: bool = False
    buildx: str = ""
    root: str = ""
    podman: bool = False


@dataclass(frozen=True)
class Facts:
    """Everything `examine` looks at.

    Args:
        place: host or container.
        sysroot: the machine's files.
        environ: the environment.
        detection: what the chain found.
        model_bytes: size of the model to be served, or None.
        vulkan: asks the Vulkan backend for its devices; None where there is nothing to ask.
        rocm: the same of the ROCm backend.
        libraries: names shared libraries that the backends miss; None where there is nothing to look at.
        disk: free bytes of the file system that holds a path; None where that cannot be asked.
        engine: the engine, or why there is none as text; None where it does not matter.
        firmware: version of the installed linux-firmware package, if known.
        repository: the image repository's name for the run line.
    """

    place: Place
    sysroot: Sysroot = field(default_factory=Sysroot)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    detection: GPUDetectionResult = NOTHING
    model_bytes: int | None = None
    vulkan: Callable[[], Seen] | None = None
    rocm: Callable[[], Seen] | None = None
    libraries: Callable[[], tuple[str, ...]] | None = None
    disk: Callable[[str], int | None] | None = None
    engine: EngineFacts | str | None = None
    firmware: str = ""
    repository: str = "amdserve"

    @cached_property
    def choice(self) -> Choice:
        """The GPU that would serve."""
        return choose(self.detection, environ=self.environ, sysroot=self.sysroot)

    @property
    def gpu(self) -> GPU | None:
        """The GPU that would serve, or that the user hides."""
        if self.choice.gpu is not None or not self.detection.accelerators:
            return self.choice.gpu
        return self.detection.accelerators[0]

    @cached_property
    def topology(self) -> kfd.Topology:
        """The KFD topology."""
        return kfd.read_topology(self.sysroot)

    @cached_property
    def absent(self) -> tuple[GPU, ...]:
        """AMD GPUs that sysfs shows, and that are not here."""
        return kfd.list_gpus(self.sysroot, self.topology)[1]

    @cached_property
    def properties(self) -> Mapping[str, int]:
        """The KFD properties of the GPU that would serve."""
        for node in self.topology.nodes:
            minor = node.properties.get("drm_render_minor", 0)
            if self.gpu and self.gpu.render_node == f"/dev/dri/renderD{minor}":
                return node.properties
        return {}

    @cached_property
    def image(self) -> Mapping[str, Any]:
        """What the image says of itself; empty outside one."""
        text = self.sysroot.text(self.environ.get("AMDSERVE_IMAGE_JSON") or IMAGE_JSON)
        try:
            found = json.loads(text or "{}")
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @cached_property
    def who(self) -> Who:
        """The user, from `/proc/self/status`."""
        words = {
            line.partition(":")[0]: line.partition(":")[2].split()
            for line in (self.sysroot.text("/proc/self/status") or "").splitlines()
        }
        uids, gids = _numbers(words.get("Uid", [])), _numbers(words.get("Gid", []))
        caps = words.get("CapEff", ["0"])[0]
        lock = bool(int(caps, 16) >> _IPC_LOCK & 1) if _is_hex(caps) else False
        uid = uids[1] if len(uids) > 1 else 0
        return Who(uid, frozenset(gids[1:2] + _numbers(words.get("Groups", []))), lock)

    @cached_property
    def memlock(self) -> tuple[int | None, int | None]:
        """Bytes this process may lock, soft and hard, from `/proc/self/limits`; None is no limit."""
        for line in (self.sysroot.text("/proc/self/limits") or "").splitlines():
            if line.startswith("Max locked memory"):
                soft, hard = line[len("Max locked memory") :].split()[:2]
                return int(soft) if soft.isdigit() else None, int(hard) if hard.isdigit() else None
        return None, None

    @cached_property
    def kernel(self) -> str:
        """The kernel's release."""
        return self.sysroot.text("/proc/sys/kernel/osrelease") or ""

    @cached_property
    def memory(self) -> Mapping[str, int]:
        """`/proc/meminfo` in bytes."""
        return meminfo(self.sysroot)

    def device_file(self, name: str) -> str:
        """Give the path of a file of the GPU's DRM device."""
        render = (self.gpu.render_node if self.gpu else None) or ""
        return f"{drm.DRM}/{render.rpartition('/')[2]}/device/{name}"

    @property
    def nvidia(self) -> bool:
        """Whether an NVIDIA driver is here, also where nothing could ask it for its GPUs."""
        return self.sysroot.exists("/proc/driver/nvidia/version")

    def on_host(self, fix: str) -> str:
        """Say of a fix that it belongs to the host, where this is a container."""
        return f"on the host: {fix}" if self.place == "container" else fix

    def group_name(self, gid: int) -> str | None:
        """Give a group's name on this machine, or None."""
        for line in (self.sysroot.text("/etc/group") or "").splitlines():
            parts = line.split(":")
            if len(parts) > 2 and parts[2] == str(gid):
                return parts[0]
        return None


def _numbers(words: list[str]) -> list[int]:
    return [int(word) for word in words if word.isdigit()]


def _is_hex(text: str) -> bool:
    try:
        int(text, 16)
    except ValueError:
        return False
    return True
