"""What `invoke lint` and `invoke test` run: the checks of this project's own code, templates and images."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from amdserve import process
from amdserve.errors import EngineError, ProcessError, UsageError
from amdserve.image import plan, report, show
from amdserve.image.models import Request
from amdserve.image.project import Project
from amdserve.image.vllm import BACKEND

CODE = ("src", "tasks.py", "tests", "benchmarks")
HADOLINT = ".hadolint.yaml"


@dataclass(frozen=True, slots=True)
class Check:
    """One program of the checks: its name, its command in the root of the checkout, its own variables."""

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)

    @property
    def lacks(self) -> str:
        """Give the program or Python module that it needs and that is not there."""
        name, *words = self.argv
        if shutil.which(name) is None:
            return Path(name).name
        module = words[1] if name == sys.executable and words[0] == "-m" else ""
        return module if module and find_spec(module) is None else ""


def program(name: str) -> str:
    """Give the path of a program in the environment that this runs in."""
    return str(Path(sys.executable).with_name(name))


def code_checks() -> list[Check]:
    """Give the checks of the Python code."""
    return [
        Check("ruff check", (program("ruff"), "check", *CODE)),
        Check("ruff format", (program("ruff"), "format", "--check", *CODE)),
        Check("mypy", (program("mypy"),)),
    ]


def unit_checks(arguments: Sequence[str] = ()) -> list[Check]:
    """Give the quick tests."""
    return [Check("unit tests", (sys.executable, "-m", "pytest", "-n", "auto", "tests/unit", *arguments))]


def container_checks() -> list[Check]:
    """Give the tests against real images in a real engine.

    Two at a time, since they wait for half of theirs: more would meet the time limits that some are about.
    """
    both = ("-n", "2", "--dist", "loadfile")
    command = (sys.executable, "-m", "pytest", *both, "tests/container", "--durations=10")
    return [Check("container tests", command)]


def template_checks(project: Project, folder: Path) -> list[Check]:
    """Render every image for every provider into a folder and give the checks of what came out.

    All that a person can ask for is one of these texts, but for the gfx in it: two per provider stand for
    all. BuildKit's own check joins in where an engine runs; none is started for it.
    """
    from amdserve.image import engine  # noqa: PLC0415

    files = []
    for provider in project.sources.rocm.providers:
        targets = plan.every_gfx(provider)[-2:]
        found = project.plan(Request(images=(plan.ALL,), gfx=targets, provider=provider))
        for cell in found.cells:
            path = folder / f"{cell.id}-{provider}.Dockerfile"
            path.write_text(
                project.renderer.dockerfile(cell, project.sources, project.llama, jobs=1), "utf-8"
            )
            files.append(str(path))
    config = ("--config", HADOLINT) if (project.root / HADOLINT).is_file() else ()
    checks = [Check("hadolint", (program("hadolint"), *config, *files))]
    try:
        running = engine.find()
    except EngineError as reason:
        show.say(f"note: without BuildKit's own check: {reason.what}")
        return checks
    if running.answer and running.buildx:
        environ = {"DOCKER_HOST": running.answer.candidate.host}
        checks += [
            Check(f"buildx --check {Path(file).stem}", buildkit_check(running.buildx.argv, file), environ)
            for file in files
        ]
    return checks


def buildkit_check(buildx: Sequence[str], file: str) -> tuple[str, ...]:
    """Give BuildKit's check of one Dockerfile: nothing is built, so anything does for base and contexts."""
    stand_ins = [f"--build-context={name}=images" for name in ("llama-cpp", "llama-cpp-python", "vllm-index")]
    return (
        *buildx,
        "build",
        "--check",
        "--progress=quiet",
        "--build-arg=BASE_IMAGE=scratch",
        *stand_ins,
        "--file",
        file,
        "images",
    )


def run(checks: Sequence[Check], root: Path) -> None:
    """Run checks one after the other, all of them even where one fails; their output goes through.

    Raises:
        UsageError: a program is not there; then none is run.
        ProcessError: one or more failed.
    """
    if absent := list(dict.fromkeys(check.lacks for check in checks if check.lacks)):
        raise UsageError(
            f"{', '.join(absent)}: not installed in this environment",
            cause="the extra `build` holds what builds images, not what checks this project's own code",
            fix="./inv test or ./inv lint, whose environment has everything",
        )
    failed = []
    environ = {**os.environ, "PYTHONUNBUFFERED": "1"}
    for check in checks:
        show.say(show.paint(f"== {check.name}", show.BOLD))
        result = process.run(
            check.argv, cwd=root, env={**environ, **check.environ}, capture=False, check=False
        )
        if not result.ok:
            failed.append((check, result))
    if failed:
        names = ", ".join(check.name for check, _ in failed)
        raise ProcessError(
            f"failed: {names}",
            cause="their own words are above",
            fix=process.show(failed[0][0].argv),
        )


def lint(project: Project, more: Sequence[Check] = ()) -> None:
    """Check code, types and rendered Dockerfiles, and run `more` after that.

    Raises:
        ProcessError: something was found.
    """
    with tempfile.TemporaryDirectory(prefix="amdserve-lint-") as folder:
        run([*code_checks(), *template_checks(project, Path(folder)), *more], project.root)


def vllm_checks() -> list[Check]:
    """Give the slow tests with a real vLLM."""
    return [Check("vLLM tests", (sys.executable, "-m", "pytest", "tests/vllm"))]


def test(project: Project, *, gfx: tuple[str, ...], unit: bool, only: str, vllm: bool) -> None:
    """Run lint, types and unit tests; then build the images for `gfx` and test them in a real engine.

    The image with vLLM is left out: its packages come from indexes that not everybody reaches, and are large.

    Args:
        project: the checkout.
        gfx: the target that the container tests use.
        unit: stop before an engine is needed.
        only: words for pytest; then nothing else is run, and nothing is built.
        vllm: nothing but the tests with a real vLLM, which fetch it where it is not there.

    Raises:
        AmdserveError: something failed.
    """
    if only:
        run([Check("pytest", (sys.executable, "-m", "pytest", *shlex.split(only)))], project.root)
        return
    if vllm:
        run(vllm_checks(), project.root)
        return
    lint(project, unit_checks())
    if unit:
        return
    from amdserve.image import build  # noqa: PLC0415 - the quick tests do without

    images = tuple(name for name, one in project.catalog.images.items() if BACKEND not in one.backends)
    request = project.complete(Request(images=images, gfx=gfx))
    show.say(report.table(build.build(project, request, build.Options())))
    run(container_checks(), project.root)
