"""One model on several nodes: what each member of the group is told, in the words of the pinned vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from amdserve.gpu.models import GPU, GPUType
from amdserve.image import deploy
from amdserve.image.project import Project
from amdserve.serve.described import Model
from amdserve.serve.image import Image
from amdserve.serve.line import Job
from amdserve.serve.machine import Machine
from amdserve.serve.request import ModelLoadRequest
from amdserve.serve.vllm_environment import environment

PROJECT = Project(Path(__file__).resolve().parents[3])
PIN = PROJECT.sources.vllm
assert PIN is not None
RELEASE = json.loads(Path(__file__).with_name(f"vllm-{PIN.version}.json").read_text("utf-8"))
GPU_0 = GPU(0, "amd", "MI300X", "gfx942", GPUType.AMD_CDNA, 192 << 30, 0, False, 304, None, None)
# What an image of the pinned vLLM says of it.
OWN = {"version": PIN.version, "gfx": ["gfx942"], "device": "rocm", "rocm_prefix": "/opt/vllm/rocm"}


@pytest.fixture(scope="module")
def members() -> dict[str, dict[str, Any]]:
    """Give the containers of the group by their role."""
    wish = deploy.wish(
        PROJECT, format_="kubernetes", image="ghcr.io/somebody/amdserve:full-gfx942", model="a-model",
        gfx=("gfx942",), nodes=2, gpus=8, serve="--n-ctx 32768 --alias a -- --dtype bfloat16",
    )  # fmt: skip
    documents = [
        one for one in yaml.safe_load_all(deploy.render(wish, "kubernetes", PROJECT.renderer)) if one
    ]
    (group,) = [one for one in documents if one["kind"] == "LeaderWorkerSet"]
    template = group["spec"]["leaderWorkerTemplate"]
    return {role: template[f"{role}Template"]["spec"]["containers"][0] for role in ("leader", "worker")}


def test_what_is_said_to_vllm_is_said_to_each_member(members: dict[str, dict[str, Any]]) -> None:
    leader, worker = members["leader"]["args"], members["worker"]["args"]
    assert leader[: leader.index("--")] == [
        "serve", "/models/a-model", "--backend", "vllm", "--n-ctx", "32768", "--alias", "a",
    ]  # fmt: skip
    assert leader.count("--") == 1
    assert worker == ["serve", "/models/a-model", *leader[leader.index("--") + 1 :], "--headless"]
    assert worker[-3:-1] == ["--dtype", "bfloat16"]


def test_every_flag_is_one_of_vllms(members: dict[str, dict[str, Any]]) -> None:
    flags = {word for word in members["worker"]["args"] if word.startswith("--")}
    assert {"--nnodes", "--node-rank", "--master-addr", "--pipeline-parallel-size"} <= flags
    assert flags <= set(RELEASE["flags"])


def test_a_worker_has_the_environment_that_amdserve_gives_the_leader(
    members: dict[str, dict[str, Any]],
) -> None:
    image = Image("full", "", ("gfx942",), {}, "/usr", None, {"vllm": OWN})
    model = Model("/models/a-model", "huggingface", "llm")
    given = environment(Job(ModelLoadRequest(model_path=model.path), model, image, Machine()), [GPU_0])
    # It sees all the GPUs that its pod has.
    expected = {name: value for name, value in given.items() if not name.endswith("_VISIBLE_DEVICES")}
    found = {one["name"]: one["value"] for one in members["worker"]["env"] if "value" in one}
    assert found == expected


def test_a_worker_needs_no_right_but_that_of_root_to_open_devices(members: dict[str, dict[str, Any]]) -> None:
    rights = members["worker"]["securityContext"]
    assert rights["capabilities"] == {"drop": ["ALL"]}
    assert rights["allowPrivilegeEscalation"] is False
