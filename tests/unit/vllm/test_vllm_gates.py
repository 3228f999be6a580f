"""For which gfx an image with vLLM may be built, how, and how a refusal reads: the whole catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from amdserve.errors import UsageError
from amdserve.gpu.catalogue import CATALOGUE
from amdserve.image import plan
from amdserve.image.catalog import VllmPin
from amdserve.image.models import Request
from amdserve.image.project import Project
from amdserve.image.vllm import Settings, check, gate, settle

ROOT = Path(__file__).resolve().parents[3]
FOUND = Project(ROOT).sources.vllm
assert FOUND is not None
PIN: VllmPin = FOUND
BUILD = settle(PIN, Settings(source="build"))

# Written by hand from vLLM's own files: wheel, source (only a build from source), or none.
EXPECTED = {
    **dict.fromkeys(
        ["gfx90a", "gfx942", "gfx950", "gfx1100", "gfx1101", "gfx1150", "gfx1151", "gfx1200", "gfx1201"],
        "wheel",
    ),
    **dict.fromkeys(
        ["gfx906", "gfx908", "gfx1030", "gfx1102", "gfx1103", "gfx1152", "gfx1153", "gfx1250"], "source"
    ),
    **dict.fromkeys(
        [
            "gfx803",
            "gfx900",
            "gfx902",
            "gfx904",
            "gfx909",
            "gfx90c",
            "gfx1251",
            "gfx1010",
            "gfx1011",
            "gfx1012",
            "gfx1013",
            "gfx1031",
            "gfx1032",
            "gfx1033",
            "gfx1034",
            "gfx1035",
            "gfx1036",
            "gfx1154",
            "gfx1170",
            "gfx1171",
            "gfx1172",
        ],
        "none",
    ),
}


def test_the_table_knows_every_gfx() -> None:
    assert set(EXPECTED) == set(CATALOGUE)


@pytest.mark.parametrize(("gfx", "kind"), EXPECTED.items())
def test_wheel(gfx: str, kind: str) -> None:
    found = gate(gfx, PIN)
    assert found.ok == (kind == "wheel")
    assert found.how == {"wheel": "wheel", "source": "build", "none": "none"}[kind]
    assert bool(found.reason) == (kind != "wheel" or gfx == "gfx1150")


@pytest.mark.parametrize(("gfx", "kind"), EXPECTED.items())
def test_from_source(gfx: str, kind: str) -> None:
    found = gate(gfx, BUILD)
    assert found.ok == (kind != "none")
    assert found.how == ("none" if kind == "none" else "build")


def refusal(gfx: str, pin: VllmPin = PIN) -> UsageError:
    with pytest.raises(UsageError) as caught:
        check((gfx,), pin, named={gfx})
    return caught.value


def test_refused_with_a_build_from_source_as_the_way_out() -> None:
    error = refusal("gfx1030")
    assert error.what == "vLLM 0.33.0 cannot be put into an image for gfx1030"
    assert "wheels hold no code for it; a build from source does" in error.cause
    assert "Its wheels are for gfx90a, gfx942" in error.cause
    assert error.fix == (
        "--image llama --gfx gfx1030, which serves GGUF files there; or --vllm-source build, which compiles "
        "vLLM for it"
    )


@pytest.mark.parametrize("pin", [PIN, BUILD], ids=["wheel", "source"])
def test_refused_where_nothing_holds_code_for_it(pin: VllmPin) -> None:
    error = refusal("gfx803", pin)
    assert "neither vLLM's wheels nor its source" in error.cause
    assert "--image llama" in error.fix
    assert "--vllm-source" not in error.fix


@pytest.mark.parametrize(
    ("gfx", "version", "word"),
    [
        ("gfx1151", "0.15.1", "it works since vLLM 0.16.0"),
        ("gfx942", "0.11.0", "since 0.11.1, not in 0.11.0"),
        ("gfx1201", "0.13.2", "since vLLM 0.14.0"),
    ],
)
def test_the_release_decides(gfx: str, version: str, word: str) -> None:
    assert word in refusal(gfx, settle(PIN, Settings(version=version))).cause


def test_gfx1151_from_the_release_in_which_it_works() -> None:
    assert gate("gfx1151", settle(PIN, Settings(version="0.16.0"))).ok


def cells(**request: object) -> tuple[list[str], tuple[str, ...]]:
    found = Project(ROOT).plan(Request(**request))  # type: ignore[arg-type]
    return [cell.id for cell in found.cells], found.notes


def test_of_a_family_those_that_can_are_taken() -> None:
    names, notes = cells(images=("full",), gfx=("rdna3",), each=True)
    assert names == ["full-gfx1100", "full-gfx1101"]
    assert any("full without gfx1102" in note for note in notes)


def test_of_all_images_the_others_are_built_where_vllm_is_not() -> None:
    names, notes = cells(images=("all",), gfx=("gfx1030",))
    assert names == ["vulkan", "llama-gfx1030"]
    assert any("full without gfx1030" in note for note in notes)


def test_the_matrix_has_full_for_each_gfx_that_can() -> None:
    project = Project(ROOT)
    for provider in project.sources.rocm.providers:
        request = project.matrix(Request(images=("full",), provider=provider))
        found = {cell.gfx[0] for cell in project.plan(request).cells}
        able = {gfx for gfx in plan.every_gfx(provider) if EXPECTED[gfx] == "wheel"}
        assert found == able


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        (Settings(version="0.33.0+rocm100"), "--vllm-version"),
        (Settings(variant="cu130"), "--vllm-variant"),
        (Settings(python="3.12"), "--vllm-python"),
        (Settings(source="git"), "--vllm-source wheel|build"),
        (Settings(requirement="vllm"), "+rocm100"),
        (Settings(requirement="vllm==0.33.0"), "PyPI's CUDA build"),
        (Settings(index="/no/such/folder"), "--vllm-index"),
        (Settings(index="ftp://x/y"), "--vllm-index"),
        (Settings(version="0.32.0", source="build"), "images/sources.yaml"),
    ],
)
def test_a_setting_that_does_not_hold_is_named(settings: Settings, word: str) -> None:
    with pytest.raises(UsageError) as caught:
        settle(PIN, settings)
    assert word in f"{caught.value}"


def text(**settings: str) -> str:
    project = Project(ROOT, settings=Settings(**settings))
    (cell,) = project.plan(Request(images=("full",), gfx=("gfx1151",))).cells
    return project.renderer.dockerfile(cell, project.sources, project.llama, jobs=1)


def test_settings_reach_the_dockerfile(tmp_path: Path) -> None:
    assert "vllm==0.33.0+rocm100" in text()
    assert "vllm==0.32.0+rocm100" in text(version="0.32.0")
    assert 'url = "https://wheels.vllm.ai/rocm/0.32.0/rocm100/"' in text(version="0.32.0")
    mirror = text(index="https://m.example/v/{version},default=https://m.example/pypi/simple")
    assert 'url = "https://m.example/v/0.33.0/"' in mirror
    assert 'url = "https://m.example/pypi/simple/"\ndefault = true' in mirror
    assert "wheels.vllm.ai" not in mirror
    assert "UV_PYTHON_INSTALL_MIRROR=https://m.example/py" in text(python="https://m.example/py")
    assert "--python /usr/bin/python3" in text(python="system")
    folder = text(index=str(tmp_path))
    assert "from=vllm-index" in folder
    assert str(tmp_path) not in folder


def test_a_setting_changes_the_hash_and_where_a_folder_lies_does_not(tmp_path: Path) -> None:
    def content(**settings: str) -> str:
        project = Project(ROOT, settings=Settings(**settings))
        return project.plan(Request(images=("full",), gfx=("gfx1151",))).cells[0].hash

    for name in ("one", "two"):
        (tmp_path / name / "vllm").mkdir(parents=True)
        (tmp_path / name / "vllm/a.whl").write_text("x")
    assert content(index=str(tmp_path / "one")) == content(index=str(tmp_path / "two"))
    (tmp_path / "two/vllm/a.whl").write_text("another")
    found = {content(), content(version="0.32.0"), content(index=str(tmp_path / "one")),
             content(index=str(tmp_path / "two"))}  # fmt: skip
    assert len(found) == 4
