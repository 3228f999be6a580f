"""What the tests of this folder share: a copy of this checkout that a test may change, and its plan."""

import shutil
from dataclasses import replace
from pathlib import Path

from amdserve.image.inputs import CONTEXT
from amdserve.image.models import Cell, Plan, Request
from amdserve.image.project import Project

ROOT = Path(__file__).resolve().parents[3]


def checkout(to: Path) -> Path:
    """Copy what is planned and built from; give its root."""
    for name in ("images", "templates", *CONTEXT):
        source, target = ROOT / name, to / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    return to


def edit(path: Path, old: str, new: str) -> None:
    """Change a text in a file; it must be there."""
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")


def planned(root: Path = ROOT, **request: object) -> Plan:
    """Plan a request in a checkout."""
    return Project(root).plan(replace(Request(), **request))  # type: ignore[arg-type]


def one(root: Path = ROOT, **request: object) -> Cell:
    """Plan a request that comes to one cell: by default the default image for gfx1151."""
    (cell,) = planned(root, **{"gfx": ("gfx1151",), **request}).cells
    return cell
