"""The processes beside the supervisor's: one plans, one looks at what the plan is made of."""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import serve_files
from serve_bed import CPU, Bed

from amdserve.errors import ModelError
from amdserve.serve import look, planning, seen
from amdserve.serve.request import ModelLoadRequest, build

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


def through(bed: Bed, **values: object) -> seen.Seen | None:
    """What one process saw, as the other receives it."""
    reading, writing = os.pipe()
    assert look.send({"model_path": str(bed.model), **values}, bed.environ(), writing) == 0
    # Where it saw nothing, its process's end would close it.
    with contextlib.suppress(OSError):
        os.close(writing)
    return seen.receive(reading)


def test_what_one_saw_the_other_plans_with(bed: Bed) -> None:
    found, own = through(bed), look.look(str(bed.model), None, bed.environ())
    assert found is not None
    assert (found.model, found.machine, found.detection.gpus) == (own.model, own.machine, own.detection.gpus)
    # The model changes after the look; what was seen is what counts.
    serve_files.write(bed.model, general__architecture="bert", bert__pooling_type=1)
    request = ModelLoadRequest(model_path=str(bed.model))
    assert planning.make_plan(request, bed.environ(), None, found).job.purpose == "llm"
    assert planning.make_plan(request, bed.environ(), None).job.purpose == "embedding"


@pytest.mark.parametrize("change", [{"model_path": "other.gguf"}, {"vendor": "amd"}])
def test_what_was_seen_of_something_else_does_not_count(bed: Bed, change: dict[str, str]) -> None:
    found = through(bed)
    other = serve_files.write(bed.folder / "other.gguf", general__architecture="bert", bert__pooling_type=1)
    values = {"model_path": str(bed.model), **change}
    if "model_path" in change:
        values["model_path"] = str(other)
    made = planning.make_plan(build(values, {})[0], bed.environ(), None, found)
    assert made.job.purpose == ("embedding" if "model_path" in change else "llm")
    assert any("only amd" in one.reason for one in made.detection.attempts) == ("vendor" in change)


def test_the_one_that_sees_nothing_leaves_it_to_the_planner_to_say_why(bed: Bed) -> None:
    bed.model.unlink()
    assert through(bed) is None
    assert through(bed, model_path="") is None
    with pytest.raises(ModelError, match="is not there"):
        planning.make_plan(ModelLoadRequest(model_path=str(bed.model)), bed.environ(), None, None)


def test_something_else_in_the_pipe_is_nothing_seen() -> None:
    reading, writing = os.pipe()
    os.write(writing, pickle.dumps({"path": "x"}))
    os.close(writing)
    assert seen.receive(reading) is None


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


def test_an_environment_that_is_no_text_reaches_the_backend(bed: Bed) -> None:
    record = bed.folder / "record"
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None, record=str(record)))
    odd = os.fsdecode(b"caf\xe9")
    with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", ODD=odd) as run:
        run.until("ready", CPU)
        assert run.stop() == 0
    assert bed.starts(record)[-1]["env"]["ODD"] == odd
