"""What an exit means, what follows, and whether silence is a hang: the pure halves of supervision."""

from __future__ import annotations

import signal
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amdserve.serve.classify import SERVED_WELL, Failure, classify, decide
from amdserve.serve.devices import parse, pick
from amdserve.serve.procfs import Sample
from amdserve.serve.vllm_words import say
from amdserve.serve.watch import LoadWatch, ServeWatch

MIB = 1 << 20


def judge(code: int, lines: Sequence[str] = (), *, ready: bool = False, oom: bool | None = False) -> Failure:
    return classify(code, list(lines), seconds=1.0, ready=ready, oom_killed=oom)


@pytest.mark.parametrize(
    ("code", "line", "expected"),
    [
        (1, "error: invalid argument: --mlock", "usage"),
        (1, 'error while handling argument "--port": stoi', "usage"),
        (1, 'error while handling environment variable "LLAMA_ARG_CTX_SIZE": stoi', "usage"),
        (1, "vllm: error: unrecognized arguments: --x", "usage"),
        (1, "gguf_init_from_file: invalid magic characters: '<htm', expected 'GGUF'", "model"),
        (1, "llama_model_load: error loading model: unknown model architecture: 'x'", "model"),
        (1, "llama_model_load: error loading model hyperparameters: key not found", "model"),
        (1, "srv load_model: failed to load model, '/m.gguf'", "model"),
        (3, "cpu_server: failed to load model: Failed to load model from file: /m", "model"),
        (1, "llama_model_load: error loading model: unable to allocate Vulkan0 buffer", "oom"),
        (1, "ggml_gallocr_reserve_n: failed to allocate ROCm0 buffer of size 123", "oom"),
        (1, "llama_init_from_model: failed to initialize: failed to allocate buffer for kv cache", "oom"),
        (-6, "what():  vk::Device::allocateMemory: ErrorOutOfDeviceMemory", "oom"),
        (-6, "ROCm error: out of memory", "oom"),
        (-6, "terminate called: std::bad_alloc", "oom"),
        (-11, "warning: failed to mlock 1941504-byte buffer: Cannot allocate memory", "crash"),
        (-6, "vk::Queue::submit: ErrorDeviceLost", "crash"),
        (-6, "rocBLAS error: Cannot read TensileLibrary.dat", "crash"),
        (-6, "/src/ggml.c:1: GGML_ASSERT(x) failed", "crash"),
        (1, "ROCm error: invalid device function", "crash"),
        (1, 'error while handling argument "--device": invalid device: Vulkan0', "no-device"),
        (1, "ggml_cuda_init: failed to initialize ROCm: no ROCm-capable device is detected", "no-device"),
        (1, "RuntimeError: Failed to infer device type", "no-device"),
        (1, "srv start: couldn't bind HTTP server socket, hostname: 0.0.0.0, port: 8080", "port"),
        (1, "ERROR:    [Errno 98] error while attempting to bind on address ('0.0.0.0', 8080)", "port"),
        (1, "nothing that anybody has seen", "crash"),
        (0, "main: bye", "crash"),
        (134, "", "crash"),
        (139, "", "crash"),
        (-signal.SIGSEGV, "", "crash"),
        (-signal.SIGTERM, "", "crash"),
        (255, "", "crash"),
    ],
)
def test_exits(code: int, line: str, expected: str) -> None:
    failure = judge(code, [line, "a later line that says nothing"])
    assert failure.cls == expected
    if expected not in ("crash",):
        assert say(line) in failure.detail


@pytest.mark.parametrize(("oom", "expected"), [(True, "oom"), (False, "crash"), (None, "oom")])
@pytest.mark.parametrize("code", [-9, 137])
def test_killed(code: int, oom: bool | None, expected: str) -> None:
    assert judge(code, oom=oom).cls == expected


def test_argparse_says_usage_with_2() -> None:
    assert judge(2, ["usage: x [-h]", "x: what?"]).cls == "usage"
    assert judge(2, ["x: what?"]).cls == "crash"


@given(
    st.integers(-64, 255),
    st.lists(st.text(max_size=80), max_size=5),
    st.booleans(),
    st.sampled_from([True, False, None]),
)
def test_every_exit_has_a_class_and_words(code: int, lines: list[str], ready: bool, oom: bool | None) -> None:
    failure = judge(code, lines, ready=ready, oom=oom)
    assert failure.detail
    assert failure.exit == code


@pytest.mark.parametrize(
    ("cls", "served", "before", "step"),
    [
        ("usage", 0, None, "stop"),
        ("model", 0, None, "stop"),
        ("oom", 0, None, "stop"),
        ("oom", 9999, None, "stop"),
        ("port", 0, None, "stop"),
        ("no-device", 0, None, "next"),
        ("hang", 0, None, "next"),
        ("hang", 9999, None, "next"),
        ("wrong-output", 0, None, "next"),
        ("crash", 0, None, "next"),
        ("crash", SERVED_WELL - 1, None, "next"),
        ("crash", SERVED_WELL, None, "again"),
        ("crash", 9999, 60.0, "next"),
        ("crash", 9999, 3600.0, "again"),
    ],
)
def test_what_follows(cls: str, served: float, before: float | None, step: str) -> None:
    failure = Failure(cls, "x")  # type: ignore[arg-type]
    assert decide(failure, served=served, last_crash=before) == step


class TestLoading:
    def test_any_progress_is_progress(self) -> None:
        watch = LoadWatch(10, 0)
        assert watch.look(9, 1, Sample()) is None
        assert watch.look(18, 1, Sample(read=MIB)) is None
        assert watch.look(27, 1, Sample(read=MIB, rss=MIB)) is None
        assert watch.look(36, 1, Sample(read=MIB, rss=0)) is None, "memory given back is progress too"
        assert watch.look(45, 1, Sample(read=MIB, rss=0)) is None
        assert watch.look(46, 1, Sample(read=MIB, rss=0)) is not None

    def test_a_trickle_adds_up(self) -> None:
        watch = LoadWatch(10, 0)
        for second in range(1, 100):
            assert watch.look(second, 0, Sample(read=second * (64 << 10))) is None

    def test_a_flutter_of_pages_is_none(self) -> None:
        watch = LoadWatch(10, 0)
        for second in range(1, 10):
            assert watch.look(second, 0, Sample(rss=4096 * (second % 2))) is None
        assert "idle" in str(watch.look(11, 0, Sample(rss=4096)))

    @pytest.mark.parametrize(
        ("sample", "word"),
        [(Sample(cpu=5.0), "computing"), (Sample(stopped=True), "stopped"), (Sample(), "idle")],
    )
    def test_it_says_how(self, sample: Sample, word: str) -> None:
        assert word in str(LoadWatch(10, 0).look(10, 0, sample))


class TestServing:
    def watch(self, on_gpu: bool = True) -> ServeWatch:
        return ServeWatch(probe_timeout=30, stall=300, on_gpu=on_gpu)

    def test_answers_reset_everything(self) -> None:
        watch = self.watch()
        for second in range(0, 3000, 20):
            watch.health(second, second % 40 == 0)
            watch.batch(second, second % 40 == 0)
            assert watch.look(second, Sample()) is None

    def test_silent_and_idle_is_dead_soon(self) -> None:
        watch = self.watch()
        watch.health(100, False)
        assert watch.look(129, Sample()) is None
        assert "does not compute" in str(watch.look(131, Sample()))

    def test_silent_and_computing_is_busy_for_long(self) -> None:
        watch = self.watch()
        watch.health(100, False)
        for second in range(105, 400, 5):
            assert watch.look(second, Sample(cpu=second)) is None
        assert "though it computes" in str(watch.look(401, Sample(cpu=401)))

    def test_stopped_is_dead_whatever_it_computed(self) -> None:
        watch = self.watch()
        watch.health(100, False)
        assert "stopped" in str(watch.look(131, Sample(cpu=99, stopped=True)))

    def test_a_long_batch_is_dead_on_a_gpu_only(self) -> None:
        gpu, cpu = self.watch(), self.watch(on_gpu=False)
        for watch in (gpu, cpu):
            watch.batch(100, False)
        for second in range(105, 400, 5):
            assert gpu.look(second, Sample(cpu=second)) is None
            assert cpu.look(second, Sample(cpu=second)) is None
        assert "no batch done" in str(gpu.look(400, Sample(cpu=400)))
        assert cpu.look(4000, Sample(cpu=4000)) is None
        assert "no batch done" in str(cpu.look(4020, Sample(cpu=4000)))


LISTED = """load_backend: loaded RADV from /opt/llama/vulkan/libggml-vulkan.so
Available devices:
  Vulkan0: AMD Radeon 780M Graphics (RADV PHOENIX) (30000 MiB, 29000 MiB free)
  Vulkan1: AMD Radeon RX 9070 XT (RADV GFX1201) (16000 MiB, 15000 MiB free)
  ROCm0: AMD Radeon RX 7900 XTX, gfx1100 (0x1100) (24560 MiB, 24000 MiB free)
  Vulkan2: AMD Radeon RX 9070 XT (RADV GFX1201) (16000 MiB, 15000 MiB free)
  BLAS0: OpenBLAS (0 MiB, 0 MiB free)
"""


def test_lists_of_devices() -> None:
    found = parse(LISTED.splitlines())
    assert [device.name for device in found] == ["Vulkan0", "Vulkan1", "ROCm0", "Vulkan2"]
    assert (found[1].text, found[1].total, found[1].free) == (
        "AMD Radeon RX 9070 XT (RADV GFX1201)",
        16000,
        15000,
    )
    assert parse(["Available devices:", "  (none)"]) == ()


@pytest.mark.parametrize(
    ("hints", "ordinal", "expected"),
    [
        (["gfx1201"], 0, "Vulkan1"),
        (["gfx1201"], 1, "Vulkan2"),
        (["gfx1201"], 5, "Vulkan2"),
        (["gfx1100", "RX 9070 XT"], 0, "ROCm0"),
        (["gfx110", "AMD Radeon 780M Graphics"], 0, "Vulkan0"),
        (["gfx90a"], 0, None),
        ([], 0, None),
    ],
)
def test_the_device_that_is_meant(hints: list[str], ordinal: int, expected: str | None) -> None:
    chosen = pick(parse(LISTED.splitlines()), hints, ordinal)
    assert (chosen.name if chosen else None) == expected
