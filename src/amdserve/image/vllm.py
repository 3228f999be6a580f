"""vLLM in an image: the settings of a site over the pins, and which gfx it may be built for.

Pure but for one look into a folder of packages, where a site names one.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from amdserve.errors import ConfigError, UsageError
from amdserve.gpu import catalogue
from amdserve.gpu.catalogue import CATALOGUE, lookup
from amdserve.image.catalog import VllmPin
from amdserve.image.inputs import digest_of
from amdserve.image.models import Request

BACKEND = "vllm"
SOURCES = ("wheel", "build")
DEFAULT = "default="
MOUNTED = "/run/vllm-index"
SYSTEM, MANAGED = "system", "uv"
_VERSION = re.compile(r"^\d+(\.\d+){1,2}((a|b|rc|\.post|\.dev)\d+)?$")
_VARIANT = re.compile(r"^rocm\d+$")
_URL = re.compile(r"^https?://[^\s\"'\\]+$")
# The first variant that brings ROCm itself; older ones take the system's.
OWN_ROCM = 100


@dataclass(frozen=True, slots=True)
class Settings:
    """What a site sets for its builds of vLLM; an empty value takes the pin.

    Attributes:
        version: a release, without `+rocm…`.
        variant: `rocm100`, …: which build of that release.
        index: package indexes, comma-separated; one may be a folder, one may begin with `default=` and then
            stands for PyPI. `{version}` and `{variant}` are filled in.
        python: where CPython 3.12 comes from: `uv`, `system`, or the URL of a mirror for uv.
        requirement: what is installed in place of `vllm==<version>+<variant>`.
        source: `wheel`, or `build` for a build from the source distribution.
    """

    version: str = ""
    variant: str = ""
    index: str = ""
    python: str = ""
    requirement: str = ""
    source: str = ""


PINNED = Settings()


def settle(pin: VllmPin, settings: Settings) -> VllmPin:
    """Put a site's settings over the pins.

    Raises:
        UsageError: one of them does not hold.
    """
    changes: dict[str, object] = {}
    if settings.version:
        changes["version"] = _checked(settings.version, _VERSION, "--vllm-version", "0.33.0 (without +rocm…)")
        if settings.version != pin.version and settings.source == "build":
            raise UsageError(
                f"--vllm-source build builds the pinned vLLM {pin.version}, not {settings.version}",
                cause="its source distribution is known by its hash",
                fix="change vllm.version and vllm.sha256 in images/sources.yaml",
            )
    if settings.variant:
        changes["variant"] = _checked(settings.variant, _VARIANT, "--vllm-variant", "rocm100")
    if settings.python:
        known = settings.python in (SYSTEM, MANAGED)
        changes["python_source"] = (
            settings.python if known else _checked(settings.python, _URL, "--vllm-python", "uv|system|URL")
        )
    if settings.source and settings.source not in SOURCES:
        raise UsageError(f"no source {settings.source!r} of vLLM", fix="--vllm-source wheel|build")
    if settings.source:
        changes["source"] = settings.source
    if settings.requirement:
        changes["requirement"] = _checked(
            settings.requirement,
            re.compile(r"^vllm==[\w.]+\+rocm\w*$"),
            "--vllm-requirement",
            "vllm==0.33.0+rocm100: any other could be met by PyPI's CUDA build",
        )
    if settings.index:
        changes |= _indexes(settings.index)
    return pin.model_copy(update=changes)


def _checked(value: str, form: re.Pattern[str], flag: str, example: str) -> str:
    if not form.match(value):
        raise UsageError(f"{flag} cannot be {value!r}", fix=f"{flag} {example}")
    return value


def _indexes(text: str) -> dict[str, object]:
    entries = tuple(part.strip() for part in text.split(",") if part.strip())
    folders = [entry for entry in entries if not _URL.match(entry.removeprefix(DEFAULT))]
    if not folders:
        return {"indexes": entries}
    folder = Path(folders[0]).expanduser()
    if len(folders) > 1 or folders[0].startswith(DEFAULT) or not folder.is_dir():
        raise UsageError(
            f"--vllm-index: {', '.join(folders)} is neither a URL nor one folder of this host",
            cause="a folder is laid out as an index is: a folder for each package, its files in it",
            fix="--vllm-index https://mirror.example/vllm,default=https://mirror.example/pypi/simple",
        )
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    listing = [(str(path.relative_to(folder)), path.stat().st_size) for path in files]
    return {
        "indexes": tuple(f"file://{MOUNTED}" if entry in folders else entry for entry in entries),
        "folder": str(folder.resolve()),
        "listing": digest_of(listing),
    }


@dataclass(frozen=True, slots=True)
class Gate:
    """Whether vLLM may be built for a gfx, how, and why not or with what reservation."""

    gfx: str
    ok: bool
    how: Literal["wheel", "build", "none"]
    reason: str = ""


def gate(gfx: str, pin: VllmPin) -> Gate:
    """Judge one gfx by the release that is to be installed.

    Args:
        gfx: a target of the catalogue.
        pin: which release, and whether from its wheel or its source.
    """
    target = lookup(gfx)
    if target is None:
        return Gate(gfx, False, "none", "it is in no table of targets")
    built, works = target.vllm_built_since, target.vllm_works_since
    if built:
        if _parts(pin.version) < _parts(built):
            why = f"vLLM's builds hold code for it since {built}, not in {pin.version}"
            return Gate(gfx, False, "none", why)
        if works and _parts(pin.version) < _parts(works):
            return Gate(gfx, False, "none", f"it works since vLLM {works}, not with {pin.version}")
        note = "" if works else "vLLM's builds hold code for it, and no report of it serving is known"
        return Gate(gfx, True, "build" if pin.source == "build" else "wheel", note)
    if gfx in pin.source_gfx:
        ok = pin.source == "build"
        untried = "vLLM's source holds code for it, which nobody here has run"
        why = untried if ok else "vLLM's wheels hold no code for it; a build from source does"
        return Gate(gfx, ok, "build", why)
    return Gate(gfx, False, "none", "neither vLLM's wheels nor its source hold code for it")


def allowed(
    targets: tuple[str, ...], request: Request, pin: VllmPin | None, *, every: bool
) -> tuple[tuple[str, ...], list[str]]:
    """Give those of a request's targets that an image with vLLM is built for, and notes.

    Args:
        targets: what the request's names come to.
        request: whose names they are.
        pin: which release, and how; None where the pins name none.
        every: whether all images were asked for: then a target without vLLM is left out here alone.

    Raises:
        UsageError: vLLM has no code for what was asked for; ConfigError: no vLLM is pinned.
    """
    if pin is None:
        raise ConfigError("images/sources.yaml names no vLLM", fix="git checkout -- images/sources.yaml")
    meant = (catalogue.resolve([name]) for text in request.gfx for name in re.split("[,;]", text) if name)
    named = {found[0] for found in meant if len(found) == 1}
    return check(targets, pin, named=named, lenient=request.lenient or every)


def check(
    targets: Sequence[str], pin: VllmPin, *, named: Collection[str], lenient: bool = False
) -> tuple[tuple[str, ...], list[str]]:
    """Give the targets that vLLM may be built for, and notes.

    Args:
        targets: what was asked for.
        pin: which release, and how.
        named: those of the targets that were named by themselves, not as part of a family.
        lenient: leave out even what was named, where otherwise it is refused.

    Raises:
        UsageError: vLLM has no code for one that was named, or for any; the text names the way out.
    """
    gates = [gate(gfx, pin) for gfx in targets]
    refused = [one for one in gates if not one.ok]
    strict = [one for one in refused if one.gfx in named] or (refused if len(refused) == len(gates) else [])
    if strict and not lenient:
        raise _refusal(strict, pin)
    notes = [f"full without {one.gfx}: {one.reason}" for one in refused]
    notes += [f"vLLM on {one.gfx}: {one.reason}" for one in gates if one.ok and one.reason]
    if pin.source == "wheel" and int(pin.variant.removeprefix("rocm")) % 1000 != OWN_ROCM:
        notes.append(
            f"vLLM's variant {pin.variant} takes the system's ROCm, all of it: whether the image's is enough "
            "was never seen"
        )
    return tuple(one.gfx for one in gates if one.ok), notes


def wheel_gfx(version: str) -> tuple[str, ...]:
    """Give every target that a release's wheels may be installed for."""
    return tuple(
        gfx
        for gfx, target in CATALOGUE.items()
        if target.vllm_built_since
        and _parts(version) >= _parts(target.vllm_works_since or target.vllm_built_since)
    )


def _refusal(refused: Sequence[Gate], pin: VllmPin) -> UsageError:
    names = ", ".join(one.gfx for one in refused)
    ways = [f"--image llama --gfx {refused[0].gfx}, which serves GGUF files there"]
    if all(one.how == "build" for one in refused):
        ways.append("--vllm-source build, which compiles vLLM for it")
    return UsageError(
        f"vLLM {pin.version} cannot be put into an image for {names}",
        cause="; ".join(f"{one.gfx}: {one.reason}" for one in refused)
        + f". Its wheels are for {', '.join(wheel_gfx(pin.version))}",
        fix="; or ".join(ways),
    )


def _parts(version: str) -> tuple[int, ...]:
    found = [int(part) for part in re.findall(r"\d+", version)[:3]]
    return tuple(found + [0] * (3 - len(found)))
