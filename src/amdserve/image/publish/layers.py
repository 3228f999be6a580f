"""Which layers of an image are for its own GPU and which all targets share: what does a second gfx cost.

Two renderings of one cell for different targets are laid side by side. A step of the last stage is shared if
its text is the same, what it copies comes from a stage whose text is the same, and nothing before it differs
(a linked copy does not care for what is before it).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from amdserve.image import show
from amdserve.image.models import Cell, LlamaSource, Plan
from amdserve.image.plan import every_gfx
from amdserve.image.project import Project
from amdserve.image.publish.compare import engine_images
from amdserve.image.render import Renderer

_FROM = re.compile(r"^FROM\s+(\S+)(?:\s+AS\s+(\S+))?", re.IGNORECASE)
_COPY = re.compile(r"^COPY\s+(?:--\S+\s+)*?--from=(\S+)")
_MAKES = ("RUN", "COPY", "ADD", "WORKDIR")
_HEREDOC = re.compile(r"<<-?['\"]?(\w+)['\"]?")


@dataclass(frozen=True, slots=True)
class Layer:
    """One step that makes a layer; `size` in bytes where the image is built, `shared` by every target."""

    step: str
    shared: bool
    size: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {"step": self.step, "shared": self.shared, "bytes": self.size}


def stages(text: str) -> dict[str, tuple[str, list[str]]]:
    """Take a Dockerfile apart: the name of each stage → what it starts from, and its steps."""
    found: dict[str, tuple[str, list[str]]] = {}
    steps: list[str] = []
    name = step = until = ""
    for line in text.splitlines():
        if until:
            step += f"\n{line}"
            until = "" if line == until else until
        elif not step and (not line.strip() or line.startswith("#")):
            continue
        elif step.endswith("\\"):
            if line.lstrip().startswith("#"):
                continue
            step += f"\n{line}"
        else:
            step = line
        if heredoc := _HEREDOC.search(line) if not until and "<<" in line else None:
            until = heredoc[1]
        if until or step.endswith("\\"):
            continue
        if match := _FROM.match(step):
            name, steps = match[2] or f"stage-{len(found)}", []
            found[name] = (match[1], steps)
        elif found:
            steps.append(step)
        step = ""
    return found


def same(stage: str, one: dict[str, Any], two: dict[str, Any], seen: frozenset[str] = frozenset()) -> bool:
    """Tell whether a stage, and all that it comes from, has the same text in both."""
    if stage in seen or (stage not in one and stage not in two):
        return True
    if stage not in one or stage not in two or one[stage] != two[stage]:
        return False
    start, steps = one[stage]
    sources = [start, *(match[1] for step in steps if (match := _COPY.match(step)))]
    return all(same(source, one, two, seen | {stage}) for source in sources)


def of_texts(here: str, there: str) -> list[Layer]:
    """Give the layers of the last stage of a Dockerfile, told against a rendering for another target."""
    one, two = stages(here), stages(there)
    last = list(one)[-1]
    others = two[list(two)[-1]][1]
    layers, straight = [], same(one[last][0], one, two)
    for step in one[last][1]:
        if not step.startswith(_MAKES):
            continue
        source = _COPY.match(step)
        equal = step in others and (source is None or same(source[1], one, two))
        linked = step.startswith("COPY --link")
        layers.append(Layer(_title(step), equal and (linked or straight)))
        straight = straight and (equal or linked)
    return layers


def _title(step: str) -> str:
    """Give a step in one line."""
    words = [
        word for word in " ".join(step.replace("\\\n", " ").split()).split() if not word.startswith("--mount")
    ]
    text = " ".join(words)
    return text if len(text) <= 90 else text[:89] + "…"


def of_cell(cell: Cell, project: Project) -> list[Layer]:
    """Give the layers of a cell, told against the same image for another target."""
    here = _text(cell, project.renderer, project, project.llama)
    if not cell.gfx or cell.provider is None:
        return [replace(layer, shared=True) for layer in of_texts(here, here)]
    other = next(gfx for gfx in every_gfx(cell.provider) if gfx not in cell.gfx)
    sibling = replace(cell, gfx=(other,), id=cell.id.replace(cell.gfx[0], other), hash="")
    return of_texts(here, _text(sibling, project.renderer, project, project.llama))


def of_plan(plan: Plan, project: Project) -> list[tuple[Cell, list[Layer]]]:
    """Give the layers of each cell of a plan, with sizes where an engine has the image."""
    images = engine_images()
    found = []
    for cell in plan.cells:
        layers = of_cell(cell, project)
        held = images.labelled({"cell": cell.id}) if images else []
        if images and held:
            layers = sized(layers, images.history(held[0].id))
        found.append((cell, layers))
    return found


def _text(cell: Cell, renderer: Renderer, project: Project, llama: LlamaSource) -> str:
    return renderer.dockerfile(replace(cell, hash=""), project.sources, llama, jobs=1)


def sized(layers: Sequence[Layer], history: Sequence[dict[str, Any]]) -> list[Layer]:
    """Give the layers with their sizes, from the history of the built image (oldest first)."""
    made = [step for step in history if "buildkit" in str(step.get("Comment", ""))]
    made = [step for step in made if str(step.get("CreatedBy", "")).split(" ", 1)[0] in _MAKES]
    if len(made) != len(layers):
        return list(layers)
    return [replace(layer, size=int(step["Size"])) for layer, step in zip(layers, made, strict=True)]


def table(cell: Cell, layers: Sequence[Layer]) -> str:
    """Give the layers for a reader, and what a second target costs."""
    rows = [
        (
            "all targets" if one.shared else "its own",
            "-" if one.size is None else show.megabytes(one.size),
            one.step,
        )
        for one in layers
    ]
    text = f"{cell.id}\n" + show.table(rows, ("for", "size", "step"))
    own = [one.size for one in layers if not one.shared]
    if not cell.gfx:
        return f"{text}\nIt holds nothing for one GPU."
    if any(size is None for size in own):
        words = f"--image {cell.image} --gfx {','.join(cell.gfx)}"
        return f"{text}\nSizes are known once it is built: ./inv build {words}"
    cost = show.megabytes(sum(size or 0 for size in own))
    return f"{text}\nAnother target costs {cost}: everything else is the same layers."
