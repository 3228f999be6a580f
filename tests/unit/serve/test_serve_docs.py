"""The page about serving names every option, default, class and exit code that there is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from amdserve.serve.classify import EVERY_BACKEND_FAILED, EXIT_CODES
from amdserve.serve.options import OPTIONS, Option
from amdserve.serve.patterns import Class
from amdserve.serve.reference import TOLERANCE
from amdserve.serve.request import ModelLoadRequest, RunOptions

PAGE = (Path(__file__).parents[3] / "docs/serving.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("option", OPTIONS[1:], ids=lambda option: option.name)
def test_every_option_is_there_with_its_default(option: Option) -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| `--") and f"`{option.flag}`" in line]
    assert len(rows) == 1, rows
    names = re.findall(r"`(--[\w-]+)`", rows[0].split("|")[1])
    fields = {**ModelLoadRequest.model_fields, **RunOptions.model_fields}
    default = fields[option.name].default
    defaults = [part.strip() for part in rows[0].split("|")[2].split(",")]
    said = defaults[names.index(option.flag)] if len(defaults) == len(names) else defaults[0]
    if isinstance(default, bool):
        assert said == ("on" if default else "off")
    elif isinstance(default, int | float):
        assert float(said) == default
    elif default is not None:
        assert said == default


def test_no_option_is_there_that_is_none() -> None:
    known = {option.flag for option in OPTIONS} | {"--forget", "--config"}
    rows = [line.split("|")[1] for line in PAGE.splitlines() if line.startswith("| `--")]
    assert {name for row in rows for name in re.findall(r"`(--[\w-]+)`", row)} <= known


def test_every_class_and_exit_code_is_there() -> None:
    for name in get_args(Class):
        (row,) = [line for line in PAGE.splitlines() if line.startswith("|") and f"| `{name}` |" in line]
        if name in EXIT_CODES:
            assert f"exit {EXIT_CODES[name]}" in row
    for code in (0, *EXIT_CODES.values(), EVERY_BACKEND_FAILED):
        assert re.search(rf"^\| {code} \| \w", PAGE, re.MULTILINE)


def test_the_tolerance_is_the_one_in_use() -> None:
    assert f"| **allowed** | **{TOLERANCE}** |" in PAGE
