"""`amdserve bench` from end to end, with a llama-bench that crashes, hangs and lies on demand."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from amdserve.serve.bench import result
from amdserve.serve.bench.grid import Grid, jobs
from bench.bed import CPU, ROCM, SMALL, VULKAN, Bed

TESTS = 16
"""Of one backend over the grid `SMALL`."""


def failures(found: dict[str, Any]) -> list[tuple[str, str]]:
    return [(one["backend"], one["class"]) for one in found["failures"]]


def test_every_backend_is_measured_over_the_whole_grid(bed: Bed) -> None:
    found = bed.bench()
    assert {one["backend"]: one["state"] for one in found["backends"]} == dict.fromkeys(
        (VULKAN, ROCM, CPU), "measured"
    )
    for name in (VULKAN, ROCM, CPU):
        assert len([one for one in found["points"] if one["backend"] == name]) == TESTS
    assert (found["failures"], found["left"], found["interrupted"]) == ([], [], False)
    # 256 ÷ 62.8 + 2048 ÷ 1243 against 256 ÷ 53.5 + 2048 ÷ 1604; the CPU's stub is Vulkan's.
    assert [one["backend"] for one in found["chosen"]] == [VULKAN, CPU, ROCM]
    assert found["chosen"][0]["seconds"] == pytest.approx(5.724, abs=0.001)
    assert result.Result.model_validate(found).noisy == 0


def test_what_is_known_of_the_machine_is_in_the_result(bed: Bed) -> None:
    device = bed.machine / "sys/class/drm/renderD128/device"
    (device / "pp_dpm_sclk").write_text("0: 600Mhz\n1: 1100Mhz *\n2: 2900Mhz\n")
    (device / "pp_dpm_mclk").write_text("0: 400Mhz *\n1: 1000Mhz\n")
    (device / "power_dpm_force_performance_level").write_text("auto\n")
    found = bed.bench("--image-digest", "sha256:abc")
    assert found["machine"]["gfx"] == "gfx1151"
    assert found["machine"]["rocm"] == "7.2.4 (debian)"
    assert found["machine"]["kernel"] == (bed.machine / "proc/sys/kernel/osrelease").read_text().strip()
    clocks = {"core_mhz": [600, 1100, 2900], "memory_mhz": [400, 1000], "governed": "auto"}
    assert found["machine"]["clocks"] == {**clocks, "highest_mhz": 1100}
    image = {"name": "llama", "hash": "sha256:1", "digest": "sha256:abc", "llama": "0c1e57098"}
    assert found["image"] == {**image, "amdserve": "0.1.0"}
    assert found["model"]["fingerprint"].startswith("sha256:")


def test_the_fingerprint_is_the_contents(bed: Bed) -> None:
    first = bed.bench("--backend", VULKAN)["model"]["fingerprint"]
    other = bed.folder / "elsewhere.gguf"
    other.write_bytes(bed.model.read_bytes())
    bed.model = other
    assert bed.bench("--backend", VULKAN)["model"]["fingerprint"] == first
    with other.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x7f")
    assert bed.bench("--backend", VULKAN)["model"]["fingerprint"] != first


def test_the_cpu_runs_without_a_device_and_the_gpu_with_every_layer(bed: Bed) -> None:
    bed.bench()
    for folder, *words in bed.calls():
        cpu = "none" in words
        assert words[words.index("--n-gpu-layers") + 1] == ("0" if cpu else "999")
        assert folder == "vulkan" or not cpu
    assert any("none" in call for call in bed.calls())


def test_the_device_is_named_where_there_are_several(bed: Bed) -> None:
    bed.lists(VULKAN, "Vulkan0: llvmpipe (LLVM)", "Vulkan1: AMD Radeon 8060S (RADV GFX1151)")
    found = bed.bench("--backend", VULKAN)
    assert found["backends"][0]["device"] == "AMD Radeon 8060S (RADV GFX1151)"
    assert all(call[call.index("--device") + 1] == "Vulkan1" for call in bed.calls())


@pytest.mark.parametrize(
    ("fault", "cls", "detail"),
    [
        ({"how": "signal:SIGSEGV"}, "crash", "SIGSEGV"),
        ({"how": "signal:SIGABRT", "log": ["terminate: vk::DeviceLostError"]}, "crash", "DeviceLost"),
        (
            {
                "how": "exit:1",
                "log": ["llama_bench: error: failed to load model 'm'"],
                "verbose": ["ggml_vulkan: Device memory allocation failed: ErrorOutOfDeviceMemory"],
            },
            "oom",
            "ErrorOutOfDeviceMemory",
        ),
        ({"how": "signal:SIGABRT", "verbose": ["alloc: ErrorOutOfDeviceMemory"]}, "oom", "OutOfDeviceMemory"),
        (
            {"how": "exit:1", "log": ["llama_bench: error: failed to load model 'm'"]},
            "model",
            "failed to load",
        ),
        ({"how": "exit:0"}, "crash", "without an answer"),
    ],
)
def test_a_backend_that_fails_is_a_result(bed: Bed, fault: dict[str, Any], cls: str, detail: str) -> None:
    bed.stub(VULKAN, faults=[{"when": {}, **fault}])
    bed.image(VULKAN, ROCM)
    found = bed.bench()
    assert failures(found)[0] == (VULKAN, cls)
    assert detail in found["failures"][0]["detail"]
    assert {one["backend"]: one["state"] for one in found["backends"]} == {VULKAN: "failed", ROCM: "measured"}
    assert [one["backend"] for one in found["chosen"]] == [ROCM]
    # Every test of it is accounted for: it failed, or it was not tried after that.
    told = [test for part in (*found["failures"], *found["left"]) for test in part["tests"]]
    assert len(told) == len(set(told)) == TESTS


def test_last_words_are_kept(bed: Bed) -> None:
    bed.stub(
        ROCM, faults=[{"when": {}, "how": "signal:SIGABRT", "log": ["ROCm error: invalid device function"]}]
    )
    found = bed.bench("--backend", ROCM, code=5)
    assert "ROCm error: invalid device function" in found["failures"][0]["words"]
    assert not any("benchmark" in word for word in found["failures"][0]["words"])


def test_a_failure_of_one_setting_leaves_the_others(bed: Bed) -> None:
    bed.stub(VULKAN, faults=[{"when": {"flash_attn": "on", "depth": 128}, "how": "signal:SIGSEGV"}])
    found = bed.bench("--backend", VULKAN)
    assert {point["flash_attn"] for point in found["points"] if point["depth"] == 128} == {"off"}
    assert {point["flash_attn"] for point in found["points"] if point["depth"] == 0} == {"off", "on"}
    assert found["chosen"][0]["flash_attn"] == "off"
    assert found["backends"][0]["state"] == "measured"


def test_answers_before_a_crash_count(bed: Bed) -> None:
    bed.stub(VULKAN, faults=[{"when": {"kind": "generation", "depth": 0}, "how": "signal:SIGSEGV"}])
    found = bed.bench("--backend", VULKAN)
    at_first = [
        one for one in found["points"] if (one["depth"], one["tokens"], one["flash_attn"]) == (0, 64, "off")
    ]
    assert len(at_first) == 1


def test_a_backend_without_a_device_is_not_measured_on_the_cpu(bed: Bed) -> None:
    bed.lists(VULKAN)
    found = bed.bench()
    assert failures(found) == [(VULKAN, "no-device")]
    assert not [one for one in found["points"] if one["backend"] == VULKAN]


def test_a_gpu_that_is_the_cpu_in_silence_is_no_answer(bed: Bed) -> None:
    bed.stub(VULKAN, gpu="")
    found = bed.bench("--backend", f"{VULKAN},{ROCM}")
    assert failures(found) == [(VULKAN, "no-device")]
    assert "in silence" in found["failures"][0]["detail"]


def test_a_flag_that_it_lacks_is_told_by_name(bed: Bed) -> None:
    bed.stub(VULKAN, unknown=["--n-depth"])
    found = bed.bench("--backend", VULKAN, code=2)
    assert failures(found) == [(VULKAN, "usage")]
    assert "--n-depth" in found["failures"][0]["detail"]


def test_one_that_hangs_takes_only_its_share(bed: Bed) -> None:
    bed.stub(VULKAN, faults=[{"when": {}, "how": "hang"}])
    begun = time.monotonic()
    found = bed.bench("--backend", f"{VULKAN},{ROCM}", "--budget", "4")
    assert time.monotonic() - begun < 20
    assert failures(found)[0] == (VULKAN, "hang")
    assert "share of the budget" in found["failures"][0]["detail"]
    assert [one["backend"] for one in found["chosen"]] == [ROCM]


def test_what_the_budget_did_not_reach_is_said(bed: Bed) -> None:
    bed.stub(VULKAN, pause=0.4)
    bed.stub(ROCM, pause=0.4)
    found = bed.bench("--budget", "3")
    measured = {one["backend"] for one in found["points"]}
    assert measured == {VULKAN, ROCM, CPU}, "each has at least one answer"
    left = [(one["backend"], test) for one in found["left"] for test in one["tests"]]
    assert left
    assert all("budget" in one["reason"] for one in found["left"])
    assert len(left) + len(found["points"]) == 3 * TESTS


def test_a_stop_keeps_what_there_is(bed: Bed, tmp_path: Path) -> None:
    bed.stub(VULKAN, pause=0.3)
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "amdserve.serve.cli", "bench", str(bed.model), *SMALL, "--out", str(out)]
    run = subprocess.Popen(argv, env=bed.environ(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert run.stderr is not None
    while not run.stderr.readline().startswith("[2/"):
        assert run.poll() is None
    run.send_signal(signal.SIGINT)
    assert run.wait(30) == 130
    run.communicate()
    found = result.load(out)
    assert found.interrupted
    assert len(found.points) >= 2
    assert found.left
    assert "stopped" in found.left[0].reason


def test_embedding_models_are_measured_without_generation(bed: Bed) -> None:
    bed.model = bed.folder / "bert.gguf"
    data = (bed.folder / "model.gguf").read_bytes()
    # The same file under an architecture that embeds.
    bed.model.write_bytes(
        data.replace(b"\x05\x00\x00\x00\x00\x00\x00\x00llama", b"\x04\x00\x00\x00\x00\x00\x00\x00bert", 1)
    )
    found = bed.bench()
    assert found["grid"]["generate"] == []
    assert {one["kind"] for one in found["points"]} == {"prefill"}
    assert [one["backend"] for one in found["chosen"]] == [VULKAN]
    assert "which is measured" in found["skipped"][CPU]
    assert all("--embeddings" in call for call in bed.calls())


def test_progress_is_lines_in_a_pipe_and_the_answer_alone_on_standard_output(bed: Bed) -> None:
    done = bed.amdserve("bench", str(bed.model), *SMALL, "--backend", f"{VULKAN},{CPU}")
    lines = [line for line in done.stderr.splitlines() if line.startswith("[")]
    assert [line.split()[0] for line in lines] == [f"[{n}/{2 * TESTS}]" for n in range(1, 2 * TESTS + 1)]
    assert "\r" not in done.stderr
    rows = done.stdout.splitlines()
    assert rows[0].split()[:2] == ["backend", "test"]
    assert len([row for row in rows if " prefill " in row and "±" in row]) == 2 * 12
    assert "typical request: 2048 tokens of prompt and 256 of answer" in done.stdout
    assert f"{ROCM}: not measured: others were asked for" in done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--prompts", "none"], "--prompts"),
        (["--prompts", "0"], "--prompts"),
        (["--flash-attn", "maybe"], "--flash-attn cannot be"),
        (["--budget", "0"], "--budget"),
        (["--repeat", "0"], "--repeat"),
        (["--backend", "cuda"], "cuda cannot be measured"),
        (["--backend", "vllm"], "bench of its own"),
    ],
)
def test_wrong_words_are_refused(bed: Bed, words: list[str], said: str) -> None:
    done = bed.amdserve("bench", str(bed.model), *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert "next: " in done.stderr
    assert not bed.record.exists()


def test_a_backend_that_is_not_in_the_image_is_refused(bed: Bed) -> None:
    bed.image(VULKAN)
    done = bed.amdserve("bench", str(bed.model), "--backend", ROCM)
    assert done.returncode == 2
    assert "is not in this image" in done.stderr


def test_no_number_at_all_is_an_error_of_the_class_that_all_failures_have(bed: Bed) -> None:
    for name in (VULKAN, ROCM):
        bed.stub(name, faults=[{"when": {}, "how": "exit:1", "log": ["hipErrorOutOfMemory: out of memory"]}])
    done = bed.amdserve("bench", str(bed.model), *SMALL)
    assert done.returncode == 6
    assert "no backend could be measured" in done.stderr
    for name in (VULKAN, ROCM):
        bed.stub(name, faults=[{"when": {}, "how": "signal:SIGSEGV"}])
    done = bed.amdserve("bench", str(bed.model), *SMALL, "--json")
    assert done.returncode == 5
    assert json.loads(done.stdout)["points"] == []


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(bed: Bed) -> None:
    (bed.folder / "file").touch()
    done = bed.amdserve("bench", str(bed.model), *SMALL, "--out", str(bed.folder / "file" / "out"))
    assert done.returncode == 2
    assert "cannot be written" in done.stderr
    assert not bed.record.exists()


def test_the_number_of_tests_is_what_the_grid_says() -> None:
    grid = Grid(prompts=(64, 256), generate=(16,), depths=(0, 128), n_ubatch=(64, 256), repeat=2)
    assert sum(len(job.tests) for job in jobs(grid)) == TESTS
