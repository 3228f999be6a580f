"""`serve --dry-run --json` for a table of requests × machines, against expectations written by hand."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import serve_tables
import yaml

from amdserve.serve import cli, machine

ROWS: list[dict[str, Any]] = yaml.safe_load(
    (Path(__file__).parent / "plans.yaml").read_text(encoding="utf-8")
)
KEYS = {
    "machine", "image", "model", "args", "env", "memlock", "plan", "why", "skip", "argv", "not", "set",
    "unset", "free", "notes", "exit", "error", "fits", "hints", "purpose",
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("plans")


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, str]:
    (folder / "models").mkdir()
    return serve_tables.models(folder / "models")


def name(row: dict[str, Any]) -> str:
    return "-".join([row["machine"], row["image"], row["model"], *row.get("args", ()), *row.get("env", ())])


def test_the_table_is_large_enough_and_says_nothing_unknown() -> None:
    assert len([row for row in ROWS if "plan" in row]) >= 60
    assert all(set(row) <= KEYS for row in ROWS)
    assert all(("plan" in row) != ("exit" in row) for row in ROWS)


def in_order(words: list[str], wanted: list[str]) -> bool:
    rest = iter(words)
    return all(any(word == one for one in rest) for word in wanted)


@pytest.mark.parametrize("row", ROWS, ids=name)
def test_plan(
    row: dict[str, Any],
    folder: Path,
    models: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in list(os.environ):
        if variable.startswith(("AMDSERVE_", "HIP_", "ROCR_", "CUDA_", "GGML_", "VK_", "HSA_", "LLAMA_ARG_")):
            monkeypatch.delenv(variable)
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(serve_tables.MACHINES / row["machine"]))
    monkeypatch.setenv("AMDSERVE_IMAGE_JSON", str(serve_tables.image(folder, row["image"])))
    monkeypatch.setenv("VK_DRIVER_FILES", serve_tables.ICD)
    for variable, value in row.get("env", {}).items():
        monkeypatch.setenv(variable, value)
    limit = row.get("memlock")
    monkeypatch.setattr(machine, "memlock_limit", lambda: limit)
    code = cli.main(["serve", "--dry-run", "--json", models[row["model"]], *row.get("args", ())])
    printed = capsys.readouterr()
    data = json.loads(printed.out)
    if "exit" in row:
        assert code == row["exit"], printed.err
        assert row["error"].lower() in json.dumps(data).lower()
        assert row["error"].lower() in printed.err.lower()
        return
    assert code == 0, printed.err
    check(row, data)


def check(row: dict[str, Any], data: dict[str, Any]) -> None:
    assert [entry["backend"] for entry in data["plan"]] == row["plan"], data["skipped"]
    first = data["plan"][0]
    assert row.get("why", "") in first["reason"]
    skipped = {entry["backend"]: entry["reason"] for entry in data["skipped"]}
    assert set(skipped).isdisjoint(row["plan"])
    assert set(skipped) | set(row["plan"]) == set(cli_backends())
    for backend, words in row.get("skip", {}).items():
        assert words in skipped[backend]
    argv: list[str] = first["argv"]
    assert in_order(argv, row.get("argv", [])), argv
    assert not set(row.get("not", ())) & set(argv), argv
    for variable, value in row.get("set", {}).items():
        assert first["env"].get(variable) == value
    assert not set(row.get("free", ())) & set(first["env"])
    assert set(row.get("unset", ())) <= set(first["unset"])
    assert row.get("notes", "") in " ".join(first["notes"])
    if "hints" in row:
        assert first["hints"][: len(row["hints"])] == row["hints"]
    if "fits" in row:
        assert data["memory"]["fits"] is row["fits"], data["memory"]["say"]
        assert ("This would:" in data["memory"]["say"] or "smaller" in data["memory"]["say"]) is not row[
            "fits"
        ]
    if "purpose" in row:
        assert data["model"]["purpose"] == row["purpose"]


def cli_backends() -> tuple[str, ...]:
    from amdserve.serve.options import BACKENDS

    return BACKENDS
