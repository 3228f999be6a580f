"""What is kept between starts and told to others: state, memory, logs, status, health, the image."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amdserve.errors import UsageError
from amdserve.serve import cli, image, memory, probe, state
from amdserve.serve.classify import Failure
from amdserve.serve.logs import MOST_LINE, Lines, Log
from amdserve.serve.loop import Loop
from amdserve.serve.memory import DAY, Memory

CRASH = Failure("crash", "a page fault", -11, 1.0)


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class TestMemory:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    def test_a_failure_is_remembered_for_this_model_until_it_expires(
        self, tmp_path: Path, clock: Clock
    ) -> None:
        about = Memory(tmp_path, "a", "p", clock)
        about.failed("v", CRASH, served=0)
        assert about.failures()["v"]["detail"] == "a page fault"
        assert Memory(tmp_path, "b", "p", clock).failures() == {}
        clock.now += 6.9 * DAY
        assert "v" in about.failures()
        clock.now += 0.2 * DAY
        assert about.failures() == {}

    def test_one_while_serving_expires_sooner(self, tmp_path: Path, clock: Clock) -> None:
        about = Memory(tmp_path, "a", "p", clock)
        about.failed("v", CRASH, served=5.0)
        clock.now += 1.1 * DAY
        assert about.failures() == {}

    @pytest.mark.parametrize("cls", ["usage", "model", "no-device", "oom", "port"])
    def test_what_may_be_gone_by_the_next_start_is_not_remembered(self, tmp_path: Path, cls: Any) -> None:
        Memory(tmp_path, "a", "p").failed("v", Failure(cls, "x"), served=0)
        assert Memory(tmp_path, "a", "p").failures() == {}

    def test_wrong_output_counts_for_every_model(self, tmp_path: Path, clock: Clock) -> None:
        Memory(tmp_path, "a", "p", clock).failed("v", Failure("wrong-output", "off"), served=0)
        assert "v" in Memory(tmp_path, "b", "p", clock).failures()
        assert Memory(tmp_path, "b", "other driver", clock).failures() == {}

    def test_proof(self, tmp_path: Path, clock: Clock) -> None:
        about = Memory(tmp_path, "a", "p", clock)
        assert not about.proven("v")
        about.prove("v", 0.001)
        assert Memory(tmp_path, "b", "p", clock).proven("v")
        assert not Memory(tmp_path, "a", "q", clock).proven("v")
        clock.now += 91 * DAY
        assert not about.proven("v")

    def test_serving_well_forgets_a_failure(self, tmp_path: Path) -> None:
        about = Memory(tmp_path, "a", "p")
        about.failed("v", CRASH, served=0)
        about.works("v")
        assert about.failures() == {}

    def test_forget(self, tmp_path: Path) -> None:
        about = Memory(tmp_path, "a", "p")
        about.failed("v", CRASH, served=0)
        about.keep_bench({"order": ["r"]})
        memory.forget(tmp_path)
        assert about.failures() == {}
        assert about.bench() is None
        memory.forget(tmp_path)
        memory.forget(None)

    def test_a_clock_that_was_wrong_does_no_lasting_harm(self, tmp_path: Path, clock: Clock) -> None:
        about = Memory(tmp_path, "a", "p", clock)
        clock.now += 3650 * DAY
        about.failed("v", CRASH, served=0)
        clock.now -= 3650 * DAY
        assert about.failures() == {}

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"failures": []}',
            '{"failures": {"a": {"v": 1}}}',
            '{"failures": {"a": []}}',
        ],
    )
    def test_a_damaged_file_counts_as_empty_and_is_replaced(self, tmp_path: Path, text: str) -> None:
        (tmp_path / memory.FILE).write_text(text, encoding="utf-8")
        about = Memory(tmp_path, "a", "p")
        assert about.failures() == {}
        about.failed("v", CRASH, served=0)
        assert "v" in about.failures()

    @given(
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.text(),
            lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        )
    )
    def test_no_content_breaks_it(self, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
        folder = tmp_path_factory.mktemp("memory")
        (folder / memory.FILE).write_text(
            json.dumps({"failures": {"a": data}, "proofs": data}), encoding="utf-8"
        )
        about = Memory(folder, "a", "p")
        about.failures()
        about.proven("v")
        about.failed("v", CRASH, served=0)
        assert "v" in about.failures()

    def test_it_stays_small(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(memory, "MOST_ENTRIES", 20)
        for number in range(memory.MOST_ENTRIES + 60):
            Memory(tmp_path, str(number), "p").failed("v", CRASH, served=0)
        data = json.loads((tmp_path / memory.FILE).read_text(encoding="utf-8"))
        assert len(data["failures"]) <= memory.MOST_ENTRIES + 1
        assert str(memory.MOST_ENTRIES + 59) in data["failures"]

    def test_two_containers_lose_nothing(self, tmp_path: Path) -> None:
        start = multiprocessing.get_context("spawn")
        writers = [start.Process(target=write_many, args=(str(tmp_path), name)) for name in "ab"]
        for writer in writers:
            writer.start()
        for writer in writers:
            writer.join(120)
            assert writer.exitcode == 0
        for name in "ab":
            assert len(Memory(tmp_path, name, "p").failures()) == 40

    def test_no_folder_and_a_closed_one(self, tmp_path: Path) -> None:
        for place in (None, tmp_path / "nowhere"):
            about = Memory(place, "a", "p")
            about.failed("v", CRASH, served=0)
            about.prove("v", 0.0)
            assert (about.failures(), about.proven("v")) == ({}, False)

    def test_order(self) -> None:
        entries = [{"backend": name} for name in "vrc"]
        assert [entry["backend"] for entry in memory.order(entries, {"v": {}})] == ["r", "c", "v"]
        assert [entry["backend"] for entry in memory.order(entries, {})] == ["v", "r", "c"]

    def test_keys_tell_their_parts_apart(self) -> None:
        assert memory.key("a", "b") == memory.key("a", "b")
        assert len({memory.key("ab", None), memory.key("a", "b"), memory.key("", "ab")}) == 3


def write_many(folder: str, about: str) -> None:
    for number in range(40):
        Memory(Path(folder), about, "p").failed(f"backend {number}", CRASH, served=0)


# Writes one file again and again, as process 1.
WRITE_MUCH = f"""
import os, sys
sys.path.insert(0, {str(Path(state.__file__).parents[2])!r})
from pathlib import Path
from amdserve.serve.state import write_atomically
assert os.getpid() == 1
for number in range(300):
    write_atomically(Path(sys.argv[1]), {{"who": sys.argv[2] * (number * 97 % 20000)}})
"""


class TestState:
    def test_the_first_folder_that_can_be_written(self, tmp_path: Path) -> None:
        assert state.folder({"AMDSERVE_STATE_DIR": str(tmp_path / "new")}) == (tmp_path / "new", "")

    def test_another_one_where_it_cannot(self) -> None:
        place, note = state.folder({"AMDSERVE_STATE_DIR": "/proc/nowhere"})
        assert place is not None
        assert str(place).startswith(state.LAST_RESORTS)
        assert "/proc/nowhere" in note
        with contextlib.suppress(OSError):
            place.rmdir()

    def test_a_torn_write_leaves_the_old_file(self, tmp_path: Path) -> None:
        path = tmp_path / "x.json"
        state.write_atomically(path, {"a": 1})
        with pytest.raises(TypeError):
            state.write_atomically(path, {"a": object()})
        assert state.read_object(path) == {"a": 1}
        assert list(tmp_path.iterdir()) == [path]

    def test_the_status_of_a_dead_supervisor_is_failed(self, tmp_path: Path) -> None:
        status = state.Status(tmp_path, port=1, host="h")
        status.set("ready", backend="v")
        environ = {"AMDSERVE_STATE_DIR": str(tmp_path)}
        assert (state.read(environ) or {})["state"] == "ready"
        status.data["started"] = "0"
        status.set("ready")
        found = state.read(environ) or {}
        assert (found["state"], found["error"]["what"]) == ("failed", "the supervisor is gone")
        status.remove()
        assert state.read(environ) is None

    def test_another_user_finds_it_where_only_memory_could_be_written(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A read-only root: the server has given up root, and whoever asks (Docker itself) is root."""
        monkeypatch.setattr(state, "LAST_RESORTS", (str(tmp_path / "amdserve"),))
        place = tmp_path / f"amdserve-{os.getuid() + 1}"
        place.mkdir()
        state.Status(place, port=1, host="h").set("ready")
        assert (state.read({"AMDSERVE_STATE_DIR": "/proc/nowhere"}) or {})["state"] == "ready"

    def test_files_of_containers_long_gone_are_swept(self, tmp_path: Path) -> None:
        old = tmp_path / "status-old-1.json", tmp_path / ".memory.json.old-1.7"
        new = tmp_path / "status-new-2.json", tmp_path / ".memory.json.new-2.7"
        for file in (*old, *new):
            file.write_text("{}", encoding="utf-8")
        for file in old:
            os.utime(file, (1, 1))
        state.Status(tmp_path, port=1, host="h")
        assert sorted(tmp_path.iterdir()) == sorted(new)

    def test_containers_of_one_host_name_do_not_write_into_each_others_files(self, tmp_path: Path) -> None:
        """With the host's network they have its name too, and each counts its processes from 1."""
        command = ["unshare", "--pid", "--fork", sys.executable, "-c", WRITE_MUCH, str(tmp_path / "x.json")]
        if subprocess.run([*command[:3], "true"], capture_output=True, check=False).returncode:
            pytest.skip("no namespace of processes can be made here")
        writers = [subprocess.Popen([*command, letter], stderr=subprocess.PIPE) for letter in "ab"]
        torn = 0
        while any(writer.poll() is None for writer in writers):
            torn += (tmp_path / "x.json").exists() and state.read_object(tmp_path / "x.json") is None
        for writer in writers:
            assert writer.communicate()[1] == b""
            assert writer.returncode == 0
        assert torn == 0

    def test_the_history_has_an_end(self, tmp_path: Path) -> None:
        status = state.Status(tmp_path, port=1, host="h")
        for number in range(200):
            status.record({"n": number})
        assert [entry["n"] for entry in status.data["history"]][-1] == 199
        assert len(status.data["history"]) == state.MOST_HISTORY


class TestLines:
    @given(st.lists(st.binary(max_size=50)))
    def test_lines_are_those_of_the_whole(self, parts: list[bytes]) -> None:
        lines = Lines()
        found = [line for part in parts for line in lines.feed(part)] + lines.end()
        whole = b"".join(parts)
        expected = whole.decode("utf-8", "replace") if b"\n" not in whole else None
        joined = "\n".join(found)
        if expected is not None and whole:
            assert joined == expected.rstrip("\r")
        assert lines.count == len(list(itertools.groupby(found))), "what is said again does not count"

    def test_a_line_without_an_end_does_not_grow_for_ever(self) -> None:
        lines = Lines()
        for _ in range(100):
            lines.feed(b"x" * 1000)
        assert len(lines.partial) <= MOST_LINE + 1000

    @pytest.mark.parametrize("line", ["api_key: hunter2222", "API-KEYS: hunter2222", "x hunter2222 y"])
    def test_secrets(self, line: str, capfd: pytest.CaptureFixture[str]) -> None:
        assert "hunter2222" not in Log("text", ["hunter2222"]).passed("b", line)
        assert "hunter2222" not in capfd.readouterr().err

    def test_lines_that_come_together_are_written_at_once(self) -> None:
        """In their order, and all of them, though something fails."""
        read, write = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        with read, write:
            log = Log("text", fd=write.fileno())
            with contextlib.suppress(ValueError), log.together():
                log.passed("b", "one")
                log.say("two")
                log.passed("b", "three")
                raise ValueError
            log.passed("b", "four")
            assert read.recv(1000) == b"b: one\namdserve: two\nb: three\n"
            assert read.recv(1000) == b"b: four\n"

    def test_nobody_reads(self) -> None:
        read, write = os.pipe()
        os.close(read)
        Log("text", fd=write).say("into the void")
        os.close(write)


def test_who_never_stops_talking_is_heard_in_parts() -> None:
    """Else nobody would hear a signal meanwhile, and what is to be written would grow for ever."""
    heard = 0

    def each(line: str) -> str:
        nonlocal heard
        heard += 1
        assert heard < 10_000, "it is still being read"
        return line

    with Loop() as loop, Path("/dev/zero").open("rb") as endless:
        child = loop.start(["/bin/sleep", "60"], dict(os.environ), each)
        os.dup2(endless.fileno(), child.output)
        child.read(each)
        before = heard
        child.read(each)
        assert heard > before > 0
        loop.selector.unregister(child.output)
        child.close()
        assert loop.kill(child)


class TestLoop:
    def test_it_gives_the_signals_back(self) -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Loop() as loop:
            assert signal.getsignal(signal.SIGTERM) != before
            os.kill(os.getpid(), signal.SIGTERM)
            loop.turn(5.0)
            assert loop.stops == 1
        assert signal.getsignal(signal.SIGTERM) == before
        assert signal.set_wakeup_fd(-1) == -1


class Page:
    """An HTTP server of one answer, in a thread."""

    def __init__(self, answer: bytes, *, pause: float = 0.0, close: bool = True) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.answer, self.pause, self.close = answer, pause, close
        self.asked = b""
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            peer, _ = self.listener.accept()
            with peer:
                self.asked = peer.recv(65536)
                for part in (self.answer[:7], self.answer[7:]):
                    peer.sendall(part)
                    time.sleep(self.pause)
                if not self.close:
                    time.sleep(2)


class TestProbe:
    @pytest.mark.parametrize(
        ("answer", "expected"),
        [
            (b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{"a": 1}', (200, {"a": 1})),
            (b'HTTP/1.1 200 OK\r\n\r\n{"a": 1}', (200, {"a": 1})),
            (
                b'HTTP/1.1 503 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{"a"\r\n4\r\n: 1}\r\n0\r\n\r\n',
                (503, {"a": 1}),
            ),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnot", (200, None)),
            (b"garbage\r\n\r\n", (0, None)),
            (b"", (0, None)),
        ],
    )
    def test_answers(self, answer: bytes, expected: tuple[int, Any]) -> None:
        assert probe.ask("127.0.0.1", Page(answer).port, "/x", timeout=5) == expected
        asked = probe.Probe("127.0.0.1", Page(answer, pause=0.01).port, "/x", body={"q": 1})
        asked.start()
        limit = time.monotonic() + 5
        while not asked.step() and time.monotonic() < limit:
            time.sleep(0.001)
        assert (asked.status, asked.answer) == expected

    def test_the_status_is_enough_for_a_probe(self) -> None:
        asked = probe.Probe("127.0.0.1", Page(b"HTTP/1.1 200 OK\r\n", close=False).port, "/health")
        asked.start()
        limit = time.monotonic() + 1.5
        while not asked.step() and time.monotonic() < limit:
            time.sleep(0.001)
        assert asked.status == 200

    def test_keys_and_bodies_go_along(self) -> None:
        page = Page(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        probe.ask("127.0.0.1", page.port, "/v1/x", body={"a": 1}, key="sk-1")
        assert b"POST /v1/x HTTP/1.1" in page.asked
        assert b"Authorization: Bearer sk-1" in page.asked
        assert page.asked.endswith(b'{"a": 1}')

    def test_nobody_there(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        assert probe.ask("127.0.0.1", port, "/") == (0, None)

    def test_silence_ends_in_time(self) -> None:
        begun = time.monotonic()
        page = Page(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", close=False)
        assert probe.ask("127.0.0.1", page.port, "/", timeout=0.3)[1] is None
        assert time.monotonic() - begun < 1.5

    def test_ports(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert "in use" in probe.port_is_free("127.0.0.1", port)
            assert "in use" in probe.port_is_free("0.0.0.0", port)
        assert probe.port_is_free("127.0.0.1", port) == ""
        assert probe.port_is_free("no.such.host.invalid", port)

    @pytest.mark.parametrize(
        ("host", "asked"),
        [("0.0.0.0", "127.0.0.1"), ("::", "::1"), ("", "127.0.0.1"), ("10.0.0.1", "10.0.0.1")],
    )
    def test_addresses(self, host: str, asked: str) -> None:
        assert probe.reachable(host) == asked


class TestReports:
    @pytest.fixture(autouse=True)
    def place(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("AMDSERVE_STATE_DIR", str(tmp_path))
        monkeypatch.setattr(state, "LAST_RESORTS", ())
        return tmp_path

    def test_nothing_runs(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert cli.main(["status", "--json"]) == 1
        assert json.loads(capsys.readouterr().out)["what"] == "no server has been started here"

    def test_status_is_the_contract(self, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
        status = state.Status(place, port=8080, host="0.0.0.0")
        status.record(CRASH.to_dict("v"))
        status.set("ready", backend="c", device="CPU")
        assert cli.main(["status", "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert list(data) == ["state", "backend", "device", "port", "since", "history"]
        entry = {"backend": "v", "class": "crash", "detail": "a page fault", "exit": -11, "seconds": 1.0}
        assert data["history"] == [entry]
        assert cli.main(["status"]) == 0
        assert "v failed after 1.0 s: crash: a page fault" in capsys.readouterr().out

    @pytest.mark.parametrize("now", ["starting", "loading", "falling-back", "failed"])
    def test_health_is_bad_until_ready(self, place: Path, now: str) -> None:
        page = Page(b"HTTP/1.1 200 OK\r\n\r\n{}")
        state.Status(place, port=page.port, host="0.0.0.0").set(now)
        assert cli.main(["health"]) == 1

    @pytest.mark.parametrize(
        ("answer", "code"), [(b"HTTP/1.1 200 OK\r\n\r\n{}", 0), (b"HTTP/1.1 503 X\r\n\r\n", 1)]
    )
    def test_health_is_what_the_backend_says(self, place: Path, answer: bytes, code: int) -> None:
        page = Page(answer)
        state.Status(place, port=page.port, host="0.0.0.0").set("ready")
        assert cli.main(["health"]) == code
        assert b"GET /health" in page.asked

    def test_health_is_bad_while_stopping(self, place: Path) -> None:
        page = Page(b"HTTP/1.1 200 OK\r\n\r\n{}")
        state.Status(place, port=page.port, host="0.0.0.0").set("ready", stopping=True)
        assert cli.main(["health"]) == 1

    def test_health_without_state_asks_the_port_it_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        page = Page(b"HTTP/1.1 200 OK\r\n\r\n{}")
        monkeypatch.setenv("AMDSERVE_PORT", str(page.port))
        assert cli.main(["health"]) == 0


class TestImage:
    def test_no_description(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="invoke run"):
            image.load({"AMDSERVE_IMAGE_JSON": str(tmp_path / "none.json")})

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            '{"schema": 2, "backends": {}}',
            '{"schema": 1}',
            '{"schema": 1, "backends": {"v": {"argv": []}}}',
        ],
    )
    def test_a_wrong_one(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "image.json").write_text(text, encoding="utf-8")
        with pytest.raises(UsageError, match="no image description"):
            image.load({"AMDSERVE_IMAGE_JSON": str(tmp_path / "image.json")})

    def test_version(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        data = {
            "schema": 1,
            "image": "llama",
            "hash": "sha256:9",
            "gfx": ["gfx1151"],
            "backends": {"v": {"argv": ["v"]}},
        }
        (tmp_path / "image.json").write_text(json.dumps(data), encoding="utf-8")
        monkeypatch.setenv("AMDSERVE_IMAGE_JSON", str(tmp_path / "image.json"))
        assert cli.main(["version", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["hash"] == "sha256:9"
        assert cli.main(["version"]) == 0
        assert "image llama sha256:9" in capsys.readouterr().out
