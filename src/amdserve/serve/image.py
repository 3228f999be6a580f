"""What this image holds, as its build wrote it down in `/etc/amdserve/image.json`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve.errors import UsageError
from amdserve.serve.flags import Help
from amdserve.values import dataclass

DEFAULT = "/etc/amdserve/image.json"
VARIABLE = "AMDSERVE_IMAGE_JSON"


@dataclass(frozen=True, slots=True)
class Backend:
    """One backend of the image: its name, how it is started, the folder it lies in, its recorded `--help`."""

    name: str
    argv: tuple[str, ...]
    folder: str
    help: Help


@dataclass(frozen=True, slots=True)
class Image:
    """The image's description.

    Attributes:
        name: `vulkan`, `llama`, `full`, …
        hash: content hash of what it was built from.
        gfx: targets its ROCm backend has code for.
        backends: by name.
        rocm_prefix: where ROCm is, or None where it is not in the image.
        vulkan_icd: the Vulkan driver's manifest, or None.
        data: the whole description.
    """

    name: str
    hash: str
    gfx: tuple[str, ...]
    backends: Mapping[str, Backend]
    rocm_prefix: str | None
    vulkan_icd: str | None
    data: Mapping[str, Any]


def load(environ: Mapping[str, str] | None = None) -> Image:
    """Read the description.

    Args:
        environ: where `AMDSERVE_IMAGE_JSON` may name another file; None is this process's environment.

    Raises:
        UsageError: there is no description: this is no amdserve image.
    """
    environ = os.environ if environ is None else environ
    path = Path(environ.get(VARIABLE) or DEFAULT)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        return parse(data, path)
    except OSError as reason:
        raise UsageError(
            "there is no image description here",
            cause=f"{path}: {reason.strerror}. `amdserve serve` runs in an image made by `invoke build`",
            fix="on a host, start one with `invoke run --model FILE`",
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as reason:
        raise UsageError(
            f"{path} is no image description",
            cause=f"{type(reason).__name__}: {reason}",
            fix="build the image again: invoke build",
        ) from None


def parse(data: Mapping[str, Any], path: Path = Path(DEFAULT)) -> Image:
    """Make an `Image` of the description's JSON.

    Raises:
        KeyError, TypeError, ValueError: it is not of the agreed form.
    """
    if data.get("schema") != 1:
        raise ValueError(f"schema {data.get('schema')!r}, expected 1")
    backends = {}
    for name, entry in data["backends"].items():
        argv = tuple(str(part) for part in entry["argv"])
        if not argv:
            raise ValueError(f"backend {name} has no command")
        backends[name] = Backend(name, argv, str(entry.get("dir") or ""), _help(entry.get("help"), path))
    rocm, vulkan = data.get("rocm") or {}, data.get("vulkan") or {}
    return Image(
        name=str(data.get("image", "")),
        hash=str(data.get("hash", "")),
        gfx=tuple(str(gfx) for gfx in data.get("gfx") or ()),
        backends=backends,
        rocm_prefix=rocm.get("prefix"),
        vulkan_icd=vulkan.get("icd"),
        data=data,
    )


def _help(name: str | None, beside: Path) -> Help:
    if not name:
        return Help("")
    try:
        return Help((beside.parent / name).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return Help("")
