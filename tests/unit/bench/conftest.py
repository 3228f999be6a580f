"""A bed for each test."""

from pathlib import Path

import pytest

from bench.bed import Bed


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)
