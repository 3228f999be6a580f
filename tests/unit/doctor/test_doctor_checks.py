"""Checks one by one, over facts that are passed in."""

from __future__ import annotations

import errno
import json
import shutil
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from amdserve.doctor import Check, EngineFacts, Facts, Seen, examine, gather, main, probes
from amdserve.doctor.kernel import version_of
from amdserve.doctor.report import Place
from amdserve.gpu import Sysroot
from amdserve.values import replace

MACHINES = Path(__file__).parents[2] / "fixtures" / "machines"
GIB = 1 << 30
PLACES: tuple[Place, ...] = ("host", "container")


def facts_of(name: str | Path, place: str = "container", **changes: Any) -> Facts:
    folder = name if isinstance(name, Path) else MACHINES / name
    found = gather("host" if place == "host" else "container", {"AMDSERVE_SYSROOT": str(folder)})
    return replace(found, **changes)


def check(facts: Facts, name: str) -> Check:
    return next(one for one in examine(facts).checks if one.name == name)


def seen(*devices: str, error: str = "") -> Callable[[], Seen]:
    return lambda: Seen(devices, error)


RADV = "Vulkan0: AMD Radeon 8060S Graphics (RADV GFX1151) (123000 MiB, 122000 MiB free)"
LLVMPIPE = "Vulkan0: llvmpipe (LLVM 20.1.2, 256 bits) (64000 MiB, 64000 MiB free)"


@pytest.mark.parametrize(
    ("machine", "vulkan", "ok"),
    [
        ("strix-halo", seen(RADV), True),
        ("strix-halo", seen(LLVMPIPE, RADV), True),
        ("strix-halo", seen(LLVMPIPE), False),
        ("strix-halo", seen(error="exit status -11"), False),
        ("no-gpu", seen(), None),
        ("strix-halo", None, None),
    ],
)
def test_vulkan_device(machine: str, vulkan: Callable[[], Seen] | None, ok: bool | None) -> None:
    found = check(facts_of(machine, vulkan=vulkan), "vulkan-device")
    assert found.ok is ok
    if ok is False:
        assert "CPU device" in found.detail or "exit status -11" in found.detail


@pytest.mark.parametrize(
    ("machine", "rocm", "ok"),
    [
        ("strix-halo", seen("ROCm0: AMD Radeon 8060S (1 MiB, 1 MiB free)"), True),
        ("strix-halo", seen(error="no ROCm-capable device is detected"), False),
        ("no-gpu", seen(), None),
        ("strix-halo", None, None),
    ],
)
def test_rocm_device(machine: str, rocm: Callable[[], Seen] | None, ok: bool | None) -> None:
    assert check(facts_of(machine, rocm=rocm), "rocm-device").ok is ok


def test_libraries() -> None:
    assert check(facts_of("strix-halo", libraries=lambda: ()), "libraries").ok is True
    found = check(facts_of("strix-halo", libraries=lambda: ("libhipblas.so.3",)), "libraries")
    assert found.ok is False
    assert "libhipblas.so.3" in found.detail


def test_icd_that_the_environment_names_must_exist() -> None:
    there = {"VK_DRIVER_FILES": "/usr/share/vulkan/icd.d/radeon_icd.json"}
    gone = {"VK_DRIVER_FILES": "/usr/share/vulkan/icd.d/radeon_icd.x86_64.json"}
    assert check(facts_of("strix-point", environ=there), "vulkan-icd").ok is True
    found = check(facts_of("strix-point", environ=gone), "vulkan-icd")
    assert found.ok is False
    assert "radeon_icd.json" in found.fix
    assert check(facts_of("strix-point", environ={}), "vulkan-icd").ok is True
    assert check(facts_of("strix-halo", environ={}), "vulkan-icd").ok is False


@pytest.mark.parametrize(
    ("gfx", "environ", "ok", "fix"),
    [
        (["gfx1150"], {}, True, ""),
        (["gfx1100", "gfx1150"], {}, True, ""),
        (["gfx1151"], {}, False, "HSA_OVERRIDE_GFX_VERSION=11.5.1"),
        (["gfx1151"], {"HSA_OVERRIDE_GFX_VERSION": "11.5.1"}, True, ""),
        (["gfx1100"], {}, False, "./inv build --gfx gfx1150"),
    ],
)
def test_image_gfx(tmp_path: Path, gfx: list[str], environ: Mapping[str, str], ok: bool, fix: str) -> None:
    """On Strix Point, gfx1150."""
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-point", folder)
    image = folder / "etc/amdserve/image.json"
    image.write_text(json.dumps({**json.loads(image.read_text()), "gfx": gfx}))
    found = check(facts_of(folder, environ=environ), "image-gfx")
    assert found.ok is ok
    assert fix in found.fix


def test_blas_kernels_are_looked_for_by_whole_name(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-point", folder)
    library = folder / "usr/lib/x86_64-linux-gnu/rocblas/5.2.0/library"
    (library / "Kernels.so-000-gfx11500.hsaco").touch()
    assert check(facts_of(folder), "blas").ok is False
    (library / "Kernels.so-000-gfx1150.hsaco").touch()
    assert check(facts_of(folder), "blas").ok is True


def test_a_damaged_description_of_the_image_is_no_obstacle(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-point", folder)
    for text in (
        "{",
        "[]",
        '{"gfx": 5, "rocm": "x", "backends": []}',
        '{"rocm": {"prefix": null}, "gfx": [null]}',
    ):
        (folder / "etc/amdserve/image.json").write_text(text)
        assert examine(facts_of(folder)).checks


@pytest.mark.parametrize(
    ("machine", "model", "gtt", "memory"),
    [
        ("strix-halo-small-gtt", 30 * GIB, True, True),
        ("strix-halo-small-gtt", 80 * GIB, False, True),
        ("strix-halo", 300 * GIB, False, False),
        ("rx-7900-xtx", 300 * GIB, None, False),
        ("rx-7900-xtx", 20 * GIB, None, True),
        ("mi300x", 300 * GIB, None, True),
        ("mi300x", 2000 * GIB, None, False),
        ("no-gpu", 300 * GIB, None, False),
    ],
)
def test_memory_is_judged_against_the_model(machine: str, model: int, gtt: bool | None, memory: bool) -> None:
    facts = facts_of(machine, "host", model_bytes=model)
    assert check(facts, "gtt").ok is gtt
    assert check(facts, "memory").ok is memory


def test_gtt_never_promises_more_than_the_machine_has() -> None:
    found = check(facts_of("strix-halo", "host", model_bytes=300 * GIB), "gtt")
    assert found.ok is False
    assert found.fix == "take a smaller model"


def test_a_limit_on_the_container_counts_as_memory() -> None:
    """Strix Point: 26 GiB free on the machine, 12 GiB allowed to the container."""
    facts = facts_of("strix-point", model_bytes=20 * GIB)
    found = check(facts, "memory")
    assert found.ok is False
    assert "12.0 GiB" in found.detail
    assert check(replace(facts, model_bytes=8 * GIB), "memory").ok is True


@pytest.mark.parametrize(
    ("version", "words"),
    [
        # RX 6700 XT: nobody ships its kernels, but it runs gfx1030's.
        (100301, "--env HSA_OVERRIDE_GFX_VERSION=10.3.0"),
        (100300, "amdserve:llama-gfx1030 serve"),
        (130000, "amdserve:vulkan serve"),
    ],
)
def test_the_image_of_the_run_line_can_serve_this_gpu(tmp_path: Path, version: int, words: str) -> None:
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "rx-7900-xtx", folder)
    properties = folder / "sys/class/kfd/kfd/topology/nodes/1/properties"
    properties.write_text(properties.read_text().replace("110000", str(version)))
    report = examine(facts_of(folder, "host"))
    assert words in report.docker_run
    assert ("HSA_OVERRIDE" in report.docker_run) == (version == 100301)


def test_memlock(tmp_path: Path) -> None:
    assert check(facts_of("strix-halo"), "memlock").ok is True
    small = facts_of("strix-halo-no-render-group")
    assert check(small, "memlock").ok is False
    assert check(replace(small, model_bytes=4 << 20), "memlock").ok is True
    rootless = EngineFacts("unix:///run/user/1000/docker.sock", "28.5", rootless=True, buildx="x")
    host = facts_of("strix-halo-no-render-group", "host")
    assert check(host, "memlock").ok is None
    assert check(replace(host, engine=rootless), "memlock").ok is False
    # CAP_IPC_LOCK lifts the limit.
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-halo-no-render-group", folder)
    with (folder / "proc/self/status").open("a") as status:
        status.write("CapEff:\t0000000000004000\n")
    assert check(facts_of(folder), "memlock").ok is True


@pytest.mark.parametrize(
    ("environ", "ok"),
    [
        ({}, None),
        ({"ROCR_VISIBLE_DEVICES": "0"}, True),
        ({"GGML_VK_VISIBLE_DEVICES": "0"}, True),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "0"}, True),
        ({"HIP_VISIBLE_DEVICES": "0", "CUDA_VISIBLE_DEVICES": "1"}, False),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, False),
    ],
)
def test_visible_devices(environ: Mapping[str, str], ok: bool | None) -> None:
    assert check(facts_of("two-dgpus", environ=environ), "visible-devices").ok is ok


def test_hidden_gpus_are_still_examined() -> None:
    facts = facts_of("strix-halo-old-kernel", environ={"CUDA_VISIBLE_DEVICES": "-1"})
    assert check(facts, "gpu").ok is False
    assert check(facts, "cwsr").ok is False


def test_engine_buildx_and_disk() -> None:
    full = EngineFacts("unix:///var/run/docker.sock", "28.5.2", buildx="github.com/docker/buildx 0.29.1")
    facts = facts_of("strix-halo", "host", engine=full, disk=lambda _: 100 * GIB)
    assert [check(facts, name).ok for name in ("engine", "buildx", "disk")] == [True, True, True]
    poor = replace(facts, engine=replace(full, buildx=""), disk=lambda _: GIB)
    assert [check(poor, name).ok for name in ("engine", "buildx", "disk")] == [True, False, False]
    none = replace(facts, engine="no Docker Engine runs here")
    assert [check(none, name).ok for name in ("engine", "buildx")] == [False, False]
    assert "./inv engine" in check(none, "engine").fix


def test_cdi_is_offered_where_it_is_described() -> None:
    assert "amd.com/gpu=all" in check(facts_of("mi300x", "host"), "cdi").detail
    assert check(facts_of("strix-halo", "host"), "cdi").ok is None


def test_a_card_without_its_driver_is_seen_on_the_bus(tmp_path: Path) -> None:
    device = tmp_path / "sys/bus/pci/devices/0000:03:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1002\n")
    (device / "class").write_text("0x030000\n")
    found = check(facts_of(tmp_path, "host"), "gpu")
    assert found.ok is False
    assert "0000:03:00.0" in found.detail
    assert "modprobe amdgpu" in found.fix
    (device / "class").write_text("0x060400\n")  # a bridge of the same vendor is no GPU
    assert check(facts_of(tmp_path, "host"), "gpu").ok is None


def changed(name: str, folder: Path, files: Mapping[str, str]) -> Path:
    """Copy a machine and write files into it."""
    target = folder / "machine"
    shutil.copytree(MACHINES / name, target)
    for file, text in files.items():
        (target / file).parent.mkdir(parents=True, exist_ok=True)
        (target / file).write_text(text)
    return target


def test_a_model_that_a_card_cannot_hold_is_told_against_the_card() -> None:
    found = check(facts_of("rx-7900-xtx", "host", model_bytes=40 * GIB), "memory")
    assert "AMD Radeon RX 7900 XTX has 24.0 GiB" in found.detail
    assert "--n-gpu-layers" in found.fix
    several = check(facts_of("mi300x", "host", model_bytes=300 * GIB), "memory")
    assert "8 GPUs" in several.detail


def test_an_accelerator_without_its_driver_is_seen_on_the_bus_too(tmp_path: Path) -> None:
    """The MI300X is no display: its PCI class is 0x1200."""
    place = "sys/bus/pci/devices/0000:05:00.0"
    root = changed("no-gpu", tmp_path, {f"{place}/vendor": "0x1002\n", f"{place}/class": "0x120000\n"})
    found = check(facts_of(root, "host"), "gpu")
    assert found.ok is False
    assert "modprobe amdgpu" in found.fix


@pytest.mark.parametrize(
    ("uevent", "cmdline", "words"),
    [
        ("DRIVER=vfio-pci\n", "", ("vfio-pci", "virtual machine")),
        ("PCI_CLASS=30000\n", "quiet nomodeset", ("nomodeset", "kernel's command line")),
        ("PCI_CLASS=30000\n", "quiet", ("no driver", "dmesg")),
    ],
)
def test_a_card_that_the_driver_has_not_taken(
    tmp_path: Path, uevent: str, cmdline: str, words: tuple[str, str]
) -> None:
    place = "sys/bus/pci/devices/0000:03:00.0"
    files = {f"{place}/vendor": "0x1002\n", f"{place}/class": "0x030000\n", f"{place}/uevent": uevent}
    more = {"sys/module/amdgpu/refcnt": "0\n", "proc/cmdline": f"{cmdline}\n"}
    found = check(facts_of(changed("no-gpu", tmp_path, {**files, **more}), "host"), "gpu")
    assert found.ok is False
    assert words[0] in found.detail
    assert words[1] in found.fix


def test_a_node_that_was_mounted_but_not_given(tmp_path: Path) -> None:
    """`--volume /dev/dri:/dev/dri` shows the node, and opening it is still forbidden."""
    owners = "/dev/kfd 0660 0 992\n/dev/dri/renderD128 EPERM\n"
    found = check(facts_of(changed("strix-halo", tmp_path, {"owners": owners})), "groups")
    assert found.ok is False
    assert "/dev/dri/renderD128 (EPERM)" in found.detail
    assert "--device" in found.fix
    assert "--group-add" not in found.fix


@pytest.mark.parametrize("rights", ["0600 0 0", "0660 0 0"])
def test_nodes_of_root_alone_get_a_group_by_a_rule(tmp_path: Path, rights: str) -> None:
    """A host without udev's rules: no group id helps, and nobody should join root's."""
    owners = f"/dev/kfd {rights}\n/dev/dri/renderD128 {rights}\n"
    folder = changed("strix-halo", tmp_path, {"owners": owners})
    found = check(facts_of(folder, "host"), "groups")
    assert found.ok is False
    assert "udev" in found.fix
    assert 'GROUP="render"' in found.fix
    assert "usermod" not in found.fix
    assert "--group-add" not in found.fix
    assert check(facts_of(folder), "groups").fix.startswith("on the host: ")


def test_what_the_kernel_says_of_opening_a_real_node_counts() -> None:
    assert Sysroot("/").refusal("/dev/null", 12345, ()) is None
    assert Sysroot("/").refusal("/dev/nothing-of-the-kind", 0, ()) == errno.ENOENT
    assert Sysroot("/").refusal("/dev", 0, ()) == errno.EISDIR


def test_without_a_render_node_vulkan_sees_nothing_either() -> None:
    assert "Vulkan does" not in check(facts_of("not-passed-in"), "kfd").detail
    halo = facts_of("strix-halo")
    assert check(halo, "kfd").ok is True


def test_a_user_outside_dockers_group_is_told_to_join_it() -> None:
    refused = "/var/run/docker.sock: [Errno 13] Permission denied"
    found = check(facts_of("strix-halo", "host", engine=refused), "engine")
    assert "usermod -aG docker $USER" in found.fix


def test_the_disk_is_the_one_where_the_engine_keeps_its_images() -> None:
    engine = EngineFacts("unix:///x", "28.5.2", buildx="b", root="/mnt/big/docker")
    facts = facts_of("strix-halo", "host", engine=engine, disk={"/mnt/big/docker": 99 * GIB}.get)
    assert check(facts, "disk").ok is True


def test_podman_keeps_groups_where_it_runs_without_root() -> None:
    engine = EngineFacts("unix:///run/user/1000/podman/podman.sock", "5.6.2", rootless=True, podman=True)
    report = examine(facts_of("strix-halo", "host", engine=engine))
    assert report.docker_run.startswith("podman run ")
    assert "--group-add keep-groups" in report.docker_run
    assert "992" not in report.docker_run
    assert report.compose["services"]["amdserve"]["group_add"] == ["keep-groups"]


def test_gtt_that_a_kernel_parameter_holds_down_is_raised_by_that_too(tmp_path: Path) -> None:
    """The driver's own parameter wins over ttm's; where it is not set, it is deprecated and left alone."""
    plain = check(facts_of("strix-halo-small-gtt", "host"), "gtt").fix
    assert "ttm.pages_limit=30670848" in plain
    assert "gttsize" not in plain
    held = changed("strix-halo-small-gtt", tmp_path, {"sys/module/amdgpu/parameters/gttsize": "65536\n"})
    assert "amdgpu.gttsize=119808" in check(facts_of(held, "host"), "gtt").fix


def test_gtt_on_hosts_of_another_make(tmp_path: Path) -> None:
    dkms = changed(
        "strix-halo-small-gtt", tmp_path / "dkms", {"sys/module/amdttm/parameters/pages_limit": "1\n"}
    )
    assert "amdttm.pages_limit=30670848" in check(facts_of(dkms, "host"), "gtt").fix
    old = changed(
        "strix-halo-small-gtt", tmp_path / "old", {"proc/sys/kernel/osrelease": "6.8.0-87-generic\n"}
    )
    assert "amdgpu.gttsize=119808" in check(facts_of(old, "host"), "gtt").fix
    ostree = changed("strix-halo-small-gtt", tmp_path / "ostree", {"run/ostree-booted": ""})
    assert "rpm-ostree kargs" in check(facts_of(ostree, "host"), "gtt").fix


def test_firmware_by_package_version() -> None:
    assert check(facts_of("strix-halo", "host", firmware="20251125-1.fc43"), "firmware").ok is False
    assert check(facts_of("strix-halo", "host", firmware="20260110-1.fc43"), "firmware").ok is True


def test_a_driver_package_that_hides_the_kernels_fix_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-halo-old-kernel", folder)
    (folder / "sys/module/amdgpu/version").write_text("6.16.13\n")
    assert "amdgpu-dkms 6.16.13" in check(facts_of(folder, "host"), "cwsr").fix


def test_an_older_kernel_with_the_fix_is_good(tmp_path: Path) -> None:
    folder = tmp_path / "machine"
    shutil.copytree(MACHINES / "strix-halo", folder)
    (folder / "proc/sys/kernel/osrelease").write_text("6.17.0-1011-oem\n")
    assert check(facts_of(folder, "host"), "kernel").ok is True


def test_a_check_that_cannot_be_made_stops_nothing() -> None:
    def broken() -> Seen:
        raise OSError("the binary is gone")

    report = examine(facts_of("strix-halo", vulkan=broken))
    found = next(one for one in report.checks if one.name == "vulkan-device")
    assert found.ok is None
    assert "the binary is gone" in found.detail
    assert len(report.checks) == 22


def test_an_empty_machine_is_examined_too(tmp_path: Path) -> None:
    for place in PLACES:
        report = examine(Facts(place, Sysroot(tmp_path), {}))
        assert not [one for one in report.checks if one.detail.startswith("cannot be checked")]
        assert report.docker_run.startswith("docker run ")


@pytest.mark.parametrize(
    ("release", "numbers"),
    [("6.18.7-200.fc43", (6, 18, 7)), ("6.18-rc6", (6, 18, 0)), ("7.0.0", (7, 0, 0)), ("?", ())],
)
def test_kernel_versions(release: str, numbers: tuple[int, ...]) -> None:
    assert version_of(release) == numbers


def script(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_devices_a_backend_lists(tmp_path: Path) -> None:
    good = script(tmp_path, "good", f"echo 'load_backend: x' >&2\necho 'Available devices:'\necho '  {RADV}'")
    assert probes.list_devices(good).devices == (RADV,)
    none = script(
        tmp_path,
        "none",
        "echo 'ggml_cuda_init: no ROCm-capable device is detected' >&2; echo 'Available devices:'",
    )
    assert probes.list_devices(none) == Seen((), "ggml_cuda_init: no ROCm-capable device is detected")
    dead = script(tmp_path, "dead", "echo last words >&2; exit 3")
    assert probes.list_devices(dead) == Seen((), "exit status 3: last words")
    assert probes.list_devices(str(tmp_path / "missing")).error


def test_libraries_that_are_not_found(tmp_path: Path) -> None:
    assert probes.missing_libraries((str(tmp_path / "empty"),)) == ()
    shutil.copy("/bin/true", tmp_path / "program")
    assert probes.missing_libraries((str(tmp_path),)) == ()


@pytest.fixture
def docker_socket(tmp_path: Path) -> Iterator[str]:
    """A socket that answers as an engine does."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = {
                "/version": {"Version": "28.5.2"},
                "/info": {
                    "SecurityOptions": ["name=seccomp,profile=builtin", "name=rootless"],
                    "DockerRootDir": "/mnt/big/docker",
                },
            }[self.path]
            data = json.dumps(text).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def address_string(self) -> str:
            return "socket"

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    path = str(tmp_path / "docker.sock")
    with socketserver.ThreadingUnixStreamServer(path, Answer) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield path
        server.shutdown()


def test_the_engine_is_asked_through_its_socket(docker_socket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "buildx", lambda host: f"buildx for {host}")
    host = f"unix://{docker_socket}"
    assert probes.engine({"DOCKER_HOST": host}) == EngineFacts(
        host, "28.5.2", rootless=True, buildx=f"buildx for {host}", root="/mnt/big/docker"
    )
    assert isinstance(probes.engine({"DOCKER_HOST": f"{host}.none"}), str)


def test_the_command_refuses_what_it_does_not_know(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "strix-halo"))
    assert main(["--what"]) == 2
    assert main(["--model", str(tmp_path / "gone.gguf")]) == 3
    assert "gone.gguf" in capsys.readouterr().err
    for number in (1, 2):
        (tmp_path / f"big-0000{number}-of-00002.gguf").write_bytes(b"x" * 100)
    assert main(["--model", str(tmp_path / "big-00001-of-00002.gguf")]) == 0
    assert "nothing is wrong" in capsys.readouterr().out
