"""The workflows: held against schema and audit, pinned, without rights they do not need, without logic."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from invoke.collection import Collection
from invoke.config import Config
from invoke.loader import FilesystemLoader

from amdserve import process
from amdserve.errors import ConfigError
from amdserve.image.house import program
from amdserve.image.lock import Newer
from amdserve.image.propose import edited, propose

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / ".github" / "workflows"
FILES = sorted(FOLDER.glob("*.yml"))
# What a step may run: a task, the test command, and what tells GitHub's own machine who and where.
MAY_RUN = re.compile(
    r"^(?:\./inv [^;&|]+|\.ci/run|docker login [^;&|]+|docker buildx create [^;&|]+"
    r"|sudo apt-get update sudo apt-get install --yes debian-archive-keyring"
    r"|cat build/release-notes\.md >> \"\$GITHUB_STEP_SUMMARY\")$"
)


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())["jobs"]
    return found


def test_there_are_three() -> None:
    assert [path.stem for path in FILES] == ["ci", "nightly", "release"]


def test_schema_holds(tmp_path: Path) -> None:
    check = [program("check-jsonschema"), "--builtin-schema", "vendor.github-workflows"]
    done = process.run([*check, *map(str, FILES)], check=False)
    assert done.ok, done.out
    broken = tmp_path / "ci.yml"
    broken.write_text(FILES[0].read_text().replace("runs-on:", "runs-in:"))
    assert not process.run([*check, str(broken)], check=False).ok


def test_audit_finds_nothing(tmp_path: Path) -> None:
    audit = [program("zizmor"), "--offline", "--quiet", "--no-progress"]
    done = process.run([*audit, str(FOLDER)], check=False)
    assert done.ok, done.out + done.err
    assert not (ROOT / "zizmor.yml").exists()
    assert not (ROOT / ".github" / "zizmor.yml").exists(), "nothing is told to look away"
    assert not any("zizmor: ignore" in path.read_text() for path in FILES)
    broken = tmp_path / ".github" / "workflows"
    shutil.copytree(FOLDER, broken)
    text = (broken / "ci.yml").read_text()
    (broken / "ci.yml").write_text(re.sub(r"@[0-9a-f]{40} # ", "@", text))
    assert not process.run([*audit, str(broken)], check=False).ok


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_step_is_a_task_that_runs_on_a_laptop_too(path: Path) -> None:
    for job in jobs(path).values():
        assert job["timeout-minutes"]
        for step in job["steps"]:
            if "uses" in step:
                assert re.fullmatch(r"actions/checkout@[0-9a-f]{40}", step["uses"])
            else:
                assert MAY_RUN.match(" ".join(step["run"].split()).replace(' >> "$GITHUB_OUTPUT"', "")), step


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_task_and_option_that_a_step_names_exists(path: Path) -> None:
    found, _ = FilesystemLoader(start=str(ROOT), config=Config()).load("tasks")
    tasks = {one.name: one.flags for one in Collection.from_module(found).to_contexts()}
    for job in jobs(path).values():
        for step in job["steps"]:
            words = step.get("run", "").split()
            if words[:1] == ["./inv"]:
                assert words[1] in tasks
                named = {word.partition("=")[0] for word in words if word.startswith("--")}
                assert named <= set(tasks[words[1]])


def test_pull_requests_from_forks_need_no_secret_and_get_no_right_to_write() -> None:
    text = (FOLDER / "ci.yml").read_text()
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert yaml.safe_load(text)["permissions"] == {}
    for job in jobs(FOLDER / "ci.yml").values():
        assert job["permissions"] == {"contents": "read"}


def test_what_signs_and_tests_can_be_fetched_where_it_is_needed() -> None:
    """cosign and the registry of the tests come from Debian, whose keys Ubuntu does not have by itself."""
    for path in FILES:
        for name, job in jobs(path).items():
            runs = [step.get("run", "") for step in job["steps"]]
            needed = [at for at, run in enumerate(runs) if run.startswith(("./inv release", ".ci/run"))]
            had = [at for at, run in enumerate(runs) if "install --yes debian-archive-keyring" in run]
            assert not needed or (had and had[0] < needed[0]), f"{path.stem}: {name}"


def test_names_move_only_after_every_cell() -> None:
    found = jobs(FOLDER / "release.yml")
    assert set(found["promote"]["needs"]) == {"plan", "cell"}
    assert "--promote" in found["promote"]["steps"][-2]["run"]
    assert "--through test" in " ".join(found["cell"]["steps"][-1]["run"].split())
    assert "id-token" not in found["promote"]["permissions"], "it signs nothing"


def test_scripts_of_this_tree_are_clean() -> None:
    scripts = [str(ROOT / name) for name in ("inv", ".ci/run", "templates/vulkan/glslc.sh")]
    done = process.run([program("shellcheck"), *scripts], check=False)
    assert done.ok, done.out
    assert not any("shellcheck disable=all" in Path(path).read_text() for path in scripts)


PINS = "llama:\n  package: x\n  version: 0.3.36\nvllm:\n  version: 0.33.0   # why\n"


def test_newer_version_is_written_where_the_older_stands() -> None:
    assert edited(PINS, Newer("vllm", "0.33.0", "0.34.0", ("vllm", "version"))) == PINS.replace(
        "0.33.0", "0.34.0"
    )
    for found in (
        Newer("vllm", "0.1", "0.34.0", ("vllm", "version")),
        Newer("x", "1", "2", ("x", "version")),
    ):
        with pytest.raises(ConfigError):
            edited(PINS, found)


def test_newer_source_is_proposed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Real git; GitHub's own command is the only stand-in, and writes down what it is told."""
    origin, root, tools = tmp_path / "origin", tmp_path / "root", tmp_path / "tools"
    process.run(["git", "init", "--quiet", "--bare", str(origin)])
    process.run(["git", "clone", "--quiet", str(origin), str(root)])
    (root / "images").mkdir()
    (root / "images" / "sources.yaml").write_text(PINS)
    identity = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    process.run(["git", "add", "."], cwd=root)
    process.run(["git", *identity, "commit", "--quiet", "--message", "begin"], cwd=root)
    tools.mkdir()
    gh = tools / "gh"
    gh.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/told\n')
    gh.chmod(0o755)
    monkeypatch.setenv("PATH", str(tools), prepend=":")
    answers = [
        Newer("vllm", "0.33.0", "0.34.0", ("vllm", "version")),
        Newer("llama-cpp-python", "0.3.36", "0.3.36"),
    ]
    assert propose(root, answers) == ["newer/vllm-0.34.0"]
    told = (tmp_path / "told").read_text()
    assert "pr create --head newer/vllm-0.34.0 --title vllm 0.34.0" in told
    shown = process.run(["git", "show", "newer/vllm-0.34.0:images/sources.yaml"], cwd=origin).out
    assert "version: 0.34.0   # why" in shown
    assert (root / "images" / "sources.yaml").read_text() == PINS, "the checkout is as it was"
    assert propose(root, answers) == []
