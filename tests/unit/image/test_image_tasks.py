"""The command line: every task of the contract is there, explains itself, answers or refuses as promised."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from image_tree import ROOT, checkout, edit
from invoke.collection import Collection
from invoke.program import Program

from amdserve.errors import ConfigError, NoGPUError
from amdserve.image import host, lock, show
from amdserve.image.project import Project

MACHINES = ROOT / "tests" / "fixtures" / "machines"
CONTRACT = [
    *("detect", "plan", "render", "build", "verify", "run", "bench", "doctor"),
    *("push", "release", "deploy", "engine", "test", "lint", "lock"),
]


def load(root: Path) -> ModuleType:
    """Load the tasks as if the checkout were elsewhere."""
    spec = importlib.util.spec_from_file_location("amdserve_tasks", ROOT / "tasks.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ROOT = root  # type: ignore[attr-defined]
    return module


class Inv:
    """`./inv` in this process."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.tasks = load(root)
        self.capsys = capsys

    def __call__(self, *words: str) -> tuple[int, str, str]:
        """Run a command line; give exit status, standard output and standard error."""
        self.capsys.readouterr()
        code = 0
        try:
            Program(namespace=Collection.from_module(self.tasks)).run(["inv", *words])
        except SystemExit as leave:
            code = int(leave.code or 0)
        out, err = self.capsys.readouterr()
        return code, out, err


@pytest.fixture
def inv(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Inv:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "no-gpu"))
    return Inv(ROOT, capsys)


def test_every_task_of_the_contract_is_there(inv: Inv) -> None:
    assert sorted(Collection.from_module(inv.tasks).task_names) == sorted(CONTRACT)


@pytest.mark.parametrize("name", CONTRACT)
def test_every_task_and_argument_explains_itself(inv: Inv, name: str) -> None:
    task = Collection.from_module(inv.tasks)[name]
    assert task.__doc__
    for argument in task.get_arguments():
        assert argument.help, f"--{argument.name} of {name} has no help"
        assert all(each.isalpha() for each in argument.names if len(each) == 1), f"{argument.names} of {name}"


def test_plan_is_one_json_document(inv: Inv) -> None:
    code, out, err = inv("plan", "--image", "llama", "--gfx", "gfx1151", "--json")
    assert (code, err) == (0, "")
    (cell,) = json.loads(out)["cells"]
    assert cell["id"] == "llama-gfx1151"


def test_plan_without_arguments_is_the_whole_matrix(inv: Inv) -> None:
    _, out, _ = inv("plan", "--json")
    ids = [cell["id"] for cell in json.loads(out)["cells"]]
    assert ids[0] == "vulkan"
    assert {"llama-gfx942", "llama-gfx1151", "llama-gfx1201"} < set(ids)


def test_plan_tells_what_it_leaves_out_beside_the_answer(inv: Inv) -> None:
    code, out, err = inv("plan", "--image", "llama", "--gfx", "rdna3.5", "--json")
    assert code == 0
    assert json.loads(out)["cells"][0]["gfx"] == ["gfx1151"]
    assert "note: rdna3.5: without gfx1150" in err


def test_plan_for_people_is_a_table(inv: Inv) -> None:
    _, out, _ = inv("plan", "--gfx", "gfx1151")
    assert out.splitlines()[0].split()[:2] == ["cell", "gfx"]
    assert any(line.startswith("llama-gfx1151 ") for line in out.splitlines())


def test_render_writes_and_names_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inv = Inv(checkout(tmp_path), capsys)
    code, out, _ = inv("render", "--gfx", "gfx1151")
    assert code == 0
    assert "build/llama-gfx1151/Dockerfile" in out.splitlines()
    for line in out.splitlines():
        assert (tmp_path / line).exists()


def test_render_takes_the_gpu_that_is_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "strix-halo"))
    code, out, err = Inv(checkout(tmp_path), capsys)("render", "--json")
    assert code == 0
    assert "found on this host: gfx1151" in err
    assert json.loads(out)["cells"][0]["id"] == "llama-gfx1151"


def test_build_without_a_gpu_says_how_to_name_one(inv: Inv) -> None:
    code, out, err = inv("build")
    assert code == NoGPUError.exit_code
    assert out == ""
    what, cause, following = err.splitlines()
    assert what == "error: no AMD GPU was found on this host"
    assert cause.startswith("  likely cause: ")
    assert "--gfx gfx1151" in following


@pytest.mark.parametrize(
    "words",
    [
        ("build", "--gfx", "gfx9999"),
        ("build", "--gfx", "gfx1031"),
        ("build", "--image", "lama"),
        ("build", "--gfx", "gfx1151", "--provider", "nobody"),
        ("build", "--gfx", "gfx1151", "--base", "none"),
        ("build", "--gfx", "gfx1151", "--llama-source", "/nothing"),
        ("build", "--gfx", "gfx1151", "--repository", "A:b"),
        ("bench",),
        ("push",),
        ("release",),
        ("deploy", "--model", "/nothing"),
        ("deploy", "--model", "/nothing", "--format", "nomad"),
    ],
)
def test_wrong_usage_is_one_clear_error_before_any_engine(
    inv: Inv, words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    code, out, err = inv(*words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "  next: " in err
    assert "Traceback" not in err


def test_broken_catalogue_is_told_by_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = checkout(tmp_path)
    edit(root / "images/catalog.yaml", "default: llama", "default: llama\ndefualt: x")
    code, _, err = Inv(root, capsys)("plan")
    assert code == ConfigError.exit_code
    assert (
        "error: images/catalog.yaml, line 4: defualt: this key is not known (did you mean `default`?)" in err
    )


def test_detect_is_the_contract(inv: Inv) -> None:
    code, out, _ = inv("detect", "--json")
    assert code == 0
    found = json.loads(out)
    assert set(found) == {"available", "detector", "gpus", "attempts"}
    assert not found["available"]


def test_detect_for_people_names_the_gpu(inv: Inv, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "strix-halo"))
    _, out, _ = inv("detect")
    assert "gfx1151" in out
    assert "KFDDetector" in out


# This host


def test_graphics_of_the_processor_beside_a_card_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "apu-and-dgpu"))
    found = host.detect()
    every = {gpu.gfx for gpu in found.gpus}
    chosen = host.gfx_here(found, "debian")
    assert len(every) > len(chosen) == 1


def test_jobs_fit_into_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host.os, "sched_getaffinity", lambda _pid: set(range(64)))  # type: ignore[attr-defined]
    for memory, jobs in ((1 << 30, 1), (16 << 30, 8), (1 << 40, 64)):
        pages = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": memory // 4096}
        monkeypatch.setattr(host.os, "sysconf", pages.__getitem__)  # type: ignore[attr-defined]
        assert host.default_jobs() == jobs


def test_jobs_that_are_named_are_kept() -> None:
    from amdserve.image.models import Request

    assert Project(ROOT).complete(Request(gfx=("gfx1151",), jobs=3)).jobs == 3
    assert Project(ROOT).complete(Request(gfx=("gfx1151",))).jobs >= 1


# Lock files and how things are shown


def test_every_lock_file_is_written_with_hashes() -> None:
    commands = lock.commands(upgrade=False)
    written = {command[-1] for command in commands}
    assert written == {str(path.relative_to(ROOT)) for path in (ROOT / "requirements").glob("*.txt")}
    for command in commands:
        assert "--generate-hashes" in command
        for word in command[3:]:
            assert not word.endswith((".in", ".toml")) or (ROOT / word).is_file()
    assert all("--upgrade" in command for command in lock.commands(upgrade=True))


def test_every_requirement_is_locked_by_hash() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text().replace("\\\n", " ")
        for line in text.splitlines():
            if line.strip() and not line.startswith("#"):
                assert "==" in line, f"{path.name}: {line[:40]}"
                assert "--hash=sha256:" in line, f"{path.name}: {line[:40]}"


def test_table_is_aligned_and_has_no_trailing_blanks() -> None:
    text = show.table([("a", 1), ("bbb", 22), ("two\nlines", "")], ("x", "number"))
    assert text.splitlines() == ["x           number", "a           1", "bbb         22", "two; lines"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (3725, "62 min 05 s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert show.seconds(seconds) == text


def test_no_colour_outside_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    show.error(ConfigError("a", cause="b", fix="c"))
    assert capsys.readouterr().err == "error: a\n  likely cause: b\n  next: c\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[" in show.paint("x", show.RED)
    monkeypatch.setenv("NO_COLOR", "1")
    assert show.paint("x", show.RED) == "x"


def test_line_in_a_pipe_comes_now_and_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("amdserve.image.show.time.monotonic", lambda: now)
    line = show.Line(every=30)
    for _ in range(100):
        now += 1
        line.update(f"at {now:g}")
    assert capsys.readouterr().err.splitlines() == ["at 130", "at 160", "at 190"]
