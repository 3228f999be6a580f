"""Checks of the kernel side: its version, fields and firmware that Strix Halo needs, GTT, locked memory."""

from __future__ import annotations

import re

from amdserve.doctor.facts import EngineFacts, Facts
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu.select import usable_bytes

GIB = 1 << 30
MIB = 1 << 20
_PAGE = 4096
# The first mainline kernel that sizes context save areas right for gfx1151 and tells user space about it.
_CWSR_KERNEL = (6, 18, 4)
_CWSR_FIELDS = ("cwsr_size", "ctl_stack_size")
# The MES firmware of linux-firmware 20251125, withdrawn since: it hangs gfx1151.
_BAD_MES = 0x83
_BAD_FIRMWARE = "20251125"
_MES_VERSION_MASK = 0xFFF
# Below this share of the memory, an APU's GTT is what the kernel gives by default: half.
_GTT_SHARE = 0.6
# From this kernel on the driver warns of its own parameter: GTT is as large as ttm allows.
_GTT_FOLLOWS_TTM = (6, 14)
# A limit on locked memory under this locks no model at all.
_SMALLEST_LOCK = GIB


def version_of(release: str) -> tuple[int, ...]:
    """Give the numbers a kernel release begins with: `6.18.7-200.fc43` → (6, 18, 7)."""
    match = re.match(r"(\d+)\.(\d+)(?:\.(\d+))?", release)
    return tuple(int(part or 0) for part in match.groups()) if match else ()


def _has_cwsr(facts: Facts) -> bool:
    return all(facts.properties.get(field) for field in _CWSR_FIELDS)


def kernel(facts: Facts) -> Check:
    """Is the kernel new enough for this GPU?"""
    if not facts.kernel:
        return void("kernel", "the kernel's release cannot be read")
    gpu = facts.gpu
    if gpu is None or gpu.gfx != "gfx1151":
        return good("kernel", facts.kernel)
    if version_of(facts.kernel) >= _CWSR_KERNEL:
        return good("kernel", f"{facts.kernel}, 6.18.4 or later as gfx1151 needs")
    if _has_cwsr(facts):
        return good(
            "kernel",
            f"{facts.kernel}: older than 6.18.4, but the fix that gfx1151 needs was brought back to it",
        )
    return bad(
        "kernel",
        f"{facts.kernel} is older than 6.18.4, the first that runs ROCm safely on gfx1151",
        facts.on_host("install a kernel of 6.18.4 or later and restart (until then serve with Vulkan)"),
    )


def cwsr(facts: Facts) -> Check:
    """Does the kernel tell ROCm the sizes of gfx1151's context save areas?"""
    gpu = facts.gpu
    if gpu is None or gpu.gfx != "gfx1151":
        return void("cwsr", "only gfx1151 needs it")
    if not facts.properties:
        return void("cwsr", "the GPU's KFD properties cannot be read")
    if _has_cwsr(facts):
        return good("cwsr", f"cwsr_size {facts.properties['cwsr_size']} is published")
    dkms = facts.sysroot.text("/sys/module/amdgpu/version")
    fix = f"remove AMD's driver package (amdgpu-dkms {dkms}), it hides the kernel's own; " if dkms else ""
    return bad(
        "cwsr",
        "cwsr_size and ctl_stack_size are missing from the KFD properties: ROCm faults or hangs on gfx1151",
        facts.on_host(f"{fix}a kernel of 6.18.4 or later; until then --backend llama-server-vulkan"),
    )


def firmware(facts: Facts) -> Check:
    """Is the GPU's firmware the one that was withdrawn?"""
    gpu = facts.gpu
    if gpu is None or gpu.gfx != "gfx1151":
        return void("firmware", "no firmware of this GPU is known to be broken")
    mes = facts.sysroot.number(facts.device_file("fw_version/mes_fw_version"))
    if (mes is not None and mes & _MES_VERSION_MASK == _BAD_MES) or facts.firmware.startswith(_BAD_FIRMWARE):
        return bad(
            "firmware",
            f"{_firmware_words(facts, mes)}: linux-firmware 20251125 was withdrawn, it hangs gfx1151",
            facts.on_host("install another linux-firmware than 20251125, rebuild the initramfs, restart"),
        )
    if mes is None and not facts.firmware:
        return void("firmware", "its version cannot be read")
    return good("firmware", _firmware_words(facts, mes))


def _firmware_words(facts: Facts, mes: int | None) -> str:
    words = [f"MES firmware 0x{mes:x}"] if mes is not None else []
    return ", ".join([*words, *([f"linux-firmware {facts.firmware}"] if facts.firmware else [])])


def gtt(facts: Facts) -> Check:
    """May an APU map enough of the system's memory?"""
    gpu = facts.gpu
    if gpu is None or not gpu.integrated:
        return void("gtt", "only an APU serves from the system's memory")
    ram = facts.memory.get("MemTotal", 0)
    if not ram or not gpu.gtt_bytes:
        return void("gtt", "the size of the memory or of GTT cannot be read")
    usable = usable_bytes(gpu, facts.sysroot)
    seen = f"the GPU may map {gpu.gtt_bytes / GIB:.1f} of {ram / GIB:.1f} GiB"
    wanted = facts.model_bytes
    if wanted is None and gpu.gtt_bytes >= _GTT_SHARE * ram:
        return good("gtt", seen)
    if wanted is not None and usable >= wanted:
        return good("gtt", f"{seen}, enough for a model of {wanted / GIB:.1f} GiB")
    # What is left to the system: a sixteenth, and no less than 4 GiB.
    most = max(ram - max(ram // 16, 4 * GIB), 0) // GIB
    if most * GIB <= gpu.gtt_bytes:
        return bad(
            "gtt", f"{seen}, and a model of {(wanted or 0) / GIB:.1f} GiB needs more", "take a smaller model"
        )
    reason = f", too little for a model of {wanted / GIB:.1f} GiB" if wanted else ", the kernel's default"
    words = _gtt_words(facts, most)
    return bad("gtt", seen + reason, facts.on_host(f"{_boot_words(facts, words)}: {most} GiB for the GPU"))


def _gtt_words(facts: Facts, size: int) -> str:
    """Give the kernel parameters for a GTT of so many GiB.

    ttm's limit is enough on kernels of today, and the driver's own parameter is deprecated there; older
    ones need both, and where it is set already it wins. AMD's driver package brings a ttm of its own.
    """
    module = "amdttm" if facts.sysroot.exists("/sys/module/amdttm") else "ttm"
    words = f"{module}.pages_limit={size * GIB // _PAGE}"
    held = (facts.sysroot.number("/sys/module/amdgpu/parameters/gttsize") or -1) > 0
    if held or version_of(facts.kernel) < _GTT_FOLLOWS_TTM:
        words += f" amdgpu.gttsize={size * GIB // MIB}"
    return words


def _boot_words(facts: Facts, words: str) -> str:
    """Say how this host adds words to its kernel's command line."""
    release = facts.sysroot.text("/etc/os-release") or ""
    family = " ".join(line for line in release.splitlines() if line.startswith(("ID=", "ID_LIKE=")))
    if facts.place == "host" and facts.sysroot.exists("/run/ostree-booted"):
        pairs = " ".join(
            f"--delete-if-present={word.partition('=')[0]} --append={word}" for word in words.split()
        )
        return f"sudo rpm-ostree kargs {pairs}, then restart"
    if facts.place == "host" and re.search(r"fedora|rhel", family):
        return f'sudo grubby --update-kernel=ALL --args="{words}", then restart'
    if facts.place == "host" and re.search(r"debian|ubuntu", family):
        where = "GRUB_CMDLINE_LINUX_DEFAULT in /etc/default/grub"
        return f"add `{words}` to {where}, sudo update-grub, then restart"
    return f"add `{words}` to the kernel's command line, then restart"


def memlock(facts: Facts) -> Check:
    """May the model be locked in memory?"""
    limit, hard = facts.memlock
    if facts.place == "host":
        return _memlock_of_host(facts, hard)
    if limit is None or facts.who.may_lock_all:
        return good("memlock", "no limit on locked memory")
    needed = facts.model_bytes if facts.model_bytes is not None else _SMALLEST_LOCK
    if limit >= needed:
        return good("memlock", f"{_size(limit)} may be locked")
    against = f"the model has {_size(needed)}" if facts.model_bytes is not None else "no model fits in that"
    return bad(
        "memlock",
        f"only {_size(limit)} may be locked, {against}",
        "start with --ulimit memlock=-1:-1, or serve with --no-mlock",
    )


def _memlock_of_host(facts: Facts, hard: int | None) -> Check:
    """A container's limit is its own, but an engine without root cannot raise its user's."""
    rootless = isinstance(facts.engine, EngineFacts) and facts.engine.rootless
    if not rootless or hard is None or hard >= (facts.model_bytes or _SMALLEST_LOCK):
        return void(
            "memlock", "a container has a limit of its own: --ulimit memlock=-1:-1 in the run line below"
        )
    return bad(
        "memlock",
        f"the engine runs without root, and this user may lock only {_size(hard)}",
        'echo "$USER - memlock unlimited" | sudo tee /etc/security/limits.d/memlock.conf, then log in again',
    )


def _size(count: int) -> str:
    return f"{count / GIB:.1f} GiB" if count >= GIB else f"{count / MIB:.1f} MiB"
