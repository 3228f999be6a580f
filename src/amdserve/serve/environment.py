"""The environment a GPU backend needs: which driver, where ROCm lies, which GPU it shall see."""

from __future__ import annotations

from collections.abc import Mapping

from amdserve.gpu.models import GPU
from amdserve.serve.image import Image
from amdserve.serve.machine import Machine


def vulkan_driver(image: Image, machine: Machine, vendor: str | None) -> str | None:
    """Give the manifest of the Vulkan driver for a vendor's GPU, or None to leave the environment as it is.

    A manifest that the user named in `VK_DRIVER_FILES`, other than the image's own, wins.
    """
    named = machine.environ.get("VK_DRIVER_FILES") or machine.environ.get("VK_ICD_FILENAMES")
    if named and named != image.vulkan_icd:
        return named
    if vendor is None:
        return None
    if vendor == "amd" and image.vulkan_icd:
        return image.vulkan_icd
    word = {"amd": "radeon", "nvidia": "nvidia"}.get(vendor, vendor)
    return next((icd for icd in machine.icds if word in icd.rsplit("/", 1)[-1]), None)


def rocm_environment(image: Image, gpu: GPU | None, environ: Mapping[str, str]) -> dict[str, str]:
    """Give what ROCm needs: where it lies, and the one GPU it shall see, unless the user said which."""
    env: dict[str, str] = {}
    if image.rocm_prefix:
        env["ROCM_PATH"] = env["HIP_PATH"] = image.rocm_prefix
    said = any(environ.get(name) for name in ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"))
    if gpu is not None and gpu.vendor == "amd" and not said:
        # ROCR hides all others; in what it leaves, HIP's first is the one.
        env["ROCR_VISIBLE_DEVICES"] = gpu.unique_id or str(gpu.index)
        env["HIP_VISIBLE_DEVICES"] = "0"
    if environ.get("HSA_OVERRIDE_GFX_VERSION"):
        env["HSA_OVERRIDE_GFX_VERSION"] = environ["HSA_OVERRIDE_GFX_VERSION"]
    return env
