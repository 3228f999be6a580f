"""`invoke lint` and `invoke test`: what is run, that everything is run, and that a failure is told."""

import os
import sys
from pathlib import Path

import pytest
from image_tree import ROOT

from amdserve.errors import EngineError, ProcessError, UsageError
from amdserve.image import engine, house
from amdserve.image.house import Check
from amdserve.image.project import Project


def says(name: str, code: int) -> Check:
    return Check(name, (sys.executable, "-c", f"print('{name} ran'); raise SystemExit({code})"))


def test_all_checks_run_even_where_one_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ProcessError) as caught:
        house.run([says("one", 0), says("two", 3), says("three", 0), says("four", 1)], ROOT)
    assert caught.value.what == "failed: two, four"
    assert "two ran" in caught.value.fix
    told = capfd.readouterr()
    assert told.out == ""
    assert [word for word in ("one", "two", "three", "four") if f"{word} ran" in told.err] == [
        *("one", "two", "three", "four")
    ]


def test_checks_that_hold_say_nothing_more() -> None:
    house.run([says("one", 0)], ROOT)


@pytest.mark.parametrize(
    "argv", [("no-such-linter", "src"), (sys.executable, "-m", "no_such_pytest", "tests")]
)
def test_a_program_that_is_not_installed_is_told_as_such(argv: tuple[str, ...]) -> None:
    """As where the toolkit was installed without the tools of its developers."""
    with pytest.raises(UsageError) as caught:
        house.run([says("one", 0), Check("two", argv)], ROOT)
    assert caught.value.what.endswith(": not installed in this environment")
    assert "./inv" in caught.value.fix


def test_check_has_its_own_variables() -> None:
    code = "import os; raise SystemExit(os.environ['A'] != '1' or 'PATH' not in os.environ)"
    house.run([Check("a", (sys.executable, "-c", code), {"A": "1"})], ROOT)
    assert "A" not in os.environ


def test_every_provider_of_every_image_is_linted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> None:
        raise EngineError("nobody answers")

    monkeypatch.setattr(engine, "find", nobody)
    project = Project(ROOT)
    (hadolint,) = house.template_checks(project, tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    for provider in project.sources.rocm.providers:
        assert f"vulkan-{provider}.Dockerfile" in names
        assert any(name.startswith("llama-") and name.endswith(f"{provider}.Dockerfile") for name in names)
    assert {Path(word).name for word in hadolint.argv if word.endswith(".Dockerfile")} == names


def test_buildkit_check_builds_and_tags_nothing() -> None:
    words = house.buildkit_check(("buildx",), "/x/Dockerfile")
    assert words[:3] == ("buildx", "build", "--check")
    assert not [word for word in words if word.startswith(("--tag", "-t", "--load", "--output", "--push"))]


@pytest.mark.parametrize("unit", [True, False])
def test_test_runs_lint_types_and_units_first(monkeypatch: pytest.MonkeyPatch, unit: bool) -> None:
    ran: list[str] = []

    def note(checks: list[Check], _root: Path) -> None:
        ran.extend(check.name for check in checks)
        raise ProcessError("one failed")

    monkeypatch.setattr(house, "run", note)
    # Where these fail, nothing is built.
    with pytest.raises(ProcessError):
        house.test(Project(ROOT), gfx=("gfx1151",), unit=unit, only="", vllm=False)
    assert ran[:3] == ["ruff check", "ruff format", "mypy"]
    assert ran[-1] == "unit tests"
    assert "container tests" not in ran


def test_only_runs_what_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[Check] = []
    monkeypatch.setattr(house, "run", lambda checks, _root: ran.extend(checks))
    house.test(Project(ROOT), gfx=(), unit=False, only="tests/unit -k 'a or b'", vllm=False)
    (check,) = ran
    assert check.argv[1:] == ("-m", "pytest", "tests/unit", "-k", "a or b")
