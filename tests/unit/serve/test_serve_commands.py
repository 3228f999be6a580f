"""Flags as a binary's own help names them, and command lines made of nothing else."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import serve_files
import serve_tables
from hypothesis import given
from hypothesis import strategies as st
from serve_tables import CPU, ROCM, VLLM, VULKAN

from amdserve.gpu.models import GPU, GPUType
from amdserve.serve import commands, image, model, vllm
from amdserve.serve.cpu_server import parser as cpu_parser
from amdserve.serve.environment import vulkan_driver
from amdserve.serve.flags import Help
from amdserve.serve.line import Command, Job, Refused
from amdserve.serve.llama import llama_server, reference_command
from amdserve.serve.machine import Machine
from amdserve.serve.request import ModelLoadRequest

MODERN = Help(serve_tables.help_text("modern").read_text(encoding="utf-8"))
OLD = Help(serve_tables.help_text("old").read_text(encoding="utf-8"))
AMD = GPU(0, "amd", "Radeon", "gfx1151", GPUType.AMD_RDNA, 1, 1, True, 1, None, "/dev/dri/renderD128")


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> model.Model:
    return model.inspect(str(serve_files.write(tmp_path_factory.mktemp("m") / "m.gguf")))


def job(
    folder: Path, what: model.Model, name: str = "full-gfx1151", memlock: int | None = None, **asked: Any
) -> Job:
    request = ModelLoadRequest(model_path=what.path, **asked)
    described = image.load({"AMDSERVE_IMAGE_JSON": str(serve_tables.image(folder, name))})
    return Job(request, what, described, Machine(memlock=memlock))


def test_help_of_today() -> None:
    assert MODERN.has("--ctx-size")
    assert MODERN.has("-c")
    assert MODERN.aliases("-ngl") == {"-ngl", "--gpu-layers", "--n-gpu-layers"}
    assert MODERN.aliases("-nocb") >= {"--cont-batching", "--no-cont-batching"}
    assert "'all'" in MODERN.describes("--n-gpu-layers")
    assert not MODERN.has("--mlock")
    assert not MODERN.has("--offload"), "a word of a description is no flag"


def test_help_of_argparse_and_of_nothing() -> None:
    help_text = Help(cpu_parser().format_help())
    assert help_text.flags >= {"--model", "--mlock", "--no-mlock", "--help", "-h"}
    assert Help("").has("--anything")
    assert not Help("").known
    assert not Help("no options here").has("--anything")


@given(st.text(max_size=300))
def test_no_help_text_breaks_the_reader(text: str) -> None:
    help_text = Help(text)
    assert all(re.fullmatch(r"--?[A-Za-z][\w\-]*", flag) for flag in help_text.flags)


@pytest.mark.parametrize("backend", [VULKAN, ROCM, CPU])
def test_what_can_be_emitted_is_in_todays_help(backend: str) -> None:
    help_text = Help(cpu_parser().format_help()) if backend == CPU else MODERN
    assert commands.emittable_flags(backend) <= help_text.flags


def test_there_are_no_other_backends() -> None:
    with pytest.raises(KeyError):
        commands.emittable_flags("ollama")


EVERYTHING: dict[str, Any] = {
    "threads": 3, "parallel": 2, "mmproj": "/m/p.gguf", "alias": "a", "api_key_file": "/k", "pooling": "mean",
    "flash_attn": "on", "fit_memory": True, "n_gpu_layers": 7, "n_batch": 5,
}  # fmt: skip
requests = st.fixed_dictionaries(
    {},
    optional={
        "server_type": st.sampled_from(["llm", "embedding", "rerank"]),
        "flash_attn": st.sampled_from(["off", "on", "auto"]),
        "n_gpu_layers": st.integers(-1, 99),
        "pooling": st.sampled_from(["none", "mean", "cls", "last", "rank"]),
        "reasoning_format": st.sampled_from(["none", "deepseek", "auto"]),
        **{name: st.booleans() for name in ("fit_memory", "mlock", "cont_batching", "jinja")},
        **{name: st.integers(1, 9) for name in ("threads", "parallel", "n_ctx", "n_batch", "n_ubatch")},
        **{name: st.just("/some/file") for name in ("mmproj", "alias", "api_key_file")},
    },
)


def flags(argv: list[str]) -> set[str]:
    return {part for part in argv if part.startswith("--")}


@given(asked=requests, on_cpu=st.booleans(), memlock=st.sampled_from([None, 0]))
def test_nothing_is_emitted_that_is_not_announced(
    tmp_path_factory: pytest.TempPathFactory,
    llama: model.Model,
    asked: dict[str, Any],
    on_cpu: bool,
    memlock: int | None,
) -> None:
    """Whatever is asked for: verify checks the announced flags against the shipped help, and misses none."""
    made = job(tmp_path_factory.getbasetemp(), llama, memlock=memlock, **asked)
    device: Any = "cpu" if on_cpu else "gpu"
    backends = made.image.backends
    line = llama_server(made, backends[VULKAN], device, None if on_cpu else AMD)
    assert flags(line.argv) <= commands.emittable_flags(VULKAN)
    assert flags(reference_command(made, backends[VULKAN], Path("/r"), device)) <= commands.emittable_flags(
        VULKAN
    )
    makers: dict[str, Callable[[], Command]] = {
        VLLM: lambda: vllm.command(made, backends[VLLM], [AMD], 1 << 36),
        CPU: lambda: commands.llama_cpp_python(made, backends[CPU]),
    }
    for name, make in makers.items():
        try:
            line = make()
        except Refused:
            continue
        assert flags(line.argv) <= commands.emittable_flags(name)


@given(asked=requests)
def test_an_old_binary_gets_only_what_it_knows(
    tmp_path_factory: pytest.TempPathFactory, llama: model.Model, asked: dict[str, Any]
) -> None:
    made = job(tmp_path_factory.getbasetemp(), llama, "old-gfx1100", **asked)
    try:
        line = llama_server(made, made.image.backends[VULKAN], "gpu", AMD)
    except Refused:
        return
    assert flags(line.argv) <= OLD.flags


def test_the_cpu_launcher_takes_what_is_emitted_for_it(tmp_path: Path, llama: model.Model) -> None:
    made = job(
        tmp_path, llama, threads=2, alias="a", api_key_file="/k", flash_attn="on", server_type="embedding"
    )
    line = commands.llama_cpp_python(made, made.image.backends[CPU])
    options = cpu_parser().parse_args(line.argv[3:])
    assert (options.model, options.port, options.threads) == (llama.path, 8080, 2)
    assert (options.embedding, options.pooling, options.mlock) == (True, "mean", True)


def test_secrets_are_files_on_every_command_line(tmp_path: Path, llama: model.Model) -> None:
    made = job(tmp_path, llama, api_key_file="/run/secrets/keys")
    line = vllm.command(made, made.image.backends[VLLM], [AMD])
    assert line.env_files == {"VLLM_API_KEY": "/run/secrets/keys"}
    assert "/run/secrets/keys" not in line.argv
    assert "VLLM_API_KEY" not in line.env


def test_vllm_says_what_it_ignores(tmp_path: Path, llama: model.Model) -> None:
    made = job(tmp_path, llama, n_gpu_layers=3, mlock=True, parallel=4, n_batch=64)
    line = vllm.command(made, made.image.backends[VLLM], [AMD])
    assert "mlock, n_gpu_layers" in line.notes[0]
    at = line.argv.index("--max-num-seqs")
    assert line.argv[at : at + 4] == ["--max-num-seqs", "4", "--max-num-batched-tokens", "64"]


@pytest.mark.parametrize(
    ("environ", "vendor", "icds", "expected"),
    [
        ({}, "amd", (), serve_tables.ICD),
        (
            {"VK_DRIVER_FILES": serve_tables.ICD},
            "nvidia",
            ("/etc/vulkan/icd.d/nvidia_icd.json",),
            "nvidia_icd.json",
        ),
        ({"VK_DRIVER_FILES": "/mine.json"}, "amd", (), "/mine.json"),
        ({"VK_ICD_FILENAMES": "/mine.json"}, None, (), "/mine.json"),
        ({}, None, (), None),
        ({}, "nvidia", ("/x/radeon_icd.json",), None),
    ],
)
def test_the_driver_is_that_of_the_gpu(
    tmp_path: Path, environ: dict[str, str], vendor: str | None, icds: tuple[str, ...], expected: str | None
) -> None:
    described = image.load({"AMDSERVE_IMAGE_JSON": str(serve_tables.image(tmp_path, "vulkan"))})
    found = vulkan_driver(described, Machine(icds=icds, environ=environ), vendor)
    assert (found is None) if expected is None else str(found).endswith(expected)
