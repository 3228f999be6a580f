"""Machines, images, models and help texts by name: what the table of plans is made of."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import serve_files

HERE = Path(__file__).parent
MACHINES = HERE.parents[1] / "fixtures" / "machines"
ICD = "/usr/share/vulkan/icd.d/radeon_icd.json"
VULKAN, ROCM, CPU, VLLM = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python", "vllm"


HF = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}


def help_text(name: str) -> Path:
    return HERE / "help" / f"{name}.txt"


def image(folder: Path, name: str) -> Path:
    """Write the description of an image: `vulkan`, `llama-gfx1151`, `full-gfx942`, `old-gfx1100`, `cpu`."""
    kind, _, gfx = name.partition("-")
    llama_help = str(help_text("old" if kind == "old" else "modern"))
    backends: dict[str, Any] = {}
    if kind != "cpu":
        backends[VULKAN] = {
            "argv": [f"/usr/local/bin/{VULKAN}"],
            "help": llama_help,
            "dir": "/opt/llama/vulkan",
        }
    if gfx:
        backends[ROCM] = {"argv": [f"/usr/local/bin/{ROCM}"], "help": llama_help, "dir": "/opt/llama/rocm"}
    if kind != "nocpu":
        argv = ["/opt/amdserve/bin/python", "-m", "amdserve.serve.cpu_server"]
        backends[CPU] = {"argv": argv, "help": str(cpu_help(folder)), "dir": "/opt/llama/cpu"}
    if kind == "full":
        backends[VLLM] = {"argv": ["/opt/vllm/bin/vllm", "serve"], "help": "", "dir": "/opt/vllm"}
    data = {
        "schema": 1,
        "image": kind,
        "hash": "sha256:1",
        "gfx": gfx.split("+") if gfx else [],
        "rocm": {"provider": "debian", "version": "7.2.4", "prefix": "/usr"} if gfx else None,
        "vulkan": {"icd": ICD},
        "backends": backends,
        "vllm": {"version": "0.33.0", "variant": "rocm100", "device": "rocm", "gfx": gfx.split("+")}
        if kind == "full"
        else None,
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps(data), encoding="utf-8")
    return path


def cpu_help(folder: Path) -> Path:
    """Record our own launcher's help, as the image's build does."""
    from amdserve.serve.cpu_server import parser

    path = folder / "cpu-help.txt"
    path.write_text(parser().format_help(), encoding="utf-8")
    return path


def safetensors(folder: Path, config: Mapping[str, Any]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return folder


def models(folder: Path) -> dict[str, str]:
    """Write every model of the table; give their paths by name."""
    write = serve_files.write
    made = {
        "llama": write(folder / "llama.gguf"),
        "bert": write(folder / "bert.gguf", serve_files.BERT),
        "nopool": write(folder / "nopool.gguf", serve_files.BERT, bert__pooling_type=None),
        "rerank": write(folder / "rerank.gguf", serve_files.RERANKER),
        "qwen-embed": write(folder / "qwen.gguf", llama__pooling_type=3),
        "big": write(folder / "big.gguf", llama__block_count=96, llama__attention__head_count_kv=4,
                     llama__attention__key_length=4096, llama__attention__value_length=4096),
        "hf": safetensors(folder / "hf", HF),
        "hf-embed": safetensors(folder / "hf-embed", {"architectures": ["BertModel"]}),
    }  # fmt: skip
    (folder / "empty").mkdir()
    (folder / "one").mkdir()
    write(folder / "one" / "m.gguf")
    (folder / "two").mkdir()
    write(folder / "two" / "a.gguf")
    write(folder / "two" / "b.gguf")
    named = {name: str(path) for name, path in made.items()}
    return {
        **named,
        "folder-one": str(folder / "one"),
        "folder-two": str(folder / "two"),
        "folder-empty": str(folder / "empty"),
        "missing": str(folder / "missing.gguf"),
        "hub-gguf": "ggml-org/gemma-3-1b-it-GGUF:Q4_K_M",
        "hub-hf": "Qwen/Qwen3-8B",
    }
