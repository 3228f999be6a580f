"""What the templates, the image's description and the bake file say of vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from amdserve.image.catalog import Provider, VllmPin
from amdserve.image.vllm import BACKEND, DEFAULT, MOUNTED, OWN_ROCM, SYSTEM

PREFIX = "/opt/vllm"
ROCM = f"{PREFIX}/rocm"
COMMAND = ([f"{PREFIX}/bin/vllm", "serve"], PREFIX)
CONTEXT = "vllm-index"


def requirement(pin: VllmPin) -> str:
    """Give what is installed: the exact local version, which no index but a ROCm one has."""
    return pin.requirement or f"vllm=={pin.version}+{pin.variant}"


def own_rocm(pin: VllmPin) -> bool:
    """Tell whether this vLLM brings ROCm itself, in packages beside it."""
    return pin.source == "build" or int(pin.variant.removeprefix("rocm")) % 1000 == OWN_ROCM


def template(backends: Sequence[str], gfx: Sequence[str], pin: VllmPin | None) -> dict[str, Any] | None:
    """Give the name `vllm` of the templates; None for an image without it.

    Args:
        backends: of the cell.
        gfx: its targets.
        pin: the pins with a site's settings over them.
    """
    if BACKEND not in backends or pin is None:
        return None
    filled = [entry.format(version=pin.version, variant=pin.variant) for entry in pin.indexes]
    mirror = pin.python_source if "://" in pin.python_source else ""
    return {
        **pin.model_dump(exclude={"folder", "listing"}),
        "requirement": requirement(pin),
        "expected": requirement(pin).removeprefix("vllm==") if pin.source == "wheel" else "",
        "indexes": [
            {"url": entry.removeprefix(DEFAULT).rstrip("/") + "/", "default": entry.startswith(DEFAULT)}
            for entry in filled
        ],
        "folder": pin.folder is not None,
        "mounted": MOUNTED,
        "context": CONTEXT,
        "system_python": pin.python_source == SYSTEM,
        "mirror": mirror,
        "own_rocm": own_rocm(pin),
        "prefix": PREFIX,
        "gfx": ",".join(gfx),
    }


def described(
    backends: Sequence[str], gfx: Sequence[str], pin: VllmPin | None, provider: Provider | None
) -> dict[str, Any] | None:
    """Give the entry `vllm` of the image's description; None for an image without it."""
    if BACKEND not in backends or pin is None:
        return None
    prefix = ROCM if own_rocm(pin) else provider.prefix if provider else None
    return {
        "version": pin.version,
        "variant": pin.variant,
        "source": pin.source,
        "device": "rocm",
        "gfx": list(gfx),
        "rocm_prefix": prefix,
    }


def labels(pin: VllmPin) -> dict[str, str]:
    """Give the labels, without what begins them all."""
    return {"vllm.version": pin.version, "vllm.variant": pin.variant, "vllm.source": pin.source}


def contexts(backends: Sequence[str], pin: VllmPin | None) -> dict[str, str]:
    """Give the named build contexts that vLLM's stage needs: the folder of packages, where there is one."""
    return {CONTEXT: pin.folder} if pin and pin.folder and BACKEND in backends else {}
