"""A release of two small images, as a program that a test starts, stops and starts again.

Called with the file that holds what `write` wrote; the last line on standard output is the result as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from amdserve.image import engine as engines
from amdserve.image.local import Images, LocalImage
from amdserve.image.models import Cell, Plan
from amdserve.image.project import Project
from amdserve.image.publish.backoff import Backoff
from amdserve.image.publish.reference import parse
from amdserve.image.publish.registry import Registry
from amdserve.image.publish.release import Release, Released
from amdserve.image.publish.sign import Signer
from amdserve.image.verify import Check, Report

ROOT = Path(__file__).resolve().parents[2]
EPOCH = 1_700_000_000


def write(path: Path, cells: Sequence[Cell], signer: Signer, images: dict[str, str]) -> Path:
    """Write down what is to be released: the cells, by whom they are signed, the image of each."""
    path.write_text(
        json.dumps({"cells": [asdict(cell) for cell in cells], "signer": asdict(signer), "images": images})
    )
    return path


def read(path: Path) -> tuple[tuple[Cell, ...], Signer, dict[str, str]]:
    """Read it again."""
    found = json.loads(path.read_text())

    def cell(values: Any) -> Cell:
        for key, value in values.items():
            values[key] = tuple(value) if isinstance(value, list) else value
        return Cell(**values)

    cells = tuple(cell(one) for one in found["cells"])
    return cells, Signer(**found["signer"]), found["images"]


def release(path: Path) -> list[Released]:
    """Release what was written down; registry, engine and cosign are real, the check is a small one."""
    cells, signer, images = read(path)
    project, engine = Project(ROOT), engines.ensure()
    known = Images(engine)

    def built(cell: Cell) -> LocalImage:
        found = known.find(images[cell.id])
        assert found, f"{cell.id} is gone"
        return found

    def prove(reference: str, cell: Cell) -> Report:
        found = known.find(reference)
        same = found is not None and found.hash == cell.hash
        return Report(reference, (Check("small", same, "the hash of its inputs"),))

    return Release(
        Plan(cells),
        engine,
        Registry.open(parse(cells[0].immutable), backoff=Backoff(first=0.05)),
        signer,
        project.sources,
        project.llama,
        path.parent / "pack",
        EPOCH,
        built,
        prove,
    ).run()


if __name__ == "__main__":
    print(json.dumps([one.to_dict() for one in release(Path(sys.argv[1]))]))
