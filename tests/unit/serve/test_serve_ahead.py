"""The list of devices that is asked for while the plan is being made."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import serve_files
from serve_bed import CPU, ROCM, VULKAN, Bed, wait_for

from amdserve.serve import ahead
from amdserve.serve.flags import LIST

LISTING = 0.4
"""Seconds: longer than planning takes, so that what is asked ahead is still under way when the plan comes."""


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    made = Bed(tmp_path)
    (tmp_path / "no-machine" / "dev" / "dri").mkdir(parents=True)
    return made


def start(bed: Bed, vulkan: dict[str, Any], *words: str, **environ: str) -> Any:
    """Start the whole of `amdserve serve` with a GPU that only its driver knows."""
    lists = str(bed.folder / "lists")
    bed.image(
        llama_server_vulkan=bed.backend(VULKAN, **{"lists": lists, **vulkan}),
        llama_cpp_python=bed.backend(CPU, offload=None),
    )
    words = (str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", "--no-selftest", *words)
    return bed.serve(*words, **{"GGML_VK_VISIBLE_DEVICES": "0", **environ})


def asked(bed: Bed) -> list[dict[str, Any]]:
    return bed.starts(bed.folder / "lists")


def test_it_is_asked_once_and_before_the_plan_is_there(bed: Bed) -> None:
    with start(bed, {"list_seconds": LISTING}) as run:
        status = run.until("ready", VULKAN)
        assert status["device"] == "AMD Stub (RADV GFX1151)"
        assert len(asked(bed)) == 1
        assert run.who() == VULKAN
        assert run.stop() == 0
    # What is left to wait for when the plan comes is less than the whole.
    assert status["phases"].get("devices", 0.0) < LISTING
    bed.nothing_left()


def test_of_two_devices_the_one_that_is_meant_is_named(bed: Bed) -> None:
    devices = ["Vulkan0: llvmpipe (1 MiB, 1 MiB free)", "Vulkan1: AMD Stub (9 MiB, 9 MiB free)"]
    with start(bed, {"devices": devices, "record": str(bed.folder / "record")}) as run:
        run.until("ready", VULKAN)
        run.stop()
    [one] = asked(bed)
    assert one["argv"] == [LIST]


@pytest.mark.parametrize("how", ["signal:SIGSEGV", "exit:3"])
def test_what_fails_ahead_is_judged_as_ever_and_not_asked_again(bed: Bed, how: str) -> None:
    with start(bed, {"list": {"how": how, "log": ["ggml_vulkan: no luck"]}}) as run:
        status = run.until("ready", CPU)
        run.stop()
    [failed] = status["history"]
    assert (failed["backend"], failed["class"]) == (VULKAN, "crash")
    assert failed["detail"].startswith("asked for its devices")
    assert len(asked(bed)) == 1
    bed.nothing_left()


def test_no_device_ahead_is_no_device(bed: Bed) -> None:
    with start(bed, {"devices": []}) as run:
        status = run.until("ready", CPU)
        run.stop()
    assert [one["class"] for one in status["history"]] == ["no-device"]
    assert len(asked(bed)) == 1


def test_another_environment_is_another_question(bed: Bed) -> None:
    icd = bed.folder / "own.json"
    with start(bed, {"list_seconds": 60}, "--backend", "auto", VK_ICD_FILENAMES=str(icd)) as run:
        # The plan sets VK_DRIVER_FILES too, so what was asked without it is ended, and asked again.
        wait_for(lambda: len(asked(bed)) == 2)
        first, second = asked(bed)
        assert "VK_DRIVER_FILES" not in first["env"]
        assert second["env"]["VK_DRIVER_FILES"] == str(icd)
        wait_for(lambda: not Path("/proc", str(first["pid"])).exists())
        assert run.stop() == 0
    bed.nothing_left()


def test_a_plan_without_a_gpu_ends_it_unheard(bed: Bed) -> None:
    serve_files.write(bed.model, general__architecture="bert", bert__pooling_type=1)
    with start(bed, {"list_seconds": 60, "offload": None}) as run:
        assert run.until("ready", VULKAN)["device"] == "CPU"
        [one] = asked(bed)
        wait_for(lambda: not Path("/proc", str(one["pid"])).exists())
        assert run.stop() == 0
    bed.nothing_left()


def test_a_stop_in_the_midst_of_it_leaves_nothing(bed: Bed) -> None:
    with start(bed, {"list_seconds": 60}) as run:
        wait_for(lambda: asked(bed))
        assert run.stop() in (0, -signal.SIGTERM)
    bed.nothing_left()


def test_no_plan_ends_it_too(bed: Bed) -> None:
    bed.model.write_bytes(b"no model")
    with start(bed, {"list_seconds": 60}) as run:
        assert run.end() == 3
    bed.nothing_left()


@pytest.mark.parametrize(
    ("values", "node", "environ", "expected"),
    [
        ({}, True, {}, True),
        ({}, False, {}, False),
        ({}, False, {"GGML_VK_VISIBLE_DEVICES": "0"}, True),
        ({"backend": VULKAN}, True, {}, True),
        ({"backend": ROCM}, True, {}, False),
        ({"backend": CPU}, True, {}, False),
        ({"server_type": "embedding"}, True, {}, False),
        ({"server_type": "llm"}, True, {}, True),
        ({"model_path": "huggingface"}, True, {}, False),
        ({}, True, {"AMDSERVE_IMAGE_JSON": "/nowhere"}, False),
    ],
)
def test_it_is_asked_where_a_gpu_may_serve(
    bed: Bed, values: dict[str, str], node: bool, environ: dict[str, str], expected: bool
) -> None:
    bed.image(llama_server_vulkan=["vulkan"])
    if node:
        (bed.folder / "no-machine" / "dev" / "dri" / "renderD128").touch()
    folder = bed.folder / "huggingface"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({}))
    if "model_path" in values:
        values = {"model_path": str(folder)}
    found = ahead.guess(values, {**bed.environ(), **environ})
    assert found == (["vulkan", LIST] if expected else None)


def test_a_path_that_cannot_be_looked_at_is_the_planners_to_tell(bed: Bed) -> None:
    bed.image(llama_server_vulkan=["vulkan"])
    environ = bed.environ(GGML_VK_VISIBLE_DEVICES="0")
    for path in ("x" * 5000, "a\0b"):
        assert ahead.guess({"model_path": path}, environ) == ["vulkan", LIST]


def test_a_program_that_is_not_there_is_the_attempts_to_tell(bed: Bed) -> None:
    assert ahead.Ahead([str(bed.folder / "missing"), LIST], dict(os.environ)).child is None
