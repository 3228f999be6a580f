"""Files for compose, Kubernetes, quadlet: they hold by the tools' schemas, and say what this host needs."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor

from amdserve import process
from amdserve.errors import UsageError
from amdserve.image import deploy
from amdserve.image.house import program
from amdserve.image.project import Project

ROOT = Path(__file__).resolve().parents[3]
MACHINES = ROOT / "tests" / "fixtures" / "machines"
PROJECT = Project(ROOT)
REFERENCE = "ghcr.io/somebody/amdserve:llama-gfx1151"
# The newest minor versions that there are schemas for.
MINORS = sorted({tuple(map(int, major_minor(one).split("."))) for one in all_versions()})[-3:]
Text = Callable[..., str]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    """Render a file on a machine; Strix Halo unless another is named."""
    model = tmp_path / "a model $1 100%.gguf"
    model.touch()

    def rendered(format_: str, machine: str = "strix-halo", **words: Any) -> str:
        monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / machine))
        words = {"image": REFERENCE, "model": str(model), **words}
        return deploy.render(deploy.wish(PROJECT, format_=format_, **words), format_, PROJECT.renderer)

    return rendered


def pods(text: Text, **words: Any) -> list[dict[str, Any]]:
    return [one for one in yaml.safe_load_all(text("kubernetes", model="a.gguf", **words)) if one]


def test_compose_holds_by_its_schema(text: Text, tmp_path: Path) -> None:
    several: list[dict[str, Any]] = [
        {},
        {"cdi": True},
        {"machine": "no-gpu"},
        {"serve": "--n-ctx 8 -- --metrics"},
    ]
    for number, words in enumerate(several):
        file = tmp_path / f"compose-{number}.yaml"
        file.write_text(text("compose", **words))
        check = [program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", str(file)]
        done = process.run(check, check=False)
        assert done.ok, done.out
    file.write_text(file.read_text().replace("cap_drop:", "cap_dropped:"))
    assert not process.run(check, check=False).ok, "a schema that takes anything shows nothing"


def test_compose_names_devices_and_numeric_groups_of_this_host(text: Text) -> None:
    service = yaml.safe_load(text("compose", port=9000))["services"]["amdserve"]
    assert service["devices"] == ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
    assert service["group_add"] == ["992"]
    assert service["ulimits"]["memlock"] == {"soft": -1, "hard": -1}
    assert service["shm_size"]
    assert service["ports"] == ["127.0.0.1:9000:8080"]
    assert service["image"] == REFERENCE
    assert service["cap_drop"] == ["ALL"]


def test_image_without_rocm_gets_no_kfd_and_no_shared_memory(text: Text) -> None:
    service = yaml.safe_load(text("compose", image="ghcr.io/somebody/amdserve:vulkan"))["services"][
        "amdserve"
    ]
    assert service["devices"] == ["/dev/dri:/dev/dri"]
    assert "shm_size" not in service


def test_cdi_takes_the_place_of_devices_and_groups(text: Text) -> None:
    service = yaml.safe_load(text("compose", cdi=True))["services"]["amdserve"]
    assert service["devices"] == ["amd.com/gpu=all"]
    assert "group_add" not in service


def test_host_without_a_gpu_gets_a_file_that_serves_on_the_cpu(
    text: Text, capsys: pytest.CaptureFixture[str]
) -> None:
    service = yaml.safe_load(text("compose", machine="no-gpu"))["services"]["amdserve"]
    assert "devices" not in service
    assert "no GPU was found" in capsys.readouterr().err


@pytest.mark.parametrize("minor", MINORS, ids=lambda one: ".".join(map(str, one)))
def test_kubernetes_manifests_hold_by_the_schema_of_each_minor_version(
    text: Text, minor: tuple[int, int]
) -> None:
    version = ".".join(map(str, minor))
    several: list[dict[str, Any]] = [{}, {"gfx": ("gfx1151",), "most": 4}, {"replicas": 3, "gpus": 2}]
    for words in several:
        documents = pods(text, **words)
        assert len(documents) >= 3
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)
    # Of LeaderWorkerSet there is no schema here: its pods are held against that of pods.
    together = pods(text, image="ghcr.io/somebody/amdserve:full-gfx942", nodes=2)
    groups = [one for one in together if one["kind"] == "LeaderWorkerSet"]
    template = groups[0]["spec"]["leaderWorkerTemplate"]
    for role in ("leaderTemplate", "workerTemplate"):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", **template[role]}, version, strict=True
        )
    broken = pods(text)[1]
    broken["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["failureTreshold"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, version, strict=True)


def test_three_minor_versions_are_held_against() -> None:
    assert len(MINORS) == 3
    assert [one[1] for one in MINORS] == list(range(MINORS[0][1], MINORS[0][1] + 3))


def test_kubernetes_asks_for_gpus_on_nodes_that_have_them(text: Text) -> None:
    claim, deployment, service, scaler = pods(text, gfx=("gfx1151",), gpus=2, most=4)
    spec = deployment["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert container["resources"]["limits"] == {"amd.com/gpu": "2"}
    assert container["args"] == ["serve", "/models/a.gguf"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] == "/health"
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    asked = {
        expression["key"]: expression["values"]
        for term in terms["nodeSelectorTerms"]
        for expression in term["matchExpressions"]
    }
    assert asked["amdserve.io/gfx"] == ["gfx1151"]
    assert claim["metadata"]["name"] == spec["volumes"][0]["persistentVolumeClaim"]["claimName"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert scaler["spec"]["maxReplicas"] == 4
    assert "replicas" not in deployment["spec"], "the autoscaler's number is not fought over"


def test_several_nodes_join_one_leader(text: Text) -> None:
    image = "ghcr.io/somebody/amdserve:full-gfx942"
    documents = pods(text, image=image, nodes=3, gpus=8, gfx=("gfx942",))
    template = documents[1]["spec"]["leaderWorkerTemplate"]
    assert template["size"] == 3
    leader, worker = (
        shlex.join(template[role]["spec"]["containers"][0]["args"])
        for role in ("leaderTemplate", "workerTemplate")
    )
    for line in (leader, worker):
        assert "--tensor-parallel-size 8 --pipeline-parallel-size 3 --nnodes 3" in line
    assert "--headless" in worker
    assert "--headless" not in leader
    assert documents[0]["spec"]["accessModes"] == ["ReadWriteMany"]
    assert documents[2]["spec"]["selector"]["role"] == "leader"


def test_quadlet_quotes_what_systemd_would_read_otherwise(text: Text) -> None:
    lines = text("quadlet").splitlines()
    (line,) = [one for one in lines if one.startswith("Exec=")]
    assert line == 'Exec=serve "/models/a model $$1 100%%.gguf"'
    assert "GroupAdd=keep-groups" in lines
    assert "AddDevice=/dev/kfd" in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"format_": "nomad"}, "no format"),
        ({"format_": "compose", "model": "/nothing.gguf"}, "no such file"),
        ({"format_": "compose", "name": "A b"}, "no name for a service"),
        ({"format_": "compose", "port": 0}, "no port"),
        ({"format_": "compose", "serve": "'"}, "cannot be taken apart"),
        ({"format_": "compose", "image": "lama"}, "neither an image"),
        ({"format_": "compose", "nodes": 2}, "only vLLM in Kubernetes"),
        ({"format_": "kubernetes", "nodes": 2}, "only vLLM in Kubernetes"),
        ({"format_": "kubernetes", "replicas": 0}, "at least 1"),
        ({"format_": "kubernetes", "storage": "much"}, "is no size"),
    ],
    ids=lambda one: json.dumps(one) if isinstance(one, dict) else "",
)
def test_wrong_words_are_refused_with_what_to_write_instead(
    text: Text, words: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        text(**words)
    assert said in caught.value.what
    assert caught.value.fix or caught.value.cause
