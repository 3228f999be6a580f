"""What is selected and what is proven: lists of packages, without an index."""

from __future__ import annotations

import pytest

from amdserve.serve.vllm_install import Wrong, check, main, other_gpu, requirements, select

GOOD = """\
amd-torch-device-gfx110x==2.13.0+rocm10.0.0 \\
    --hash=sha256:aa
amd-torch-device-gfx1151==2.13.0+rocm10.0.0 \\
    --hash=sha256:bb \\
    --hash=sha256:cc
# a remark
rocm[libraries]==10.0.0
Torch==2.13.0+rocm10.0.0 ; python_version >= '3'
vllm==0.33.0+rocm100
"""


def test_a_resolved_list_is_read_with_its_hashes() -> None:
    found = list(requirements(GOOD))
    assert [(name, version.rstrip("\\").strip()) for name, version, _ in found] == [
        ("amd-torch-device-gfx110x", "2.13.0+rocm10.0.0"),
        ("amd-torch-device-gfx1151", "2.13.0+rocm10.0.0"),
        ("rocm", "10.0.0"),
        ("torch", "2.13.0+rocm10.0.0"),
        ("vllm", "0.33.0+rocm100"),
    ]
    assert found[1][2].count("--hash") == 2


@pytest.mark.parametrize(
    ("name", "gfx", "other"),
    [
        ("rocm-sdk-device-gfx1151", ["gfx1151"], False),
        ("rocm-sdk-device-gfx1150", ["gfx1151"], True),
        ("amd-torch-device-gfx110x", ["gfx1101"], False),
        ("amd-torch-device-gfx110x", ["gfx1151"], True),
        ("amd-torch-device-gfx11x", ["gfx1151"], True),
        ("amd-torchvision-device-gfx90a", ["gfx90a", "gfx942"], False),
        ("rocm-sdk-device-gfx9", ["gfx90a"], True),
        ("torch", ["gfx1151"], False),
    ],
)
def test_kernels_of_other_gpus(name: str, gfx: list[str], other: bool) -> None:
    assert other_gpu(name, gfx) == other


def test_nothing_but_kernels_of_other_gpus_is_left_out() -> None:
    kept, left_out = select(GOOD, ["gfx1151"])
    assert left_out == ["amd-torch-device-gfx110x"]
    assert "sha256:aa" not in kept
    for part in ("gfx1151", "sha256:bb", "sha256:cc", "rocm[libraries]==10.0.0", "vllm==0.33.0+rocm100"):
        assert part in kept


ROCM = {"vllm": "0.33.0+rocm100", "torch": "2.13.0+rocm10.0.0"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"vllm": "0.33.0"}, "not a ROCm build"),
        ({"vllm": "0.33.0+cu130"}, "not a ROCm build"),
        ({"torch": "2.13.0"}, "is PyPI's CUDA build"),
        ({"torch": "2.13.0+cu130"}, "a part of CUDA"),
        ({"nvidia-cublas-cu12": "12.9"}, "a part of CUDA"),
        ({"cuda-bindings": "13.0"}, "a part of CUDA"),
        ({"xformers": "0.1+cu130"}, "a part of CUDA"),
    ],
)
def test_cuda_is_refused(change: dict[str, str], word: str) -> None:
    with pytest.raises(Wrong, match=word):
        check({**ROCM, **change})


@pytest.mark.parametrize("missing", ["vllm", "torch"])
def test_what_must_be_there(missing: str) -> None:
    with pytest.raises(Wrong, match=f"{missing} is not among"):
        check({name: version for name, version in ROCM.items() if name != missing})


def test_rocm_with_nvidias_management_library_is_fine() -> None:
    check({**ROCM, "nvidia-ml-py": "13.0", "rocm": "10.0.0"})


def test_the_proof_of_an_environment_without_vllm(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prove", "0.33.0+rocm100", "--gfx", "gfx1151"]) == 1
    assert capsys.readouterr().err == "error: vllm is not among the packages\n"
