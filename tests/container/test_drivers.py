"""AMD's own Vulkan driver in the image, over a simulated GPU: what the image would find on real hardware."""

from __future__ import annotations

from typing import Any

import pytest

# The simulated device is put below the driver; driver and server are those of the product.
SHIM = "/usr/lib/x86_64-linux-gnu/libamdgpu_noop_drm_shim.so"


@pytest.mark.parametrize(
    ("gpu", "name"),
    [
        ("gfx1201", "AMD Radeon RX 9070 XT (RADV GFX1201)"),
        ("navi31", "RADV NAVI31"),
        ("phoenix", "RADV PHOENIX"),
        ("vega20", "RADV VEGA20"),
    ],
)
def test_radv_lists_the_gpu(run: Any, shimmed: str, gpu: str, name: str) -> None:
    environment = {"LD_PRELOAD": SHIM, "AMDGPU_GPU_ID": gpu}
    code, said = run(shimmed, "--list-devices", entrypoint=["llama-server-vulkan"], environment=environment)
    assert code == 0, said
    (line,) = [line for line in said.splitlines() if line.startswith("  Vulkan")]
    assert name in line


def test_the_driver_comes_without_llvm_and_does_not_need_it(run: Any, shimmed: str) -> None:
    look = "dpkg -S libvulkan_radeon.so; ls /usr/lib/x86_64-linux-gnu | grep -c libvulkan_; dpkg --audit"
    code, said = run(shimmed, "-c", look, entrypoint=["bash"])
    assert code == 0, said
    assert said.split() == ["amdserve-radv:", "/usr/lib/x86_64-linux-gnu/libvulkan_radeon.so", "1"]
    environment = {"LD_PRELOAD": SHIM, "AMDGPU_GPU_ID": "gfx1201", "RADV_DEBUG": "llvm"}
    words = ["-m", "/models/llama.gguf", "-p", "8", "-n", "0", "-r", "1"]
    code, said = run(shimmed, *words, entrypoint=["llama-bench"], environment=environment)
    assert code == 0, said
    assert "not supported in release builds" in said
    assert "| Vulkan " in said


def test_without_a_gpu_the_same_image_lists_none(run: Any, shimmed: str) -> None:
    code, said = run(shimmed, "--list-devices", entrypoint=["llama-server-vulkan"])
    assert code == 0, said
    assert "Vulkan0" not in said


@pytest.mark.parametrize(
    "program", ["llama-server", "llama-server-vulkan", "llama-server-rocm", "llama-bench"]
)
def test_programs_answer_for_any_user(run: Any, llama: str, program: str) -> None:
    code, said = run(llama, "--help", entrypoint=[program], user="12345", read_only=True, cap_drop=["ALL"])
    assert code == 0, said
    assert "--model" in said


def test_a_shell_as_toolbox_and_distrobox_open_it_has_the_programs(run: Any, llama: str) -> None:
    """They add what they need by the distribution's own package manager, and log in as the host's user."""
    programs = "llama-server llama-server-rocm llama-bench amdserve apt-get"
    words = f"command -v {programs} && llama-server --version"
    code, said = run(llama, "-lc", words, entrypoint=["bash"], user="1000")
    assert code == 0, said
    assert [line.rsplit("/", 1)[-1] for line in said.split()[-5:]] == programs.split()


def test_nothing_calls_the_solver_that_a_stub_stands_in_for(run: Any, llama: str) -> None:
    """hipBLAS has it for factorisations; llama.cpp asks for products and triangular solves alone."""
    look = "grep -aohE 'hipblas[SDCZ]?[A-Za-z]+' /opt/llama/rocm/libggml-hip.so | sort -u; dpkg --audit"
    code, said = run(llama, "-c", look, entrypoint=["bash"])
    assert code == 0, said
    called = said.split()
    assert "hipblasGemmEx" in called
    solving = ("getrf", "getri", "getrs", "geqrf", "gels")
    assert [name for name in called if any(word in name.lower() for word in solving)] == []


def test_rocm_says_cleanly_that_there_is_no_device(run: Any, llama: str) -> None:
    code, said = run(llama, "--list-devices", entrypoint=["llama-server-rocm"])
    assert code == 0, said
    assert "no ROCm-capable device" in said
    assert "ROCm0" not in said
