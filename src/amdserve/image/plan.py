"""From a request to the cells that are built for it. Pure: nothing here reads a file or asks an engine.

A cell is known by its content hash, taken over everything that goes into it by name, so that a later run
can tell whether anything changed, and what.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches

from amdserve import __version__
from amdserve.errors import UsageError
from amdserve.gpu import catalogue
from amdserve.image import vllm, vllm_context
from amdserve.image.catalog import ROCM_BACKENDS, Catalog, Sources
from amdserve.image.inputs import digest, digest_of, shortened, total
from amdserve.image.models import BASE_MODES, Cell, LlamaSource, Plan, Request
from amdserve.image.publish import tags
from amdserve.image.render import Renderer, base_name

ALL = "all"
LABEL = "io.amdserve."
LICENSE = "MIT"
# Beyond this many targets an id would outgrow what a tag may hold (128 characters).
MOST_NAMED = 4
_PART = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"^(?:[a-z0-9.-]+:\d+/)?{_PART}(?:/{_PART})*$")
_TAG = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")


@dataclass(frozen=True, slots=True)
class Material:
    """What is planned from; `files` maps each path of the build context to its content."""

    catalog: Catalog
    sources: Sources
    renderer: Renderer
    llama: LlamaSource
    files: Mapping[str, bytes]


def make(request: Request, material: Material) -> Plan:
    """Plan the cells of a request.

    Args:
        request: what somebody asks for. Where it names no image, the catalogue's default is meant.
        material: what it is made from.

    Raises:
        UsageError: an unknown image, provider or gfx; no gfx where one is needed; a gfx for which the
            provider's ROCm has no kernels.
        ConfigError: a template does not hold.
    """
    check_repository(request.repository)
    provider = check_provider(request.provider, material.sources)
    if request.base not in BASE_MODES:
        raise UsageError(f"no base mode {request.base!r}", fix=f"--base {'|'.join(BASE_MODES)}")
    if request.jobs < 0:
        raise UsageError(f"--jobs {request.jobs}: no number of compilers", fix="--jobs 0: as many as fit")
    images = check_images(request.images, material.catalog)
    notes: list[str] = []
    targets: tuple[str, ...] = ()
    if any(material.catalog.images[name].targeted for name in images):
        targets, notes = check_gfx(request.gfx, provider)
    elif request.gfx and not request.lenient:
        notes.append(f"{', '.join(images)} holds no code for one GPU: --gfx changes nothing")
    cells = []
    for name in images:
        image, able = material.catalog.images[name], targets
        if vllm.BACKEND in image.backends:
            every = ALL in _parts(request.images)
            able, more = vllm.allowed(targets, request, material.sources.vllm, every=every)
            notes += more
        if not image.targeted:
            cells.append(_cell(name, (), None, request, material))
        elif request.each:
            cells.extend(_cell(name, (gfx,), provider, request, material) for gfx in able)
        elif able:
            cells.append(_cell(name, able, provider, request, material))
    return Plan(tuple(cells), tuple(notes))


def check_images(names: Iterable[str], catalog: Catalog) -> tuple[str, ...]:
    """Give the images meant: none is the default, `all` is every one, comma lists are taken apart.

    Raises:
        UsageError: one is not in the catalogue.
    """
    wanted = dict.fromkeys(_parts(names)) or {catalog.default: None}
    if ALL in wanted:
        return tuple(catalog.images)
    for name in wanted:
        if name not in catalog.images:
            raise UsageError(
                f"no image {name!r} in the catalogue",
                cause=_nearest(name, catalog.images),
                fix=f"--image {'|'.join(catalog.images)}|{ALL}",
            )
    return tuple(wanted)


def check_provider(name: str | None, sources: Sources) -> str:
    """Give the ROCm provider meant: None is the default of the pins.

    Raises:
        UsageError: it is not in the pins.
    """
    providers = sources.rocm.providers
    if name is None:
        return sources.rocm.default
    if name not in providers:
        raise UsageError(
            f"no ROCm provider {name!r}",
            cause=_nearest(name, providers),
            fix=f"--provider {'|'.join(providers)}",
        )
    return name


def check_gfx(names: Iterable[str], provider: str) -> tuple[tuple[str, ...], list[str]]:
    """Give the gfx targets meant, sorted, and notes on those that were left out.

    A name for one target must have kernels; of a name for several (`all`, a family) those that have some
    are taken.

    Raises:
        UsageError: an unknown name, none at all, or one for which this provider has no BLAS kernels.
    """
    targets: set[str] = set()
    notes: list[str] = []
    for name in _parts(names):
        meant = catalogue.resolve([name])
        able = [gfx for gfx in meant if catalogue.has_blas(gfx, provider)]
        if not able:
            raise _no_kernels(meant[0], provider)
        if left_out := [gfx for gfx in meant if gfx not in able]:
            notes.append(f"{name}: without {', '.join(left_out)}, for which {provider}'s ROCm has no kernels")
        targets.update(able)
    if not targets:
        raise UsageError(
            "no gfx target is named",
            cause="this image holds code for particular GPUs",
            fix="--gfx gfx1151 (or a product's name, a family, `all`); --image vulkan serves any GPU",
        )
    return tuple(sorted(targets, key=gfx_order)), notes


def every_gfx(provider: str) -> tuple[str, ...]:
    """Give every target that can be built with a provider's ROCm, in order."""
    able = (gfx for gfx in catalogue.CATALOGUE if catalogue.has_blas(gfx, provider))
    return tuple(sorted(able, key=gfx_order))


def gfx_order(gfx: str) -> tuple[int, str]:
    """Sort gfx names by generation: gfx90a before gfx942 before gfx1100."""
    return len(gfx), gfx


def check_repository(name: str) -> None:
    """Refuse a repository name that no registry would take.

    Raises:
        UsageError: it is none.
    """
    if not _REPOSITORY.match(name):
        raise UsageError(
            f"{name!r} is no repository name",
            cause="lower-case letters, digits and . _ - / only, and no tag",
            fix="--repository ghcr.io/somebody/amdserve",
        )


def _no_kernels(gfx: str, provider: str) -> UsageError:
    others = sorted(set(catalogue.providers_with_blas(gfx)) - {provider})
    target = catalogue.lookup(gfx)
    ways = [f"--provider {name}" for name in others]
    if target is not None and target.stand_in and catalogue.has_blas(target.stand_in, provider):
        ways.append(f"--gfx {target.stand_in}, run with HSA_OVERRIDE_GFX_VERSION={target.rocm_override}")
    ways.append("--image vulkan, which needs none")
    return UsageError(
        f"ROCm of the provider {provider!r} has no BLAS kernels for {gfx}",
        cause=f"they come from: {', '.join(others)}" if others else "no provider known here ships them",
        fix="; or ".join(ways),
    )


def _cell(
    image: str, gfx: tuple[str, ...], provider: str | None, request: Request, material: Material
) -> Cell:
    sources, llama = material.sources, material.llama
    suffix = "" if provider in (None, sources.rocm.default) else f"-{provider}"
    names = gfx if len(gfx) <= MOST_NAMED else (f"{len(gfx)}gfx", digest(",".join(gfx))[:8])
    ident = "-".join((image, *names)) + suffix
    backends = tuple(
        name
        for name in material.catalog.images[image].backends
        if provider is not None or name not in ROCM_BACKENDS
    )
    draft = Cell(ident, image, gfx, backends, provider)
    inputs = _inputs(draft, request, material)
    content = total(inputs)
    rocm = sources.rocm.providers[provider].version if provider else ""
    never_moves = tags.immutable(__version__, ident, llama.commit, rocm, content)
    moving = tags.moving(image, ident, gfx, provider, suffix)
    cell = replace(
        draft,
        tags=tuple(f"{request.repository}:{tag}" for tag in (ident, _tag(never_moves))),
        aliases=tuple(f"{request.repository}:{tag}" for tag in moving),
        hash=content,
        inputs=inputs,
    )
    return replace(cell, labels=labels(cell, material))


def _tag(name: str) -> str:
    if not _TAG.match(name):
        raise UsageError(
            f"{name!r} cannot be a tag",
            cause="a tag has at most 128 letters, digits and . _ -",
            fix="build for fewer gfx targets, or give --llama-source a shorter ref",
        )
    return name


def _inputs(draft: Cell, request: Request, material: Material) -> dict[str, str]:
    """Hash everything that goes into a cell, by name. The number of jobs does not: it changes no result."""
    sources, llama, used = material.sources, material.llama, set[str]()
    text = material.renderer.dockerfile(draft, sources, llama, jobs=1, used=used)
    provider = sources.rocm.providers[draft.provider] if draft.provider else None
    base = base_name(draft, sources)
    inputs = {
        "the rendered Dockerfile": digest(text),
        f"images/catalog.yaml {draft.image}": digest_of(
            material.catalog.images[draft.image].model_dump(include={"backends", "gfx"})
        ),
        f"images/sources.yaml base.{base}": digest_of(sources.base[base].model_dump()),
        "--base": digest(request.base),
        "the llama.cpp source": digest_of([llama.digest, llama.commit, llama.version, llama.origin]),
        **{f"templates/{name}": digest(material.renderer.templates[name]) for name in used},
        **{name: digest(content) for name, content in material.files.items()},
    }
    if provider:
        inputs[f"images/sources.yaml rocm.{draft.provider}"] = digest_of(provider.model_dump())
    if sources.vllm and vllm.BACKEND in draft.backends:
        # Where a folder of packages lies is nothing that goes into an image; what is in it is.
        inputs["images/sources.yaml vllm"] = digest_of(sources.vllm.model_dump(exclude={"folder"}))
    return dict(sorted(inputs.items()))


def labels(cell: Cell, material: Material) -> dict[str, str]:
    """Give the labels of a planned cell: OCI's own, and `io.amdserve.*` for what they have no word for."""
    sources, llama = material.sources, material.llama
    found = {
        "org.opencontainers.image.title": f"amdserve {cell.id}",
        "org.opencontainers.image.description": material.catalog.images[cell.image].summary,
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": LICENSE,
        LABEL + "image": cell.image,
        LABEL + "cell": cell.id,
        LABEL + "hash": cell.hash,
        LABEL + "gfx": ",".join(cell.gfx),
        LABEL + "backends": ",".join(cell.backends),
        LABEL + "llama.package": sources.llama.package,
        LABEL + "llama.version": llama.version,
        LABEL + "llama.commit": llama.commit,
        LABEL + "llama.source": llama.origin,
        LABEL + "inputs": json.dumps(shortened(cell.inputs), separators=(",", ":")),
    }
    if cell.provider:
        found[LABEL + "rocm.provider"] = cell.provider
        found[LABEL + "rocm.version"] = sources.rocm.providers[cell.provider].version
    if sources.vllm and vllm.BACKEND in cell.backends:
        found |= {LABEL + key: value for key, value in vllm_context.labels(sources.vllm).items()}
    return found


def _parts(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield from (part.strip() for part in name.replace(";", ",").split(",") if part.strip())


def _nearest(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = get_close_matches(name, names, n=3, cutoff=0.4)
    return f"nearest known: {', '.join(close)}" if close else f"known: {', '.join(names)}"
