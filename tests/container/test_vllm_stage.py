"""vLLM's stage in a real engine: its index is a folder of stand-ins, and PyPI is reachable beside it.

The stand-ins are small, the resolver, the index rules, the installer and the proof are the real ones. The
distribution's Python takes the place of CPython 3.12, as `--vllm-python system` does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from fixtures import wheels
from fixtures.wheels import ROCM, SDK, Source, Wheel

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
RESULT = """
FROM vllm AS looked-at
RUN touch /vllm/chosen.txt && readlink /opt/vllm/rocm > /vllm/rocm.txt \\
    && /opt/vllm/bin/python -c 'import amdsmi; print(amdsmi.__file__)' > /vllm/amdsmi.txt
FROM scratch AS result
COPY --from=looked-at /opt/vllm/installed.json /vllm/chosen.txt /vllm/rocm.txt /vllm/amdsmi.txt /
"""
CUDA = "2.13.0"
PYPI = "https://pypi.org/simple/"
PIN = Project(ROOT).sources.vllm
assert PIN is not None
PINNED = PIN.sha256


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
        lines = self.text("chosen").splitlines()
        return {line.partition("==")[0] for line in lines if not line.startswith(" ")}

    def text(self, name: str) -> str:
        return (self.folder / f"{name}.txt").read_text().strip()


Stage = Callable[..., Built]


@pytest.fixture
def stage(engine: Engine, tmp_path: Path) -> Stage:
    """Build the stage from an index of these wheels; `changes` are made to the rendered Dockerfile.

    With a source it is built from that, which lies in PyPI's place; a stand-in does without a compiler.
    """

    def build(
        held: Sequence[Wheel], *, source: Source | None = None, changes: Sequence[tuple[str, str]] = ()
    ) -> Built:
        folder = wheels.write(tmp_path / "index", held)
        settings = Settings(index=str(folder), python="system")
        if source:
            file = wheels.write(folder / "pypi", [source]) / source.name / source.filename
            settings = Settings(index=f"{folder},default={PYPI}", python="system", source="build")
            changes = [
                (PINNED, hashlib.sha256(file.read_bytes()).hexdigest()),
                (f"--default-index {PYPI}", "--default-index file:///run/vllm-index/pypi/"),
                (" build-essential git python3-dev", ""),
                *changes,
            ]
        project = Project(ROOT, settings=settings)
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
    kernels = [f"amd-torch-device-{GFX}", f"rocm-sdk-device-{GFX}"]
    assert found["kernels"] == kernels
    # What is in no index of ROCm came from PyPI: it was reachable, and its vllm and torch were not taken.
    rocm = {"amdsmi", "rocm", "rocm-sdk-core", "rocm-sdk-libraries"}
    assert built.names() == {"vllm", "torch", "iniconfig", *kernels, *rocm}
    # The wheel brings ROCm's run time without its compilers, and amdsmi as a package.
    assert built.text("rocm").endswith("/site-packages/_rocm_sdk_core")
    assert built.text("amdsmi").endswith("/site-packages/amdsmi/__init__.py")


def test_from_source_it_is_the_hashed_source_that_is_built(stage: Stage) -> None:
    """Though the index before PyPI has a wheel of the same name and release."""
    built = stage(wheels.rocm(), source=wheels.source())
    assert built.ok, built.said
    found = built.installed()
    assert (found["vllm"], found["torch"], found["hip"]) == ("0.33.0+rocm.source", ROCM, SDK)
    assert found["kernels"] == [
        f"{name}-device-{GFX}" for name in ("amd-torch", "amd-torchvision", "rocm-sdk")
    ]
    assert built.text("rocm").endswith("/site-packages/_rocm_sdk_devel")
    assert built.text("amdsmi").endswith("/_rocm_sdk_core/share/amd_smi/amdsmi/__init__.py")


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
