"""The names of published images: which never move, which do, and whether a name fits what is under it.

`<version>-<cell>-b<llama.cpp>-rocm<version>-<hash>` never moves: it says what is inside, and its last part is
of the hash over every input, so that other content has another name. `<cell>`, a family's name where one
image holds the code for all of it, and `latest` move, and only to images that were verified as pulled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from amdserve.gpu.catalogue import CATALOGUE, has_blas

LABEL = "io.amdserve."
VERSION = "org.opencontainers.image.version"
# What somebody gets who names no tag: the image that serves on any GPU.
LATEST = "vulkan"
HASH_PART = 12


def immutable(version: str, ident: str, llama: str, rocm: str, content: str) -> str:
    """Give the tag that never moves.

    Args:
        version: of this project.
        ident: the cell's.
        llama: the commit of llama.cpp.
        rocm: the version of ROCm, empty for none.
        content: the hash over all inputs, `sha256:…`.
    """
    middle = f"rocm{rocm}-" if rocm else ""
    return f"{version}-{ident}-b{llama}-{middle}{content.removeprefix('sha256:')[:HASH_PART]}"


def families(gfx: Iterable[str], provider: str | None) -> tuple[str, ...]:
    """Give the families of which these are all targets that a provider has kernels for, if more than one."""
    held = frozenset(gfx)
    every: dict[str, set[str]] = {}
    for target in CATALOGUE.values():
        if provider and has_blas(target.gfx, provider):
            every.setdefault(target.family.lower().replace(" ", ""), set()).add(target.gfx)
    return tuple(name for name, members in every.items() if members == held and len(members) > 1)


def moving(image: str, ident: str, gfx: Iterable[str], provider: str | None, suffix: str) -> tuple[str, ...]:
    """Give the tags that move on with every release, the cell's own first.

    Args:
        image: the image's name in the catalogue.
        ident: the cell's.
        gfx: its targets.
        provider: of ROCm, None for an image without.
        suffix: what the name of a provider that is not the default one adds.
    """
    latest = ("latest",) if ident == LATEST else ()
    return (ident, *(f"{image}-{family}{suffix}" for family in families(gfx, provider)), *latest)


def of_labels(labels: Mapping[str, str]) -> str:
    """Give the tag that an image must have by what its own labels say; empty where they say too little."""
    needed = [
        labels.get(name, "") for name in (VERSION, *(LABEL + key for key in ("cell", "llama.commit", "hash")))
    ]
    if not all(needed):
        return ""
    version, ident, llama, content = needed
    return immutable(version, ident, llama, labels.get(LABEL + "rocm.version", ""), content)


def fits(tag: str, labels: Mapping[str, str]) -> bool:
    """Tell whether an image with these labels may be under a tag."""
    if tag == of_labels(labels):
        return True
    gfx = tuple(part for part in labels.get(LABEL + "gfx", "").split(",") if part)
    image, ident, provider = (labels.get(LABEL + key, "") for key in ("image", "cell", "rocm.provider"))
    suffix = f"-{provider}" if provider and ident.endswith(f"-{provider}") else ""
    return bool(ident) and tag in moving(image, ident, gfx, provider or None, suffix)
