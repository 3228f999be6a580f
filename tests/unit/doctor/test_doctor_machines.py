"""What the doctor must say of each machine: which checks fail, with which fix, and the line that runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from amdserve.doctor import Report, examine, gather
from amdserve.doctor.report import Place

MACHINES = Path(__file__).parents[2] / "fixtures" / "machines"
NAMES = sorted(path.name for path in MACHINES.iterdir() if path.is_dir())
# Where the folder is a container: it holds an image's description.
CONTAINERS = {"strix-point", "not-passed-in"}

# Every check that fails, and words its fix must hold: this machine's own numbers and names.
FAILS: dict[str, dict[str, list[str]]] = {
    "strix-halo": {},
    "strix-halo-no-render-group": {"groups": ["--group-add 992", "usermod -aG render "]},
    "strix-halo-old-kernel": {
        "kernel": ["6.18.4"],
        "cwsr": ["6.18.4", "llama-server-vulkan"],
        "firmware": ["20251125"],
    },
    # 117 GiB are 30670848 pages of 4 KiB.
    "strix-halo-small-gtt": {"gtt": ["grubby", "ttm.pages_limit=30670848", "117 GiB"]},
    # An APU with half its memory as GTT, in an image for another GPU.
    "strix-point": {
        "gtt": ["on the host", "ttm.pages_limit=6815744"],
        "image-gfx": ["HSA_OVERRIDE_GFX_VERSION=11.5.1"],
        "blas": ["./inv build --gfx gfx1150"],
    },
    "rx-7900-xtx": {"groups": ["--group-add 105", "usermod -aG 105 "]},
    "rx-9070-xt": {"selinux": ["container_use_devices=1", "label=disable"]},
    "mi210": {},
    "mi300x": {},
    "apu-and-dgpu": {},
    "two-dgpus": {},
    "closed-nodes": {},
    # A container that was given no device, with the engine's default limit on locked memory.
    "not-passed-in": {
        "gpu": ["run line"],
        "render-node": ["run line"],
        "kfd": ["--device /dev/kfd"],
        "memlock": ["--ulimit memlock=-1:-1"],
    },
    "rx-580-without-kfd": {},
    "nvidia-only": {},
    "no-gpu": {},
}

RUN: dict[str, str] = {
    "strix-halo": "--device /dev/kfd --device /dev/dri --group-add 992 --ulimit memlock=-1:-1 --ipc host "
    '--volume "$PWD":/models:ro --volume amdserve-state:/var/lib/amdserve amdserve:llama-gfx1151 serve',
    "rx-9070-xt": "--device /dev/dri --ulimit memlock=-1:-1 --security-opt label=disable --ipc host",
    "mi300x": "--group-add 110 ",
    "apu-and-dgpu": "amdserve:llama-gfx1100 serve",
    "two-dgpus": "amdserve:llama-gfx1100 serve",
    "rx-580-without-kfd": "--device /dev/dri --group-add 105 --ulimit memlock=-1:-1 "
    '--volume "$PWD":/models:ro --volume amdserve-state:/var/lib/amdserve amdserve:vulkan serve',
    "not-passed-in": '--group-add "$(stat -c %g /dev/kfd)" --group-add "$(stat -c %g /dev/dri/renderD128)"',
    "nvidia-only": "--gpus all --env NVIDIA_DRIVER_CAPABILITIES=compute,utility,graphics",
    "no-gpu": "docker run --rm --publish 127.0.0.1:8080:8080 --ulimit memlock=-1:-1 --volume",
}


def report_of(name: str, place: Place | None = None, **environ: str) -> Report:
    return examine(gather(place, {"AMDSERVE_SYSROOT": str(MACHINES / name), **environ}))


def test_every_machine_has_an_expectation() -> None:
    assert set(NAMES) == set(FAILS)


@pytest.mark.parametrize("name", NAMES)
def test_what_fails_and_how_to_mend_it(name: str) -> None:
    report = report_of(name)
    assert report.place == ("container" if name in CONTAINERS else "host")
    failed = {check.name: check.fix for check in report.checks if check.ok is False}
    assert set(failed) == set(FAILS[name])
    assert report.ok == (not FAILS[name])
    for check, words in FAILS[name].items():
        for word in words:
            assert word in failed[check], check


@pytest.mark.parametrize("name", sorted(RUN))
def test_the_run_line_fits_the_host(name: str) -> None:
    assert RUN[name] in report_of(name).docker_run


@pytest.mark.parametrize("name", NAMES)
def test_json_and_text_hold_every_check(name: str) -> None:
    report = report_of(name)
    said = json.loads(json.dumps(report.to_dict()))
    assert set(said) == {"ok", "place", "checks", "docker_run", "compose"}
    assert len({check["name"] for check in said["checks"]}) == len(said["checks"]) == 22
    for check in said["checks"]:
        assert set(check) == {"name", "ok", "detail", "fix"}
        assert check["detail"]
        # A fix is given exactly where something fails.
        assert bool(check["fix"]) == (check["ok"] is False)
        assert not check["detail"].startswith("cannot be checked")
    text = "\n".join(report.lines())
    marks = {True: "✔", False: "✘", None: "–"}
    for check in report.checks:
        assert re.search(rf"^{marks[check.ok]} {check.name} ", text, re.MULTILINE)
        assert check.detail in text
    assert report.docker_run in text
    assert text.rstrip().endswith("amdserve-state: {}")


def test_compose_says_the_same_as_the_run_line() -> None:
    service = report_of("strix-halo").compose["services"]["amdserve"]
    assert service["devices"] == ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"]
    assert service["group_add"] == ["992"]
    assert service["ulimits"] == {"memlock": {"soft": -1, "hard": -1}}
    assert service["image"] == "amdserve:llama-gfx1151"


def test_a_compose_service_asks_for_the_group_of_the_very_node() -> None:
    service = report_of("not-passed-in").compose["services"]["amdserve"]
    assert service["group_add"] == ["${RENDER_GID:?set it to the output of: stat -c %g /dev/dri/renderD128}"]


def test_the_same_kernel_seen_from_a_container_is_mended_on_the_host() -> None:
    checks = {check.name: check for check in report_of("strix-halo-old-kernel", "container").checks}
    assert checks["kernel"].fix.startswith("on the host: ")
    assert checks["cwsr"].fix.startswith("on the host: ")


def test_a_container_is_told_the_group_to_add() -> None:
    checks = {check.name: check for check in report_of("strix-halo-no-render-group", "container").checks}
    assert checks["groups"].fix == "start the container with --group-add 992"
    assert checks["memlock"].ok is False
    assert "8.0 MiB" in checks["memlock"].detail


@pytest.mark.parametrize("name", ["strix-halo", "not-passed-in"])
def test_the_command_prints_one_json_document(name: str) -> None:
    code = "import sys; from amdserve.doctor import main; sys.exit(main(['--json']))"
    env = {**os.environ, "AMDSERVE_SYSROOT": str(MACHINES / name)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert json.loads(done.stdout)["ok"] == (done.returncode == 0) == (name == "strix-halo")
