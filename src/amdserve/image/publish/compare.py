"""What a published or built image was made from, and what would differ if it were made today."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from amdserve.errors import EngineError, VerifyError
from amdserve.image.inputs import changed
from amdserve.image.local import Images
from amdserve.image.models import BASE_MODES, Request
from amdserve.image.project import Project
from amdserve.image.publish.push import labels_of
from amdserve.image.publish.reference import names_registry, parse
from amdserve.image.publish.registry import Registry
from amdserve.image.publish.tags import LABEL

VERSIONS = ("llama.version", "llama.commit", "llama.source", "rocm.provider", "rocm.version")


@dataclass(frozen=True, slots=True)
class Comparison:
    """An image against today's plan of the same cell: names of inputs that differ, versions then and now."""

    ref: str
    cell: str
    then: str
    now: str
    inputs: tuple[str, ...]
    versions: Mapping[str, tuple[str, str]]

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {
            "ref": self.ref,
            "cell": self.cell,
            "same": self.then == self.now,
            "hash": {"then": self.then, "now": self.now},
            "inputs": list(self.inputs),
            "versions": {name: {"then": then, "now": now} for name, (then, now) in self.versions.items()},
        }

    def __str__(self) -> str:
        """Give it for a reader."""
        if self.then == self.now:
            return f"{self.ref} is exactly what today's plan of {self.cell} makes ({self.now})"
        lines = [f"{self.ref} ({self.cell}) would differ today:"]
        lines += [
            f"  {name}: {then or 'none'} -> {now or 'none'}" for name, (then, now) in self.versions.items()
        ]
        return "\n".join([*lines, *(f"  {phrase}" for phrase in self.inputs)])


def labels_at(ref: str, images: Images | None) -> dict[str, str]:
    """Give the labels of an image of the engine, else of a registry.

    Raises:
        VerifyError: neither has it, or it is none of this project's images.
    """
    here = images.find(ref) if images else None
    labels = dict(here.labels) if here else {}
    if here is None and names_registry(ref):
        where = parse(ref)
        registry = Registry.open(where)
        manifest = registry.manifest(where.digest or where.tag or "latest")
        labels = labels_of(registry, manifest) if manifest else {}
    if not labels.get(LABEL + "inputs"):
        raise VerifyError(
            f"{ref} does not say what it was made from",
            cause="it is not there, or no image of this project",
            fix="`docker image ls` for what the engine has; a registry's image is REGISTRY/NAME:TAG",
        )
    return labels


def engine_images() -> Images | None:
    """Give the images of an engine that runs already; none is started to compare."""
    from amdserve.image import engine  # noqa: PLC0415

    try:
        found = engine.find()
        return Images(engine.ensure()) if found.answer and found.buildx else None
    except EngineError:
        return None


def compare(ref: str, labels: Mapping[str, str], project: Project) -> Comparison:
    """Plan the cell of an image again and compare.

    Raises:
        UsageError: today's catalogue has no such image or target any more.
    """
    then = json.loads(labels[LABEL + "inputs"])
    gfx = labels.get(LABEL + "gfx", "")
    requests = [
        Request(
            images=(labels.get(LABEL + "image", ""),),
            gfx=(gfx,) if gfx else (),
            provider=labels.get(LABEL + "rocm.provider") or None,
            base=mode,
        )
        for mode in BASE_MODES
    ]
    cells = [project.plan(request).cells[0] for request in requests]
    # Which base was asked for is not told by name: the nearest is meant.
    cell = min(cells, key=lambda one: len(changed(then, one.inputs)))
    versions = {
        name: (labels.get(LABEL + name, ""), cell.labels.get(LABEL + name, ""))
        for name in VERSIONS
        if labels.get(LABEL + name, "") != cell.labels.get(LABEL + name, "")
    }
    return Comparison(
        ref,
        cell.id,
        labels.get(LABEL + "hash", ""),
        cell.hash,
        tuple(changed(then, cell.inputs)),
        versions,
    )
