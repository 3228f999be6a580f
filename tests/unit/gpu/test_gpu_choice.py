"""Which GPU serves, how much memory it has, and what a container needs to reach it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from amdserve.errors import UsageError
from amdserve.gpu import GPUDetectionResult, Sysroot
from amdserve.gpu.access import ContainerOptions, container_options
from amdserve.gpu.cpu import cgroup_limit, system_bytes
from amdserve.gpu.select import choose, usable_bytes

Machine = Callable[[str], Sysroot]
Detected = Callable[[str], GPUDetectionResult]
GIB = 1 << 30


@pytest.mark.parametrize(
    ("name", "index"),
    [("strix-halo", 0), ("apu-and-dgpu", 0), ("two-dgpus", 1), ("mi300x", 0), ("no-gpu", None)],
)
def test_the_default_choice(name: str, index: int | None, detected: Detected, machine: Machine) -> None:
    choice = choose(detected(name), environ={}, sysroot=machine(name))
    assert (choice.gpu.index if choice.gpu else None) == index
    assert choice.reason


def test_a_card_is_preferred_to_an_apu_with_more_memory(detected: Detected, machine: Machine) -> None:
    result = detected("apu-and-dgpu")
    sysroot = machine("apu-and-dgpu")
    card, apu = result.gpus
    assert usable_bytes(apu, sysroot) > usable_bytes(card, sysroot)
    choice = choose(result, environ={}, sysroot=sysroot)
    assert choice.gpu == card
    assert "memory of its own" in choice.reason


def test_the_index_asked_for_wins(detected: Detected) -> None:
    choice = choose(detected("apu-and-dgpu"), index=1, environ={})
    assert choice.gpu is not None
    assert choice.gpu.gfx == "gfx1036"
    with pytest.raises(UsageError) as caught:
        choose(detected("apu-and-dgpu"), index=7, environ={})
    assert "RX 7900 XT" in caught.value.cause
    assert choose(detected("no-gpu"), index=0, environ={}).gpu is None


def test_the_vendor_asked_for_wins(detected: Detected) -> None:
    assert choose(detected("rx-7900-xtx"), vendor="nvidia", environ={}).gpu is None
    assert choose(detected("rx-7900-xtx"), vendor="cpu", environ={}).gpu is None
    assert choose(detected("rx-7900-xtx"), vendor="amd", environ={}).gpu is not None


@pytest.mark.parametrize(
    ("environ", "index"),
    [
        ({"ROCR_VISIBLE_DEVICES": "0"}, 0),
        ({"ROCR_VISIBLE_DEVICES": "1"}, 1),
        ({"ROCR_VISIBLE_DEVICES": "GPU-76542aef50053806"}, 1),
        ({"ROCR_VISIBLE_DEVICES": ""}, None),
        ({"HIP_VISIBLE_DEVICES": "0"}, 0),
        ({"HIP_VISIBLE_DEVICES": ""}, 1),
        ({"HIP_VISIBLE_DEVICES": "-1"}, None),
        ({"HIP_VISIBLE_DEVICES": "0,-1,1"}, 0),
        ({"HIP_VISIBLE_DEVICES": "9"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, None),
        ({"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "0"}, 0),
        # HIP counts in what ROCR left: of GPU 1 alone, GPU 0.
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "0"}, 1),
        ({"ROCR_VISIBLE_DEVICES": "1", "HIP_VISIBLE_DEVICES": "1"}, None),
        ({"GGML_VK_VISIBLE_DEVICES": "0"}, 1),
    ],
)
def test_what_the_user_hides_is_not_chosen(
    environ: dict[str, str], index: int | None, detected: Detected
) -> None:
    before = dict(environ)
    choice = choose(detected("two-dgpus"), environ=environ)
    assert (choice.gpu.index if choice.gpu else None) == index
    assert environ == before
    if index is None:
        assert "hides every GPU" in choice.reason


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("strix-halo", 120 * GIB + GIB // 2),
        ("strix-halo-small-gtt", 67080216576 + GIB // 2),
        ("strix-point", 12 * GIB + GIB // 2),  # the control group's limit caps what may be mapped
        ("rx-7900-xtx", 25753026560),  # a card: its own memory and no more
        ("no-gpu", 16311000 * 1024),
    ],
)
def test_memory_a_model_can_use(name: str, expected: int, detected: Detected, machine: Machine) -> None:
    assert usable_bytes(detected(name).gpus[0], machine(name)) == expected


def test_a_large_carve_out_is_not_capped_by_what_is_left_of_the_memory(
    detected: Detected, tmp_path: Path
) -> None:
    """96 of 128 GiB given to the GPU in the firmware: the system sees only 31, the GPU still has its 96."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: {31 * GIB // 1024} kB\n")
    from amdserve.values import replace

    gpu = replace(detected("strix-halo").gpus[0], vram_bytes=96 * GIB, gtt_bytes=15 * GIB)
    assert usable_bytes(gpu, Sysroot(tmp_path)) == 111 * GIB


def write(root: Path, files: dict[str, str]) -> Sysroot:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Sysroot(root)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "max\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/memory.max": "1048576\n"}, 1048576),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/memory.max": "4096\n",
                "sys/fs/cgroup/a/memory.max": "2048\n",
            },
            2048,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,memory:/docker/x\n1:name=systemd:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
            },
            None,
        ),
        ({"proc/self/cgroup": "5:memory:/x\n", "sys/fs/cgroup/memory/x/memory.limit_in_bytes": "777\n"}, 777),
        ({"proc/self/cgroup": "\x00:::\n0\n", "sys/fs/cgroup/memory.max": "x"}, None),
    ],
)
def test_control_group_limits(tmp_path: Path, files: dict[str, str], limit: int | None) -> None:
    assert cgroup_limit(write(tmp_path, files)) == limit


def test_system_memory_is_the_smaller_of_ram_and_limit(tmp_path: Path) -> None:
    sysroot = write(tmp_path, {"proc/meminfo": "MemTotal: 100 kB\n", "sys/fs/cgroup/memory.max": "2048\n"})
    assert system_bytes(sysroot) == 2048
    assert system_bytes(Sysroot(tmp_path / "nothing")) == 0


@pytest.mark.parametrize(
    ("name", "rocm", "expected"),
    [
        ("strix-halo", True, ContainerOptions(("/dev/kfd", "/dev/dri"), (992,), ipc="host")),
        ("strix-halo", False, ContainerOptions(("/dev/dri",), (992,))),
        # Nodes open to all need no group; SELinux that keeps devices does need a word.
        ("rx-9070-xt", False, ContainerOptions(("/dev/dri",), (), security=("label=disable",))),
        ("rx-580-without-kfd", True, ContainerOptions(("/dev/dri",), (105,), ipc="host")),
        ("no-gpu", True, ContainerOptions()),
    ],
)
def test_container_options(
    name: str, rocm: bool, expected: ContainerOptions, detected: Detected, machine: Machine
) -> None:
    assert container_options(detected(name), machine(name), rocm=rocm) == expected


def test_selinux_that_lets_devices_through_needs_no_word(detected: Detected, tmp_path: Path) -> None:
    sysroot = write(
        tmp_path, {"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/container_use_devices": "1 1"}
    )
    assert container_options(detected("strix-halo"), sysroot, rocm=False).security == ()


def test_options_as_words_and_as_compose() -> None:
    options = ContainerOptions(("/dev/kfd", "/dev/dri"), (992, 44), ipc="host", security=("label=disable",))
    assert " ".join(options.argv()) == (
        "--device /dev/kfd --device /dev/dri --group-add 992 --group-add 44 --ulimit memlock=-1:-1 "
        "--security-opt label=disable --ipc host"
    )
    assert options.compose() == {
        "devices": ["/dev/kfd:/dev/kfd", "/dev/dri:/dev/dri"],
        "group_add": ["992", "44"],
        "ulimits": {"memlock": {"soft": -1, "hard": -1}},
        "security_opt": ["label=disable"],
        "ipc": "host",
    }


def test_owners_of_a_real_file_come_from_the_kernel(tmp_path: Path) -> None:
    node = tmp_path / "dev/kfd"
    node.parent.mkdir()
    node.touch()
    node.chmod(0o640)
    owner = Sysroot(tmp_path).owner("/dev/kfd")
    assert owner is not None
    assert owner.mode == 0o640
    assert Sysroot(tmp_path).owner("/dev/nothing") is None


@pytest.mark.parametrize(
    ("mode", "uid", "gids", "may"),
    [
        (0o660, 1000, (992,), True),
        (0o660, 1000, (44,), False),
        (0o666, 1000, (), True),
        (0o600, 5, (), True),
        (0o600, 1000, (992,), False),
        (0o000, 0, (), True),
        (0o640, 1000, (992,), False),
    ],
)
def test_who_may_open_a_node(mode: int, uid: int, gids: tuple[int, ...], may: bool) -> None:
    from amdserve.gpu.sysroot import Owner

    assert Owner(mode, 5, 992).writable_by(uid, gids) is may
