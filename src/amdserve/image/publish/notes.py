"""The notes of a release: what is in each image, under which names, and how to check it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from amdserve import __version__
from amdserve.image import show
from amdserve.image.models import Cell
from amdserve.image.publish import provenance
from amdserve.image.publish.published import Published
from amdserve.image.publish.sign import Signer
from amdserve.image.publish.tags import LABEL

FILE = "release-notes.md"


def text(released: Iterable[tuple[Cell, Published]], signer: Signer) -> str:
    """Give the notes as Markdown; the same release gives the same text."""
    images = list(released)
    lines = [
        f"# amdserve {__version__}",
        "",
        "| image | gfx | inside | download | digest |",
        "|---|---|---|---|---|",
    ]
    for cell, image in images:
        size = sum(int(layer.get("size", 0)) for layer in image.manifest.body["layers"])
        names = "<br>".join(f"`{alias}`" for alias in cell.aliases)
        gfx, what = " ".join(cell.gfx) or "any", ", ".join(inside(image))
        digest = f"`{image.reference.digest}`"
        lines.append(f"| {names} | {gfx} | {what} | {show.megabytes(size)} | {digest} |")
    lines += ["", "Names that never move:", ""]
    lines += [f"- `{cell.immutable}`" for cell, _ in images]
    if images:
        lines += ["", "Check the first of them without this toolkit:", "", "```"]
        lines += [*signer.commands(images[0][1].reference), "```"]
    return "\n".join(lines) + "\n"


def inside(image: Published) -> list[str]:
    """Name the versions in an image."""
    labels = {**image.labels, **provenance.versions(image.inventory)}
    known = (
        ("llama.cpp", "llama.commit"),
        ("ROCm", "rocm.version"),
        ("Mesa", "mesa.version"),
        ("vLLM", "vllm.version"),
    )
    return [f"{name} {labels[LABEL + key]}" for name, key in known if labels.get(LABEL + key)]


def write(folder: Path, content: str) -> Path:
    """Write the notes; give the file."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / FILE
    path.write_text(content, "utf-8")
    return path
