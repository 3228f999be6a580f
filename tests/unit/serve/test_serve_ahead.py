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
from serve_tables import MACHINES

from amdserve.gpu.chain import UnifiedGPUDetector
from amdserve.gpu.sysroot import Sysroot
from amdserve.serve import ahead, memory, reference
from amdserve.serve.classify import Failure
from amdserve.serve.flags import LIST
from amdserve.serve.memory import Memory
from amdserve.serve.reference import FORCED, VOCABULARY

LISTING = 0.4
"""Seconds: longer than planning takes, so that what is asked ahead is still under way when the plan comes."""
ONE = ["Vulkan0: Old Name (1000 MiB, 900 MiB free)"]


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
    words = (str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", *words)
    environ = {"AMDSERVE_SELFTEST": "false", **environ}
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


class TestAlone:
    """A GPU that was checked here before, and was the only one: the server waits for no list."""

    @pytest.fixture(autouse=True)
    def proven(self, bed: Bed) -> Memory:
        made = Memory(bed.state, "any model", memory.key(None, None, "sha256:0", "off"))
        made.prove(VULKAN, 0.0)
        made.note_alone(VULKAN, "Old Name")
        return made

    def test_it_is_started_while_the_list_is_still_made(self, bed: Bed) -> None:
        record = bed.folder / "record"
        with start(bed, {"list_seconds": 3, "record": str(record), "devices": ONE}) as run:
            assert run.until("loading", VULKAN)["device"] == "Old Name"
            status = run.until("ready", VULKAN)
            assert status["device"] == "Old Name"
            assert run.stop() == 0
        [question], [server] = asked(bed), bed.starts(record)
        assert server["at"] - question["at"] < 3
        # It is not told to be ready before its device is known.
        assert status["phases"]["ready"] >= 3
        assert not status["history"]
        bed.nothing_left()

    def test_it_is_remembered_where_it_was_only_checked_before(self, bed: Bed, proven: Memory) -> None:
        proven.note_alone(VULKAN, None)
        record = bed.folder / "record"
        words: dict[str, Any] = {"list_seconds": 3, "record": str(record), "devices": ONE}
        for _ in range(2):
            with start(bed, words) as run:
                run.until("ready", VULKAN)
                run.stop()
        took = [server["at"] - one["at"] for one, server in zip(asked(bed), bed.starts(record), strict=True)]
        assert took[0] >= 3 > took[1]
        assert proven.alone(VULKAN) == "Old Name"

    def test_with_another_beside_it_the_one_that_is_meant_is_named(self, bed: Bed) -> None:
        record = bed.folder / "record"
        meant = "AMD Stub (RADV GFX1151)"
        two = ["Vulkan0: llvmpipe (1 MiB, 1 MiB free)", f"Vulkan1: {meant} (9 MiB, 9 MiB free)"]
        sysroot = Sysroot(MACHINES / "strix-halo")
        (gpu,) = UnifiedGPUDetector(sysroot, {}).detect().gpus
        known = Memory(bed.state, "any model", memory.key(gpu.gfx, gpu.driver, "sha256:0", "off"))
        known.prove(VULKAN, 0.0)
        known.note_alone(VULKAN, "Old Name")
        vulkan = {"list_seconds": 1.0, "record": str(record), "devices": two, "load": 0.2}
        driver = "/usr/share/vulkan/icd.d/radeon_icd.json"
        icd = {"VK_DRIVER_FILES": driver, "VK_ICD_FILENAMES": driver}
        with start(bed, vulkan, AMDSERVE_SYSROOT=str(sysroot.root), **icd) as run:
            assert run.until("ready", VULKAN)["device"] == meant
            first, second = bed.starts(record)
            assert "--device" not in first["argv"]
            assert second["argv"][-2:] == ["--device", "Vulkan1"]
            assert not Path("/proc", str(first["pid"])).exists()
            assert not run.status()["history"]
            assert len(asked(bed)) == 1
            assert run.stop() == 0
        assert known.alone(VULKAN) is None
        assert known.proven(VULKAN)
        bed.nothing_left()

    @pytest.mark.parametrize(
        ("answer", "cls"),
        [({"devices": []}, "no-device"), ({"list": {"how": "signal:SIGSEGV"}}, "crash")],
    )
    def test_a_list_that_fails_is_the_end_of_what_was_begun(
        self, bed: Bed, proven: Memory, answer: dict[str, Any], cls: str
    ) -> None:
        record = bed.folder / "record"
        with start(bed, {"list_seconds": 1.0, "record": str(record), **answer}) as run:
            status = run.until("ready", CPU)
            [server] = bed.starts(record)
            assert not Path("/proc", str(server["pid"])).exists()
            assert run.stop() == 0
        assert [one["class"] for one in status["history"]] == [cls]
        assert proven.alone(VULKAN) is None
        bed.nothing_left()

    def test_a_stop_meanwhile_ends_both_and_forgets_nothing(self, bed: Bed, proven: Memory) -> None:
        with start(bed, {"list_seconds": 60}) as run:
            run.until("loading", VULKAN)
            assert run.stop() == 0
        assert proven.alone(VULKAN) == "Old Name"
        bed.nothing_left()

    @pytest.mark.parametrize("behaviour", [{}, {"load": 60}], ids=["serving", "loading"])
    def test_what_dies_meanwhile_has_crashed_and_no_list_is_waited_for(
        self, bed: Bed, behaviour: dict[str, Any]
    ) -> None:
        fault = {"how": "signal:SIGSEGV", "after": 0.3}
        vulkan = {"list_seconds": 60, "child": True, "loading": fault, "serving": fault, **behaviour}
        with start(bed, vulkan) as run:
            status = run.until("ready", CPU)
            assert run.stop() == 0
        [failed] = status["history"]
        assert (failed["class"], failed["exit"]) == ("crash", -signal.SIGSEGV)
        assert failed["seconds"] < 30
        bed.nothing_left()

    def test_an_answer_that_is_there_already_is_looked_at_first(self, bed: Bed) -> None:
        record = bed.folder / "record"
        with start(bed, {"devices": [], "record": str(record)}) as run:
            status = run.until("ready", CPU)
            assert run.stop() == 0
        assert [one["class"] for one in status["history"]] == ["no-device"]
        assert bed.starts(record) == []

    def test_the_check_is_spared_only_with_the_proof(self, bed: Bed, proven: Memory) -> None:
        place = bed.folder / "reference"
        place.mkdir()
        (place / reference.MODEL).touch()
        rows = [[float(number % 7) for number in range(VOCABULARY)]] * (FORCED + 2)
        (place / reference.ANSWER).write_text(json.dumps({"schema": 1, "answers": rows}))
        wanted = {"AMDSERVE_SELFTEST": "true", reference.VARIABLE: str(place)}
        with start(bed, {"list_seconds": LISTING, "devices": ONE}, **wanted) as run:
            assert not run.until("ready", VULKAN)["history"]
            assert run.stop() == 0
        memory.forget(bed.state)
        assert proven.alone(VULKAN) is None
        with start(bed, {"list_seconds": LISTING, "devices": ONE}, **wanted) as run:
            [failed] = run.until("ready", CPU)["history"]
            assert run.stop() == 0
        assert failed["detail"].startswith("self-test")

    def test_several_of_which_none_is_meant_are_left_to_the_backend(self, bed: Bed, proven: Memory) -> None:
        record = bed.folder / "record"
        two = [*ONE, "Vulkan1: New Name (1000 MiB, 900 MiB free)"]
        with start(bed, {"list_seconds": 1.0, "record": str(record), "devices": two}) as run:
            assert run.until("ready", VULKAN)["device"] == "a GPU"
            assert run.stop() == 0
        assert len(bed.starts(record)) == 1
        assert proven.alone(VULKAN) is None

    def test_a_start_on_the_cpu_tells_nothing_of_the_gpu(self, bed: Bed, proven: Memory) -> None:
        serve_files.write(bed.model, general__architecture="bert", bert__pooling_type=1)
        with start(bed, {"offload": None}) as run:
            assert run.until("ready", VULKAN)["device"] == "CPU"
            assert run.stop() == 0
        assert proven.alone(VULKAN) == "Old Name"

    def test_of_what_was_never_checked_nothing_is_believed(self, tmp_path: Path, proven: Memory) -> None:
        other = Memory(tmp_path, "a", "another driver")
        other.note_alone(VULKAN, "Old Name")
        assert other.alone(VULKAN) is None
        proven.failed(VULKAN, Failure("wrong-output", "off"), served=0)
        assert proven.alone(VULKAN) is None


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
        ({"extra_args": ("--device", "none")}, True, {}, False),
        ({"extra_args": ["-dev", "Vulkan1"]}, True, {}, True),
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
