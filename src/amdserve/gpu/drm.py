"""What DRM's part of sysfs says of an AMD card: memory, PCI place, name, own memory or shared."""

from __future__ import annotations

from collections.abc import Iterator

from amdserve.gpu.catalogue import gpu_type_of, lookup
from amdserve.gpu.models import GPU
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass

DRM = "/sys/class/drm"
AMD_VENDOR = 0x1002
# libdrm's list of marketing names; RADV brings it into every image. The second place is AMD's driver package.
IDS = ("/usr/share/libdrm/amdgpu.ids", "/opt/amdgpu/share/libdrm/amdgpu.ids")
# The one chip that comes as a card and as an APU: this is the MI300A's PCI device.
_APU_DEVICES = frozenset({0x74A0})
# PCI devices of AMD's cards since GCN; APUs have 0x13… to 0x19… and 0x98….
_CARD_DEVICES = range(0x6600, 0x8000)
# Graphics IP versions (ip_discovery) whose gfx target is not simply their digits.
_IP_TO_GFX = {
    (9, 0, 1): "gfx900", (9, 1, 0): "gfx902", (9, 2, 1): "gfx904", (9, 2, 2): "gfx902", (9, 3, 0): "gfx90c",
    (9, 4, 0): "gfx906", (9, 4, 1): "gfx908", (9, 4, 2): "gfx90a", (9, 4, 3): "gfx942", (9, 4, 4): "gfx942",
    (10, 1, 10): "gfx1010", (10, 1, 1): "gfx1012", (10, 1, 2): "gfx1011", (10, 1, 3): "gfx1013",
    (10, 1, 4): "gfx1013", (10, 3, 1): "gfx1033", (10, 3, 2): "gfx1031", (10, 3, 3): "gfx1035",
    (10, 3, 4): "gfx1032", (10, 3, 5): "gfx1034", (10, 3, 7): "gfx1036",
    (11, 0, 1): "gfx1103", (11, 0, 3): "gfx1101", (11, 0, 4): "gfx1103",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Card:
    """A DRM device; None where the kernel does not say."""

    render_node: str
    pci: str | None
    device_id: int | None
    revision: int | None
    vram_bytes: int | None
    gtt_bytes: int | None
    product: str | None
    board_info: bool


def read(sysroot: Sysroot, render: str) -> Card | None:
    """Read `/sys/class/drm/<render>/device`, or give None where that is no AMD card."""
    device = f"{DRM}/{render}/device"
    if sysroot.number(f"{device}/vendor") != AMD_VENDOR:
        return None
    uevent = dict(
        line.partition("=")[::2]
        for line in (sysroot.text(f"{device}/uevent") or "").splitlines()
        if "=" in line
    )
    return Card(
        render_node=f"/dev/dri/{render}",
        pci=(uevent.get("PCI_SLOT_NAME") or "").lower() or None,
        device_id=sysroot.number(f"{device}/device"),
        revision=sysroot.number(f"{device}/revision"),
        vram_bytes=_size(sysroot, f"{device}/mem_info_vram_total"),
        gtt_bytes=_size(sysroot, f"{device}/mem_info_gtt_total"),
        product=sysroot.text(f"{device}/product_name") or None,
        board_info=sysroot.exists(f"{device}/board_info"),
    )


def _size(sysroot: Sysroot, name: str) -> int | None:
    """Read a size in bytes; a negative one is none."""
    size = sysroot.number(name)
    return size if size is not None and size >= 0 else None


def list_amd(sysroot: Sysroot) -> Iterator[GPU]:
    """Give each AMD card that DRM knows, whether or not KFD does; `index` is not set."""
    for render in sysroot.names(DRM):
        if not render.startswith("renderD"):
            continue
        card = read(sysroot, render)
        if card is None:
            continue
        gfx = _gfx_from_ip(sysroot, render)
        vram, gtt = card.vram_bytes or 0, card.gtt_bytes or 0
        yield GPU(
            index=-1,
            vendor="amd",
            name=name_of(sysroot, gfx, card, card.device_id),
            gfx=gfx,
            gpu_type=gpu_type_of(gfx),
            vram_bytes=vram,
            gtt_bytes=gtt,
            integrated=is_integrated(gfx, card, card.device_id, vram, gtt),
            compute_units=0,
            pci=card.pci,
            render_node=card.render_node,
            driver=driver(sysroot),
        )


def _gfx_from_ip(sysroot: Sysroot, render: str) -> str | None:
    """Give the gfx from the graphics IP version that newer kernels publish; None where they do not."""
    block = f"{DRM}/{render}/device/ip_discovery/die/0/GC/0"
    major, minor, step = (sysroot.number(f"{block}/{part}") for part in ("major", "minor", "revision"))
    if major is None or minor is None or step is None:
        return None
    gfx = _IP_TO_GFX.get((major, minor, step)) or f"gfx{major}{minor:x}{step:x}"
    return gfx if lookup(gfx) else None


def is_integrated(gfx: str | None, card: Card | None, device_id: int | None, vram: int, gtt: int) -> bool:
    """Tell whether the GPU shares the system's memory.

    The table knows for nearly every gfx. For one it does not hold: only cards have `board_info` (on newer
    kernels) or a card's PCI device, and an APU's carve-out is smaller than what it may map of the system's
    memory.
    """
    if device_id in _APU_DEVICES:
        return True
    target = lookup(gfx)
    if target is not None:
        return target.integrated
    device = card.device_id if card and card.device_id is not None else device_id
    if (card and card.board_info) or (device is not None and device in _CARD_DEVICES):
        return False
    return vram < gtt


def name_of(sysroot: Sysroot, gfx: str | None, card: Card | None, device_id: int | None) -> str:
    """Give the name a person knows: of the board, of libdrm's list, else of the architecture."""
    if card and card.product:
        return card.product
    device = card.device_id if card and card.device_id is not None else device_id
    if device is not None:
        for place in IDS:
            name = _marketing_name(sysroot.text(place) or "", device, card.revision if card else None)
            if name:
                return name
    target = lookup(gfx)
    if target is None:
        return f"AMD GPU ({gfx or 'gfx not known'})"
    return f"AMD {target.products[0] if target.integrated else target.architecture} ({target.gfx})"


def _marketing_name(ids: str, device: int, revision: int | None) -> str | None:
    """Find `1586,<tab>C1,<tab>AMD Radeon 8060S Graphics`; without a revision only where all agree."""
    found = {}
    for line in ids.splitlines():
        words = [word.strip() for word in line.split(",", 2)]
        if len(words) == 3 and words[0].upper() == f"{device:04X}":
            found[words[1].upper()] = words[2]
    if revision is not None:
        return found.get(f"{revision:02X}")
    names = set(found.values())
    return names.pop() if len(names) == 1 else None


def driver(sysroot: Sysroot) -> str | None:
    """Name the kernel driver: amdgpu with its own version (DKMS), else with the kernel's."""
    version = sysroot.text("/sys/module/amdgpu/version")
    if version is None:
        version = sysroot.text("/proc/sys/kernel/osrelease")
    return f"amdgpu {version}" if version else None
