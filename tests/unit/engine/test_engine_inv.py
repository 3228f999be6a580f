"""`./inv`: one set-up, however often, from wherever and however many at once it is called."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from amdserve.image.inputs import CONTEXT, CONTEXT_WITHOUT

ROOT = Path(__file__).resolve().parents[3]

# Stands for a Python: makes an environment whose own python stands for pip.
PYTHON = """\
#!/bin/bash
echo "python $*" >>"$RECORD"
case "$*" in
  *ensurepip*) [ -z "$NO_ENSUREPIP" ] ;;
  "-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
  *--require-hashes*)
    sleep "${PIP_SECONDS:-0}"
    [ -z "$PIP_FAILS" ] || { echo "ERROR: no network" >&2; exit 1; }
    printf '#!/bin/bash\\necho "ran $* in $PWD"\\n' >"$(dirname "$0")/invoke"
    chmod +x "$(dirname "$0")/invoke" ;;
esac
"""


@dataclass
class Checkout:
    root: Path
    environ: dict[str, str]
    record: Path

    def inv(self, *words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(self.root / "inv"), *words],
            cwd=cwd or self.root,
            env={**self.environ, **environ},
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def set_ups(self) -> int:
        return self.record.read_text().count("-m venv") if self.record.exists() else 0

    def installs(self) -> int:
        return self.record.read_text().count("--require-hashes") if self.record.exists() else 0


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    root = tmp_path / "checkout"
    (root / "requirements").mkdir(parents=True)
    shutil.copy2(ROOT / "inv", root)
    (root / "requirements/toolkit.txt").write_text("invoke==1 --hash=sha256:0\n")
    (root / "pyproject.toml").write_text("")
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in (
        "bash",
        "cat",
        "cp",
        "dirname",
        "env",
        "flock",
        "id",
        "mkdir",
        "mv",
        "readlink",
        "rm",
        "sed",
    ):
        (tools / name).symlink_to(str(shutil.which(name)))
    for name in ("sha256sum", "sleep", "stat", "chmod"):
        (tools / name).symlink_to(str(shutil.which(name)))
    (tools / "python3.13").write_text(PYTHON)
    (tools / "python3.13").chmod(0o755)
    record = tmp_path / "record"
    return Checkout(root, {"PATH": str(tools), "HOME": str(tmp_path), "RECORD": str(record)}, record)


def test_the_first_call_sets_up_and_runs_and_the_next_one_only_runs(checkout: Checkout) -> None:
    first = checkout.inv("plan", "--json")
    assert first.returncode == 0
    assert first.stdout == f"ran --search-root {checkout.root} plan --json in {checkout.root}\n"
    assert "set up in" in first.stderr
    before = checkout.record.read_text()
    second = checkout.inv("plan", "--json")
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert checkout.record.read_text() == before, "no Python was even started"


def test_it_works_from_any_folder_and_through_a_link(checkout: Checkout, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(checkout.root / "inv")
    done = subprocess.run(
        [str(link), "x"], cwd=tmp_path, env=checkout.environ, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"ran --search-root {checkout.root} x in {tmp_path}\n"


def test_a_changed_lock_is_installed_into_the_same_environment(checkout: Checkout) -> None:
    checkout.inv()
    (checkout.root / "requirements/toolkit.txt").write_text("invoke==2 --hash=sha256:1\n")
    assert checkout.inv().returncode == 0
    assert (checkout.set_ups(), checkout.installs()) == (1, 2)


def test_a_set_up_that_was_cut_off_is_started_afresh(checkout: Checkout) -> None:
    checkout.inv()
    (checkout.root / ".venv/amdserve-unfinished").touch()
    (checkout.root / ".venv/amdserve-set-up").unlink()
    (checkout.root / ".venv/half").touch()
    assert "did not finish" in checkout.inv().stderr
    assert not (checkout.root / ".venv/half").exists()
    assert checkout.set_ups() == 2


def test_a_moved_checkout_is_set_up_again(checkout: Checkout) -> None:
    checkout.inv()
    moved = Checkout(
        checkout.root.rename(checkout.root.with_name("moved")), checkout.environ, checkout.record
    )
    done = moved.inv("x")
    assert "made elsewhere" in done.stderr
    assert done.stdout.startswith(f"ran --search-root {moved.root} x")


def test_an_environment_whose_python_is_gone_is_made_again(checkout: Checkout) -> None:
    checkout.inv()
    (checkout.root / ".venv/bin/python").unlink()
    assert checkout.inv("x").returncode == 0
    assert checkout.set_ups() == 2


def test_a_failed_install_stops_with_pip_s_words_and_is_not_taken_for_done(checkout: Checkout) -> None:
    failed = checkout.inv("x", PIP_FAILS="yes")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert "ERROR: no network" in failed.stderr
    assert "PIP_INDEX_URL" in failed.stderr
    assert checkout.inv("x").returncode == 0


def test_two_at_once_set_up_once(checkout: Checkout) -> None:
    command = [str(checkout.root / "inv"), "x"]
    environ = {**checkout.environ, "PIP_SECONDS": "0.5"}
    both = [
        subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = [one.communicate()[0] for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert all(answer.startswith("ran ") for answer in told)
    assert checkout.installs() == 1


def test_without_a_python_it_says_what_to_install(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "bin/python3.13").unlink()
    done = checkout.inv("x")
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
    assert "apt-get install python3 python3-venv" in done.stderr


def test_a_python_that_is_too_old_or_incomplete_is_not_taken(checkout: Checkout, tmp_path: Path) -> None:
    (tmp_path / "bin/python3.11").write_text("#!/bin/bash\nexit 1\n")
    (tmp_path / "bin/python3.11").chmod(0o755)
    done = checkout.inv("x", NO_ENSUREPIP="yes")
    assert done.returncode == 1
    assert not (checkout.root / ".venv/bin").exists()


def test_settings_of_pip_that_install_elsewhere_are_not_followed(checkout: Checkout, tmp_path: Path) -> None:
    stub = tmp_path / "bin/python3.13"
    stub.write_text(
        PYTHON.replace("case", 'echo "target=$PIP_TARGET index=$PIP_INDEX_URL" >>"$RECORD"\ncase', 1)
    )
    checkout.inv(PIP_TARGET="/elsewhere", PIP_INDEX_URL="https://mirror/simple")
    installs = checkout.record.read_text().split("--require-hashes", 1)[1]
    assert "target= index=https://mirror/simple" in installs


def test_a_build_by_hand_sees_what_goes_into_an_image_and_no_more() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", *(f"!{path}" for path in CONTEXT), *CONTEXT_WITHOUT, "**/__pycache__"]


# Stands for `./inv`: one line per task, and for the tests what two runs of pytest print at their end.
INV = """\
#!/bin/bash
echo "CI=$CI task=$1"
[ "$1" != "$FAILS" ] || exit 3
[ "$1" != test ] || printf "%b\\n" "12 passed in 3.45s" \\
  "== \\e[32m3 passed\\e[0m, 1 skipped in 61.20s (0:01:01) ==" "1 in 2s"
"""


@pytest.mark.parametrize(
    ("fails", "code", "closing"), [("", 0, True), ("engine", 3, False), ("test", 3, False)]
)
def test_continuous_integration_ends_with_the_closing_lines_and_the_code_of_the_tests(
    tmp_path: Path, fails: str, code: int, closing: bool
) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy2(ROOT / ".ci/run", tmp_path / ".ci/run")
    (tmp_path / "inv").write_text(INV)
    (tmp_path / "inv").chmod(0o755)
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci/run")],
        cwd="/",
        env={"PATH": os.environ["PATH"], "FAILS": fails},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert "CI=true task=--list" in done.stdout
    assert "set-up" in done.stdout.split("=== phases")[1]
    end = done.stdout.split("=== pytest\n")[1]
    assert end == ("12 passed in 3.45s\n3 passed, 1 skipped in 61.20s (0:01:01)\n" if closing else "")


def test_both_scripts_can_be_run(tmp_path: Path) -> None:
    for script in ("inv", ".ci/run"):
        assert os.access(ROOT / script, os.X_OK)
        subprocess.run(["bash", "-n", str(ROOT / script)], check=True, cwd=tmp_path)


def test_help_of_a_task_is_asked_for_on_either_side_of_it(checkout: Checkout) -> None:
    """Invoke takes `--help` for the value of a task's positional argument, where it has one."""
    assert "--help verify in" in checkout.inv("verify", "--help").stdout
    assert "--help verify in" in checkout.inv("--help", "verify").stdout
    assert "run model.gguf --help in" in checkout.inv("run", "model.gguf", "--help").stdout
