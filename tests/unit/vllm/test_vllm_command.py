"""vLLM's command and environment for laid-out machines and models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from amdserve.errors import UsageError
from amdserve.gpu.models import GPU, GPUDetectionResult, GPUType
from amdserve.serve.described import Model
from amdserve.serve.flags import Help
from amdserve.serve.image import Backend, Image
from amdserve.serve.line import Command, Job, Line, Refused
from amdserve.serve.machine import Machine
from amdserve.serve.request import ModelLoadRequest
from amdserve.serve.vllm import alike, command, memory_share
from amdserve.serve.vllm_environment import leave_behind
from amdserve.serve.vllm_parsers import choose
from amdserve.serve.vllm_plan import devices
from amdserve.values import replace

GIB = 1 << 30
HALO = GPU(0, "amd", "Strix Halo", "gfx1151", GPUType.AMD_RDNA, GIB // 2, 64 * GIB, True, 40, None, None)
VLLM = Backend("vllm", ("/opt/vllm/bin/vllm", "serve"), "/opt/vllm", Help(""))


def instinct(index: int, vram: int = 192) -> GPU:
    return GPU(index, "amd", "MI300X", "gfx942", GPUType.AMD_CDNA, vram * GIB, 0, False, 304, None, None,
               unique_id=f"GPU-{index}")  # fmt: skip


def made(
    gpus: list[GPU], environ: dict[str, str] | None = None, model: Model | None = None, **asked: Any
) -> Command:
    model = model or Model("/m", "huggingface", "llm", heads=32, context=4096)
    return command(of(model, environ, **asked), VLLM, gpus, 48 * GIB)


def of(model: Model, environ: dict[str, str] | None = None, **asked: Any) -> Job:
    own = {"version": "0.33.0", "gfx": ["gfx942"], "device": "rocm", "rocm_prefix": "/opt/vllm/rocm"}
    image = Image("full", "", ("gfx942",), {"vllm": VLLM}, "/usr", None, {"vllm": own})
    request = ModelLoadRequest(model_path=model.path, **asked)
    return Job(request, model, image, Machine(environ=environ or {}, kfd=True))


def value(line: Command, flag: str) -> str | None:
    return line.argv[line.argv.index(flag) + 1] if flag in line.argv else None


@pytest.mark.parametrize(
    ("flag", "known"),
    [
        ("--compilation-config.mode", True),
        ("--compilation_config.pass_config.fuse=1", True),
        ("--compilation-config", True),
        ("--composition-config.mode", False),
        ("--.mode", False),
    ],
)
def test_a_part_of_an_option_is_known_by_the_option(flag: str, known: bool) -> None:
    backend = replace(VLLM, help=Help("options:\n  --compilation-config, -cc CONFIG  how it compiles\n"))
    job = of(Model("/m", "huggingface", "llm"), extra_args=(flag,))
    if known:
        Line(Command([]), backend, job.request)
    else:
        with pytest.raises(Refused, match="does not know"):
            Line(Command([]), backend, job.request)


def test_several_equal_gpus_serve_together() -> None:
    line = made([instinct(0), instinct(1)])
    assert value(line, "--tensor-parallel-size") == "2"
    assert line.env["ROCR_VISIBLE_DEVICES"] == "GPU-0,GPU-1"
    assert line.env["HIP_VISIBLE_DEVICES"] == line.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert value(made([instinct(0)]), "--tensor-parallel-size") is None


@pytest.mark.parametrize(
    ("chosen", "gpus", "heads", "count"),
    [
        (instinct(0), [instinct(0), instinct(1), instinct(2)], 32, 2),
        (instinct(0), [instinct(0), instinct(1), instinct(2)], 12, 3),
        (instinct(0), [instinct(0), instinct(1, vram=64)], 32, 1),
        (instinct(0), [instinct(0), HALO], 32, 1),
        (instinct(0), [instinct(0), instinct(1)], None, 1),
        (instinct(0), [instinct(0), instinct(1)], 7, 1),
        (HALO, [HALO], 32, 1),
    ],
)
def test_alike(chosen: GPU, gpus: list[GPU], heads: int | None, count: int) -> None:
    found = alike(chosen, gpus, heads)
    assert len(found) == count
    assert chosen in found


@pytest.mark.parametrize(
    ("extra", "count"),
    [((), 1), (("--tensor-parallel-size", "2"), 2), (("--data_parallel_size=2",), 2), (("-pp", "2"), 2)],
)
def test_who_says_how_a_model_is_spread_has_every_equal_gpu(extra: tuple[str, ...], count: int) -> None:
    """Its heads are not known, so that by itself it is not split."""
    gpus = (instinct(0), instinct(1), instinct(2, vram=64))
    job = of(Model("/m", "huggingface", "llm"), extra_args=extra, backend="vllm")
    detection = GPUDetectionResult(available=True, detector="", gpus=gpus, attempts=())
    found = devices(job, gpus[0], "", detection, forced=True)
    assert len(found) == count
    line = command(job, VLLM, found)
    assert line.env["HIP_VISIBLE_DEVICES"] == ",".join(str(at) for at in range(count))
    assert [part for part in line.argv if part.startswith(("--tensor", "--data", "-pp"))] == list(extra[:1])


def test_an_apu_gives_what_the_system_can_spare() -> None:
    # 48 of 64.5 GiB can be used at all, and an eighth of that stays with the system.
    assert value(made([HALO]), "--gpu-memory-utilization") == "0.65"
    assert memory_share(instinct(0), 190 * GIB) is None
    assert memory_share(HALO, 5 * GIB) == 0.05
    assert memory_share(HALO, 0) is None
    assert (
        value(made([HALO], extra_args=("--gpu-memory-utilization", "0.4")), "--gpu-memory-utilization")
        == "0.4"
    )


def test_the_environment_of_the_official_images_and_of_its_own_rocm() -> None:
    line = made([instinct(0)], {"SAFETENSORS_FAST_GPU": "0", "XDG_CACHE_HOME": "/state/cache"})
    assert line.env["HSA_NO_SCRATCH_RECLAIM"] == line.env["HIP_FORCE_DEV_KERNARG"] == "1"
    assert "SAFETENSORS_FAST_GPU" not in line.env
    assert line.env["ROCM_PATH"] == "/opt/vllm/rocm"
    assert line.env["VLLM_CACHE_ROOT"] == "/state/cache/vllm"
    assert made([instinct(0)]).env["VLLM_CACHE_ROOT"] == "/var/lib/amdserve/cache/vllm"


def test_length_and_its_fitting() -> None:
    assert value(made([instinct(0)]), "--max-model-len") == "4096"
    assert value(made([instinct(0)], n_ctx=2048), "--max-model-len") == "2048"
    assert value(made([instinct(0)], n_ctx=0), "--max-model-len") is None
    assert value(made([instinct(0)], fit_memory=True), "--max-model-len") == "auto"


def test_answers_under_way_get_time_when_it_is_told_to_end() -> None:
    assert int(value(made([instinct(0)]), "--shutdown-timeout") or 0) > 60


@pytest.mark.parametrize(
    ("environ", "extra", "chosen", "gone"),
    [
        ({}, (), None, ()),
        ({"VLLM_ATTENTION_BACKEND": "ROCM_FLASH"}, (), "ROCM_ATTN", ("VLLM_ATTENTION_BACKEND",)),
        ({"VLLM_ATTENTION_BACKEND": "triton_attn"}, (), "TRITON_ATTN", ("VLLM_ATTENTION_BACKEND",)),
        ({"VLLM_USE_TRITON_FLASH_ATTN": "1"}, (), "TRITON_ATTN", ("VLLM_USE_TRITON_FLASH_ATTN",)),
        ({"VLLM_USE_TRITON_FLASH_ATTN": "0"}, (), None, ("VLLM_USE_TRITON_FLASH_ATTN",)),
        ({"VLLM_ATTENTION_BACKEND": "ROCM_FLASH"}, ("--attention-backend", "TRITON_ATTN"), None,
         ("VLLM_ATTENTION_BACKEND",)),
    ],
)  # fmt: skip
def test_old_names_are_said_in_todays_words(
    environ: dict[str, str], extra: tuple[str, ...], chosen: str | None, gone: tuple[str, ...]
) -> None:
    found, unset, notes = leave_behind(environ, extra)
    assert (found, unset) == (chosen, gone)
    assert len(notes) >= len(environ)
    assert all(any(name in note for note in notes) for name in environ)


@pytest.mark.parametrize(
    ("environ", "extra"),
    [
        ({"VLLM_ATTENTION_BACKEND": "FLASH9"}, ()),
        ({}, ("--attention-backend", "ROCM_FLASH")),
        ({}, ("--attention-backend=ROCM_FLASH",)),
    ],
)
def test_a_name_that_means_nothing_any_more_is_refused(
    environ: dict[str, str], extra: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError) as caught:
        leave_behind(environ, extra)
    assert "no such attention backend any more" in caught.value.what
    assert "ROCM_ATTN" in caught.value.fix


@pytest.mark.parametrize(
    ("template", "architecture", "tools", "reasoning"),
    [
        ("<tool_call>", "Qwen2ForCausalLM", "hermes", None),
        ("<tool_call> <think> enable_thinking", "Qwen3ForCausalLM", "hermes", "qwen3"),
        ("<tool_call><function=a><parameter=b>", "Qwen3MoeForCausalLM", "qwen3_xml", None),
        ("[TOOL_CALLS] [THINK]", "MistralForCausalLM", "mistral", "mistral"),
        ("<|python_tag|>", "LlamaForCausalLM", "llama3_json", None),
        ("<|channel|>analysis<|start|>", "GptOssForCausalLM", "openai", "openai_gptoss"),
        ("<tool_call><arg_key><think>", "Glm4MoeForCausalLM", "glm45", "glm45"),
        ("<think>", "LlamaForCausalLM", None, "deepseek_r1"),
        ("plain", "LlamaForCausalLM", None, None),
        ("{% if tools %}nobody knows{% endif %}", "LlamaForCausalLM", None, None),
    ],
)
def test_parsers_by_the_chat_template(
    tmp_path: Path, template: str, architecture: str, tools: str | None, reasoning: str | None
) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    found = choose(Model(str(tmp_path), "huggingface", "llm", architecture))
    assert (found.tools, found.reasoning) == (tools, reasoning)
    assert bool(found.note) == ("if tools" in template)


def test_parsers_reach_the_command_and_can_be_switched_off(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("<tool_call><think>")
    model = Model(str(tmp_path), "huggingface", "llm", "LlamaForCausalLM")
    line = made([instinct(0)], model=model)
    assert value(line, "--tool-call-parser") == "hermes"
    assert "--enable-auto-tool-choice" in line.argv
    assert value(line, "--reasoning-parser") == "deepseek_r1"
    off = made([instinct(0)], model=model, jinja=False, reasoning_format="none").argv
    assert not {"--tool-call-parser", "--enable-auto-tool-choice", "--reasoning-parser"} & set(off)


def test_a_name_on_the_hub_has_no_template_yet() -> None:
    line = made([instinct(0)], model=Model("org/repo", "huggingface", "llm", hub=True))
    assert any("--tool-call-parser NAME" in note for note in line.notes)


def test_pooling() -> None:
    line = made([instinct(0)], server_type="embedding", pooling="cls")
    assert value(line, "--runner") == "pooling"
    assert json.loads(value(line, "--pooler-config") or "") == {"pooling_type": "CLS"}
