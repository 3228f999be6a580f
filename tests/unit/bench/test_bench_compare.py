"""Two results, point by point: the ratio, what differs, and what cannot be compared."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amdserve.errors import UsageError
from amdserve.serve.bench.compare import compare
from amdserve.serve.bench.result import Result
from bench.bed import CPU, ROCM, SMALL, VULKAN, Bed


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same model on the same machine, the second time with a ROCm that is twice as fast."""
    bed = Bed(tmp_path_factory.mktemp("bench"))
    folders = []
    for name, prefill in (("a", 1604.0), ("b", 3208.0)):
        bed.stub(ROCM, prefill=prefill)
        bed.image(digest=f"sha256:{name}")
        folder = bed.folder / name
        done = bed.amdserve("bench", str(bed.model), *SMALL, "--out", str(folder))
        assert done.returncode == 0, done.stderr
        folders.append(folder)
    return folders[0], folders[1]


def load(folder: Path, **changes: Any) -> Result:
    data = json.loads((folder / "result.json").read_text("utf-8"))
    for name, value in changes.items():
        part, _, key = name.partition("__")
        if key:
            data[part][key] = value
        else:
            data[part] = value
    return Result.model_validate(data)


def test_the_ratio_is_of_b_to_a_at_each_point(two: tuple[Path, Path]) -> None:
    found = compare(load(two[0]), load(two[1]))
    ratios = {(one["backend"], one["kind"], one["ratio"]) for one in found["points"]}
    same = {(name, kind, 1.0) for name in (VULKAN, CPU) for kind in ("prefill", "generation")}
    assert ratios == same | {(ROCM, "prefill", 2.0), (ROCM, "generation", 1.0)}
    assert found["differs"] == {"image": ["sha256:a", "sha256:b"]}
    assert found["warnings"] == []


def test_what_differs_is_named(two: tuple[Path, Path]) -> None:
    other = load(two[1], machine__kernel="6.18.4", machine__gfx="gfx1201", machine__vulkan="radv Mesa 27")
    differs = compare(load(two[0]), other)["differs"]
    assert {"gfx", "kernel", "Vulkan driver", "image"} == set(differs)
    assert differs["gfx"] == ["gfx1151", "gfx1201"]


def test_the_clock_that_was_seen_is_no_difference(two: tuple[Path, Path]) -> None:
    clocks = [{"governed": "auto", "highest_mhz": mhz} for mhz in (2800, 2900)]
    a, b = (load(folder, machine__clocks=one) for folder, one in zip(two, clocks, strict=True))
    assert "clocks" not in compare(a, b)["differs"]
    assert "clocks" in compare(a, load(two[1], machine__clocks={"governed": "low"}))["differs"]


def test_another_model_is_refused_by_name(two: tuple[Path, Path]) -> None:
    other = load(two[1], model__fingerprint="sha256:other", model__name="other.gguf")
    with pytest.raises(UsageError, match="different models") as refused:
        compare(load(two[0]), other)
    assert "model.gguf" in refused.value.cause
    assert "other.gguf" in refused.value.cause


def test_other_settings_throughout_are_refused(two: tuple[Path, Path]) -> None:
    a = load(two[0])
    moved = [{**one.model_dump(), "depth": one.depth + 1} for one in a.points]
    with pytest.raises(UsageError, match="no point in common"):
        compare(a, load(two[1], points=moved))


def test_a_prompt_that_fits_in_other_micro_batches_is_the_same_test(bed: Bed) -> None:
    words = ("--prompts", "64", "--generate", "16", "--depths", "0")
    a, b = (Result.model_validate(bed.bench(*words, "--ubatch", size)) for size in ("64,256", "512"))
    found = compare(a, b)
    assert (found["only_a"], found["only_b"]) == ([], [])


def test_points_without_a_partner_are_left_out_and_told(two: tuple[Path, Path]) -> None:
    a = load(two[0])
    fewer = [one.model_dump() for one in a.points if one.backend != CPU]
    found = compare(a, load(two[1], points=fewer))
    assert len(found["only_a"]) == 16
    assert found["only_b"] == []
    assert "16 only in A" in found["warnings"][0]


def test_other_repetitions_are_warned_of(two: tuple[Path, Path]) -> None:
    found = compare(load(two[0]), load(two[1], grid__repeat=5, interrupted=True))
    assert "B was stopped before its end" in found["warnings"]
    assert "repeated 2 times in A, 5 times in B" in found["warnings"]


def test_the_command_takes_files_and_folders(two: tuple[Path, Path], bed: Bed) -> None:
    a, b = two
    done = bed.amdserve("bench", "--compare", str(a), str(b / "result.json"))
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines() if line.startswith(ROCM)]
    assert rows[0][6:9] == ["1604.0", "3208.0", "2.00"]
    assert "image: sha256:a against sha256:b" in done.stdout
    found = json.loads(bed.amdserve("bench", "--compare", str(a), str(b), "--json").stdout)
    assert len(found["points"]) == 48


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "cannot be read"), ("{}", "no result of a bench"), ("[", "no result of a bench")],
)
def test_what_is_no_result_is_refused(
    two: tuple[Path, Path], bed: Bed, content: str | None, said: str
) -> None:
    file = bed.folder / "other.json"
    if content is not None:
        file.write_text(content)
    done = bed.amdserve("bench", "--compare", str(two[0]), str(file))
    assert done.returncode == 2
    assert said in done.stderr
    assert str(file) in done.stderr
