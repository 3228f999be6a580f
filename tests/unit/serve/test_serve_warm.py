"""What the image compiles of its Python: what was imported, valid whatever time a layer gives its source."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from amdserve.serve import warm

TREE = {
    "used.py": "import inner.deep\n",
    "unused.py": "",
    "inner/__init__.py": "",
    "inner/deep.py": "WORD = 'first'\n",
    "inner/other.py": "",
}


def imported(folder: Path, program: str) -> str:
    """Run a program with the folder on its path, as a user who may write there."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    env["PYTHONPATH"] = str(folder)
    done = subprocess.run(
        [sys.executable, "-c", program], env=env, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def tree(folder: Path) -> None:
    for name, text in TREE.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def test_what_was_imported_is_compiled_and_nothing_else(tmp_path: Path) -> None:
    tree(tmp_path)
    imported(tmp_path, "import used")
    assert warm.keep_used([tmp_path]) == 3
    names = sorted(path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc"))
    assert names == ["__init__", "deep", "used"]


def test_it_stays_valid_when_its_source_gets_another_time(tmp_path: Path) -> None:
    tree(tmp_path)
    imported(tmp_path, "import used")
    warm.keep_used([tmp_path])
    (compiled,) = (tmp_path / "inner/__pycache__").glob("deep.*")
    before = compiled.read_bytes()
    os.utime(tmp_path / "inner/deep.py", (0, 0))
    assert imported(tmp_path, "import inner.deep; print(inner.deep.WORD)") == "first"
    assert compiled.read_bytes() == before, "it was taken as it is"


def test_folders_that_overlap_are_one(tmp_path: Path) -> None:
    tree(tmp_path)
    imported(tmp_path, "import used")
    assert warm.keep_used([tmp_path, tmp_path / "inner"]) == 3
