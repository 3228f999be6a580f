"""Questions asked of the gfx table: what is this gfx, which ones does this name mean, who has its BLAS.

A gfx that the table does not hold is unknown, and stays unknown: nothing is guessed from how it begins.
(`gfx90a or gfx94* is CDNA, all else RDNA` is wrong for the MI100, the MI350, every Vega and every
NVIDIA card.)
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from amdserve.errors import UsageError
from amdserve.gpu.models import GPUType
from amdserve.gpu.targets import PROVIDERS, TARGETS, GfxTarget

__all__ = [
    "CATALOGUE",
    "PROVIDERS",
    "GfxTarget",
    "gpu_type_of",
    "has_blas",
    "known_names",
    "lookup",
    "markdown_table",
    "providers_with_blas",
    "resolve",
]

CATALOGUE: Mapping[str, GfxTarget] = MappingProxyType({target.gfx: target for target in TARGETS})

_NOISE = re.compile(r"[^a-z0-9.]+")
# What a processor's own name ends with: `… w/ Radeon 8060S`.
_GRAPHICS = re.compile(r"(?<=\S)\s+(?:w/|with)\s*radeon.*$")
_BRANDS = re.compile(r"^(?:amd|radeon|instinct|ryzen|ai|pro|rx)+")


def lookup(gfx: str | None) -> GfxTarget | None:
    """Give the table's row of a gfx; target features (`gfx90a:sramecc+:xnack-`) are cut off first."""
    return CATALOGUE.get(gfx.partition(":")[0].strip().lower()) if gfx else None


def gpu_type_of(gfx: str | None) -> GPUType:
    """Give the kind of a gfx, `UNKNOWN` where the table does not hold it."""
    target = lookup(gfx)
    return target.gpu_type if target else GPUType.UNKNOWN


def has_blas(gfx: str, provider: str) -> bool:
    """Tell whether a ROCm provider ships rocBLAS kernels for this gfx."""
    target = lookup(gfx)
    return target is not None and provider in target.blas


def providers_with_blas(gfx: str) -> tuple[str, ...]:
    """Give the ROCm providers that ship rocBLAS kernels for this gfx, the default one first."""
    return tuple(provider for provider in PROVIDERS if has_blas(gfx, provider))


def known_names() -> tuple[str, ...]:
    """Give every name that `resolve` takes, as a person writes it."""
    names = [name for target in TARGETS for name in (target.gfx, target.family, *target.products)]
    return ("all", *dict.fromkeys(names))


def _plain(name: str) -> str:
    """Bring a name into the form in which names are compared: `AMD Radeon RX 7900 XTX` → `7900xtx`."""
    joined = _NOISE.sub("", _GRAPHICS.sub("", name.lower()))
    if "ryzen" in joined:
        # A PRO processor has the graphics of the one without; a Radeon PRO is another card.
        joined = joined.replace("pro", "")
    return _BRANDS.sub("", joined) or joined


@functools.cache
def _index() -> Mapping[str, tuple[str, ...]]:
    """Map each plain name to the targets it means; a family means all of its targets."""
    index: dict[str, tuple[str, ...]] = {}
    for target in TARGETS:
        for name in (target.gfx, target.family, target.family.replace(".", ""), *target.products):
            here = index.setdefault(_plain(name), ())
            if target.gfx not in here:
                index[_plain(name)] = (*here, target.gfx)
    # What AMD builds kernels for, or Debian does: the rest runs by override, or not at all.
    index["all"] = tuple(target.gfx for target in TARGETS if target.blas)
    return index


def resolve(names: Iterable[str]) -> tuple[str, ...]:
    """Turn what a person typed after `--gfx` into gfx names, each once, in the order asked for.

    Args:
        names: gfx names, product names (`RX 7900 XTX`), families (`rdna3`), comma lists of these, or
            `all`: every gfx that some ROCm provider has BLAS kernels for.

    Raises:
        UsageError: a name is not known; the text gives the nearest ones.
    """
    index = _index()
    found: dict[str, None] = {}
    for name in (part.strip() for entry in names for part in entry.replace(";", ",").split(",")):
        if not name:
            continue
        targets = index.get(_plain(name.partition(":")[0]))
        if targets is None:
            raise _unknown(name)
        found.update(dict.fromkeys(targets))
    return tuple(found)


def _unknown(name: str) -> UsageError:
    """Make the error for a name that means nothing here."""
    import difflib  # noqa: PLC0415 - costs milliseconds that a detection does not have

    plain = {_plain(known): known for known in known_names()}
    typed = _plain(name)
    near = difflib.get_close_matches(typed, plain, n=12, cutoff=0.6)
    # Of names that are equally near, the one that begins alike is what was meant: gfx1105 → gfx1100.
    near.sort(key=lambda known: -len(os.path.commonprefix([typed, known])))  # noqa: RUF071 - characters are meant
    hint = ", ".join(plain[match] for match in near[:4])
    return UsageError(
        f"`{name}` is no gfx, product or family that is known",
        cause=f"nearest known: {hint}" if hint else "nothing known resembles it",
        fix="run `invoke detect` on the machine with the GPU, or name a gfx such as gfx1151, or `all`",
    )


def markdown_table() -> str:
    """Give the table as Markdown, one row a target, for the documentation."""
    heads = (
        "gfx,products,architecture,memory,BLAS: debian,BLAS: amd,override,vLLM built since,works since,notes"
    )
    lines = ["| " + heads.replace(",", " | ") + " |", "|---" * (heads.count(",") + 1) + "|"]
    for target in TARGETS:
        cells = (
            target.gfx,
            ", ".join(target.products),
            target.architecture,
            "shared" if target.integrated else "own",
            *("✔" if provider in target.blas else "–" for provider in PROVIDERS),
            target.rocm_override or "–",
            target.vllm_built_since or "–",
            target.vllm_works_since or "–",
            target.notes,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
