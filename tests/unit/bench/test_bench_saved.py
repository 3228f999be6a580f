"""`bench --save`: the plan, its reasons and `status` follow what was measured, until it is forgotten."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from amdserve.serve import measured, memory, report, state
from amdserve.serve.measured import Measured, Setting
from bench.bed import CPU, ROCM, VULKAN, Bed

STATIC = [VULKAN, ROCM, CPU]


def order(plan: dict[str, Any]) -> list[str]:
    return [entry["backend"] for entry in plan["plan"]]


def entry(plan: dict[str, Any], backend: str) -> dict[str, Any]:
    found: dict[str, Any] = next(one for one in plan["plan"] if one["backend"] == backend)
    return found


def value(plan: dict[str, Any], backend: str, flag: str) -> str:
    argv: list[str] = entry(plan, backend)["argv"]
    return argv[argv.index(flag) + 1]


def save(bed: Bed, *words: str) -> dict[str, Any]:
    """Measure and save: ROCm is the fastest, with flash attention and small micro-batches."""
    bed.stub(ROCM, factors={"flash_attn=on": 3.0, "n_ubatch=256": 0.5})
    found = bed.bench("--save", *words)
    assert found["saved"]
    return found


def test_without_a_saved_result_the_order_is_the_static_one(bed: Bed) -> None:
    bed.bench()
    plan = bed.plan()
    assert order(plan) == STATIC
    assert "measured" not in plan
    assert value(plan, VULKAN, "--flash-attn") == "off"


def test_the_plan_takes_order_and_settings(bed: Bed) -> None:
    found = save(bed)
    assert found["order"] == [ROCM, VULKAN, CPU]
    plan = bed.plan()
    assert order(plan) == [ROCM, VULKAN, CPU]
    assert (value(plan, ROCM, "--flash-attn"), value(plan, ROCM, "--ubatch-size")) == ("on", "64")
    assert plan["measured"]["order"] == [ROCM, VULKAN, CPU]


def test_the_reason_says_what_was_measured(bed: Bed) -> None:
    day = save(bed)["date"][:10]
    plan = bed.plan()
    first = entry(plan, ROCM)["reason"]
    assert first.startswith(f"measured {day}: 160.5 t/s against 62.8 (prefill 4812 t/s against 1243); ")
    assert "flash attention on, micro-batch 64, on " in first
    said = bed.amdserve("serve", "--dry-run", str(bed.model)).stdout
    assert f"plan: as `amdserve bench` measured it on {day}" in said


def test_what_the_user_sets_himself_stays(bed: Bed) -> None:
    save(bed)
    plan = bed.plan("--flash-attn", "off")
    assert (value(plan, ROCM, "--flash-attn"), value(plan, ROCM, "--ubatch-size")) == ("off", "64")
    assert "flash attention off, micro-batch 64" in entry(plan, ROCM)["reason"]
    config = bed.folder / "options.yaml"
    config.write_text("n_ubatch: 1024\n")
    plan = bed.plan("--config", str(config))
    assert (value(plan, ROCM, "--flash-attn"), value(plan, ROCM, "--ubatch-size")) == ("on", "1024")


def test_a_backend_that_failed_is_tried_last(bed: Bed) -> None:
    bed.stub(VULKAN, faults=[{"when": {}, "how": "signal:SIGSEGV"}])
    bed.image(VULKAN, ROCM)
    bed.bench("--save")
    plan = bed.plan()
    assert order(plan) == [ROCM, VULKAN]
    assert "it failed, so it is tried last" in entry(plan, VULKAN)["reason"]


def test_what_was_not_measured_keeps_its_place(bed: Bed) -> None:
    bed.stub(VULKAN, prefill=1.0, generation=1.0)
    bed.bench("--save", "--backend", f"{VULKAN},{CPU}")
    plan = bed.plan()
    assert order(plan) == [VULKAN, ROCM, CPU]
    assert entry(plan, ROCM)["reason"].startswith("second choice")


@pytest.mark.parametrize("words", [["--no-remember"], ["--n-gpu-layers", "10"]])
def test_it_is_not_used_where_it_does_not_hold(bed: Bed, words: list[str]) -> None:
    save(bed)
    plan = bed.plan(*words)
    assert order(plan) == STATIC
    assert "measured" not in plan


def test_another_image_driver_or_file_begins_anew(bed: Bed) -> None:
    save(bed)
    bed.image(digest="sha256:2")
    assert order(bed.plan()) == STATIC
    bed.image()
    assert order(bed.plan()) == [ROCM, VULKAN, CPU]
    bed.model.touch()
    assert order(bed.plan()) == STATIC


def test_another_measurement_takes_its_place(bed: Bed) -> None:
    save(bed)
    bed.stub(ROCM)
    bed.bench("--save")
    assert order(bed.plan())[0] == VULKAN


def test_forget_forgets_it(bed: Bed) -> None:
    save(bed)
    assert bed.memory()["bench"]
    memory.forget(bed.state)
    assert order(bed.plan()) == STATIC


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"order": 5},
        {"order": ["unknown to the settings"]},
        {
            "settings": {
                ROCM: {"flash_attn": "maybe", "n_ubatch": 64, "prefill": 1, "generation": 1, "seconds": 1}
            }
        },
        {
            "settings": {
                ROCM: {"flash_attn": "on", "n_ubatch": -1, "prefill": 1, "generation": 1, "seconds": 1}
            }
        },
        {"failed": None},
    ],
)
def test_a_damaged_memory_is_none(change: dict[str, Any]) -> None:
    whole = Measured("2026-11-25", {ROCM: Setting("on", 64, 1.0, 1.0, 1.0)}).to_dict()
    assert measured.read(whole) == Measured("2026-11-25", {ROCM: Setting("on", 64, 1.0, 1.0, 1.0)})
    assert measured.read({**whole, **change}) is None


def test_status_says_so(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved = Measured("2026-11-25", {ROCM: Setting("on", 64, 1.0, 1.0, 1.0)}).to_dict()
    kept = state.Status(bed.state, port=8080, host="127.0.0.1")
    kept.data["measured"] = saved
    kept.set("ready", backend=ROCM, device="GPU")
    monkeypatch.setenv("AMDSERVE_STATE_DIR", str(bed.state))
    assert report.status(as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["measured"] == saved
    report.status(as_json=False)
    assert "order and settings as measured on 2026-11-25 by `amdserve bench`" in capsys.readouterr().out


def test_the_supervisor_hands_it_on_to_status(tmp_path: Path) -> None:
    from amdserve.serve.supervise import Supervisor

    saved = Measured("2026-11-25", {}).to_dict()
    spec = {
        "entries": [], "log_format": "text", "port": 1, "host": "127.0.0.1", "remember": False, "about": "",
        "proof": "", "state_dir": str(tmp_path), "measured": saved,
    }  # fmt: skip
    made = Supervisor(spec)
    made.loop.close()
    assert made.status.data["measured"] == saved


def test_a_reference_check_is_of_the_flash_attention_that_will_be_used(bed: Bed) -> None:
    """What was proven without flash attention says nothing of the kernels with it."""
    from amdserve.serve import planning
    from amdserve.serve.request import ModelLoadRequest, RunOptions

    def proof() -> str:
        planned = planning.make_plan(ModelLoadRequest(model_path=str(bed.model)), bed.environ(), bed.state)
        made: str = planning.spec(planned, RunOptions(), bed.state, bed.environ())["proof"]
        return made

    before = proof()
    save(bed)
    assert proof() != before


def test_nothing_is_saved_where_nothing_was_measured(bed: Bed) -> None:
    bed.image(VULKAN)
    bed.stub(VULKAN, faults=[{"when": {}, "how": "signal:SIGSEGV"}])
    bed.bench("--save", code=5)
    assert bed.memory().get("bench", {}) == {}


def test_a_micro_batch_above_the_batch_takes_the_batch_along() -> None:
    from amdserve.serve.request import ModelLoadRequest

    job: Any = SimpleNamespace(request=None)
    saved = Measured("2026-11-25", {ROCM: Setting("off", 4096, 1.0, 1.0, 1.0)})
    from amdserve.serve.line import Job

    for given, batch in (({}, 4096), ({"n_batch": 512}, 512)):
        request = ModelLoadRequest(model_path="m", **given)  # type: ignore[arg-type]
        job = Job(request, None, None, None)  # type: ignore[arg-type]
        changed = measured.apply(saved, job, ROCM).request
        assert (changed.n_ubatch, changed.n_batch) == (4096, batch)
    assert measured.apply(saved, job, VULKAN) is job
