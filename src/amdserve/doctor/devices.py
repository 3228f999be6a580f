"""Checks of the way to the GPU: is one here, are its nodes here, may this user open them."""

from __future__ import annotations

from amdserve.doctor.facts import Facts
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu import kfd
from amdserve.gpu.access import DRI, KFD, selinux_keeps_devices
from amdserve.gpu.select import usable_bytes

GIB = 1 << 30
_DISPLAY = 0x03


def gpu(facts: Facts) -> Check:
    """Is a GPU here, and which one would serve?"""
    found = facts.gpu
    if found is not None:
        if facts.choice.gpu is None:
            return bad("gpu", facts.choice.reason, "unset the variable, or let it name a GPU that is here")
        size = f"{usable_bytes(found, facts.sysroot) / GIB:.1f} GiB usable"
        more = (
            f", of {len(facts.detection.accelerators)} GPUs" if len(facts.detection.accelerators) > 1 else ""
        )
        return good("gpu", f"{found.name} ({found.gfx or found.vendor}), {size}{more}")
    return _no_gpu(facts)


def _no_gpu(facts: Facts) -> Check:
    if facts.absent:
        seen = kfd.describe(facts.absent)
        return bad(
            "gpu", f"the host has {seen}, but it was not given to this container", _start_with_devices(facts)
        )
    if facts.topology.unreadable:
        nodes = ", ".join(facts.topology.unreadable)
        return bad("gpu", f"no GPU node can be read ({nodes})", _start_with_devices(facts))
    cards = _amd_cards_on_pci(facts)
    if cards and not facts.sysroot.exists("/sys/module/amdgpu"):
        return bad(
            "gpu",
            f"an AMD GPU is at {', '.join(cards)}, but its driver is not loaded",
            "sudo modprobe amdgpu (and look at `dmesg | grep amdgpu` where that fails)",
        )
    if facts.sysroot.exists("/proc/driver/nvidia/version"):
        return void(
            "gpu", "an NVIDIA driver is here, and NVML did not list a GPU: " + _why(facts, "NVMLDetector")
        )
    return void("gpu", "no GPU: the CPU will serve")


def _why(facts: Facts, detector: str) -> str:
    return next(
        (one.reason for one in facts.detection.attempts if one.detector == detector), "it was not asked"
    )


def _start_with_devices(facts: Facts) -> str:
    if facts.place == "host":
        return f"ls -l {DRI} {KFD}; sudo modprobe amdgpu"
    return "start the container with the devices: see the run line below"


def _amd_cards_on_pci(facts: Facts) -> list[str]:
    base = "/sys/bus/pci/devices"
    return [
        place
        for place in facts.sysroot.names(base)
        if facts.sysroot.number(f"{base}/{place}/vendor") == 0x1002
        and (facts.sysroot.number(f"{base}/{place}/class") or 0) >> 16 == _DISPLAY
    ]


def render_nodes(facts: Facts) -> Check:
    """Are render nodes here? Vulkan and ROCm both need them."""
    nodes = [name for name in facts.sysroot.names(DRI) if name.startswith("renderD")]
    if nodes:
        return good("render-node", ", ".join(f"{DRI}/{name}" for name in nodes))
    if facts.absent or facts.topology.unreadable:
        return bad("render-node", f"no render node is in {DRI}", _start_with_devices(facts))
    return void("render-node", f"no render node is in {DRI}")


def kfd_node(facts: Facts) -> Check:
    """Is /dev/kfd here? ROCm needs it; Vulkan does not."""
    if facts.sysroot.exists(KFD):
        return good("kfd", f"{KFD} is here")
    if not _amd(facts):
        return void("kfd", f"{KFD} is not here, and no AMD GPU needs it")
    if facts.topology.present:
        fix = (
            "--device /dev/kfd when the container is started"
            if facts.place == "container"
            else "sudo modprobe amdgpu"
        )
        return bad("kfd", f"{KFD} is not here: ROCm sees no GPU (Vulkan does)", fix)
    return void("kfd", "the kernel has no KFD for this GPU: Vulkan serves, ROCm cannot")


def _amd(facts: Facts) -> bool:
    return bool(facts.absent) or any(gpu.vendor == "amd" for gpu in facts.detection.accelerators)


def groups(facts: Facts) -> Check:
    """May this user open the nodes?"""
    nodes = [
        gpu.render_node for gpu in facts.detection.accelerators if gpu.render_node and gpu.vendor == "amd"
    ]
    if facts.sysroot.exists(KFD):
        nodes.append(KFD)
    if not nodes:
        return void("groups", "no device node to open")
    owners = {node: owner for node in nodes if (owner := facts.sysroot.owner(node))}
    gids = sorted({owner.gid for owner in owners.values() if owner.mode & 0o006 != 0o006})
    add = " ".join(f"--group-add {gid}" for gid in gids)
    closed = [node for node, owner in owners.items() if not owner.writable_by(facts.who.uid, facts.who.gids)]
    if not closed:
        needs = f"; a container that runs without root needs {add}" if add else ""
        return good("groups", f"uid {facts.who.uid} may open {', '.join(owners)}{needs}")
    seen = f"uid {facts.who.uid} may not open {', '.join(closed)}: not in group {', '.join(map(str, gids))}"
    if facts.place == "container":
        return bad("groups", seen, f"start the container with {add}")
    names = ",".join(facts.group_name(gid) or str(gid) for gid in gids)
    fix = f"for containers: docker run {add}\nfor yourself: sudo usermod -aG {names} $USER, then log in again"
    return bad("groups", seen, fix)


def visible_devices(facts: Facts) -> Check:
    """Do the visible-devices variables contradict each other or hide what is here?"""
    name = "visible-devices"
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES")
    said = {key: facts.environ[key] for key in names if key in facts.environ}
    words = ", ".join(f"{key}={value}" for key, value in said.items())
    hip, cuda = said.get("HIP_VISIBLE_DEVICES"), said.get("CUDA_VISIBLE_DEVICES")
    if hip and cuda and hip != cuda:
        return bad(name, f"{words} disagree: vLLM refuses to start", "set only HIP_VISIBLE_DEVICES")
    if facts.detection.accelerators and facts.choice.gpu is None:
        return bad(name, facts.choice.reason, "unset it, or name an index that `detect` lists")
    if "GGML_VK_VISIBLE_DEVICES" in said:
        return good(name, f"{words} (it also lets llama.cpp take CPU devices of Vulkan)")
    return good(name, words) if said else void(name, "none is set: every GPU is visible")


def selinux(facts: Facts) -> Check:
    """Does SELinux keep device nodes from containers?"""
    enforced = facts.sysroot.number("/sys/fs/selinux/enforce") == 1
    if facts.place == "container" or not enforced:
        return void("selinux", "not enforced here")
    if not selinux_keeps_devices(facts.sysroot):
        return good("selinux", "enforced, and lets containers use devices")
    return bad(
        "selinux",
        "enforced, and keeps devices from containers",
        "sudo setsebool -P container_use_devices=1, or --security-opt label=disable as in the run line below",
    )
