"""What a container engine must be told so that a container reaches this host's GPUs.

One answer for the doctor, which prints it, and for the launcher, which uses it.
"""

from __future__ import annotations

from typing import Any

from amdserve.gpu.models import GPUDetectionResult
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass

KFD = "/dev/kfd"
DRI = "/dev/dri"


@dataclass(frozen=True, slots=True)
class ContainerOptions:
    """Options of `docker run`, as values.

    Args:
        devices: paths for `--device`.
        groups: numeric ids for `--group-add`: a name that the image does not know fails outright.
        ulimits: values for `--ulimit`.
        ipc: value for `--ipc`, or None.
        security: values for `--security-opt`.
        gpus: value for `--gpus` (NVIDIA), or None.
    """

    devices: tuple[str, ...] = ()
    groups: tuple[int, ...] = ()
    ulimits: tuple[str, ...] = ("memlock=-1:-1",)
    ipc: str | None = None
    security: tuple[str, ...] = ()
    gpus: str | None = None

    def argv(self) -> tuple[str, ...]:
        """Give the options as words of `docker run`."""
        words: list[str] = []
        for name, values in (
            ("--device", self.devices),
            ("--group-add", self.groups),
            ("--ulimit", self.ulimits),
            ("--security-opt", self.security),
        ):
            for value in values:
                words += [name, str(value)]
        if self.ipc:
            words += ["--ipc", self.ipc]
        if self.gpus:
            words += ["--gpus", self.gpus]
        return tuple(words)

    def compose(self) -> dict[str, Any]:
        """Give the options as keys of a compose service."""
        service: dict[str, Any] = {}
        if self.devices:
            service["devices"] = [f"{device}:{device}" for device in self.devices]
        if self.groups:
            # Quoted: compose takes strings here, and a bare number is refused by some versions.
            service["group_add"] = [str(group) for group in self.groups]
        limits: dict[str, Any] = {}
        for limit in self.ulimits:
            name, _, values = limit.partition("=")
            soft, _, hard = values.partition(":")
            limits[name] = {"soft": int(soft), "hard": int(hard or soft)}
        if limits:
            service["ulimits"] = limits
        if self.security:
            service["security_opt"] = list(self.security)
        if self.ipc:
            service["ipc"] = self.ipc
        if self.gpus:
            service["gpus"] = self.gpus
        return service


def selinux_keeps_devices(sysroot: Sysroot) -> bool:
    """Tell whether SELinux is enforced here and keeps device nodes from containers."""
    if sysroot.number("/sys/fs/selinux/enforce") != 1:
        return False
    # "1 1": the value, and the value after the next commit of booleans.
    return (sysroot.text("/sys/fs/selinux/booleans/container_use_devices") or "0")[:1] != "1"


def container_options(result: GPUDetectionResult, sysroot: Sysroot, *, rocm: bool) -> ContainerOptions:
    """Give the options that this host needs.

    Args:
        result: what detection found on the host.
        sysroot: the host's files, for the owners of the device nodes.
        rocm: the image has a backend that uses ROCm: it needs /dev/kfd and shared memory.
    """
    vendors = {gpu.vendor for gpu in result.accelerators}
    security = ("label=disable",) if selinux_keeps_devices(sysroot) else ()
    if vendors == {"nvidia"}:
        return ContainerOptions(gpus="all", ipc="host" if rocm else None)
    if "amd" not in vendors:
        return ContainerOptions()
    nodes = sorted({gpu.render_node for gpu in result.accelerators if gpu.render_node})
    use_kfd = rocm and sysroot.exists(KFD)
    owners = [sysroot.owner(node) for node in (*nodes, *((KFD,) if use_kfd else ()))]
    return ContainerOptions(
        devices=((KFD,) if use_kfd else ()) + (DRI,),
        # A node of group 0, or open to all, needs no group more.
        groups=tuple(
            sorted({owner.gid for owner in owners if owner and owner.gid and owner.mode & 0o006 != 0o006})
        ),
        ipc="host" if rocm else None,
        security=security,
    )
