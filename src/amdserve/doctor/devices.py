"""Checks of the way to the GPU: is one here, are its nodes here, may this user open them."""

from __future__ import annotations

from amdserve.doctor.facts import Facts
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu import kfd
from amdserve.gpu.access import DRI, KFD, selinux_keeps_devices
from amdserve.gpu.select import usable_bytes

GIB = 1 << 30
_AMD = 0x1002
# PCI classes: displays, and processing accelerators (the MI300 is one).
_GPU_CLASSES = (0x03, 0x12)


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
    if cards:
        return _not_driven(facts, *next(iter(cards.items())))
    if facts.nvidia:
        return void("gpu", "an NVIDIA GPU that was not listed: " + _why(facts, "NVMLDetector"))
    return void("gpu", "no GPU: the CPU will serve")


def _why(facts: Facts, detector: str) -> str:
    return next(
        (one.reason for one in facts.detection.attempts if one.detector == detector), "it was not asked"
    )


def _start_with_devices(facts: Facts) -> str:
    if facts.place == "host":
        return f"ls -l {DRI} {KFD}; sudo modprobe amdgpu"
    return "start the container with the devices: see the run line below"


def _amd_cards_on_pci(facts: Facts) -> dict[str, str]:
    """Give the PCI addresses of AMD's GPUs, each with the name of its driver, empty where it has none."""
    base = "/sys/bus/pci/devices"
    found = {}
    for place in facts.sysroot.names(base):
        kind = (facts.sysroot.number(f"{base}/{place}/class") or 0) >> 16
        if facts.sysroot.number(f"{base}/{place}/vendor") == _AMD and kind in _GPU_CLASSES:
            uevent = facts.sysroot.text(f"{base}/{place}/uevent") or ""
            drivers = [line[7:] for line in uevent.splitlines() if line.startswith("DRIVER=")]
            found[place] = drivers[0] if drivers else ""
    return found


def _not_driven(facts: Facts, place: str, driver: str) -> Check:
    """An AMD GPU is on the bus, and amdgpu does not drive it."""
    seen = f"an AMD GPU is at {place}"
    if driver == "vfio-pci":
        fix = f"unbind {place} from vfio-pci, or detect inside the virtual machine that has it"
        return bad("gpu", f"{seen}, but vfio-pci keeps it for a virtual machine", facts.on_host(fix))
    if driver not in ("", "amdgpu"):
        return void("gpu", f"{seen}, with the driver {driver}, by which nothing here can serve")
    if "nomodeset" in (facts.sysroot.text("/proc/cmdline") or "").split():
        fix = "take nomodeset off the kernel's command line, then restart"
        return bad("gpu", f"{seen}, but nomodeset keeps its driver away", facts.on_host(fix))
    if not facts.sysroot.exists("/sys/module/amdgpu"):
        fix = "sudo modprobe amdgpu (and look at `sudo dmesg | grep amdgpu` where that fails)"
        return bad("gpu", f"{seen}, but its driver is not loaded", facts.on_host(fix))
    return bad(
        "gpu",
        f"{seen}, but no driver has taken it, though amdgpu is loaded",
        facts.on_host(
            "sudo dmesg | grep amdgpu says why: firmware that is missing, or a kernel older than the GPU"
        ),
    )


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
        vulkan = " (Vulkan does)" if facts.detection.accelerators else ""
        return bad("kfd", f"{KFD} is not here: ROCm sees no GPU{vulkan}", fix)
    return void("kfd", "the kernel has no KFD for this GPU: Vulkan serves, ROCm cannot")


def _amd(facts: Facts) -> bool:
    return bool(facts.absent) or any(gpu.vendor == "amd" for gpu in facts.detection.accelerators)


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
