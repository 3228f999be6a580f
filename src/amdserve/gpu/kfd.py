"""AMD GPUs from the kernel's own files: KFD topology and DRM sysfs, with no library at all.

`/sys/class/kfd/kfd/topology/nodes/N/properties` holds `key value` lines; a GPU is a node whose
`gfx_target_version` is not 0. sysfs shows every GPU of the host, also in a container that was given only
one of them or none: a GPU counts as here when its render node is in `/dev/dri`.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping

from amdserve.gpu import drm
from amdserve.gpu.catalogue import gpu_type_of
from amdserve.gpu.detector import Context
from amdserve.gpu.models import GPU, Finding
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass, replace

NODES = "/sys/class/kfd/kfd/topology/nodes"
# HSA_HEAPTYPE_FRAME_BUFFER_PUBLIC and …_PRIVATE of the kernel's kfd_crat.h.
_VRAM_HEAPS = (1, 2)


@dataclass(frozen=True, slots=True)
class Node:
    """A GPU node of the topology: its number, its properties, and the bytes of VRAM in its memory banks."""

    number: int
    properties: Mapping[str, int]
    vram_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Topology:
    """What the KFD topology holds: GPU nodes, and the nodes that cannot be read with the reason."""

    present: bool
    nodes: tuple[Node, ...] = ()
    unreadable: tuple[str, ...] = ()


def parse_properties(data: bytes) -> dict[str, int]:
    """Read `key value` lines; a line of another shape is left out, never an error."""
    found: dict[str, int] = {}
    for line in data.decode("ascii", errors="replace").splitlines():
        words = line.split()
        if len(words) != 2 or not (words[1].isascii() and words[1].isdigit()) or len(words[1]) > 20:
            continue
        found[words[0]] = int(words[1])
    return found


def gfx_name(version: int) -> str | None:
    """Decode `gfx_target_version`: 110501 is gfx1151, 90010 is gfx90a; None for what cannot be one."""
    major, minor, step = version // 10000, version // 100 % 100, version % 100
    if not 0 < major < 100 or minor > 15 or step > 15:
        return None
    return f"gfx{major}{minor:x}{step:x}"


def pci_address(properties: Mapping[str, int]) -> str | None:
    """Give the PCI address from `domain` and `location_id` (bus, device, function), or None."""
    place = properties.get("location_id", 0)
    if place == 0:
        return None
    return f"{properties.get('domain', 0):04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7:x}"


def read_topology(sysroot: Sysroot) -> Topology:
    """Read every GPU node; a node that refuses is named with the kernel's error, and is not fatal."""
    numbers = sorted(int(name) for name in sysroot.names(NODES) if name.isascii() and name.isdigit())
    nodes: list[Node] = []
    unreadable: list[str] = []
    for number in numbers:
        try:
            properties = parse_properties(sysroot.read(f"{NODES}/{number}/properties"))
        except OSError as reason:
            name = errno.errorcode.get(reason.errno or 0, type(reason).__name__)
            unreadable.append(f"node {number}: {name}")
            continue
        if properties.get("gfx_target_version", 0) != 0:
            nodes.append(Node(number, properties, _bank_bytes(sysroot, number)))
    return Topology(bool(numbers), tuple(nodes), tuple(unreadable))


def _bank_bytes(sysroot: Sysroot, number: int) -> int:
    total = 0
    for bank in sysroot.names(f"{NODES}/{number}/mem_banks"):
        try:
            properties = parse_properties(sysroot.read(f"{NODES}/{number}/mem_banks/{bank}/properties"))
        except OSError:
            continue
        if properties.get("heap_type") in _VRAM_HEAPS:
            total += properties.get("size_in_bytes", 0)
    return total


def _gpu(sysroot: Sysroot, node: Node) -> GPU:
    """Put a topology node and its DRM device together; `index` is set by who lists them."""
    properties = node.properties
    gfx = gfx_name(properties["gfx_target_version"])
    minor = properties.get("drm_render_minor", 0)
    card = drm.read(sysroot, f"renderD{minor}") if minor else None
    per_cu = properties.get("simd_per_cu", 0)
    vram = card.vram_bytes if card and card.vram_bytes is not None else node.vram_bytes
    gtt = (card.gtt_bytes if card else None) or 0
    unique = properties.get("unique_id", 0)
    return GPU(
        index=-1,
        vendor="amd",
        name=drm.name_of(sysroot, gfx, card, properties.get("device_id")),
        gfx=gfx,
        gpu_type=gpu_type_of(gfx),
        vram_bytes=vram,
        gtt_bytes=gtt,
        integrated=drm.is_integrated(gfx, card, properties.get("device_id"), vram, gtt),
        compute_units=properties.get("simd_count", 0) // per_cu if per_cu else 0,
        pci=pci_address(properties) or (card.pci if card else None),
        render_node=f"/dev/dri/renderD{minor}" if minor else None,
        driver=drm.driver(sysroot),
        unique_id=f"GPU-{unique:016x}" if unique else None,
    )


def list_gpus(sysroot: Sysroot, topology: Topology) -> tuple[tuple[GPU, ...], tuple[GPU, ...]]:
    """Give the GPUs that are here, and those that sysfs shows but this container was not given.

    AMD cards that have a DRM device but no KFD node (a kernel without KFD, a card that ROCm never knew)
    are listed too: Vulkan needs no KFD.
    """
    gpus = [_gpu(sysroot, node) for node in topology.nodes]
    known = {gpu.render_node for gpu in gpus}
    gpus += [gpu for gpu in drm.list_amd(sysroot) if gpu.render_node not in known]
    here = [gpu for gpu in gpus if gpu.render_node and sysroot.exists(gpu.render_node)]
    absent = tuple(gpu for gpu in gpus if gpu not in here)
    return tuple(replace(gpu, index=index) for index, gpu in enumerate(here)), absent


def describe(gpus: tuple[GPU, ...]) -> str:
    """Give a short list: `gfx1151 at 0000:c5:00.0`."""
    return ", ".join(f"{gpu.gfx or gpu.name} at {gpu.pci or 'an unknown place'}" for gpu in gpus)


class KFDDetector:
    """AMD GPUs from KFD topology and DRM sysfs."""

    name = "KFDDetector"
    vendor = "amd"
    limit = 5.0

    def detect(self, context: Context) -> Finding:
        """Read sysfs; never asks a library."""
        topology = read_topology(context.sysroot)
        here, absent = list_gpus(context.sysroot, topology)
        closed = f"; not readable: {', '.join(topology.unreadable)}" if topology.unreadable else ""
        if here:
            unseen = f"; not given to this container: {describe(absent)}" if absent else ""
            return Finding("found", f"{describe(here)}{unseen}{closed}", here)
        if absent:
            nodes = ", ".join(gpu.render_node or "no render node" for gpu in absent)
            return Finding(
                "none",
                f"sysfs shows {describe(absent)}, but {nodes} is not here: "
                f"start the container with --device /dev/dri{closed}",
            )
        if topology.unreadable and not topology.nodes:
            return Finding(
                "none",
                f"no GPU node can be read ({', '.join(topology.unreadable)}): "
                "they were not given to this container",
            )
        if not topology.present:
            return Finding("unavailable", f"{NODES} is not here: no amdgpu driver with KFD")
        return Finding("none", f"the KFD topology holds no GPU{closed}")
