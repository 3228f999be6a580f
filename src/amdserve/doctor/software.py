"""Checks of what the image holds: Vulkan driver, devices its backends see, libraries, code for this GPU."""

from __future__ import annotations

import re
from pathlib import Path

from amdserve.doctor.facts import Facts, Seen
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu.catalogue import lookup, providers_with_blas

_ICD_FOLDERS = ("/usr/share/vulkan/icd.d", "/etc/vulkan/icd.d", "/usr/local/share/vulkan/icd.d")
_KERNELS = (
    "lib/rocblas/library",
    "lib/*/rocblas/library",
    "lib/*/rocblas/*/library",
    "lib/rocblas/*/library",
)
# Vulkan devices that are the CPU under another name.
_CPU_DEVICE = re.compile(r"llvmpipe|lavapipe|swiftshader", re.IGNORECASE)


def vulkan_icd(facts: Facts) -> Check:
    """Is the Vulkan driver's file there that the environment names?"""
    if facts.place == "host":
        return void("vulkan-icd", "the image brings its own Vulkan driver")
    for variable in ("VK_DRIVER_FILES", "VK_ICD_FILENAMES"):
        named = [name for name in facts.environ.get(variable, "").split(":") if name]
        missing = [name for name in named if not facts.sysroot.exists(name)]
        if missing:
            there = ", ".join(_icds(facts)) or "none"
            fix = f"start without -e {variable}, or let it name one of: {there}"
            return bad(
                "vulkan-icd",
                f"{variable} names {', '.join(missing)}, which is not there: no Vulkan device",
                fix,
            )
        if named:
            return good("vulkan-icd", ", ".join(named))
    found = _icds(facts)
    if found:
        return good("vulkan-icd", ", ".join(found))
    return bad(
        "vulkan-icd",
        "no Vulkan driver is installed",
        "use an image of amdserve, or install mesa-vulkan-drivers",
    )


def _icds(facts: Facts) -> list[str]:
    return [
        f"{folder}/{name}"
        for folder in _ICD_FOLDERS
        for name in facts.sysroot.names(folder)
        if name.endswith(".json")
    ]


def vulkan_device(facts: Facts) -> Check:
    """Does the Vulkan backend see a GPU, or only the CPU under another name?"""
    if facts.vulkan is None:
        return void("vulkan-device", "nothing here to ask")
    seen = facts.vulkan()
    devices = [device for device in seen.devices if not _CPU_DEVICE.search(device)]
    if devices:
        return good("vulkan-device", "; ".join(devices))
    if facts.gpu is None:
        return void("vulkan-device", "no GPU is here, and Vulkan sees none")
    only = f"only a CPU device ({'; '.join(seen.devices)})" if seen.devices else "no device"
    return bad("vulkan-device", f"Vulkan sees {only}{_error(seen)}", _device_fix(facts))


def rocm_device(facts: Facts) -> Check:
    """Does the ROCm backend see a GPU?"""
    if facts.rocm is None:
        return void("rocm-device", "no ROCm backend here to ask")
    seen = facts.rocm()
    if seen.devices:
        return good("rocm-device", "; ".join(seen.devices))
    if facts.gpu is None or facts.gpu.vendor != "amd":
        return void("rocm-device", "no AMD GPU is here, and ROCm sees none")
    return bad("rocm-device", f"ROCm sees no device{_error(seen)}", _device_fix(facts))


def _error(seen: Seen) -> str:
    return f": {seen.error}" if seen.error else ""


def _device_fix(facts: Facts) -> str:
    return (
        "fix what fails above; else compare with the run line below"
        if facts.place == "container"
        else "see above"
    )


def libraries(facts: Facts) -> Check:
    """Are the backends' shared libraries complete? One that is not there looks like a missing GPU."""
    if facts.libraries is None:
        return void("libraries", "no backend here to look at")
    missing = facts.libraries()
    if missing:
        return bad(
            "libraries", f"missing: {', '.join(missing)}", "the image is damaged: pull or build it again"
        )
    return good("libraries", "every shared library is found")


def image_gfx(facts: Facts) -> Check:
    """Was the image built for this GPU?"""
    name = "image-gfx"
    built = [gfx for gfx in facts.image.get("gfx") or [] if isinstance(gfx, str)]
    if not facts.image:
        return void(name, "not in an image")
    if not facts.image.get("rocm") or not built:
        return void(name, "the image holds no code for one GPU: Vulkan serves any")
    gpu = facts.gpu
    if gpu is None or gpu.vendor != "amd" or gpu.gfx is None:
        unknown = (
            f"the gfx of {gpu.name} is not known" if gpu and gpu.vendor == "amd" else "no AMD GPU is here"
        )
        return void(name, f"built for {', '.join(built)}; {unknown}")
    if gpu.gfx in built:
        return good(name, f"built for {gpu.gfx}")
    return _other_gfx(name, facts, gpu.gfx, built)


def _other_gfx(name: str, facts: Facts, gfx: str, built: list[str]) -> Check:
    """The image was built for another GPU, whose code this one may run."""
    target = lookup(gfx)
    stand_in = target.stand_in if target else None
    if target and stand_in in built:
        override = f"HSA_OVERRIDE_GFX_VERSION={target.rocm_override}"
        if _overrides(facts, gfx):
            return good(name, f"{gfx} runs {stand_in}'s code: {override}")
        return bad(name, f"built for {stand_in}, whose code {gfx} can run", f"start with -e {override}")
    wanted = gfx if providers_with_blas(gfx) else stand_in
    fix = f"./inv build --gfx {wanted}" if wanted else "./inv build --image vulkan"
    return bad(name, f"built for {', '.join(built)}, this GPU is {gfx}: ROCm cannot serve (Vulkan can)", fix)


def _overrides(facts: Facts, gfx: str) -> bool:
    """Whether the environment makes this gfx run another's code."""
    target = lookup(gfx)
    said = facts.environ.get("HSA_OVERRIDE_GFX_VERSION")
    return target is not None and target.rocm_override is not None and said == target.rocm_override


def blas(facts: Facts) -> Check:
    """Are BLAS kernels for this GPU there? Without them ROCm aborts at the first matrix product."""
    gpu = facts.gpu
    if gpu is None or gpu.vendor != "amd" or gpu.gfx is None:
        return void("blas", "no AMD GPU whose gfx is known")
    return _blas_of_host(gpu.gfx) if facts.place == "host" else _blas_of_image(facts, gpu.gfx)


def _blas_of_host(gfx: str) -> Check:
    providers, target = providers_with_blas(gfx), lookup(gfx)
    if providers:
        return good("blas", f"ROCm of {' and of '.join(providers)} has kernels for {gfx}")
    if target and target.stand_in:
        override = f"HSA_OVERRIDE_GFX_VERSION={target.rocm_override}"
        return void("blas", f"none for {gfx}; it may run {target.stand_in}'s with {override}")
    return void("blas", f"no ROCm provider has kernels for {gfx}: use Vulkan")


def _blas_of_image(facts: Facts, gfx: str) -> Check:
    prefix = str((facts.image.get("rocm") or {}).get("prefix") or "")
    if not prefix:
        return void("blas", "no ROCm in this image")
    target = lookup(gfx)
    wanted = (target.stand_in if target and _overrides(facts, gfx) else None) or gfx
    if any(_has_kernels(facts.sysroot.path(prefix), pattern, wanted) for pattern in _KERNELS):
        return good("blas", f"rocBLAS has kernels for {wanted}")
    built = (
        f"./inv build --gfx {wanted}"
        if providers_with_blas(wanted)
        else "serve with --backend llama-server-vulkan"
    )
    return bad("blas", f"rocBLAS in this image has no kernels for {wanted}", built)


def _has_kernels(prefix: Path, pattern: str, gfx: str) -> bool:
    # The name ends where the gfx does: gfx90a is not in gfx90a0, nor gfx110 in gfx1100.
    name = re.compile(rf"{gfx}(?![0-9a-z])")
    return any(name.search(file.name) for folder in prefix.glob(pattern) for file in folder.iterdir())
