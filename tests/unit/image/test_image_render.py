"""Dockerfiles and the bake file: the same bytes each time, nothing of this machine, faults by line."""

import json
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
from image_tree import ROOT, checkout, edit, one, planned

from amdserve.errors import ConfigError
from amdserve.image import render
from amdserve.image.inputs import CONTEXT
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project

# Instructions that take files from the build context, not from another stage.
COPIES = re.compile(r"^(?:COPY|ADD) (?!.*--from=)(?!.*<<)(?P<words>.*)$", re.MULTILINE)


def text(cell: Cell, root: Path = ROOT, jobs: int = 2) -> str:
    project = Project(root)
    return project.renderer.dockerfile(cell, project.sources, project.llama, jobs=jobs)


def files(root: Path, **request: object) -> dict[str, str]:
    project = Project(root)
    plan = project.plan(replace(Request(), **request))  # type: ignore[arg-type]
    paths = project.render(plan, 2)
    inside = (file for path in paths for file in (path.rglob("*") if path.is_dir() else [path]))
    return {str(file.relative_to(root)): file.read_text() for file in inside if file.is_file()}


def test_files_are_where_the_contract_says(tmp_path: Path) -> None:
    found = files(checkout(tmp_path), images=("all",), gfx=("gfx1151",))
    assert {"build/llama-gfx1151/Dockerfile", "build/vulkan/Dockerfile", "build/docker-bake.json"} < set(
        found
    )


def test_same_inputs_give_the_same_bytes_anywhere(tmp_path: Path) -> None:
    first = files(checkout(tmp_path / "one"), images=("all",), gfx=("gfx942,gfx1151",), each=True)
    second = files(checkout(tmp_path / "two"), images=("all",), gfx=("gfx942,gfx1151",), each=True)
    assert first == second
    # Nothing of the machine: no path of it, no user, no bundle of certificates.
    for content in first.values():
        assert str(tmp_path) not in content
        assert "src=" not in content


def test_targets_and_their_kernels_are_named() -> None:
    dockerfile = text(one(gfx=("gfx1100,gfx1101",)))
    assert "-DGPU_TARGETS=gfx1100;gfx1101" in dockerfile
    assert "-DAMDGPU_TARGETS=gfx1100;gfx1101" in dockerfile
    assert "gfx1151" not in dockerfile


def test_image_without_rocm_has_nothing_of_it() -> None:
    dockerfile = text(one(images=("vulkan",), gfx=()))
    for word in ("GGML_HIP", "hipcc", "rocblas", "experimental", "ROCM_PATH", "llama-server-rocm"):
        assert word not in dockerfile


def test_packages_of_amd_are_repeated_for_each_target() -> None:
    dockerfile = text(one(gfx=("gfx1100,gfx1101",), provider="amd"))
    assert "amdrocm-blas7.14-gfx1100 amdrocm-blas7.14-gfx1101" in dockerfile
    assert "{gfx}" not in dockerfile


def test_apt_may_read_the_certificate_where_it_fetches_over_https() -> None:
    """It drops root for that, and a secret is root's own unless its mode says otherwise."""
    runs = re.findall(r"^RUN .*?[^\\]$", text(one(provider="amd")), re.MULTILINE | re.DOTALL)
    fetching = [run for run in runs if "Acquire::https::CaInfo" in run]
    assert len(fetching) == 2
    assert all("id=ca,target=/run/secrets/ca,mode=0444 " in run for run in fetching)


def test_source_may_write_into_its_own_tree() -> None:
    """llama.cpp's releases before 2026-10 pack the web page there; what is written goes with the step."""
    runs = re.findall(r"^RUN .*?[^\\]$", text(one()), re.MULTILINE | re.DOTALL)
    building = [run for run in runs if "cmake --build" in run]
    assert len(building) == 2
    assert all("type=bind,from=source,target=/src/llama-cpp-python,rw " in run for run in building)


def test_jobs_reach_the_compiler() -> None:
    assert "--parallel 7" in text(one(), jobs=7)


def test_image_json_says_what_the_image_is() -> None:
    cell = one()
    found = re.search(r"COPY <<'EOF' /etc/amdserve/image.json\n(.*?)\nEOF\n", text(cell), re.DOTALL)
    assert found
    document = json.loads(found[1])
    assert document["hash"] == cell.hash
    assert document["gfx"] == ["gfx1151"]
    assert document["rocm"] == {"provider": "debian", "version": "7.2.4", "prefix": "/usr"}
    assert list(document["backends"]) == list(cell.backends)
    for name, backend in document["backends"].items():
        assert backend["help"] == f"/etc/amdserve/help/{name}.txt"


def test_vulkan_driver_file_is_that_of_the_base() -> None:
    assert "VK_DRIVER_FILES=/usr/share/vulkan/icd.d/radeon_icd.json" in text(one())
    assert "VK_ICD_FILENAMES=/usr/share/vulkan/icd.d/radeon_icd.x86_64.json" in text(one(provider="amd"))


@pytest.mark.parametrize("provider", ["debian", "amd"])
@pytest.mark.parametrize("image", ["vulkan", "llama"])
def test_build_sees_only_what_the_hash_covers(image: str, provider: str) -> None:
    # What a Dockerfile copies from the context must be in the context, and so in the hash.
    copied = set[str]()
    for found in COPIES.finditer(text(one(images=(image,), provider=provider))):
        *sources, _target = [word for word in found["words"].split() if not word.startswith("--")]
        copied.update(source for source in sources if "://" not in source)
    assert copied
    for source in copied:
        assert any(Path(source).is_relative_to(folder) for folder in CONTEXT)


def test_context_is_what_was_planned_whatever_is_edited_afterwards(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    project = Project(root)
    plan = project.plan(Request(gfx=("gfx1151",)))
    before = (root / "src/amdserve/errors.py").read_text()
    edit(root / "src/amdserve/errors.py", "exit_code = 7", "exit_code = 8")
    (root / "src/amdserve/extra.py").touch()
    project.render(plan, 2)
    context = root / "build/llama-gfx1151/context"
    assert (context / "src/amdserve/errors.py").read_text() == before
    assert not (context / "src/amdserve/extra.py").exists()
    names = {str(path.relative_to(context)) for path in context.rglob("*") if path.is_file()}
    assert names <= set(plan.cells[0].inputs)


def test_context_has_no_toolkit_and_nothing_left_from_before(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    context = root / "build/vulkan/context"
    (context / "src").mkdir(parents=True)
    (context / "src/old.py").touch()
    files(root, images=("vulkan",))
    assert not (context / "src/old.py").exists()
    assert not (context / "src/amdserve/image").exists()
    assert (context / "src/amdserve/gpu/models.py").stat().st_mode & 0o777 == 0o644


def test_bake_file_has_a_target_for_each_cell() -> None:
    project, found = Project(ROOT), planned(images=("all",), gfx=("gfx1151",))
    bake = render.bake(found.cells, project.llama, ROOT)
    targets = bake["target"]
    assert isinstance(targets, dict)
    assert list(targets) == ["vulkan", "llama-gfx1151", "full-gfx1151"]
    target = targets["llama-gfx1151"]
    assert target["tags"] == list(found.cells[1].tags)
    assert target["context"] == "build/llama-gfx1151/context"
    assert target["dockerfile"] == "../Dockerfile"
    assert target["output"] == ["type=docker"]
    assert target["contexts"] == {
        "llama-cpp-python": "build/sources/llama-cpp-python-0.3.36",
        "llama-cpp": "build/sources/llama-cpp-python-0.3.36/vendor/llama.cpp",
    }


def test_bake_takes_no_label_for_an_expression() -> None:
    project = Project(ROOT)
    cell = replace(one(), labels={"x": "${HOME} %{if}"})
    targets = render.bake([cell], project.llama, ROOT)["target"]
    assert isinstance(targets, dict)
    assert targets[cell.id]["labels"]["x"] == "$${HOME} %%{if}"


def test_source_elsewhere_is_named_in_full() -> None:
    llama = replace(Project(ROOT).llama, llama_dir=Path("/srv/llama.cpp"))
    targets = render.bake([one()], llama, ROOT)["target"]
    assert isinstance(targets, dict)
    assert targets["llama-gfx1151"]["contexts"]["llama-cpp"] == "/srv/llama.cpp"


def test_every_image_for_every_gfx_renders_in_a_second() -> None:
    # From cold templates. Processor time: what else the machine does is not counted.
    begin = time.process_time()
    project = Project(ROOT)
    cells = project.plan(project.matrix(Request(images=("all",)))).cells
    for cell in cells:
        project.renderer.dockerfile(cell, project.sources, project.llama, jobs=2)
    assert len(cells) > 10
    assert time.process_time() - begin < 1.0


# Faults in templates


def fault(root: Path) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        text(one(), root)
    return caught.value


def test_unknown_name_in_a_template_gives_its_line(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    path = root / "templates/stages/toolchain.j2"
    edit(path, "ENV CCACHE_DIR", "ENV X={{ nobody }} CCACHE_DIR")
    line = path.read_text()[: path.read_text().index("nobody")].count("\n") + 1
    error = fault(root)
    assert error.what == f"templates/stages/toolchain.j2, line {line}: 'nobody' is undefined"
    assert f"+{line}" in error.fix


def test_broken_template_gives_its_line(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "templates/stages/ui.j2").write_text("\n{% if %}\n")
    assert fault(root).what.startswith("templates/stages/ui.j2, line 2: ")


def test_missing_template_is_named(tmp_path: Path) -> None:
    root = checkout(tmp_path)
    (root / "templates/stages/ui.j2").unlink()
    assert fault(root).what == "templates/stages/ui.j2 is missing"
