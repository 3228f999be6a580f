"""From a request to cells: names, tags, hashes, and every request that is refused."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from image_tree import ROOT, checkout, edit, one, planned

from amdserve import __version__
from amdserve.errors import UsageError
from amdserve.gpu import catalogue
from amdserve.image import plan
from amdserve.image.inputs import changed, context_files
from amdserve.image.models import Request
from amdserve.image.project import Project

BUILDABLE = plan.every_gfx("debian")
HERE = Project(ROOT)
MATERIAL = plan.Material(HERE.catalog, HERE.sources, HERE.renderer, HERE.llama, {})


def refused(**request: object) -> UsageError:
    with pytest.raises(UsageError) as caught:
        planned(ROOT, **request)
    return caught.value


def test_cell_of_the_default_image() -> None:
    cell = one()
    assert (cell.id, cell.image, cell.gfx, cell.provider) == (
        "llama-gfx1151",
        "llama",
        ("gfx1151",),
        "debian",
    )
    assert cell.backends == ("llama-server-vulkan", "llama-server-rocm", "llama-cpp-python")
    assert cell.tag == "amdserve:llama-gfx1151"
    short = cell.hash.removeprefix("sha256:")[:12]
    assert cell.immutable == f"amdserve:{__version__}-llama-gfx1151-b0c1e57098-rocm7.2.4-{short}"


def test_image_for_any_gpu_has_no_gfx_and_no_rocm() -> None:
    cell = one(images=("vulkan",), gfx=())
    assert (cell.id, cell.gfx, cell.provider) == ("vulkan", (), None)
    assert "rocm" not in cell.immutable
    assert "io.amdserve.rocm.version" not in cell.labels


def test_gfx_for_an_image_without_any_is_told_to_change_nothing() -> None:
    with_gfx = planned(images=("vulkan",), gfx=("gfx1151",))
    assert with_gfx.cells == planned(images=("vulkan",)).cells
    assert "--gfx changes nothing" in with_gfx.notes[0]


def test_several_targets_share_one_image_in_the_order_of_generations() -> None:
    cell = one(gfx=("gfx1101,gfx90a", "gfx1100"))
    assert cell.gfx == ("gfx90a", "gfx1100", "gfx1101")
    assert cell.id == "llama-gfx90a-gfx1100-gfx1101"


def test_each_makes_one_image_per_target() -> None:
    cells = planned(gfx=("gfx1100", "gfx1101"), each=True).cells
    assert [cell.id for cell in cells] == ["llama-gfx1100", "llama-gfx1101"]
    assert cells[0].hash == one(gfx=("gfx1100",)).hash


def test_another_provider_has_a_name_of_its_own() -> None:
    cell = one(provider="amd")
    assert cell.id == "llama-gfx1151-amd"
    assert "-rocm7.14-" in cell.immutable
    assert cell.hash != one().hash


def test_many_targets_still_fit_in_a_tag() -> None:
    cell = one(gfx=BUILDABLE)
    assert cell.gfx == BUILDABLE
    assert cell.id.startswith(f"llama-{len(BUILDABLE)}gfx-")
    assert len(cell.immutable.partition(":")[2]) <= 128


def test_repository_is_what_tags_begin_with() -> None:
    cell = one(repository="localhost:5000/me/amdserve")
    assert cell.tag == "localhost:5000/me/amdserve:llama-gfx1151"
    assert cell.hash == one().hash


def test_labels_say_what_is_inside() -> None:
    cell = one()
    assert cell.labels["io.amdserve.hash"] == cell.hash
    assert cell.labels["io.amdserve.gfx"] == "gfx1151"
    assert cell.labels["io.amdserve.llama.commit"] == "0c1e57098"
    assert cell.labels["org.opencontainers.image.version"] == __version__
    assert changed(json.loads(cell.labels["io.amdserve.inputs"]), cell.inputs) == []


def test_json_is_the_contract() -> None:
    cell = one().to_dict()
    assert {"id", "image", "gfx", "backends", "tags", "labels", "hash"} <= set(cell)
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", str(cell["hash"]))
    assert json.loads(json.dumps(planned(gfx=("gfx1151",)).to_dict()))["cells"] == [cell]


def test_matrix_is_every_image_for_every_gfx_with_kernels() -> None:
    project = Project(ROOT)
    cells = project.plan(project.matrix(Request(images=("all",)))).cells
    assert {cell.gfx for cell in cells} == {(), *((gfx,) for gfx in BUILDABLE)}
    assert len({cell.id for cell in cells}) == len(cells)
    assert len({tag for cell in cells for tag in cell.tags}) == 2 * len(cells)


# What is refused


def test_unknown_image_names_the_nearest() -> None:
    error = refused(images=("lama",), gfx=("gfx1151",))
    assert error.what == "no image 'lama' in the catalogue"
    assert "llama" in error.cause
    assert "--image vulkan|llama|full|all" in error.fix


def test_unknown_gfx_names_the_nearest() -> None:
    assert "gfx1151" in refused(gfx=("gfx1511",)).cause


def test_unknown_provider_names_those_known() -> None:
    error = refused(gfx=("gfx1151",), provider="amdgpu")
    assert "'amdgpu'" in error.what
    assert "amd" in error.cause
    assert "--provider debian|amd" in error.fix


def test_gfx_without_kernels_names_the_provider_that_has_them() -> None:
    error = refused(gfx=("gfx1150",))
    assert "has no BLAS kernels for gfx1150" in error.what
    assert error.cause == "they come from: amd"
    assert "--provider amd" in error.fix
    assert one(gfx=("gfx1150",), provider="amd").gfx == ("gfx1150",)


def test_gfx_that_nobody_has_names_the_one_that_stands_in() -> None:
    error = refused(gfx=("gfx1031",))
    assert "no provider known here" in error.cause
    assert "--gfx gfx1030, run with HSA_OVERRIDE_GFX_VERSION=10.3.0" in error.fix
    assert "--image vulkan" in error.fix


def test_one_bad_gfx_of_several_refuses_all() -> None:
    assert "gfx1150" in refused(gfx=("gfx1151,gfx1150",)).what


def test_family_keeps_what_can_be_built_and_names_the_rest() -> None:
    found = planned(gfx=("rdna3.5",))
    assert found.cells[0].gfx == ("gfx1151",)
    assert "gfx1150" in found.notes[0]
    assert "debian" in found.notes[0]


def test_no_gfx_says_how_to_name_one() -> None:
    error = refused(gfx=())
    assert error.what == "no gfx target is named"
    assert "--gfx gfx1151" in error.fix


@pytest.mark.parametrize("name", ["", "Amdserve", "amdserve:latest", "a//b", "/a", "a b", "ghcr.io/"])
def test_bad_repository_is_refused(name: str) -> None:
    assert "no repository name" in refused(gfx=("gfx1151",), repository=name).what


@pytest.mark.parametrize("name", ["amdserve", "ghcr.io/some-body/amd_serve", "localhost:5000/a"])
def test_good_repository_is_taken(name: str) -> None:
    assert one(repository=name).tag.startswith(f"{name}:")


def test_unknown_base_mode_is_refused() -> None:
    assert "--base auto|pull|bootstrap" in refused(gfx=("gfx1151",), base="none").fix
    assert "--jobs 0" in refused(gfx=("gfx1151",), jobs=-1).fix


def test_ref_that_no_tag_can_hold_is_refused() -> None:
    material = replace(MATERIAL, llama=replace(MATERIAL.llama, commit="a/b"))
    with pytest.raises(UsageError, match="cannot be a tag"):
        plan.make(Request(gfx=("gfx1151",)), material)


# The content hash


def test_same_inputs_have_the_same_hash_anywhere(tmp_path: Path) -> None:
    assert one(checkout(tmp_path)).to_dict() == one().to_dict()


@pytest.mark.parametrize(
    ("path", "old", "new", "says"),
    [
        ("templates/stages/runtime.j2", "EXPOSE 8080", "EXPOSE 8081", "templates/stages/runtime.j2 changed"),
        ("src/amdserve/errors.py", "exit_code = 7", "exit_code = 8", "src/amdserve/errors.py changed"),
        ("images/sources.yaml", "librocblas5]", "librocblas6]", "images/sources.yaml rocm.debian changed"),
        ("images/sources.yaml", "suite: forky", "suite: duke", "images/sources.yaml base.debian changed"),
        ("images/sources.yaml", "832db0699007", "832db0699008", "the llama.cpp source changed"),
        ("images/sources.yaml", "commit: 0c1e57098", "commit: 0c1e57099", "the llama.cpp source changed"),
        ("requirements/container.txt", "pydantic==", "pydantic===", "requirements/container.txt changed"),
    ],
)
def test_changed_input_is_named(tmp_path: Path, path: str, old: str, new: str, says: str) -> None:
    root = checkout(tmp_path)
    before = one(root)
    edit(root / path, old, new)
    after = one(root)
    assert before.hash != after.hash
    assert before.immutable != after.immutable
    assert before.tag == after.tag
    assert says in changed(before.inputs, after.inputs)


def test_file_that_comes_and_goes_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    before = one(root)
    (root / "src/amdserve/gpu/extra.py").write_text("")
    assert changed(before.inputs, one(root).inputs) == ["src/amdserve/gpu/extra.py is new"]
    assert changed(one(root).inputs, before.inputs) == ["src/amdserve/gpu/extra.py is gone"]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        # The toolkit is in no image; another provider's template is not in this one's.
        ("src/amdserve/image/show.py", "RED", "RED2"),
        ("templates/rocm/amd.j2", "rocm-base", "rocm-base "),
        ("images/catalog.yaml", "budget_mb: ", "budget_mb: 1"),
    ],
)
def test_what_does_not_reach_the_image_changes_nothing(tmp_path: Path, path: str, old: str, new: str) -> None:
    root = checkout(tmp_path)
    if path.startswith("src"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text((ROOT / path).read_text())
    before = one(root).hash
    edit(root / path, old, new)
    assert one(root).hash == before


def test_compiled_python_and_the_toolkit_are_no_inputs() -> None:
    names = context_files(ROOT)
    assert "src/amdserve/gpu/catalogue.py" in names
    assert not [name for name in names if "__pycache__" in name or name.startswith("src/amdserve/image/")]


def test_jobs_change_nothing() -> None:
    assert one(jobs=1) == one(jobs=64)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(BUILDABLE), min_size=1, max_size=6))
def test_order_and_repetition_of_targets_do_not_matter(names: list[str]) -> None:
    cells = plan.make(Request(gfx=tuple(names)), MATERIAL).cells
    assert cells == plan.make(Request(gfx=(",".join(sorted(set(names), reverse=True)),)), MATERIAL).cells
    assert set(cells[0].gfx) == set(names)
    assert all(catalogue.has_blas(gfx, "debian") for gfx in cells[0].gfx)
