"""The table of falling back in the real image: each row provoked at the start and while answering.

The GPU is a simulated one below AMD's real driver (see gpus.py), so the backends are the shipped binaries,
loading and failing as they do.
"""

from __future__ import annotations

from typing import Any

import pytest

from .gpus import Broken, Lavapipe
from .server import Serve, Server

MODEL = "/models/llama.gguf"
PROGRAM = "/usr/local/bin/llama-server-vulkan"
VULKAN, ROCM, CPU = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python"
SIGNALS = {"SEGV": 11, "ABRT": 6, "ILL": 4, "BUS": 7, "KILL": 9}
QUESTION = {"prompt": "Once upon a time", "max_tokens": 4, "temperature": 0}

# Takes memory until the kernel has killed somebody here for it. What it takes lies in files and is nobody's:
# if it were the eater's own, the kernel might choose the eater, and the backend would go on serving. A victim
# takes a moment to give back what it has, and the kernel may take a second one: that is then the eater, and
# it too has something to give back, for the third one would be the supervisor.
EATER = """
from amdserve.serve.procfs import oom_kills
open("/proc/self/oom_score_adj", "w").write("400")
before, own = oom_kills(), b"x" * (48 << 20)
with open("/dev/shm/hoard", "wb", buffering=0) as hoard:
    while oom_kills() == before:
        hoard.write(bytes(1 << 21))
"""


def failures(server: Server) -> list[tuple[str, str]]:
    return [(entry["backend"], entry["class"]) for entry in server.status()["history"]]


def start(serve: Serve, image: str, gpu: Any, *words: str, **environment: str) -> Server:
    return serve(image, "serve", MODEL, *words, **gpu(**environment))


def loading(server: Server) -> Server:
    """Wait until the first backend loads."""
    return server.until(lambda: server.status().get("state") == "loading", "a backend that loads", 60)


def fell_from_vulkan(server: Server, cls: str) -> dict[str, Any]:
    """Wait for the last resort, which must answer; give how Vulkan failed."""
    server.wait_for(CPU)
    # ROCm's turn came between: without a driver it sees no device.
    assert failures(server) == [(VULKAN, cls), (ROCM, "no-device")]
    assert server.post("/v1/completions", **QUESTION)["choices"][0]["text"]
    assert not [line for line in server.processes().values() if line.startswith(PROGRAM)]
    found: dict[str, Any] = server.status()["history"][0]
    return found


def ended(server: Server, code: int, cls: str) -> str:
    """Wait for the end; give what was said."""
    assert server.end(120) == code, server.logs()
    said = server.logs()
    assert f"{VULKAN} failed after" in said or cls == "port"
    assert f": {cls}: " in said or cls == "port"
    assert "next:" in said
    return said


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_while_it_answers(serve: Serve, faulty: str, broken_gpu: Broken, name: str) -> None:
    server = start(serve, faulty, broken_gpu).wait_for(VULKAN)
    server.kill(PROGRAM, name)
    assert fell_from_vulkan(server, "crash")["exit"] == -SIGNALS[name]


@pytest.mark.parametrize("name", ["SEGV", "KILL"])
def test_a_signal_while_it_loads(serve: Serve, faulty: str, broken_gpu: Broken, name: str) -> None:
    broken_gpu.fails("hang")
    server = loading(start(serve, faulty, broken_gpu))
    server.kill(PROGRAM, name)
    assert fell_from_vulkan(server, "crash")["exit"] == -SIGNALS[name]


def test_a_lost_device_at_the_start(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("lost")
    server = start(serve, faulty, broken_gpu)
    assert "DeviceLost" in fell_from_vulkan(server, "crash")["detail"]


def test_a_lost_device_in_the_self_test(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("lost")
    server = start(serve, faulty, broken_gpu, AMDSERVE_SELFTEST="true")
    assert "DeviceLost" in fell_from_vulkan(server, "crash")["detail"]


def test_a_lost_device_while_it_answers(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    """llama-server outlives it, its /health stays well, and no request is answered any more."""
    server = start(serve, faulty, broken_gpu).wait_for(VULKAN)
    broken_gpu.fails("lost")
    assert server.ask("/v1/completions", QUESTION)[0] != 200
    assert "lost" in fell_from_vulkan(server, "crash")["detail"].lower()


def test_a_gpu_that_hangs_while_it_loads(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("hang")
    server = start(serve, faulty, broken_gpu, "--load-stall", "3")
    assert "no progress" in fell_from_vulkan(server, "hang")["detail"]


def test_a_gpu_that_hangs_while_it_answers(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    server = start(serve, faulty, broken_gpu, "--serve-stall", "4").wait_for(VULKAN)
    broken_gpu.fails("hang")
    assert server.ask("/v1/completions", QUESTION)[0] != 200
    assert "no batch done" in fell_from_vulkan(server, "hang")["detail"]


def test_a_stopped_process_while_it_answers(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    server = start(serve, faulty, broken_gpu, "--probe-timeout", "3").wait_for(VULKAN)
    server.kill(PROGRAM, "STOP")
    assert "stopped" in fell_from_vulkan(server, "hang")["detail"]


def test_a_stopped_process_while_it_loads(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("hang")
    server = loading(start(serve, faulty, broken_gpu, "--load-stall", "5"))
    server.kill(PROGRAM, "STOP")
    assert "stopped" in fell_from_vulkan(server, "hang")["detail"]


def test_wrong_output(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    """The simulated GPU computes nothing: without the self-test it serves rubbish, fast."""
    server = start(serve, faulty, broken_gpu, AMDSERVE_SELFTEST="true")
    assert "the logits are off" in fell_from_vulkan(server, "wrong-output")["detail"]
    right = start(serve, faulty, broken_gpu, "--backend", CPU).wait_for(CPU)
    assert (
        server.post("/v1/completions", **QUESTION)["choices"]
        == right.post("/v1/completions", **QUESTION)["choices"]
    )


def test_wrong_output_where_nothing_else_may_serve(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    server = start(serve, faulty, broken_gpu, "--backend", VULKAN, AMDSERVE_SELFTEST="true")
    assert "every backend failed" in ended(server, 5, "wrong-output")


def test_no_vulkan_driver(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    gone = {"VK_DRIVER_FILES": "/nowhere.json", "VK_ICD_FILENAMES": "/nowhere.json"}
    fell_from_vulkan(start(serve, faulty, broken_gpu, **gone), "no-device")
    required = start(serve, faulty, broken_gpu, "--require-gpu", **gone)
    assert "a GPU is required" in ended(required, 4, "no-device")


def test_the_cpu_in_place_of_a_gpu_is_seen_before(
    serve: Serve, faulty: str, broken_gpu: Broken, lavapipe: Lavapipe
) -> None:
    """The only driver is one for the CPU: llama-server would pass it over, warn, and serve all the same."""
    hidden = lavapipe.alone()
    options = broken_gpu(**hidden["environment"])
    server = serve(faulty, "serve", MODEL, **{**options, "mounts": options["mounts"] + hidden["mounts"]})
    assert "list of devices is empty" in fell_from_vulkan(server, "no-device")["detail"]


def test_the_cpu_in_place_of_a_gpu_is_seen_after(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    """It lists the GPU and does not use it, though its log counts every layer as offloaded."""
    broken_gpu.fails("unused")
    server = start(serve, faulty, broken_gpu)
    assert "in silence" in fell_from_vulkan(server, "no-device")["detail"]
    assert "offloaded 3/3 layers to GPU" in server.logs()


def test_no_memory_on_the_gpu(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("full")
    assert "OutOfDeviceMemory" in ended(start(serve, faulty, broken_gpu), 6, "oom")


SMALL = {"mem_limit": "400m", "memswap_limit": "400m"}


def test_no_memory_in_the_container_at_the_start(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    """The context alone takes gigabytes; the kernel kills the backend, not its supervisor."""
    words = ["--backend", VULKAN, "--n-ctx", "4000000", "--", "--device", "none"]
    server = serve(faulty, "serve", MODEL, *words, **broken_gpu(), **SMALL)
    assert "--n-ctx" in ended(server, 6, "oom")


def test_no_memory_in_the_container_while_it_answers(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    options = {**broken_gpu(), **SMALL, "shm_size": "1g"}
    server = serve(faulty, "serve", MODEL, **options).wait_for(VULKAN)
    server.container.exec_run(["/opt/amdserve/bin/python", "-c", EATER], user="10001", detach=True)
    assert "killed for memory" in ended(server, 6, "oom")


def test_a_second_server_on_the_port(serve: Serve, faulty: str, broken_gpu: Broken) -> None:
    first = start(serve, faulty, broken_gpu, "--backend", CPU).wait_for(CPU)
    options = {**broken_gpu(), "network_mode": f"container:{first.name}", "ports": None}
    second = serve(faulty, "serve", MODEL, **options)
    assert "port 8080" in ended(second, 7, "port")
    assert first.ask("/health")[0] == 200


@pytest.mark.parametrize("words", [["--ctx-size", "nonsense"], ["--flash-attn", "perhaps"]])
def test_a_value_that_only_the_backend_refuses(
    serve: Serve, faulty: str, broken_gpu: Broken, words: list[str]
) -> None:
    server = start(serve, faulty, broken_gpu, "--backend", VULKAN, "--", *words)
    assert words[0] in ended(server, 2, "usage")


@pytest.mark.parametrize("program", [VULKAN, ROCM])
def test_what_f64_does_to_the_bare_server(run: Any, llama: str, program: str) -> None:
    """Why the header is read first: every backend would crash on it, one after the other."""
    code, _ = run(llama, "--model", "/models/f64.gguf", "--device", "none", entrypoint=[program])
    assert code in (128 + 11, 128 + 6)
    code, said = run(llama, "serve", "/models/f64.gguf", "--backend", program)
    assert (code, "f64" in said.lower(), "failed after" in said) == (3, True, False)
