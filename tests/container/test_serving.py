"""A container of the image answers: streamed, right, and again after its backend died."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from .gpus import Lavapipe
from .server import Serve, Server

MODEL = "/models/llama.gguf"
QUESTION: list[Any] = [{"role": "user", "content": "Who are you, and what is 1 + 2?"}]
PROMPT = "Once upon a time"
# llama-cpp-python's server punishes words that it has said; llama.cpp's does not unless it is asked to.
PLAIN = {"repeat_penalty": 1.0}
VULKAN, ROCM, CPU = "/opt/llama/vulkan/", "/opt/llama/rocm/", "/opt/amdserve/bin/python"


@pytest.fixture(scope="module")
def on_vulkan(serve_module: Serve, llama: str, lavapipe: Lavapipe) -> Server:
    """The product with the one change that there is a Vulkan device: the entrypoint serves on it."""
    return serve_module(llama, "serve", MODEL, **lavapipe()).wait_for("llama-server-vulkan")


@pytest.fixture(scope="module")
def on_cpu(serve_module: Serve, llama: str) -> Server:
    """The same server program with no device: what right is."""
    argv = ["--model", MODEL, "--device", "none", "--host", "0.0.0.0", "--port", "8080", "--ctx-size", "8192"]
    return serve_module(llama, *argv, entrypoint=["llama-server-vulkan"]).wait()


@pytest.fixture(scope="module")
def on_python(serve_module: Serve, llama: str) -> Server:
    """The last resort: no device at all, through the entrypoint."""
    return serve_module(llama, "serve", MODEL).wait_for("llama-cpp-python")


def chat(server: Server, limit: int = 32, **more: object) -> str:
    client = server.openai
    model = client.models.list().data[0].id
    answer = client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=limit, temperature=0, seed=1, extra_body={**PLAIN, **more}
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == limit
    return answer.choices[0].message.content or ""


def streamed(server: Server, limit: int = 32, **more: object) -> list[str]:
    client = server.openai
    model = client.models.list().data[0].id
    pieces = client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=limit,
        temperature=0,
        seed=1,
        stream=True,
        extra_body={**PLAIN, **more},
    )
    return [
        piece.choices[0].delta.content for piece in pieces if piece.choices and piece.choices[0].delta.content
    ]


def test_it_serves_on_the_vulkan_device(on_vulkan: Server) -> None:
    status = on_vulkan.status()
    assert status["state"] == "ready"
    assert status["backend"] == "llama-server-vulkan"
    assert status["history"] == []
    assert re.search(r"offloaded \d+/\d+ layers to GPU", on_vulkan.logs())
    assert "llvmpipe" in on_vulkan.logs()


def test_no_prompt_is_read_back_from_the_device_number_by_number(on_vulkan: Server) -> None:
    """On a real GPU that takes minutes, with flash attention off; this device is too near to show it."""
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: chat(on_vulkan, 4), range(4)))
    assert chat(on_vulkan, 4)
    assert "prompt cache is disabled" in on_vulkan.logs()
    assert "saving idle slot" not in on_vulkan.logs()


def test_the_openai_client_gets_a_streamed_answer(on_vulkan: Server) -> None:
    # Without what a slot still holds of clients that came at once: that was rounded otherwise.
    pieces = streamed(on_vulkan, cache_prompt=False)
    assert len(pieces) > 16
    assert "".join(pieces) == chat(on_vulkan, cache_prompt=False)
    assert re.fullmatch(r"( [a-z]{4})+", "".join(pieces)), "no words of the model's own vocabulary"


def test_greedy_tokens_equal_the_cpus(on_vulkan: Server, on_cpu: Server) -> None:
    body = {"prompt": PROMPT, "n_predict": 64, "temperature": 0, "seed": 1, "return_tokens": True}
    fast, right = (server.post("/completion", **body)["tokens"] for server in (on_vulkan, on_cpu))
    assert len(right) == 64
    assert len(set(right)) > 16, "an answer that hardly changes proves little"
    assert fast == right
    # What a slot still holds of clients that came at once was computed in other batches: rounded otherwise.
    assert chat(on_vulkan, cache_prompt=False) == chat(on_cpu, cache_prompt=False)


def test_who_wants_no_device_gets_the_cpu(
    serve_module: Serve, llama: str, lavapipe: Lavapipe, on_cpu: Server
) -> None:
    """With a device in sight, and asked for in llama-server's own words."""
    words = ("serve", MODEL, "--", "--device", "none")
    server = serve_module(llama, *words, **lavapipe()).wait_for("llama-server-vulkan")
    told = server.status()
    assert (told["device"], told["history"]) == ("CPU", [])
    assert "llvmpipe" not in server.logs()
    assert chat(server) == chat(on_cpu, cache_prompt=False)


def test_the_docker_health_check_holds(on_vulkan: Server) -> None:
    def healthy() -> bool:
        on_vulkan.container.reload()
        return bool(on_vulkan.container.attrs["State"]["Health"]["Status"] == "healthy")

    on_vulkan.until(healthy, "healthy by Docker's own check", 60)


def test_the_server_is_nobody_in_particular(on_vulkan: Server) -> None:
    numbers = [
        number
        for number, line in on_vulkan.processes().items()
        if line.startswith(VULKAN) or "llama-server" in line.split()[0]
    ]
    assert numbers
    script = "; ".join(f"cat /proc/{number}/status" for number in numbers)
    code, text = on_vulkan.exec("/bin/bash", "-c", script, user="0")
    assert code == 0
    assert set(re.findall(r"^Uid:\t(.*)$", text, re.MULTILINE)) == {"10001\t10001\t10001\t10001"}
    assert set(re.findall(r"^Cap(?:Eff|Prm|Bnd):\t(.*)$", text, re.MULTILINE)) == {"0" * 16}


def test_the_last_resort_is_llama_cpp_python(on_python: Server) -> None:
    status = on_python.status()
    assert (status["state"], status["backend"]) == ("ready", "llama-cpp-python")
    assert any(line.startswith(CPU) and "cpu_server" in line for line in on_python.processes().values())


def test_the_last_resort_speaks_openai(on_python: Server) -> None:
    pieces = streamed(on_python)
    assert len(pieces) > 16
    assert "".join(pieces).strip() == chat(on_python).strip()


def test_the_last_resort_computes_the_same(on_python: Server, on_cpu: Server) -> None:
    texts = []
    for server in (on_python, on_cpu):
        client = server.openai
        model = client.models.list().data[0].id
        answer = client.completions.create(
            model=model, prompt=PROMPT, max_tokens=24, temperature=0, seed=1, extra_body=PLAIN
        )
        texts.append(answer.choices[0].text.split())
    assert texts[0] == texts[1]
    assert len(texts[0]) > 16


def embeddings(server: Server, dimensions: int) -> list[list[float]]:
    """Ask as users do, by the client's default encoding (base64) and as numbers."""
    client, words = server.openai, ["hello world", "a different text"]
    model = client.models.list().data[0].id
    plain = client.embeddings.create(model=model, input=words, encoding_format="float")
    packed = client.embeddings.create(model=model, input=words)
    vectors = [item.embedding for item in plain.data]
    assert [item.index for item in plain.data] == [0, 1]
    for one, other in zip(vectors, packed.data, strict=True):
        assert len(one) == dimensions
        assert one == pytest.approx(other.embedding, abs=1e-5)
        assert sum(value * value for value in one) == pytest.approx(1, abs=1e-3)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    return vectors


def test_embeddings_come_from_the_cpu_in_openais_shape(serve: Serve, llama: str) -> None:
    first = serve(llama, "serve", "/models/bert.gguf").wait_for("llama-server-vulkan")
    right = embeddings(first, 128)
    last = serve(llama, "serve", "/models/bert.gguf", "--backend", "llama-cpp-python")
    last.wait_for("llama-cpp-python")
    for one, other in zip(right, embeddings(last, 128), strict=True):
        assert one == pytest.approx(other, abs=1e-3)


def test_a_backend_that_is_killed_is_followed_by_the_next(
    serve: Serve, llama: str, lavapipe: Lavapipe
) -> None:
    server = serve(llama, "serve", MODEL, **lavapipe(AMDSERVE_SELFTEST="false")).wait_for(
        "llama-server-vulkan"
    )
    before, url = chat(server, 8), server.url
    killed = server.kill(
        next(line.split()[0] for line in server.processes().values() if "llama-server" in line.split()[0])
    )
    server.wait_for("llama-cpp-python")
    assert server.url == url
    assert chat(server, 8).strip() == before.strip()
    assert killed not in server.processes()
    (failure,) = server.status()["history"]
    assert (failure["backend"], failure["class"]) == ("llama-server-vulkan", "crash")
    assert "llama-server-vulkan failed after" in server.logs()


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("missing.gguf", "missing.gguf"),
        ("empty.gguf", "empty"),
        ("truncated.gguf", "truncated"),
        ("page.gguf", "GGUF"),
        ("abacus.gguf", "abacus"),
        ("future.gguf", "99"),
        ("f64.gguf", "f64.gguf"),
    ],
)
def test_a_model_that_cannot_be_served_ends_with_3(
    run: Any, llama: str, lavapipe: Lavapipe, name: str, word: str
) -> None:
    code, said = run(llama, "serve", f"/models/{name}", **lavapipe())
    assert code == 3, said
    assert word in said
    assert "next:" in said


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--no-such-option"], 2),
        (["--n-ctx", "many"], 2),
        (["--backend", "vllm"], 2),
        (["--require-gpu"], 4),
        (["--", "--no-such-flag-of-the-backend"], 2),
    ],
)
def test_what_cannot_be_done_ends_with_its_own_code(
    run: Any, llama: str, words: list[str], code: int
) -> None:
    found, said = run(llama, "serve", MODEL, *words)
    assert found == code, said
    assert "error:" in said


@pytest.mark.parametrize("backend", ["llama-server-vulkan", "llama-cpp-python"])
def test_docker_stop_ends_it_cleanly(serve: Serve, llama: str, lavapipe: Lavapipe, backend: str) -> None:
    options = lavapipe(AMDSERVE_SELFTEST="false", AMDSERVE_BACKEND=backend)
    server = serve(llama, "serve", MODEL, **options).wait_for(backend)
    assert server.stop() == 0, server.logs()


def test_stopping_while_it_loads_is_no_error(serve: Serve, llama: str, lavapipe: Lavapipe) -> None:
    server = serve(llama, "serve", MODEL, **lavapipe())
    server.until(lambda: server.status().get("state") in ("starting", "loading", "ready"), "a status", 60)
    assert server.stop() == 0, server.logs()


def test_the_image_for_any_gpu_serves_too(serve: Serve, vulkan: str, lavapipe: Lavapipe) -> None:
    server = serve(vulkan, "serve", MODEL, **lavapipe()).wait_for("llama-server-vulkan")
    assert chat(server, 8)


@pytest.mark.parametrize("backend", ["llama-server-vulkan", "llama-cpp-python"])
def test_a_stop_lets_an_answer_end(serve: Serve, llama: str, lavapipe: Lavapipe, backend: str) -> None:
    options = lavapipe(AMDSERVE_SELFTEST="false", AMDSERVE_BACKEND=backend)
    server = serve(llama, "serve", MODEL, "--drain", "120", **options).wait_for(backend)
    limit = 300
    pieces = server.openai.completions.create(
        model=server.openai.models.list().data[0].id,
        prompt=PROMPT,
        max_tokens=limit,
        temperature=0,
        stream=True,
    )
    said = [next(pieces)]
    server.container.kill("SIGTERM")
    said += list(pieces)
    assert sum(bool(piece.choices and piece.choices[0].text) for piece in said) > limit / 2
    assert said[-1].choices[0].finish_reason == "length"
    assert server.end(120) == 0, server.logs()
