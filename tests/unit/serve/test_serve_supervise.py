"""The table of falling back, with real processes: each row at the start, while loading and while serving."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_bed import CPU, ROCM, VULKAN, Bed, eat_in, memory_group, other_server, wait_for

from amdserve.serve import procfs
from amdserve.serve.probe import ask

PHASES = ("start", "loading", "serving")
SIGNALS = [
    *(("SIGSEGV", phase) for phase in PHASES),
    *((name, "serving") for name in ("SIGABRT", "SIGBUS", "SIGILL", "SIGFPE")),
]


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


@pytest.fixture
def small_group() -> Iterator[Path]:
    with memory_group(64 << 20) as place:
        yield place


def classes(status: dict[str, Any]) -> list[tuple[str, str]]:
    return [(entry["backend"], entry["class"]) for entry in status["history"]]


def test_serves_on_the_first_backend_and_stops_as_asked(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN), bed.entry(CPU))) as run:
        status = run.until("ready")
        assert (status["backend"], status["history"]) == (VULKAN, [])
        assert status["device"] == "AMD Stub (RADV GFX1151)"
        assert run.who() == VULKAN
        assert run.stop() == 0
    assert bed.status() == {}
    bed.nothing_left()


@pytest.mark.parametrize(("name", "phase"), SIGNALS)
def test_a_crash_makes_the_next_one_answer_on_the_same_port(bed: Bed, name: str, phase: str) -> None:
    first = bed.entry(VULKAN, child=True, load=0.1, **{phase: {"how": f"signal:{name}"}})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "crash")]
        assert status["history"][0]["exit"] == -getattr(signal, name)
        assert run.who() == CPU
        assert run.stop() == 0
    bed.nothing_left()


@pytest.mark.parametrize(
    ("phase", "line", "how"),
    [
        ("loading", "terminate called after throwing 'vk::DeviceLostError'", "signal:SIGABRT"),
        ("serving", "terminate called after throwing 'vk::DeviceLostError'", "signal:SIGABRT"),
        ("start", "ROCm error: unspecified launch failure", "signal:SIGABRT"),
        ("serving", "Memory access fault by GPU node-1 on address 0x7f", "signal:SIGABRT"),
        ("loading", "ggml_vulkan: something nobody has seen before", "exit:1"),
        ("serving", "", "exit:0"),
    ],
)
def test_a_lost_device_or_a_strange_exit_is_a_crash(bed: Bed, phase: str, line: str, how: str) -> None:
    first = bed.entry(VULKAN, **{phase: {"how": how, "log": [line]}})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "crash")]
        assert line in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


LOST = ["0.01.865.491 E ggml_vulkan: device lost on Vulkan0", "E srv  update_slots: decode() failed: x"]


def test_a_backend_that_lives_without_its_gpu_is_a_crash(bed: Bed) -> None:
    """This is what llama-server does: `/health` is well for ever, and every request ends with an error."""
    first = bed.entry(VULKAN, serving={"how": "broken", "log": LOST})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "crash")]
        assert "device lost on Vulkan0" in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


def test_what_users_have_a_backend_say_ends_it_not(bed: Bed) -> None:
    asked = bed.folder / "asked"
    first = bed.entry(VULKAN, asked=str(asked), serving={"how": "talk", "log": LOST})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        wait_for(asked.exists)
        time.sleep(0.5)
        run.until("ready", VULKAN)
        assert bed.status()["history"] == []
        run.stop()


@pytest.mark.parametrize("phase", ["start", "serving"])
def test_killed_by_somebody_is_no_shortage_of_memory(bed: Bed, phase: str) -> None:
    first = bed.entry(VULKAN, **{phase: {"how": "signal:SIGKILL"}})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "crash")]
        assert "not for memory" in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


@pytest.mark.parametrize(
    ("line", "how", "code", "cls"),
    [
        ("error: invalid argument: --no-such-flag", "exit:1", 2, "usage"),
        ('error while handling argument "--ctx-size": stoi', "exit:1", 2, "usage"),
        ("usage: cpu_server [-h]\ncpu_server: error: unrecognized arguments: --x", "exit:2", 2, "usage"),
        ("error loading model: unknown model architecture: 'martian'", "exit:1", 3, "model"),
        ("llama_model_load: error loading model: missing tensor 'blk.0.attn_q'", "exit:1", 3, "model"),
        ("error loading model: unable to allocate Vulkan0 buffer", "exit:1", 6, "oom"),
        ("ggml_vulkan: Device memory allocation failed. ErrorOutOfDeviceMemory", "signal:SIGABRT", 6, "oom"),
        ("srv start: couldn't bind HTTP server socket, hostname: 0.0.0.0", "exit:1", 7, "port"),
    ],
)
def test_what_every_backend_would_fail_at_ends_it(bed: Bed, line: str, how: str, code: int, cls: str) -> None:
    first = bed.entry(VULKAN, loading={"how": how, "log": line.split("\n")})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        assert run.end() == code
        status = bed.status()
        assert classes(status) == [(VULKAN, cls)]
        assert status["state"] == "failed"
        assert status["error"]["exit"] == code
        assert status["error"]["next"]
    bed.nothing_left()


@pytest.mark.parametrize(
    "line", ["error loading model: missing tensor", "error: invalid argument: x", "Errno 98"]
)
def test_what_a_serving_backend_says_of_a_request_is_not_the_models_fault(bed: Bed, line: str) -> None:
    first = bed.entry(VULKAN, serving={"how": "exit:1", "after": 0.4, "log": [line]})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        assert classes(run.until("ready", CPU)) == [(VULKAN, "crash")]
        run.stop()


@pytest.mark.parametrize("phase", PHASES)
def test_no_memory_in_the_container_ends_it(bed: Bed, small_group: Path, phase: str) -> None:
    """The kernel kills the backend, not its supervisor, which tells it from a kill by somebody."""
    first = bed.entry(VULKAN, load=0.1, **{phase: {"how": "eat"}})
    with bed.supervise(bed.spec(first, bed.entry(CPU)), group=small_group) as run:
        assert run.end() == 6
        (failure,) = bed.status()["history"]
        assert (failure["class"], failure["exit"]) == ("oom", -signal.SIGKILL)
        assert "killed for memory" in failure["detail"]
    bed.nothing_left()


def test_no_memory_on_the_gpu_while_it_answers_ends_it(bed: Bed) -> None:
    line = "terminate called: vk::Device::allocateMemory: ErrorOutOfDeviceMemory"
    first = bed.entry(VULKAN, serving={"how": "signal:SIGABRT", "log": [line]})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        assert run.end() == 6
        assert classes(bed.status()) == [(VULKAN, "oom")]
    bed.nothing_left()


def test_a_kill_for_memory_elsewhere_is_not_ours(bed: Bed, small_group: Path) -> None:
    """Another container ran out of memory meanwhile; here somebody killed the backend by hand."""
    with bed.supervise(bed.spec(bed.entry(VULKAN), bed.entry(CPU))) as run:
        pid = run.until("ready", VULKAN)["pid"]
        assert eat_in(small_group) == -signal.SIGKILL
        os.kill(pid, signal.SIGKILL)
        assert classes(run.until("ready", CPU)) == [(VULKAN, "crash")]
        run.stop()


def test_out_of_memory_says_what_would_fit(bed: Bed) -> None:
    first = bed.entry(VULKAN, loading={"how": "exit:1", "log": ["unable to allocate ROCm0 buffer"]})
    with bed.supervise(bed.spec(first, advice="This would: --n-ctx 4096")) as run:
        assert run.end() == 6
        assert "This would: --n-ctx 4096" in run.log


@pytest.mark.parametrize("how", ["hang", "stop", "deaf"])
def test_no_progress_while_loading_is_a_hang(bed: Bed, how: str) -> None:
    first = bed.entry(VULKAN, child=True, load=600, quiet=True, loading={"how": how, "after": 0.1})
    with bed.supervise(bed.spec(first, bed.entry(CPU), load_stall=0.6)) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "hang")]
        assert "no progress" in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


def test_a_spin_without_progress_is_a_hang_too(bed: Bed) -> None:
    first = bed.entry(VULKAN, load=600, quiet=True, loading={"how": "spin"})
    with bed.supervise(bed.spec(first, bed.entry(CPU), load_stall=0.6)) as run:
        status = run.until("ready", CPU)
        assert "computing" in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


def test_a_line_said_over_and_over_is_no_progress(bed: Bed) -> None:
    first = bed.entry(VULKAN, load=600, loading={"how": "deaf", "after": 0.1})
    with bed.supervise(bed.spec(first, bed.entry(CPU), load_stall=1.0)) as run:
        assert classes(run.until("ready", CPU)) == [(VULKAN, "hang")]
        run.stop()
    bed.nothing_left()


def test_slow_loading_with_progress_is_no_hang(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN, load=2.5), load_stall=0.6)) as run:
        assert run.until("ready")["history"] == []
        run.stop()


def test_a_silent_download_is_no_hang(bed: Bed) -> None:
    """As llama-server fetches from the Hub: no line of log, no byte read from a file, no memory taken."""
    before = procfs.sample(os.getpid()).written
    (bed.folder / "any").write_bytes(bytes(1 << 20))
    if procfs.sample(os.getpid()).written == before:
        pytest.skip("the kernel does not count what is written to this file system")
    first = bed.entry(VULKAN, load=2.5, quiet=True, fetch=str(bed.folder / "part"))
    with bed.supervise(bed.spec(first, load_stall=0.6)) as run:
        assert run.until("ready")["history"] == []
        run.stop()


def test_a_list_of_devices_that_never_comes_is_a_hang(bed: Bed) -> None:
    first = bed.entry(VULKAN, list={"how": "hang"})
    with bed.supervise(bed.spec(first, bed.entry(CPU)), impatient=1.0) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "hang")]
        assert "no list of devices" in status["history"][0]["detail"]
        run.stop()
    bed.nothing_left()


@pytest.mark.parametrize("how", ["stop", "hang"])
def test_no_answer_while_serving_is_a_hang(bed: Bed, how: str) -> None:
    first = bed.entry(VULKAN, child=True, ignore_term=True, serving={"how": how, "after": 0.1})
    with bed.supervise(bed.spec(first, bed.entry(CPU), probe_timeout=0.6)) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "hang")]
        run.stop()
    bed.nothing_left()


def test_a_batch_that_never_ends_is_a_hang_though_health_answers(bed: Bed) -> None:
    first = bed.entry(VULKAN, deaf_slots=True)
    with bed.supervise(bed.spec(first, bed.entry(CPU), serve_stall=1.0)) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "hang")]
        assert "no batch done" in status["history"][0]["detail"]
        run.stop()


def test_a_request_that_gets_no_further_is_a_hang_though_everything_answers(bed: Bed) -> None:
    first = bed.entry(VULKAN, request=0)
    with bed.supervise(bed.spec(first, bed.entry(CPU), serve_stall=1.0)) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "hang")]
        assert "no batch done" in status["history"][0]["detail"]
        run.stop()


def test_a_request_that_gets_on_is_none(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN, request=1), serve_stall=1.0)) as run:
        run.until("ready")
        time.sleep(3.0)
        assert bed.status()["history"] == []
        run.stop()


def test_busy_is_not_dead(bed: Bed) -> None:
    """Computing without answering lasts longer than the patience with silence, and is left alone."""
    first = bed.entry(VULKAN, serving={"how": "spin", "after": 0.1})
    with bed.supervise(bed.spec(first, probe_timeout=1.0, serve_stall=60.0)) as run:
        run.until("ready")
        time.sleep(3.0)
        assert bed.status()["history"] == []
        run.stop()
    bed.nothing_left()


@pytest.mark.parametrize(
    "behaviour",
    [
        {"devices": []},
        {"list": {"how": "exit:1", "log": ["ggml_cuda_init: no ROCm-capable device is detected"]}},
        {"offload": "0/3"},
        {"offload": None},
        {"weights": ["CPU"]},
        {"weights": ["CPU_Mapped", "Vulkan_Host"]},
        {
            "start": {
                "how": "exit:1",
                "log": ['error while handling argument "--device": invalid device: Vulkan7'],
            }
        },
    ],
)
def test_no_device_and_silent_cpu_go_to_the_next(bed: Bed, behaviour: dict[str, Any]) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN, **behaviour), bed.entry(CPU))) as run:
        assert classes(run.until("ready", CPU)) == [(VULKAN, "no-device")]
        run.stop()
    bed.nothing_left()


def test_why_a_backend_sees_no_device_is_told_in_its_own_words(bed: Bed) -> None:
    said = "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected"
    first = bed.entry(ROCM, devices=[], list={"how": "talk", "log": [said]})
    with bed.supervise(bed.spec(first, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(ROCM, "no-device")]
        assert said in status["history"][0]["detail"]
        run.stop()


def test_no_device_ends_with_4_where_a_gpu_is_required(bed: Bed) -> None:
    entries = [bed.entry(VULKAN, devices=[]), bed.entry(ROCM, offload="0/9")]
    with bed.supervise(bed.spec(*entries, require_gpu=True)) as run:
        assert run.end() == 4
    bed.nothing_left()


def test_what_served_well_is_started_once_more(bed: Bed) -> None:
    """A crash after a good while is bad luck, once; a second one soon after is not."""
    record = bed.folder / "starts"
    first = bed.entry(VULKAN, record=str(record), serving={"how": "signal:SIGSEGV", "after": 2.0})
    with bed.supervise(bed.spec(first, bed.entry(CPU)), impatient=1.0) as run:
        status = run.until("ready", CPU)
        assert classes(status) == [(VULKAN, "crash"), (VULKAN, "crash")]
        assert f"once more: {VULKAN}" in run.log
        run.stop()
    assert len(bed.starts(record)) == 2
    bed.nothing_left()


def test_every_backend_failed_ends_with_5(bed: Bed) -> None:
    entries = [bed.entry(name, start={"how": "signal:SIGSEGV"}) for name in (VULKAN, ROCM, CPU)]
    with bed.supervise(bed.spec(*entries)) as run:
        assert run.end() == 5
        assert [name for name, _ in classes(bed.status())] == [VULKAN, ROCM, CPU]
    bed.nothing_left()


def test_a_taken_port_ends_with_7_before_anything_starts(bed: Bed) -> None:
    record = bed.folder / "starts"
    with other_server(bed.port), bed.supervise(bed.spec(bed.entry(VULKAN, record=str(record)))) as run:
        assert run.end() == 7
        assert f"--port {bed.port + 1}" in run.log
    assert bed.starts(record) == []


def test_somebody_elses_answer_on_the_port_is_not_ours(bed: Bed, tmp_path: Path) -> None:
    """A backend that has not opened its port yet is not ready because another server answers there."""
    (tmp_path / "other").mkdir()
    other = Bed(tmp_path / "other")
    other.port = bed.port
    late = bed.entry(CPU, start={"how": "hang"})
    with bed.supervise(bed.spec(late)) as run:
        wait_for(lambda: bed.status().get("state") == "loading")
        with other.supervise(other.spec(other.entry(VULKAN))) as second:
            second.until("ready")
            time.sleep(1.2)
            assert bed.status()["state"] == "loading"
            second.stop()
        run.stop()
    bed.nothing_left()


def test_a_program_that_cannot_be_started_goes_to_the_next(bed: Bed) -> None:
    missing = {**bed.entry(ROCM), "argv": ["/nowhere/llama-server"], "program": ["/nowhere/llama-server"]}
    with bed.supervise(bed.spec(missing, bed.entry(CPU))) as run:
        status = run.until("ready", CPU)
        assert "/nowhere/llama-server" in status["history"][0]["detail"]
        run.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    "behaviour", [{"load": 600}, {"start": {"how": "hang"}}, {"list": {"how": "hang"}}, {}]
)
def test_a_stop_ends_everything_in_every_phase(bed: Bed, behaviour: dict[str, Any], number: int) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN, child=True, **behaviour), bed.entry(CPU))) as run:
        wait_for(lambda: bed.status().get("state") in ("starting", "loading", "ready"))
        time.sleep(0.2)
        assert run.stop(number) == 0
    bed.nothing_left()


def test_a_backend_that_ignores_the_signal_is_killed(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN, ignore_term=True, child=True))) as run:
        run.until("ready")
        begun = time.monotonic()
        assert run.stop() == 0
        assert time.monotonic() - begun < 6
        assert "killed" in run.log
    bed.nothing_left()


def test_a_stop_waits_for_the_answer_under_way(bed: Bed) -> None:
    busy = bed.folder / "busy"
    busy.touch()
    with bed.supervise(bed.spec(bed.entry(VULKAN, busy=str(busy)), drain=20.0)) as run:
        run.until("ready")
        run.process.terminate()
        wait_for(lambda: bed.status().get("stopping"))
        time.sleep(0.5)
        assert run.who() == VULKAN, "it was ended while it was answering"
        busy.unlink()
        assert run.end(5) == 0
    bed.nothing_left()


def test_a_stop_waits_no_longer_than_it_was_told(bed: Bed) -> None:
    busy = bed.folder / "busy"
    busy.touch()
    with bed.supervise(bed.spec(bed.entry(VULKAN, busy=str(busy)), drain=0.5)) as run:
        run.until("ready")
        assert run.stop(seconds=5) == 0


def test_a_second_signal_does_not_wait(bed: Bed) -> None:
    busy = bed.folder / "busy"
    busy.touch()
    with bed.supervise(bed.spec(bed.entry(VULKAN, busy=str(busy)), drain=600.0)) as run:
        run.until("ready")
        run.process.terminate()
        wait_for(lambda: bed.status().get("stopping"))
        assert run.stop(seconds=5) == 0


def test_a_killed_supervisor_leaves_nothing(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN))) as run:
        run.until("ready")
        run.process.kill()
        run.end()
    wait_for(lambda: not bed.processes(), 5)


def test_the_next_start_goes_straight_to_what_worked(bed: Bed) -> None:
    record = bed.folder / "starts"
    first = bed.entry(VULKAN, record=str(record), start={"how": "signal:SIGSEGV"})
    spec = bed.spec(first, bed.entry(CPU))
    for expected in (1, 1):
        with bed.supervise(spec) as run:
            run.until("ready", CPU)
            run.stop()
        assert len(bed.starts(record)) == expected
    assert "failed here before" in run.log
    with bed.supervise({**spec, "about": "another model"}) as run:
        run.until("ready", CPU)
        run.stop()
    assert len(bed.starts(record)) == 2


def test_what_failed_before_is_still_the_last_resort(bed: Bed) -> None:
    flag = bed.folder / "broken"
    spec = bed.spec(bed.entry(VULKAN, start={"how": "signal:SIGSEGV"}), bed.entry(CPU))
    with bed.supervise(spec) as run:
        run.until("ready", CPU)
        run.stop()
    flag.touch()
    spec = bed.spec(bed.entry(VULKAN), bed.entry(CPU, start={"how": "signal:SIGILL"}))
    with bed.supervise(spec) as run:
        assert classes(run.until("ready", VULKAN)) == [(CPU, "crash")]
        run.stop()


def test_nothing_is_remembered_where_that_is_not_wanted(bed: Bed) -> None:
    spec = bed.spec(bed.entry(VULKAN, start={"how": "signal:SIGSEGV"}), bed.entry(CPU), remember=False)
    with bed.supervise(spec) as run:
        run.until("ready", CPU)
        run.stop()
    assert not (bed.state / "memory.json").exists()


def test_the_device_that_is_meant_is_named(bed: Bed) -> None:
    devices = [
        "Vulkan0: AMD Radeon 780M (RADV PHOENIX) (30000 MiB, 29000 MiB free)",
        "Vulkan1: AMD Radeon RX 9070 XT (RADV GFX1201) (16000 MiB, 15000 MiB free)",
    ]
    record = bed.folder / "starts"
    entry = {**bed.entry(VULKAN, devices=devices, record=str(record)), "hints": ["gfx1201"]}
    with bed.supervise(bed.spec(entry)) as run:
        assert "9070" in run.until("ready")["device"]
        run.stop()
    assert bed.starts(record)[0]["argv"][-2:] == ["--device", "Vulkan1"]


def test_secrets_are_in_no_log_and_on_no_command_line(bed: Bed) -> None:
    secret = "sk-veryverysecret"
    keys = bed.folder / "keys"
    keys.write_text(f"# ours\n{secret}\nsecond-secret\n", encoding="utf-8")
    record = bed.folder / "starts"
    noise = [f"srv: api_keys: ****cret {secret}", f"got {secret} and second-secret"]
    entry = bed.entry(VULKAN, record=str(record), serving={"how": "exit:1", "log": noise})
    entry["env_files"] = {"STUB_API_KEY": str(keys)}
    with bed.supervise(bed.spec(entry, bed.entry(CPU), api_key_file=str(keys))) as run:
        run.until("ready", CPU)
        run.stop()
        assert secret not in run.log
        assert "second-secret" not in run.log
        assert "got **** and ****" in run.log
    start = bed.starts(record)[0]
    assert start["env"]["STUB_API_KEY"] == secret
    assert secret not in json.dumps(start["argv"])
    assert all(secret not in file.read_text() for file in bed.state.iterdir())


def test_the_log_as_json_is_one_object_a_line(bed: Bed) -> None:
    first = bed.entry(VULKAN, start={"how": "signal:SIGSEGV", "log": ['quotes " and \\ and ünïcode']})
    with bed.supervise(bed.spec(first, bed.entry(CPU), log_format="json")) as run:
        run.until("ready", CPU)
        run.stop()
        lines = [json.loads(line) for line in run.log.splitlines()]
    assert {line["source"] for line in lines} == {"amdserve", VULKAN, CPU}
    assert any(line["message"] == 'quotes " and \\ and ünïcode' for line in lines)
    assert any(line.get("failure") == "crash" for line in lines)


CACHED = [
    "0.44.550.461 I srv          load:    - prompt with length     94, lcp =      3, f_keep = 0.032",
    "0.44.550.461 I srv        update:    - prompt 0x7f2a4c0de1f0:     94 tokens, checkpoints:  0",
]


def test_llama_servers_list_of_all_cached_prompts_is_left_out(bed: Bed) -> None:
    """It comes with the level at which the offload is told: for every request, a line for every prompt."""
    said = "0.44.550.470 I srv        update:  - cache state: 2 prompts, 2.2 MiB"
    talk = {"how": "talk", "log": [*CACHED, said]}
    with bed.supervise(bed.spec(bed.entry(VULKAN, serving=talk))) as run:
        run.until("ready", VULKAN)
        wait_for(lambda: said in run.log)
        assert not any(line in run.log for line in CACHED)
        run.stop()


def test_a_level_that_was_asked_for_is_passed_on_whole(bed: Bed) -> None:
    entry = {**bed.entry(VULKAN, serving={"how": "talk", "log": CACHED}), "offload": False}
    with bed.supervise(bed.spec(entry)) as run:
        run.until("ready", VULKAN)
        wait_for(lambda: all(line in run.log for line in CACHED))
        run.stop()


def test_no_folder_for_state_is_no_obstacle(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN), state_dir=None)) as run:
        wait_for(lambda: ask("127.0.0.1", bed.port, "/health")[0] == 200)
        assert run.stop() == 0


@pytest.mark.skipif(os.getuid() != 0, reason="a full disk is simulated by a folder that vanishes")
def test_a_folder_that_vanishes_is_no_obstacle(bed: Bed) -> None:
    with bed.supervise(
        bed.spec(bed.entry(VULKAN, serving={"how": "exit:1", "after": 0.5}), bed.entry(CPU))
    ) as run:
        run.until("ready", VULKAN)
        for file in bed.state.iterdir():
            file.unlink()
        bed.state.rmdir()
        wait_for(lambda: run.who() == CPU)
        assert run.stop() == 0


def test_the_supervisor_stays_small_and_idle(bed: Bed) -> None:
    with bed.supervise(bed.spec(bed.entry(VULKAN))) as run:
        run.until("ready")
        time.sleep(0.3)
        place = Path(f"/proc/{run.process.pid}")
        before = sum(int(word) for word in (place / "stat").read_text().rpartition(")")[2].split()[11:13])
        time.sleep(2.0)
        after = sum(int(word) for word in (place / "stat").read_text().rpartition(")")[2].split()[11:13])
        rss = next(line for line in (place / "status").read_text().splitlines() if line.startswith("VmRSS"))
        assert int(rss.split()[1]) < 25 * 1024
        assert after - before <= 2, "more than 1 % of a CPU while idle"
        run.stop()
