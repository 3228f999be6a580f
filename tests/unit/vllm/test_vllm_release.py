"""Everything that is emitted for vLLM is in the release that is pinned.

What that release knows stands in a recorded extract of its source distribution; where the distribution can be
fetched, the extract is held against it.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import vllm_record

from amdserve.errors import SourceError
from amdserve.gpu.catalogue import CATALOGUE
from amdserve.image import index
from amdserve.image.catalog import VllmPin
from amdserve.image.project import Project
from amdserve.serve import vllm, vllm_environment, vllm_parsers
from amdserve.serve.vllm_words import WORDS, Word

ROOT = Path(__file__).resolve().parents[3]
CACHE = Path.home() / ".cache/amdserve-vllm"
# Failures in the words of torch, HIP, Triton and the loader; and one whose word is the name of a class.
OTHERS = r"HIP|C compiler|cudart|EngineDeadError"


@pytest.fixture(scope="module")
def pin() -> VllmPin:
    found = Project(ROOT).sources.vllm
    assert found is not None
    return found


@pytest.fixture(scope="module")
def release(pin: VllmPin) -> dict[str, Any]:
    file = Path(__file__).with_name(f"vllm-{pin.version}.json")
    assert file.is_file(), f"no extract of vLLM {pin.version}: run tests/unit/vllm/vllm_record.py"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def test_the_extract_is_of_what_is_pinned(release: dict[str, Any], pin: VllmPin) -> None:
    assert (release["version"], release["sha256"]) == (pin.version, pin.sha256)
    assert (release["rocm"], release["torch"], release["torchvision"], release["python"]) == (
        pin.rocm, pin.torch, pin.torchvision, pin.python,
    )  # fmt: skip


def test_every_flag_is_one_of_its(release: dict[str, Any]) -> None:
    assert set(release["flags"]) >= vllm.FLAGS
    assert vllm_environment.ATTENTION_FLAG in vllm.FLAGS


def test_every_variable_is_one_of_its(release: dict[str, Any]) -> None:
    own = {name for name in vllm_environment.VARIABLES if name.startswith("VLLM_")}
    assert own
    assert own <= set(release["variables"])


def test_what_is_said_to_be_gone_is_gone(release: dict[str, Any]) -> None:
    assert not {vllm_environment.ATTENTION, vllm_environment.TRITON} & set(release["variables"])
    assert not set(vllm_environment.RENAMED) & set(release["attention_backends"])


def test_every_attention_backend_is_one_of_its(release: dict[str, Any]) -> None:
    known = set(release["attention_backends"])
    assert set(vllm_environment.ATTENTIONS) <= known
    assert set(vllm_environment.RENAMED.values()) <= set(vllm_environment.ATTENTIONS)


def test_every_parser_is_one_of_its(release: dict[str, Any]) -> None:
    assert {rule.parser for rule in vllm_parsers.TOOLS} <= set(release["tool_parsers"])
    assert {rule.parser for rule in vllm_parsers.REASONING} <= set(release["reasoning_parsers"])


def test_the_runner_and_the_ways_of_pooling_are_its(release: dict[str, Any]) -> None:
    assert "pooling" in release["runners"]
    assert set(vllm.POOLINGS.values()) <= set(release["poolings"])


def test_the_targets_are_those_it_is_compiled_for(release: dict[str, Any], pin: VllmPin) -> None:
    wheels = {gfx for gfx, target in CATALOGUE.items() if target.vllm_built_since}
    assert wheels == set(release["wheel_gfx"])
    assert set(pin.source_gfx) == set(release["source_gfx"]) - wheels


def test_what_a_build_from_source_is_told_is_what_its_setup_reads(release: dict[str, Any]) -> None:
    text = (ROOT / "templates/stages/vllm.j2").read_text("utf-8")
    told = set(re.findall(r"(?<!_)\b(VLLM_\w+|PYTORCH_\w+|MAX_JOBS)=", text))
    assert {"VLLM_VERSION_OVERRIDE", "PYTORCH_ROCM_ARCH"} <= told
    assert told <= set(release["build_variables"])


@pytest.mark.parametrize(
    "word", [one for one in WORDS if not re.search(OTHERS, one.pattern)], ids=lambda one: one.pattern[:30]
)
def test_each_failure_is_told_by_words_that_it_says(release: dict[str, Any], word: Word) -> None:
    # A sentence that it adds where it can: by itself in the extract.
    pattern = re.sub(r"^max seq len.*(?=Based on)", "", word.pattern)
    assert any(re.search(pattern, said, re.IGNORECASE) for said in release["failures"])


def test_the_extract_is_what_the_distribution_says(release: dict[str, Any], pin: VllmPin) -> None:
    name = f"vllm-{pin.version}.tar.gz"
    archive = CACHE / name
    if not archive.is_file():
        if os.environ.get("AMDSERVE_TEST_OFFLINE"):
            pytest.skip("AMDSERVE_TEST_OFFLINE is set")
        try:
            index.fetch("vllm", name, pin.sha256, archive)
        except (SourceError, OSError) as reason:
            pytest.skip(f"the source distribution cannot be fetched: {reason}")
    assert vllm_record.extract(archive) == release
