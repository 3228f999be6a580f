"""A second build: nothing where nothing changed, and the change by its name where something did."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from amdserve import process
from amdserve.image import build as building
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project

from .conftest import GFX, ROOT

IGNORED = ("__pycache__", ".venv", ".git", "build", ".mypy_cache", ".ruff_cache", ".pytest_cache")


def test_a_second_build_does_nothing_in_seconds(cells: dict[str, Cell], client: Any) -> None:
    tags = {tag: client.images.get(tag).id for cell in cells.values() for tag in cell.tags}
    begin = time.monotonic()
    done = process.run([str(ROOT / "inv"), "build", "--gfx", GFX, "--json"], cwd=ROOT, timeout=300)
    took = time.monotonic() - begin
    (outcome,) = json.loads(done.out)["images"]
    assert outcome["state"] == "unchanged"
    assert outcome["hash"] == cells["llama"].hash
    assert "nothing changed" in done.err
    # The goal is 3 s, measured by a benchmark; a build that did anything at all takes far longer than this.
    assert took < 30
    assert tags == {tag: client.images.get(tag).id for tag in tags}


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The checkout as a folder of its own, which a test may change."""
    return Path(shutil.copytree(ROOT, tmp_path / "copy", ignore=shutil.ignore_patterns(*IGNORED)))


def build_dry(root: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """Plan and render a build in a copy, without building; give the cell's state and what was said."""
    project = Project(root)
    request = project.complete(Request(images=("llama",), gfx=(GFX,)))
    capsys.readouterr()
    (outcome,) = building.build(project, request, building.Options(dry=True))
    return outcome.state, capsys.readouterr().err


@pytest.mark.usefixtures("cells")
def test_an_unchanged_copy_is_unchanged(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state, said = build_dry(copy, capsys)
    assert state == "unchanged", said


@dataclass(frozen=True)
class Change:
    """An edit of one file, and what a build must say of it."""

    path: str
    old: str
    new: str
    word: str

    def make(self, root: Path) -> None:
        file = root / self.path
        text = file.read_text("utf-8")
        assert self.old in text
        file.write_text(text.replace(self.old, self.new), "utf-8")


RUNTIME = "templates/stages/runtime.j2"
CLI = "src/amdserve/serve/cli.py"
CHANGES = [
    Change(RUNTIME, "EXPOSE 8080", "EXPOSE 8080\nENV CHANGED=1", f"{RUNTIME} changed"),
    Change("images/sources.yaml", "0c1e57098", "0c1e57099", "llama"),
    Change(CLI, '"""The command', '"""A command', f"{CLI} changed"),
]


@pytest.mark.usefixtures("cells")
@pytest.mark.parametrize("change", CHANGES, ids=[change.path for change in CHANGES])
def test_a_change_is_named(copy: Path, capsys: pytest.CaptureFixture[str], change: Change) -> None:
    change.make(copy)
    state, said = build_dry(copy, capsys)
    assert state == "planned"
    assert change.word in said


@pytest.mark.usefixtures("cells")
def test_a_changed_template_is_in_what_would_be_built(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    CHANGES[0].make(copy)
    build_dry(copy, capsys)
    assert "ENV CHANGED=1" in (copy / f"build/llama-{GFX}/Dockerfile").read_text("utf-8")


@pytest.mark.usefixtures("cells")
def test_a_change_that_is_in_no_image_changes_none(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("README.md", "tasks.py", "src/amdserve/image/build.py"):
        with (copy / name).open("a", encoding="utf-8") as file:
            file.write("\n# changed\n")
    state, said = build_dry(copy, capsys)
    assert state == "unchanged", said
