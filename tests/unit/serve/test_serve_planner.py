"""The process that plans: it begins before there is anything to plan."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from serve_bed import CPU, Bed

UNORDERED = """
import os
from amdserve.serve import planner
planner.begin()
begun = planner.take()
os.close(begun.order)
print(os.waitstatus_to_exitcode(os.waitpid(begun.pid, 0)[1]), os.read(begun.plan, 1))
"""


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    bed = Bed(tmp_path)
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None))
    return bed


def test_a_planner_that_gets_no_order_ends_in_silence(bed: Bed) -> None:
    argv = [sys.executable, "-c", UNORDERED]
    done = subprocess.run(argv, env=bed.environ(), capture_output=True, text=True, timeout=60, check=True)
    assert (done.stdout, done.stderr) == ("0 b''\n", "")


@pytest.mark.parametrize("words", [["--no-such-option"], ["--port", "x"], ["--config", "/no/such.yaml"]])
def test_a_command_line_that_is_wrong_is_told_once(bed: Bed, words: list[str]) -> None:
    done = bed.amdserve("serve", str(bed.model), *words)
    assert done.returncode == 2
    assert done.stderr.count("amdserve: error:") == 1
    assert done.stdout == ""
    bed.nothing_left()


def test_a_planner_that_died_is_no_success(bed: Bed) -> None:
    program = UNORDERED.partition("begun =")[0] + (
        "import signal, time\n"
        "os.kill(planner._begun[0].pid, signal.SIGKILL); time.sleep(0.3)\n"
        "from amdserve.serve import cli\n"
        f"raise SystemExit(cli.main(['serve', {str(bed.model)!r}]))\n"
    )
    argv = [sys.executable, "-c", program]
    done = subprocess.run(argv, env=bed.environ(), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode not in (0, None)
    bed.nothing_left()


def test_a_value_that_is_no_value_is_told_by_its_key(bed: Bed) -> None:
    file = bed.folder / "options.yaml"
    file.write_text("alias: 2025-11-24\n")
    done = bed.amdserve("serve", str(bed.model), "--config", str(file))
    assert done.returncode == 2
    assert "alias" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_environment_that_is_no_text_reaches_the_backend(bed: Bed) -> None:
    record = bed.folder / "record"
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None, record=str(record)))
    odd = os.fsdecode(b"caf\xe9")
    with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", ODD=odd) as run:
        run.until("ready", CPU)
        assert run.stop() == 0
    assert bed.starts(record)[-1]["env"]["ODD"] == odd


@pytest.mark.parametrize("own", [None, "", "mine"])
def test_the_folder_for_what_a_driver_compiles_is_there(bed: Bed, own: str | None) -> None:
    """NVIDIA's keeps nothing in a folder that it does not find, and compiles for seconds at every start."""
    record = bed.folder / "record"
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None, record=str(record)))
    asked = {} if own is None else {"XDG_CACHE_HOME": own and str(bed.folder / own)}
    with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", **asked) as run:
        run.until("ready", CPU)
        assert run.stop() == 0
    env = bed.starts(record)[-1]["env"]
    assert Path(env["XDG_CACHE_HOME"]) == (bed.folder / own if own else bed.state / "cache")
    assert Path(env["XDG_CACHE_HOME"]).is_dir()
    assert Path(env["LLAMA_CACHE"]) == bed.state / "cache" / "llama.cpp"
