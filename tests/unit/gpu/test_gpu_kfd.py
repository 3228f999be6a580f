"""The kernel's files: any bytes give an attempt with a reason, never an exception."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amdserve.gpu import GPU, GPUType, KFDDetector, Sysroot, UnifiedGPUDetector
from amdserve.gpu.catalogue import CATALOGUE
from amdserve.gpu.detector import Context
from amdserve.gpu.kfd import NODES, gfx_name, parse_properties, pci_address
from amdserve.gpu.models import OUTCOMES
from amdserve.gpu.select import usable_bytes
from amdserve.gpu.sysroot import read_bytes

ANY_BYTES = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.tuples(
            st.sampled_from(
                [
                    "gfx_target_version",
                    "simd_count",
                    "simd_per_cu",
                    "drm_render_minor",
                    "location_id",
                    "domain",
                    "device_id",
                    "unique_id",
                    "heap_type",
                    "size_in_bytes",
                ]
            ),
            st.one_of(st.integers(-(2**70), 2**70).map(str), st.text(max_size=8)),
        )
    ).map(lambda pairs: "".join(f"{key} {value}\n" for key, value in pairs).encode("utf-8", "surrogatepass")),
)

# What sysfs files of one number hold, and what they should never hold.
NUMBERS = st.integers(-(2**70), 2**70).flatmap(
    lambda value: st.sampled_from([f"{value}\n", f"{value:#x}\n"]).map(str.encode)
)


@given(ANY_BYTES)
def test_parsing_never_raises_and_gives_counts(data: bytes) -> None:
    for key, value in parse_properties(data).items():
        assert key
        assert value >= 0


@given(st.integers())
def test_a_gfx_name_is_one_or_none(version: int) -> None:
    name = gfx_name(version)
    assert name is None or (name.startswith("gfx") and name[3:].isalnum())


@pytest.mark.parametrize(
    ("version", "name"),
    [
        (110501, "gfx1151"),
        (90010, "gfx90a"),
        (90402, "gfx942"),
        (120001, "gfx1201"),
        (90012, "gfx90c"),
        (80003, "gfx803"),
        (90500, "gfx950"),
        (100306, "gfx1036"),
        (0, None),
        (-1, None),
        (119900, None),
        (110099, None),
    ],
)
def test_gfx_names(version: int, name: str | None) -> None:
    assert gfx_name(version) == name


@pytest.mark.parametrize("gfx", sorted(CATALOGUE))
def test_each_gfx_of_the_table_can_be_decoded(gfx: str) -> None:
    digits = gfx[3:]
    version = int(digits[:-2]) * 10000 + int(digits[-2], 16) * 100 + int(digits[-1], 16)
    assert gfx_name(version) == gfx


def test_pci_addresses() -> None:
    assert pci_address({"location_id": 0xC500}) == "0000:c5:00.0"
    assert pci_address({"location_id": 0x050B, "domain": 1}) == "0001:05:01.3"
    assert pci_address({}) is None


class Tree:
    """A machine made of bytes, in memory; an int is the errno of opening that file."""

    def __init__(self, files: dict[str, bytes | int]) -> None:
        self.files = files

    def read(self, path: str) -> bytes:
        found = self.files.get(path.removeprefix("/nowhere"), errno.ENOENT)
        if isinstance(found, int):
            raise OSError(found, "refused", path)
        return found


class TreeSysroot(Sysroot):
    def __init__(self, files: dict[str, bytes | int]) -> None:
        super().__init__("/nowhere", Tree(files).read)
        self.__dict__["files"] = files

    def names(self, name: str) -> list[str]:
        inside = [path[len(name) + 1 :] for path in self.__dict__["files"] if path.startswith(name + "/")]
        return sorted({path.partition("/")[0] for path in inside})

    def exists(self, name: str) -> bool:
        return name in self.__dict__["files"]


CONTENT = st.one_of(
    ANY_BYTES,
    NUMBERS,
    st.just(b"0x1002\n"),
    st.sampled_from([errno.EPERM, errno.EACCES, errno.EIO, errno.EISDIR]),
)


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None, max_examples=150)
@given(
    st.dictionaries(
        st.sampled_from(
            [
                *(f"{NODES}/{node}/properties" for node in (0, 1, 2, 10)),
                f"{NODES}/1/mem_banks/0/properties",
                f"{NODES}/x/properties",
                *(
                    f"/sys/class/drm/renderD{minor}/device/{file}"
                    for minor in (128, 129)
                    for file in (
                        "vendor",
                        "device",
                        "revision",
                        "uevent",
                        "mem_info_vram_total",
                        "mem_info_gtt_total",
                        "product_name",
                        "board_info",
                    )
                ),
                "/sys/class/drm/renderD128/device/ip_discovery/die/0/GC/0/major",
                "/dev/dri/renderD128",
                "/usr/share/libdrm/amdgpu.ids",
                "/proc/meminfo",
                "/proc/cpuinfo",
                "/proc/self/cgroup",
            ]
        ),
        CONTENT,
    )
)
def test_any_tree_gives_an_attempt_with_a_reason(files: dict[str, bytes | int]) -> None:
    finding = KFDDetector().detect(Context(TreeSysroot(files), {}))
    assert finding.outcome in OUTCOMES
    assert finding.reason
    assert (finding.outcome == "found") == bool(finding.gpus)
    assert [gpu.index for gpu in finding.gpus] == list(range(len(finding.gpus)))
    for gpu in finding.gpus:
        assert gpu.render_node
        assert gpu.render_node in files
        assert gpu.vram_bytes >= 0
        assert gpu.gtt_bytes >= 0
        assert usable_bytes(gpu, TreeSysroot(files)) >= 0


def test_a_node_that_refuses_to_be_read_is_named(machine: Callable[[str], Sysroot]) -> None:
    """The kernel answers EPERM for GPUs outside the device list; as root, chmod cannot show that."""
    whole = machine("rx-7900-xtx")

    def refuse(path: str) -> bytes:
        if path.endswith("/nodes/1/properties"):
            raise PermissionError(errno.EPERM, "Operation not permitted", path)
        if "/sys/class/drm" in path:
            raise FileNotFoundError(errno.ENOENT, "No such file", path)
        return read_bytes(path)

    result = UnifiedGPUDetector(sysroot=Sysroot(whole.root, refuse), environ={}).detect()
    attempt = next(one for one in result.attempts if one.detector == "KFDDetector")
    assert attempt.outcome == "none"
    assert "node 1: EPERM" in attempt.reason


def test_a_card_that_only_drm_knows_gets_its_gfx_from_the_ip_version(tmp_path: Path) -> None:
    device = tmp_path / "sys/class/drm/renderD128/device"
    block = device / "ip_discovery/die/0/GC/0"
    block.mkdir(parents=True)
    for name, text in {"vendor": "0x1002", "device": "0x73ff", "mem_info_vram_total": "8573157376"}.items():
        (device / name).write_text(text + "\n")
    # Graphics IP 10.3.4 is gfx1032: the digits alone would say gfx1034.
    for name, text in {"major": "10", "minor": "3", "revision": "4"}.items():
        (block / name).write_text(text + "\n")
    (tmp_path / "dev/dri").mkdir(parents=True)
    (tmp_path / "dev/dri/renderD128").touch()
    (found,) = KFDDetector().detect(Context(Sysroot(tmp_path), {})).gpus
    assert (found.gfx, found.vram_bytes, found.integrated) == ("gfx1032", 8573157376, False)


def copy_of(machine: Sysroot, folder: Path, changes: Callable[[str], str]) -> Path:
    """Copy a machine with the GPU node's properties changed."""
    target = folder / "machine"
    shutil.copytree(machine.root, target)
    properties = target / "sys/class/kfd/kfd/topology/nodes/1/properties"
    properties.write_text(changes(properties.read_text()))
    return target


def detect(root: Path) -> tuple[GPU, ...]:
    return KFDDetector().detect(Context(Sysroot(root), {})).gpus


def test_memory_comes_from_the_banks_where_drm_says_nothing(
    machine: Callable[[str], Sysroot], tmp_path: Path
) -> None:
    root = copy_of(machine("rx-7900-xtx"), tmp_path, lambda text: text)
    (root / "sys/class/drm/renderD128/device/mem_info_vram_total").unlink()
    bank = root / "sys/class/kfd/kfd/topology/nodes/1/mem_banks/1"
    bank.mkdir()
    # Heap type 0 is the system's memory.
    (bank / "properties").write_text("heap_type 0\nsize_in_bytes 4096\n")
    assert detect(root)[0].vram_bytes == 25753026560


def test_nodes_count_in_the_order_of_their_numbers(machine: Callable[[str], Sysroot], tmp_path: Path) -> None:
    """ROCm counts node 2 before node 10; sorted as text it would be the other way round."""
    root = copy_of(machine("two-dgpus"), tmp_path, lambda text: text)
    nodes = root / "sys/class/kfd/kfd/topology/nodes"
    (nodes / "1").rename(nodes / "10")
    assert [gpu.gfx for gpu in detect(root)] == ["gfx1100", "gfx1102"]


def test_the_mi300a_is_an_apu_and_the_mi300x_is_not(
    machine: Callable[[str], Sysroot], tmp_path: Path
) -> None:
    assert not any(gpu.integrated for gpu in detect(Path(machine("mi300x").root)))
    root = copy_of(machine("strix-halo"), tmp_path, lambda text: text.replace("110501", "90402"))
    (root / "sys/class/drm/renderD128/device/device").write_text("0x74a0\n")
    properties = root / "sys/class/kfd/kfd/topology/nodes/1/properties"
    properties.write_text(properties.read_text().replace("device_id 5510", f"device_id {0x74A0}"))
    (gpu,) = detect(root)
    assert (gpu.gfx, gpu.integrated) == ("gfx942", True)


@pytest.mark.parametrize(("board_info", "integrated"), [(True, False), (False, True)])
def test_an_unknown_gfx_is_an_apu_where_only_cards_have_board_info(
    board_info: bool, integrated: bool, machine: Callable[[str], Sysroot], tmp_path: Path
) -> None:
    root = copy_of(machine("strix-halo"), tmp_path, lambda text: text.replace("110501", "130000"))
    if board_info:
        (root / "sys/class/drm/renderD128/device/board_info").write_text("type : cem\n")
    (gpu,) = detect(root)
    assert (gpu.gfx, gpu.gpu_type, gpu.integrated) == ("gfx1300", GPUType.UNKNOWN, integrated)


@pytest.mark.parametrize("text", ["-1", "-0x10", "", "many", "0x"])
def test_a_size_that_is_none_is_not_known(
    machine: Callable[[str], Sysroot], tmp_path: Path, text: str
) -> None:
    root = copy_of(machine("rx-7900-xtx"), tmp_path, lambda text: text)
    for name in ("mem_info_vram_total", "mem_info_gtt_total"):
        (root / "sys/class/drm/renderD128/device" / name).write_text(f"{text}\n")
    (gpu,) = detect(root)
    assert (gpu.vram_bytes, gpu.gtt_bytes) == (25753026560, 0)


def test_an_old_card_is_no_apu_on_a_kernel_that_knows_no_boards(
    machine: Callable[[str], Sysroot], tmp_path: Path
) -> None:
    """Linux 6.1 has no board_info, and maps half of 64 GiB: more than the eight of an RX 580."""
    root = tmp_path / "machine"
    shutil.copytree(machine("rx-580-without-kfd").root, root)
    device = root / "sys/class/drm/renderD128/device"
    (device / "board_info").unlink(missing_ok=True)
    (device / "mem_info_gtt_total").write_text(f"{32 << 30}\n")
    (gpu,) = detect(root)
    assert (gpu.gfx, gpu.integrated) == (None, False)
    assert usable_bytes(gpu, Sysroot(root)) == 8 << 30
    # An old APU (Carrizo) on the same kernel.
    (device / "device").write_text("0x9874\n")
    (device / "mem_info_vram_total").write_text(f"{512 << 20}\n")
    assert detect(root)[0].integrated
