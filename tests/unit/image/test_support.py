"""The support page claims what the records show, and no more."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from amdserve.errors import ConfigError
from amdserve.image import support

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "templates", tmp_path / "templates")
    (tmp_path / support.EVIDENCE).mkdir(parents=True)
    (tmp_path / support.EVIDENCE / "not-run.yaml").write_text("- what: Everything\n  why: nobody tried\n")
    return tmp_path


def labels(cell: str = "llama-gfx1151", gfx: str = "gfx1151") -> dict[str, str]:
    return {
        "io.amdserve.cell": cell,
        "io.amdserve.image": "llama",
        "io.amdserve.gfx": gfx,
        "io.amdserve.rocm.provider": "debian",
        "io.amdserve.rocm.version": "7.2.4",
        "io.amdserve.llama.package": "llama-cpp-python",
        "io.amdserve.llama.version": "0.3.36",
        "io.amdserve.llama.commit": "0c1e57098",
    }


def row(page: str, gfx: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(f"| {gfx} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def made(tree: Path, *checks: dict[str, Any]) -> str:
    support.keep(tree, support.record(labels(), 2_000_000_000, checks))
    return support.page(tree)


def test_nothing_is_claimed_without_a_record(tree: Path) -> None:
    assert row(support.page(tree), "gfx1151")[3:] == ["debian, amd", "–", "–"]


def test_a_verified_image_is_built_and_proven_for_its_gfx_alone(tree: Path) -> None:
    page = made(tree, {"name": "files", "ok": True, "detail": ""})
    assert all("llama-gfx1151" in cell for cell in row(page, "gfx1151")[4:])
    assert row(page, "gfx1150")[4:] == ["–", "–"]
    assert "2000 MB" in page


def test_an_image_that_failed_a_check_is_built_but_not_proven(tree: Path) -> None:
    page = made(tree, {"name": "files", "ok": True}, {"name": "code objects", "ok": False})
    assert "llama-gfx1151" in row(page, "gfx1151")[4]
    assert row(page, "gfx1151")[5] == "–"
    assert "1 of 2 hold" in page


def test_what_ran_and_what_did_not_are_listed(tree: Path) -> None:
    ran = [{"what": "chat", "hardware": "a CPU", "driver": "lavapipe", "by": "a test", "date": "2026-01-01"}]
    (tree / support.EVIDENCE / "ran.json").write_text(json.dumps(ran))
    page = support.page(tree)
    assert "| chat | a CPU | lavapipe | a test | 2026-01-01 |" in page
    assert "- Everything: nobody tried" in page


def test_a_torn_record_is_named(tree: Path) -> None:
    (tree / support.EVIDENCE / "ran.json").write_text("[{")
    with pytest.raises(ConfigError, match=r"ran\.json"):
        support.page(tree)


def test_the_committed_page_is_what_the_records_give() -> None:
    assert (ROOT / support.PAGE).read_text("utf-8") == support.page(ROOT)
