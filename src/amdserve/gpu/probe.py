"""Asks one library what GPUs it sees, in a process of its own, and prints the answer as JSON.

Run as a script (`python -P probe.py amdsmi|nvml|torch`), never imported by the package: a library that
crashes, hangs, exits or writes to standard output does so here, and not in the process that asks.
Only the standard library and the asked module are imported.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

Answer = dict[str, Any]


def no(outcome: str, reason: str) -> Answer:
    """Give an answer without devices."""
    return {"outcome": outcome, "reason": reason, "devices": []}


def each(count: int, read: Any) -> list[Answer]:
    """Read every device; one that fails is left out when another one answers."""
    devices, last = [], None
    for index in range(count):
        try:
            devices.append(read(index))
        except Exception as reason:  # vendors' libraries raise what they like
            last = reason
    if not devices and last is not None:
        raise last
    return devices


def ask(call: Any, *arguments: Any) -> Any:
    """Call, and give None instead of an exception: one missing fact must not hide the device."""
    try:
        return call(*arguments)
    except Exception:  # as above
        return None


def amdsmi() -> Answer:
    """Ask AMD's management library."""
    try:
        import amdsmi as smi  # noqa: PLC0415 - the asked library, and no other
    except KeyError as reason:
        return no("unavailable", f"amdsmi is installed, ROCm's library {reason} is not")
    except AttributeError as reason:
        return no("error", f"amdsmi and ROCm's libamd_smi.so are of different versions: {reason}")
    try:
        smi.amdsmi_init()
    except Exception as reason:  # AmdSmiLibraryException, and others in other versions
        code = ask(reason.get_error_code) if hasattr(reason, "get_error_code") else None
        if code == 34:
            return no("unavailable", "amdsmi: the amdgpu driver is not loaded")
        return no("error", f"amdsmi_init failed: {type(reason).__name__}: {reason}")
    handles = smi.amdsmi_get_processor_handles()

    def read(index: int) -> Answer:
        handle = handles[index]
        asic = ask(smi.amdsmi_get_gpu_asic_info, handle) or {}
        node = (
            ask(smi.amdsmi_get_gpu_enumeration_info, handle)
            if hasattr(smi, "amdsmi_get_gpu_enumeration_info")
            else {}
        )
        kernel = ask(smi.amdsmi_get_gpu_driver_info, handle) or {}
        kinds = smi.AmdSmiMemoryType
        return {
            "gfx": asic.get("target_graphics_version"),
            "name": asic.get("market_name"),
            "compute_units": asic.get("num_compute_units"),
            "vram_bytes": ask(smi.amdsmi_get_gpu_memory_total, handle, kinds.VRAM),
            "gtt_bytes": ask(smi.amdsmi_get_gpu_memory_total, handle, kinds.GTT),
            "pci": ask(smi.amdsmi_get_gpu_device_bdf, handle),
            "render_minor": (node or {}).get("drm_render"),
            "driver": f"{kernel.get('driver_name')} {kernel.get('driver_version')}" if kernel else None,
        }

    devices = each(len(handles), read)
    ask(smi.amdsmi_shut_down)
    return {"outcome": "found" if devices else "none", "reason": "amdsmi lists no GPU", "devices": devices}


def nvml() -> Answer:
    """Ask NVIDIA's management library."""
    import pynvml as nv  # noqa: PLC0415 - the asked library, and no other

    try:
        nv.nvmlInit()
    except Exception as reason:  # NVMLError and its many subclasses
        return no("unavailable", f"nvmlInit failed: {reason}")
    version = text(ask(nv.nvmlSystemGetDriverVersion))

    def read(index: int) -> Answer:
        handle = nv.nvmlDeviceGetHandleByIndex(index)
        memory = ask(nv.nvmlDeviceGetMemoryInfo, handle)
        pci = ask(nv.nvmlDeviceGetPciInfo, handle)
        return {
            "name": text(nv.nvmlDeviceGetName(handle)),
            "vram_bytes": getattr(memory, "total", None),
            "pci": text(getattr(pci, "busId", None)),
            "driver": f"nvidia {version}" if version else None,
        }

    devices = each(nv.nvmlDeviceGetCount(), read)
    ask(nv.nvmlShutdown)
    return {"outcome": "found" if devices else "none", "reason": "NVML counts 0 GPUs", "devices": devices}


def torch() -> Answer:
    """Ask torch, which shows AMD GPUs under the name cuda when it was built for ROCm."""
    import torch as library  # noqa: PLC0415 - the asked library, and no other

    built = {"version": library.__version__, "hip": library.version.hip, "cuda": library.version.cuda}
    if not library.cuda.is_available():
        return {**no("none", f"torch {library.__version__} sees no GPU"), **built}

    def read(index: int) -> Answer:
        facts = library.cuda.get_device_properties(index)
        place: list[Any] = [getattr(facts, f"pci_{part}_id", None) for part in ("domain", "bus", "device")]
        return {
            "gfx": getattr(facts, "gcnArchName", None) if library.version.hip else None,
            "name": facts.name,
            "compute_units": facts.multi_processor_count,
            "vram_bytes": facts.total_memory,
            "pci": None if None in place else "{:04x}:{:02x}:{:02x}.0".format(*place),
            "integrated": bool(getattr(facts, "is_integrated", False)),
        }

    devices = each(library.cuda.device_count(), read)
    return {
        "outcome": "found" if devices else "none",
        "reason": "torch counts 0 GPUs",
        "devices": devices,
        **built,
    }


def text(value: Any) -> str | None:
    """Give text where older libraries give bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def main(kind: str) -> None:
    """Ask, with standard output turned to standard error, and write the answer to the real one."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = {"amdsmi": amdsmi, "nvml": nvml, "torch": torch}[kind]()
    except ImportError as reason:
        answer = no("unavailable", str(reason))
    except BaseException as reason:  # SystemExit too: an answer is owed
        answer = no("error", f"{type(reason).__name__}: {reason}")
    json.dump(answer, answers, default=str)
    answers.flush()
    # Some vendors' libraries crash or hang in their exit handlers; the answer is out, so leave without them.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
