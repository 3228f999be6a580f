"""amdsmi, NVML and torch in a child process: fakes that behave like the real ones, their errors included."""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import pytest

from amdserve.gpu import AMDSMIDetector, GPUType, NVMLDetector, Sysroot, TorchCudaDetector, TorchROCmDetector
from amdserve.gpu.child import Answer, ChildProbe, Probe
from amdserve.gpu.detector import Context
from amdserve.gpu.models import Finding
from amdserve.gpu.torch_child import TorchProbe

# The shape of PyPI's amdsmi 7.0.2: it prints, and a missing library is a KeyError.
AMDSMI_WITHOUT_ROCM = """
import ctypes
_libraries = {}
try:
    _libraries["libamd_smi.so"] = ctypes.CDLL("libamd_smi.so.that.is.not.here")
except OSError as error:
    print(error)
    print("Unable to find libamd_smi.so library try installing amd-smi-lib from your package manager")
free = _libraries["libamd_smi.so"].amdsmi_free_name_value_pairs
"""

AMDSMI = """
import enum
import os
os.write(1, b"amdsmi says hello, and ends no line")
class AmdSmiMemoryType(enum.IntEnum):
    VRAM = 0
    VIS_VRAM = 1
    GTT = 2
class AmdSmiLibraryException(Exception):
    def __init__(self, code):
        super().__init__(f"Error code:\\n\\t{code} | AMDSMI_STATUS_DRIVER_NOT_LOADED")
        self.code = code
    def get_error_code(self):
        return self.code
def amdsmi_init(flag=None):
    if INIT_ERROR:
        raise AmdSmiLibraryException(INIT_ERROR)
def amdsmi_shut_down():
    raise AmdSmiLibraryException(1)
def amdsmi_get_processor_handles():
    return list(range(len(DEVICES)))
def amdsmi_get_gpu_asic_info(handle):
    return DEVICES[handle]["asic"]
def amdsmi_get_gpu_enumeration_info(handle):
    if "minor" not in DEVICES[handle]:
        raise AmdSmiLibraryException(2)
    return {"drm_render": DEVICES[handle]["minor"], "drm_card": 0, "hsa_id": 1, "hip_id": 0, "hip_uuid": "x"}
def amdsmi_get_gpu_driver_info(handle):
    return {"driver_name": "amdgpu", "driver_version": "6.16.6", "driver_date": "N/A"}
def amdsmi_get_gpu_memory_total(handle, kind):
    return DEVICES[handle]["memory"][int(kind)]
def amdsmi_get_gpu_device_bdf(handle):
    return DEVICES[handle]["bdf"]
"""


def asic(name: str, gfx: str, cus: object) -> dict[str, object]:
    return {
        "market_name": name,
        "target_graphics_version": gfx,
        "num_compute_units": cus,
        "asic_serial": "0x0",
    }


def fake(folder: Path, module: str, text: str) -> ChildProbe:
    (folder / f"{module}.py").write_text(textwrap.dedent(text))
    return ChildProbe({"pynvml": "nvml"}.get(module, module), 20.0, (str(folder),))


def amdsmi(folder: Path, devices: Sequence[Mapping[str, object]], init_error: int = 0) -> ChildProbe:
    return fake(folder, "amdsmi", f"DEVICES = {devices!r}\nINIT_ERROR = {init_error}\n{AMDSMI}")


def ask(
    detector: AMDSMIDetector | NVMLDetector | TorchROCmDetector | TorchCudaDetector, sysroot: Sysroot
) -> Finding:
    return detector.detect(Context(sysroot, dict(os.environ)))


Machine = Callable[[str], Sysroot]


def test_amdsmi_without_rocm_is_unavailable_and_silent(
    tmp_path: Path, machine: Machine, capfd: pytest.CaptureFixture[str]
) -> None:
    finding = ask(AMDSMIDetector(fake(tmp_path, "amdsmi", AMDSMI_WITHOUT_ROCM)), machine("no-gpu"))
    assert finding.outcome == "unavailable"
    assert "libamd_smi.so" in finding.reason
    assert capfd.readouterr().out == ""


def test_amdsmi_of_another_version_is_an_error(tmp_path: Path, machine: Machine) -> None:
    text = "raise AttributeError('undefined symbol: amdsmi_get_gpu_new_thing')"
    finding = ask(AMDSMIDetector(fake(tmp_path, "amdsmi", text)), machine("no-gpu"))
    assert finding.outcome == "error"
    assert "versions" in finding.reason


@pytest.mark.parametrize(("code", "outcome"), [(34, "unavailable"), (10, "error")])
def test_amdsmi_that_does_not_start(tmp_path: Path, machine: Machine, code: int, outcome: str) -> None:
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, [], code)), machine("no-gpu"))
    assert finding.outcome == outcome


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import os; os.abort()", "SIGABRT"),
        ("import ctypes; ctypes.string_at(0)", "SIGSEGV"),
        ("raise SystemExit(5)", "SystemExit"),
        ("import os; os._exit(9)", "no readable answer"),
        ("import os; os.write(1, b'{\"outcome\": 1}'); os._exit(0)", "no readable answer"),
    ],
)
def test_what_the_library_does_in_its_child_stays_there(
    tmp_path: Path, machine: Machine, text: str, words: str
) -> None:
    finding = ask(AMDSMIDetector(fake(tmp_path, "amdsmi", text)), machine("no-gpu"))
    assert finding.outcome == "error"
    assert words in finding.reason


def test_a_library_that_hangs_is_killed(tmp_path: Path, machine: Machine) -> None:
    (tmp_path / "amdsmi.py").write_text("import time; time.sleep(60)")
    finding = ask(AMDSMIDetector(ChildProbe("amdsmi", 0.5, (str(tmp_path),))), machine("no-gpu"))
    assert finding.outcome == "error"
    assert "0.5 s" in finding.reason


def test_amdsmi_is_completed_from_the_kernel(tmp_path: Path, machine: Machine) -> None:
    """Strix Halo: no PCI address, no render node, and as VRAM only the carve-out."""
    device: dict[str, object] = {
        "asic": asic("AMD Radeon Graphics", "gfx1151", 40),
        "memory": [536870912, 0, 0],
        "bdf": "0000:00:00.0",
    }
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, [device])), machine("strix-halo"))
    (gpu,) = finding.gpus
    assert finding.outcome == "found"
    assert (gpu.name, gpu.gfx, gpu.gpu_type) == ("AMD Radeon Graphics", "gfx1151", GPUType.AMD_RDNA)
    assert (gpu.pci, gpu.render_node) == ("0000:c5:00.0", "/dev/dri/renderD128")
    assert (gpu.integrated, gpu.gtt_bytes, gpu.compute_units) == (True, 120 << 30, 40)
    assert gpu.driver == "amdgpu 6.16.6"


def test_amdsmi_devices_are_matched_by_render_node_and_by_address(tmp_path: Path, machine: Machine) -> None:
    """The library may list them in another order than the kernel."""
    devices: list[dict[str, object]] = [
        {
            "asic": asic("The small one", "gfx1036", 2),
            "memory": [1, 1, 1],
            "bdf": "0000:11:00.0",
            "minor": 128,
        },
        {"asic": asic("The card", "gfx1100", 84), "memory": [1, 1, 1], "bdf": "0000:03:00.0"},
    ]
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, devices)), machine("apu-and-dgpu"))
    assert [(gpu.index, gpu.name, gpu.gfx) for gpu in finding.gpus] == [
        (0, "The card", "gfx1100"),
        (1, "The small one", "gfx1036"),
    ]
    assert finding.gpus[0].vram_bytes == 21458059264


def test_amdsmi_without_addresses_is_matched_by_render_node(tmp_path: Path, machine: Machine) -> None:
    devices: list[dict[str, object]] = [
        {"asic": asic("The small one", "N/A", 2), "memory": [1, 1, 1], "bdf": "0000:00:00.0", "minor": 128},
        {"asic": asic("The card", "N/A", 84), "memory": [1, 1, 1], "bdf": "0000:00:00.0", "minor": 129},
    ]
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, devices)), machine("apu-and-dgpu"))
    assert [gpu.name for gpu in finding.gpus] == ["The card", "The small one"]
    alone = ask(AMDSMIDetector(amdsmi(tmp_path, devices)), machine("no-gpu"))
    assert [gpu.pci for gpu in alone.gpus] == [None, None]


def test_amdsmi_that_lists_fewer_devices_names_none_by_guess(tmp_path: Path, machine: Machine) -> None:
    device: dict[str, object] = {"asic": asic("Which?", "N/A", 1), "memory": [1, 1, 1], "bdf": "0000:00:00.0"}
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, [device])), machine("two-dgpus"))
    assert [gpu.name for gpu in finding.gpus] == ["AMD Radeon RX 7600", "AMD Radeon RX 7900 XTX"]


def test_amdsmi_sees_a_gpu_that_was_not_given_to_the_container(tmp_path: Path, machine: Machine) -> None:
    device = {"asic": asic("X", "gfx1100", 96), "memory": [1, 1, 1], "bdf": "0000:03:00.0"}
    finding = ask(AMDSMIDetector(amdsmi(tmp_path, [device])), machine("not-passed-in"))
    assert finding.outcome == "none"
    assert "--device /dev/dri" in finding.reason


def test_amdsmi_alone_where_sysfs_says_nothing(tmp_path: Path, machine: Machine) -> None:
    device: dict[str, object] = {
        "asic": asic("N/A", "gfx942", "N/A"),
        "memory": [206141652992, 0, 0],
        "bdf": "0000:05:00.0",
        "minor": 128,
    }
    (gpu,) = ask(AMDSMIDetector(amdsmi(tmp_path, [device])), machine("no-gpu")).gpus
    assert (gpu.pci, gpu.render_node) == ("0000:05:00.0", "/dev/dri/renderD128")
    assert (gpu.name, gpu.gpu_type, gpu.vram_bytes, gpu.compute_units) == (
        "AMD GPU",
        GPUType.AMD_CDNA,
        206141652992,
        0,
    )


@pytest.mark.skipif(find_spec("amdsmi") is None, reason="PyPI's amdsmi is not installed")
@pytest.mark.skipif(Path("/opt/rocm").exists(), reason="ROCm is installed here")
def test_the_real_wheel_on_a_machine_without_rocm(
    capfd: pytest.CaptureFixture[str], machine: Machine
) -> None:
    finding = ask(AMDSMIDetector(ChildProbe("amdsmi", 30.0)), machine("no-gpu"))
    assert finding.outcome == "unavailable"
    assert "libamd_smi.so" in finding.reason
    assert capfd.readouterr().out == ""


def test_without_a_driver_no_child_is_started(tmp_path: Path) -> None:
    """The gates are what keeps a machine without a GPU fast."""
    empty = Sysroot(tmp_path)
    assert ask(NVMLDetector(), empty).outcome == "unavailable"
    assert ask(AMDSMIDetector(), empty).outcome == "skipped"


NVML = """
print("NVML prints")
class NVMLError(Exception):
    pass
class Memory:
    total = 85520809984
class Pci:
    busId = b"00000000:65:00.0"
def nvmlInit():
    {init}
def nvmlShutdown():
    raise NVMLError("Uninitialized")
def nvmlSystemGetDriverVersion():
    return b"580.159.04"
def nvmlDeviceGetCount():
    return {count}
def nvmlDeviceGetHandleByIndex(index):
    return index
def nvmlDeviceGetName(handle):
    return "NVIDIA H100 80GB HBM3"
def nvmlDeviceGetMemoryInfo(handle):
    {memory}
def nvmlDeviceGetPciInfo(handle):
    return Pci()
"""


def nvml(folder: Path, init: str = "pass", count: int = 1, memory: str = "return Memory()") -> NVMLDetector:
    return NVMLDetector(fake(folder, "pynvml", NVML.format(init=init, count=count, memory=memory)))


def test_nvml_finds_a_gpu(tmp_path: Path, machine: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    finding = ask(nvml(tmp_path), machine("nvidia-only"))
    (gpu,) = finding.gpus
    assert (gpu.vendor, gpu.gpu_type, gpu.name) == ("nvidia", GPUType.NVIDIA, "NVIDIA H100 80GB HBM3")
    assert (gpu.vram_bytes, gpu.pci, gpu.gfx, gpu.driver) == (
        85520809984,
        "0000:65:00.0",
        None,
        "nvidia 580.159.04",
    )
    assert capfd.readouterr().out == ""


def test_nvml_needs_a_real_init_and_a_count(tmp_path: Path, machine: Machine) -> None:
    refused = ask(nvml(tmp_path, init="raise NVMLError('Driver Not Loaded')"), machine("nvidia-only"))
    assert refused.outcome == "unavailable"
    assert "Driver Not Loaded" in refused.reason
    assert ask(nvml(tmp_path, count=0), machine("nvidia-only")).outcome == "none"


def test_nvml_without_one_fact_still_finds_the_device(tmp_path: Path, machine: Machine) -> None:
    finding = ask(nvml(tmp_path, memory="raise NVMLError('Not Supported')"), machine("nvidia-only"))
    assert finding.outcome == "found"
    assert finding.gpus[0].vram_bytes == 0


TORCH = """
import os
__version__ = "2.11.0"
class version:
    hip = {hip!r}
    cuda = {cuda!r}
class Facts:
    name = "The device"
    multi_processor_count = 20
    total_memory = 1234
    gcnArchName = "gfx90a:sramecc+:xnack-"
    pci_domain_id, pci_bus_id, pci_device_id = 0, 0x65, 0
class cuda:
    is_available = staticmethod(lambda: {count} > 0)
    device_count = staticmethod(lambda: {count})
    get_device_properties = staticmethod(lambda index: Facts())
"""


def torch(folder: Path, hip: str | None, cuda: str | None, count: int = 1) -> TorchProbe:
    return TorchProbe(fake(folder, "torch", TORCH.format(hip=hip, cuda=cuda, count=count)))


def test_torch_for_rocm(tmp_path: Path, machine: Machine) -> None:
    probe = torch(tmp_path, "7.2", None)
    (gpu,) = ask(TorchROCmDetector(probe), machine("no-gpu")).gpus
    assert (gpu.vendor, gpu.gfx, gpu.gpu_type, gpu.pci) == ("amd", "gfx90a", GPUType.AMD_CDNA, "0000:65:00.0")
    assert ask(TorchCudaDetector(probe), machine("no-gpu")).outcome == "none"


def test_torch_for_cuda(tmp_path: Path, machine: Machine) -> None:
    probe = torch(tmp_path, None, "13.0")
    assert ask(TorchROCmDetector(probe), machine("no-gpu")).outcome == "none"
    (gpu,) = ask(TorchCudaDetector(probe), machine("no-gpu")).gpus
    assert (gpu.vendor, gpu.gfx, gpu.vram_bytes) == ("nvidia", None, 1234)


def test_torch_that_sees_nothing(tmp_path: Path, machine: Machine) -> None:
    assert ask(TorchROCmDetector(torch(tmp_path, "7.2", None, 0)), machine("no-gpu")).outcome == "none"


def test_torch_is_asked_once_for_both_detectors(machine: Machine) -> None:
    asked: list[Mapping[str, str]] = []

    def probe(environ: Mapping[str, str]) -> Answer:
        asked.append(environ)
        return Answer("none", "sees nothing")

    shared = TorchProbe(probe)
    ask(TorchROCmDetector(shared), machine("no-gpu"))
    ask(TorchCudaDetector(shared), machine("no-gpu"))
    assert len(asked) == 1


def test_a_torch_that_was_built_for_neither_is_not_even_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "torch"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (package / "version.py").write_text(
        "__version__ = '2.13.0'\ncuda: Optional[str] = None\nhip: Optional[str] = None\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    for detector in (TorchROCmDetector(), TorchCudaDetector()):
        finding = ask(detector, Sysroot("/"))
        assert finding.outcome == "unavailable"
        assert "not built for" in finding.reason
    assert "torch" not in sys.modules


def test_children_inherit_what_the_user_made_visible(tmp_path: Path, machine: Machine) -> None:
    names = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    text = f"""
    import json, os
    raise RuntimeError(json.dumps({{name: os.environ.get(name) for name in {names!r}}}))
    """
    probe: Probe = fake(tmp_path, "amdsmi", text)
    environ = {**os.environ, **{name: str(index) for index, name in enumerate(names)}}
    finding = AMDSMIDetector(probe).detect(Context(machine("no-gpu"), environ))
    seen = json.loads(finding.reason.partition(": ")[2])
    assert seen == {name: str(index) for index, name in enumerate(names)}
