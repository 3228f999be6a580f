"""vLLM's stage in a real engine: its index is a folder of stand-ins, and PyPI is reachable beside it.

The stand-ins are small, the resolver, the index rules, the installer and the proof are the real ones. The
distribution's Python takes the place of CPython 3.12, as `--vllm-python system` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures import wheels
from fixtures.wheels import ROCM, Wheel

from amdserve import process
from amdserve.image import base, house, index, plan, show
from amdserve.image.engine import Engine
from amdserve.image.inputs import write_context
from amdserve.image.models import Request
from amdserve.image.project import Project
from amdserve.image.vllm import Settings

ROOT = Path(__file__).resolve().parents[2]
GFX = "gfx1151"
# What the stage leaves, taken out of it: nothing else of the image is built.
RESULT = "\nFROM scratch AS result\nCOPY --from=vllm /opt/vllm/installed.json /vllm/chosen.txt /\n"
CUDA = "2.13.0"


@dataclass(frozen=True)
class Built:
    """How a build ended, all it said, and the folder with what it left."""

    ok: bool
    said: str
    folder: Path

    def installed(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.folder / "installed.json").read_text())
        return found

    def names(self) -> set[str]:
        lines = (self.folder / "chosen.txt").read_text().splitlines()
        return {line.partition("==")[0] for line in lines if not line.startswith(" ")}


Stage = Callable[..., Built]


@pytest.fixture
def stage(engine: Engine, tmp_path: Path) -> Stage:
    """Build the stage from an index of these wheels; `changes` are made to the rendered Dockerfile."""

    def build(held: Sequence[Wheel], *, changes: Sequence[tuple[str, str]] = ()) -> Built:
        folder = wheels.write(tmp_path / "index", held)
        project = Project(ROOT, settings=Settings(index=str(folder), python="system"))
        (cell,) = project.plan(Request(images=("full",), gfx=(GFX,))).cells
        text = project.renderer.dockerfile(cell, project.sources, project.llama, jobs=1) + RESULT
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "Dockerfile").write_text(text, encoding="utf-8")
        write_context(project.files, tmp_path / "context")
        reference = base.ensure(engine, project.sources, name="debian", say=show.say)
        bundle = index.ca_bundle()
        done = process.run(
            [
                *engine.buildx, "build", "--progress=plain", "--target=result",
                f"--output=type=local,dest={tmp_path / 'out'}", f"--build-arg=BASE_IMAGE={reference}",
                f"--build-context=vllm-index={folder}", "--build-context=llama-cpp=images",
                "--build-context=llama-cpp-python=images",
                *([f"--secret=id=ca,src={bundle}"] if bundle else []),
                f"--file={tmp_path / 'Dockerfile'}", str(tmp_path / "context"),
            ],
            env=engine.env(), cwd=ROOT, check=False,
        )  # fmt: skip
        return Built(done.ok, done.out + done.err, tmp_path / "out")

    return build


def test_the_rocm_build_is_taken_though_pypi_has_its_name(stage: Stage) -> None:
    built = stage(wheels.rocm())
    assert built.ok, built.said
    found = built.installed()
    assert (found["vllm"], found["torch"], found["hip"]) == ("0.33.0+rocm100", ROCM, "10.0.0")
    # The kernels of the asked gfx alone, where the wheel asks for those of every GPU.
    assert found["kernels"] == [f"amd-torch-device-{GFX}"]
    # What is in no index of ROCm came from PyPI: it was reachable, and its vllm and torch were not taken.
    assert built.names() == {"vllm", "torch", "iniconfig", f"amd-torch-device-{GFX}"}


@pytest.mark.parametrize(
    "held",
    [
        [one for one in wheels.rocm() if one.name != "vllm"],
        [*(one for one in wheels.rocm() if one.name != "vllm"), Wheel("vllm", "0.33.0", ["torch"])],
    ],
    ids=["the index has no vllm", "the index has only a CUDA build"],
)
def test_without_the_rocm_wheel_the_build_fails_and_takes_no_other(stage: Stage, held: list[Wheel]) -> None:
    built = stage(held)
    assert not built.ok
    assert "vllm==0.33.0+rocm100" in built.said
    assert "no version of vllm==0.33.0+rocm100" in " ".join(built.said.split())
    assert not built.folder.exists() or not list(built.folder.iterdir())


def test_an_index_without_torch_does_not_bring_pypis(stage: Stage) -> None:
    """vLLM of ROCm, whose torch nobody pinned: PyPI's would fit, and is a CUDA build of a gigabyte."""
    built = stage([Wheel("vllm", "0.33.0+rocm100", ["torch==2.13.0"])])
    assert not built.ok
    assert "is PyPI's CUDA build" in built.said
    assert "Downloading torch" not in built.said


def test_a_part_of_cuda_is_not_installed(stage: Stage) -> None:
    held = [
        Wheel("vllm", "0.33.0+rocm100", [f"torch=={ROCM}", "nvidia-cublas-cu12"]),
        wheels.torch(ROCM, hip="10.0.0", cuda=None),
        Wheel("nvidia-cublas-cu12", "12.9.1"),
    ]
    built = stage(held)
    assert not built.ok
    assert "error: nvidia-cublas-cu12 12.9.1 is a part of CUDA" in built.said


def test_the_proof_fails_on_a_cuda_build(stage: Stage) -> None:
    """As if no exact version had been asked for and nothing had been selected: what pip alone would do."""
    asked = [
        ("echo 'vllm==0.33.0+rocm100'", "echo 'vllm==0.33.0'"),
        ("/opt/vllm/bin/python /vllm/install.py select /vllm/resolved.txt /vllm/chosen.txt --gfx gfx1151",
         "cp /vllm/resolved.txt /vllm/chosen.txt"),
    ]  # fmt: skip
    held = [Wheel("vllm", "0.33.0", ["torch"]), wheels.torch(f"{CUDA}+cu130", hip=None, cuda="13.0")]
    built = stage(held, changes=asked)
    assert not built.ok
    assert "error: vllm 0.33.0 is not a ROCm build" in built.said


def test_the_proof_looks_into_torch_and_not_only_at_its_name(stage: Stage) -> None:
    held = [Wheel("vllm", "0.33.0+rocm100", ["torch"]), wheels.torch(ROCM, hip=None, cuda="13.0")]
    built = stage(held)
    assert not built.ok
    assert "error: torch.version.hip is not set" in built.said


@pytest.mark.parametrize("source", ["wheel", "build"])
def test_it_is_clean_for_every_gfx_it_allows(engine: Engine, tmp_path: Path, source: str) -> None:
    """hadolint and BuildKit's own check, each gfx with the provider that has its BLAS."""
    project = Project(ROOT, settings=Settings(source=source))
    files: dict[str, Path] = {}
    for provider in project.sources.rocm.providers:
        request = Request(
            images=("full",), gfx=plan.every_gfx(provider), provider=provider, each=True, lenient=True
        )
        for cell in project.plan(request).cells:
            file = tmp_path / f"{cell.id}.Dockerfile"
            file.write_text(
                project.renderer.dockerfile(cell, project.sources, project.llama, jobs=1), "utf-8"
            )
            files.setdefault(cell.gfx[0], file)
    lint = process.run([house.program("hadolint"), *map(str, files.values())], cwd=ROOT, check=False)
    assert lint.ok, lint.out
    for file in files.values():
        found = process.run(
            house.buildkit_check(engine.buildx, str(file)), cwd=ROOT, env=engine.env(), check=False
        )
        assert found.ok, found.out + found.err
    assert {"gfx1151", "gfx942", "gfx1150"} <= set(files)
    assert ("gfx1030" in files) == (source == "build")
