"""What vLLM's source distribution says of variables, flags, choices and targets, read without importing it.

Run with the distribution's path, it writes the extract beside this file that the tests go by:

    python tests/unit/vllm/vllm_record.py vllm-0.33.0.tar.gz
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
import sys
import tarfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
# Shorter texts are no sentences.
LEAST = 20
# Where the failures are raised that are told apart by their words.
FAILING = (
    "config/device.py",
    "config/model.py",
    "entrypoints/common/cli_args.py",
    "model_executor/model_loader/default_loader.py",
    "model_executor/models/registry.py",
    "v1/attention/backends/registry.py",
    "v1/core/kv_cache_planning.py",
    "v1/executor/multiproc_executor.py",
    "v1/utils.py",
    "v1/worker/utils.py",
)


def extract(archive: Path) -> dict[str, Any]:
    """Read one source distribution."""
    version = archive.name.removeprefix("vllm-").removesuffix(".tar.gz")
    wanted = {
        "envs": "vllm/envs.py",
        "engine": "vllm/engine/arg_utils.py",
        "frontend": "vllm/entrypoints/common/cli_args.py",
        "attention": "vllm/v1/attention/backends/registry.py",
        "reasoning": "vllm/reasoning/__init__.py",
        "tools": "vllm/tool_parsers/__init__.py",
        "scheduler": "vllm/config/scheduler.py",
        "pooling": "vllm/config/pooler.py",
        "base": "docker/Dockerfile.rocm_base",
        "cmake": "CMakeLists.txt",
        "setup": "setup.py",
        **{f"said in {name}": f"vllm/{name}" for name in FAILING},
    }
    text: dict[str, str] = {}
    with tarfile.open(archive) as file:
        for key, name in wanted.items():
            member = file.extractfile(f"vllm-{version}/{name}")
            assert member is not None
            text[key] = member.read().decode()
    tree = {key: ast.parse(value) for key, value in text.items() if key not in ("base", "cmake")}
    return {
        "version": version,
        "sha256": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "variables": sorted(_keys(tree["envs"], "environment_variables")),
        "flags": sorted(_flags(tree["engine"]) | _flags(tree["frontend"]) | _fields(tree["frontend"])),
        "attention_backends": sorted(_members(tree["attention"], "AttentionBackendEnum")),
        "reasoning_parsers": sorted(_keys(tree["reasoning"], "_REASONING_PARSERS_TO_REGISTER")),
        "tool_parsers": sorted(_keys(tree["tools"], "_TOOL_PARSERS_TO_REGISTER")),
        "runners": sorted(_literals(tree["scheduler"], "RunnerType")),
        "poolings": sorted(_literals(tree["pooling"], "SequencePoolingType")),
        "wheel_gfx": _list(text["base"], r'^ARG PYTORCH_ROCM_ARCH="([^"]+)"'),
        "source_gfx": _list(text["cmake"], r'HIP_SUPPORTED_ARCHS "([^"]+)"'),
        "rocm": _one(text["base"], r"^ARG ROCM_SDK_VERSION=(\S+)"),
        "torch": _one(text["base"], r"^ARG TORCH_VERSION=(\S+)"),
        "torchvision": _one(text["base"], r"^ARG TORCHVISION_VERSION=(\S+)"),
        "python": _one(text["base"], r"^ARG PYTHON_VERSION=(\S+)"),
        "build_variables": sorted(set(re.findall(r"(?:getenv\(\"|envs\.)([A-Z]\w+)", text["setup"]))),
        "failures": sorted({one for name in FAILING for one in _said(tree[f"said in {name}"])}),
    }


def _keys(tree: ast.Module, name: str) -> set[str]:
    """Give the keys of the dictionary of a module that has this name."""
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict) and any(getattr(one, "id", "") == name for one in targets):
            return {str(key.value) for key in value.keys if isinstance(key, ast.Constant)}
    raise LookupError(name)


def _flags(tree: ast.Module) -> set[str]:
    """Give what is passed to `add_argument` and begins with two dashes."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    return {
        str(argument.value)
        for call in calls
        if getattr(call.func, "attr", "") == "add_argument"
        for argument in call.args
        if isinstance(argument, ast.Constant) and str(argument.value).startswith("--")
    }


def _fields(tree: ast.Module) -> set[str]:
    """Give the flags that are made of the fields of the frontend's classes."""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and "Frontend" in node.name)
    return {
        "--" + line.target.id.replace("_", "-")
        for one in classes
        for line in one.body
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name)
    }


def _said(tree: ast.Module) -> set[str]:
    """Give the texts of errors, raised, logged or put together for that, each value in them a 7."""
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.args)
    texts = [node.args[0] for node in calls if re.search(r"(Error|\.error)$", ast.unparse(node.func))]
    texts += [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    found = (_filled(text) for text in texts)
    return {" ".join(text.split()) for text in found if len(text) > LEAST}


def _filled(text: ast.expr) -> str:
    if isinstance(text, ast.JoinedStr):
        return "".join(_filled(part) for part in text.values)
    if isinstance(text, ast.Constant):
        return re.sub(r"%[sd]", "7", str(text.value))
    return "7"


def _members(tree: ast.Module, name: str) -> set[str]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            lines = (line for line in node.body if isinstance(line, ast.Assign))
            return {one.id for line in lines for one in line.targets if isinstance(one, ast.Name)}
    raise LookupError(name)


def _literals(tree: ast.Module, name: str) -> set[str]:
    for node in tree.body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if getattr(target, "id", "") == name and isinstance(node, ast.Assign | ast.AnnAssign) and node.value:
            return {str(one.value) for one in ast.walk(node.value) if isinstance(one, ast.Constant)}
    raise LookupError(name)


def _one(text: str, pattern: str) -> str:
    match = re.search(pattern, text, re.MULTILINE)
    assert match, pattern
    return match[1]


def _list(text: str, pattern: str) -> list[str]:
    return sorted(_one(text, pattern).split(";"))


if __name__ == "__main__":
    made = extract(Path(sys.argv[1]))
    path = HERE / f"vllm-{made['version']}.json"
    path.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")
    print(path)
