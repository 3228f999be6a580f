"""`amdserve bench` with the image's llama-bench: on a device that computes, one that does not, the CPU."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from docker.types import Mount

from amdserve.image.bench import command, launch
from amdserve.image.engine import Engine
from amdserve.image.local import Images
from amdserve.serve.bench import tool
from amdserve.serve.bench.grid import Grid, jobs
from amdserve.serve.bench.result import Result, load

from . import browser
from .gpus import Broken, Lavapipe, bind
from .server import Serve, document

Run = Callable[..., tuple[int, str]]
MODEL = "/models/llama.gguf"
VULKAN, ROCM, CPU = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python"
# One size of matrix tiles: lavapipe takes a minute to compile those for longer micro-batches.
SMALL = ("--prompts", "16,32", "--generate", "8", "--depths", "0,64", "--ubatch", "16,32", "--repeat", "2")
TESTS = 16
"""Of one backend over the grid `SMALL`."""


def result(said: str) -> Result:
    """Give the result that was said."""
    return Result.model_validate_json(json.dumps(document(said)))


def kept(place: Path, gpu: dict[str, Any], *more: Mount) -> dict[str, Any]:
    """Give the options of a container whose state is kept in a folder."""
    place.chmod(0o1777)
    return {**gpu, "mounts": [*gpu["mounts"], bind(place, "/var/lib/amdserve", read_only=False), *more]}


def test_every_flag_is_one_of_the_shipped_binaries(run: Run, llama: str) -> None:
    for folder in ("vulkan", "rocm"):
        _, text = run(llama, "--help", entrypoint=[f"/opt/llama/{folder}/llama-bench"])
        for device in ("gpu", "cpu"):
            what = tool.What("llama-bench", MODEL, device == "gpu", device, ("--load-mode", "none"), True)
            for job in jobs(Grid()):
                flags = [word for word in tool.argv(what, job, 3) if word.startswith("--")]
                missing = [flag for flag in flags if not re.search(rf"{flag}\b", text)]
                assert not missing, f"{folder}: {missing}"
        assert "jsonl" in text
        assert "--verbose" in text


def test_a_device_that_computes_and_the_cpu_are_measured(run: Run, llama: str, lavapipe: Lavapipe) -> None:
    code, said = run(llama, "bench", MODEL, *SMALL, "--json", **lavapipe())
    assert code == 0, said
    found = result(said)
    assert {one.backend: one.state for one in found.backends} == {VULKAN: "measured", CPU: "measured"}
    for name in (VULKAN, CPU):
        assert len([one for one in found.points if one.backend == name]) == TESTS
    assert not found.failures
    assert not found.left
    assert all(one.rate > 0 and len(one.samples) == 2 for one in found.points)
    assert "llvmpipe" in found.backends[0].device
    assert re.match(r"llvmpipe Mesa \d+", found.machine.vulkan or "")
    assert found.machine.rocm
    assert found.machine.kernel == os.uname().release
    assert sorted(found.order) == sorted((VULKAN, CPU))
    assert f"[{2 * TESTS}/{2 * TESTS}]" in said


def test_without_a_device_the_cpu_alone_is_measured(run: Run, llama: str) -> None:
    code, said = run(llama, "bench", MODEL, *SMALL, "--flash-attn", "off", "--json")
    assert code == 0, said
    found = result(said)
    assert [one.backend for one in found.backends] == [CPU]
    assert found.skipped[VULKAN]


def test_what_is_saved_is_served(
    run: Run, serve: Serve, llama: str, lavapipe: Lavapipe, tmp_path: Path
) -> None:
    options = kept(tmp_path, lavapipe())
    little = ("--prompts", "64", "--generate", "4", "--depths", "0", "--ubatch", "32,64", "--repeat", "1")
    code, said = run(llama, "bench", MODEL, *little, "--json", "--save", **options)
    assert code == 0, said
    best = result(said).chosen[0]
    server = serve(llama, "serve", MODEL, **options).wait()
    status = server.status()
    assert (status["backend"], status["history"]) == (best.backend, [])
    assert status["measured"]["order"][0] == best.backend
    assert f"starting {best.backend} on " in server.logs()
    assert f"flash attention {best.flash_attn}, micro-batch {best.n_ubatch}" in server.logs()
    line = next(one for one in server.processes().values() if f"--model {MODEL}" in one)
    assert re.search(rf"--(n-)?ubatch(-size)? {best.n_ubatch}\b", line), line
    server.stop()
    forgetful = serve(llama, "serve", MODEL, "--forget", **options).wait()
    assert "measured" not in forgetful.status()
    assert forgetful.status()["backend"] == VULKAN


def test_a_gpu_that_computes_nothing_is_not_the_fastest(run: Run, faulty: str, broken_gpu: Broken) -> None:
    code, said = run(faulty, "bench", MODEL, *SMALL, "--json", **broken_gpu())
    assert code == 0, said
    found = result(said)
    assert {(one.backend, one.cls) for one in found.failures} == {
        (VULKAN, "wrong-output"),
        (ROCM, "no-device"),
    }
    assert found.order == (CPU,)
    assert re.match(r"radv Mesa \d+", found.machine.vulkan or "")
    assert found.machine.gfx == "gfx1151"


@pytest.mark.parametrize(("fault", "cls"), [("lost", "crash"), ("full", "oom")])
def test_a_gpu_that_fails_is_a_result(
    run: Run, faulty: str, broken_gpu: Broken, fault: str, cls: str
) -> None:
    broken_gpu.fails(fault)
    words = (*SMALL, "--json", "--no-selftest", "--backend", f"{VULKAN},{CPU}")
    code, said = run(faulty, "bench", MODEL, *words, **broken_gpu())
    assert code == 0, said
    found = result(said)
    assert [(one.backend, one.cls) for one in found.failures][:1] == [(VULKAN, cls)], found.failures
    assert found.failures[0].words
    assert found.order == (CPU,)


def test_a_gpu_that_hangs_takes_its_share(run: Run, faulty: str, broken_gpu: Broken) -> None:
    broken_gpu.fails("hang")
    words = (*SMALL, "--json", "--no-selftest", "--backend", f"{VULKAN},{CPU}", "--budget", "45")
    code, said = run(faulty, "bench", MODEL, *words, **broken_gpu())
    assert code == 0, said
    found = result(said)
    assert (found.failures[0].backend, found.failures[0].cls) == (VULKAN, "hang")
    assert found.order == (CPU,)
    assert len(found.points) == TESTS, "what hangs waits behind what answers"


def test_a_bad_model_is_told_before_anything_is_measured(run: Run, llama: str) -> None:
    code, said = run(llama, "bench", "/models/truncated.gguf")
    assert code == 3
    assert "is truncated" in said


def test_an_embedding_model_is_measured_on_the_cpu(run: Run, llama: str) -> None:
    code, said = run(llama, "bench", "/models/bert.gguf", *SMALL, "--json")
    assert code == 0, said
    found = result(said)
    assert {one.kind for one in found.points} == {"prefill"}
    assert found.order == (VULKAN,), "its server, with --device none"


def test_invoke_bench_brings_table_page_and_plot(
    engine: Engine, llama: str, model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = dict(zip(("prompts", "generate", "depths", "ubatch", "repeat"), SMALL[1::2], strict=True))
    made = launch.prepare(
        Images(engine), ("llama",), str(model_folder / "llama.gguf"), image=llama, gfx=(), more=more
    )
    assert command.measure(made, engine, tmp_path, "", as_json=False) == 0
    (folder,) = (tmp_path / "build/bench").iterdir()
    found = load(folder)
    assert found.image.digest == Images(engine).find(llama).id  # type: ignore[union-attr]
    assert len(found.points) == TESTS
    out, err = capsys.readouterr()
    assert out.count(" generation ") >= 4
    assert f"[{TESTS}/{TESTS}]" in err
    assert (folder / "plot.png").read_bytes().startswith(b"\x89PNG")
    command.compare(f"{folder},{folder}", as_json=True)
    assert {one["ratio"] for one in json.loads(capsys.readouterr().out)["points"]} == {1.0}
    program = browser.find()
    if program is None:
        pytest.skip(f"no browser is here (looked for {', '.join(browser.NAMES)})")
    _look(program, folder / "report.html", tmp_path)


def _look(program: str, page_file: Path, place: Path) -> None:
    """Open the page from the disk, in light and dark."""
    with browser.page(program, page_file.as_uri(), place) as page:
        page.until("!!document.querySelector('svg rect')")
        assert page.ask("document.querySelectorAll('svg rect').length") == 4 + 2
        assert page.ask("performance.getEntriesByType('resource').length") == 0
        assert page.ask("document.documentElement.scrollWidth <= window.innerWidth")
        colours = set()
        for scheme in ("light", "dark"):
            page.send(
                "Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}]
            )
            colours.add(page.ask("getComputedStyle(document.body).backgroundColor"))
        assert len(colours) == 2
