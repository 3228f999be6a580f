"""A place to run real supervisors with stub backends: an image, a model, a port, a folder for state."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import serve_files
from ports import free_port

from amdserve.serve import state
from amdserve.serve.probe import ask

STUB = Path(__file__).with_name("serve_stub.py")
SOURCE = Path(state.__file__).parents[2]
PYTHON = [sys.executable, "-I", "-S", str(STUB)]
VULKAN, ROCM, CPU = "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python"
# Long enough for a machine that compiles something else meanwhile.
PATIENCE = 30.0


# A supervisor whose longest times, which nobody can set, are shorter.
IMPATIENT = """
import sys
from amdserve.serve import attempt, classify, listing, start
attempt.SERVED_WELL = classify.SERVED_WELL = listing.LISTING = float(sys.argv.pop(1))
start.supervise(int(sys.argv[1]))
"""

SUPERVISE = "import sys; from amdserve.serve import start; start.supervise(int(sys.argv[1]))"

HOARD = "hoard = []\nwhile True: hoard.append(bytearray(b'x') * (1 << 20))"


def wait_for(what: Callable[[], Any], seconds: float = PATIENCE, pause: float = 0.01) -> Any:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        found = what()
        if found:
            return found
        time.sleep(pause)
    raise AssertionError(f"nothing within {seconds} s")


class Run:
    """One running supervisor."""

    def __init__(
        self, bed: Bed, argv: Sequence[str], env: Mapping[str, str], keep: Sequence[int] = ()
    ) -> None:
        self.bed = bed
        self.log_file = bed.folder / f"log-{time.monotonic_ns()}"
        with self.log_file.open("wb") as log:
            self.process = subprocess.Popen(
                argv, env=dict(env), stdout=log, stderr=log, stdin=subprocess.DEVNULL, pass_fds=tuple(keep)
            )

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        if kind is not None:
            print(self.log)

    @property
    def log(self) -> str:
        return self.log_file.read_text(encoding="utf-8", errors="replace")

    def status(self) -> dict[str, Any]:
        return self.bed.status()

    def until(self, wanted: str, backend: str | None = None, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for a state; ends early where the supervisor does."""

        def there() -> dict[str, Any] | None:
            now = self.status()
            if now.get("state") == wanted and backend in (None, now.get("backend")):
                return now
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode}, never {wanted} {backend or ''}")
            return None

        found: dict[str, Any] = wait_for(there, seconds)
        return found

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; give its exit code."""
        return self.process.wait(seconds)

    def stop(self, number: int = signal.SIGTERM, seconds: float = PATIENCE) -> int:
        self.process.send_signal(number)
        return self.end(seconds)

    def who(self) -> str:
        """Ask the port which backend answers."""
        code, body = ask("127.0.0.1", self.bed.port, "/who")
        return str(body["backend"]) if code == 200 else f"status {code}"


class Bed:
    """What one test runs in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.state = folder / "state"
        self.state.mkdir()
        self.model = serve_files.write(folder / "model.gguf")

    def backend(self, name: str, **behaviour: Any) -> list[str]:
        """Lay out a stub; give its command."""
        file = self.folder / f"{name}.json"
        file.write_text(json.dumps({"name": name, **behaviour}), encoding="utf-8")
        return [*PYTHON, str(file)]

    def entry(self, name: str, **behaviour: Any) -> dict[str, Any]:
        """Lay out a stub; give its entry of a plan."""
        gpu = name != CPU
        program = self.backend(name, **({} if gpu else {"offload": None}), **behaviour)
        return {
            "backend": name,
            "reason": "for this test",
            "program": program,
            "argv": [*program, "--host", "127.0.0.1", "--port", str(self.port)],
            "env": {},
            "unset": [],
            "env_files": {},
            "notes": [],
            "device": "gpu" if gpu else "cpu",
            "device_name": "Stub GPU" if gpu else "CPU",
            "probe": "/health",
            "hints": [],
            "ordinal": 0,
            "reference_argv": None,
            "offload": gpu,
            "lists_devices": gpu,
            "slots": gpu,
            "asks": "llm" if gpu else None,
        }

    def spec(self, *entries: dict[str, Any], **changes: Any) -> dict[str, Any]:
        return {
            "schema": 1,
            "host": "127.0.0.1",
            "port": self.port,
            "model": str(self.model),
            "about": "about",
            "proof": "proof",
            "reference": None,
            "require_gpu": False,
            "api_key_file": None,
            "advice": "",
            "state_dir": str(self.state),
            "entries": list(entries),
            "log_format": "text",
            "load_stall": 20.0,
            "serve_stall": 20.0,
            "probe_timeout": 10.0,
            "drain": 1.0,
            "selftest": True,
            "remember": True,
            "keep_fds": [],
            **changes,
        }

    def supervise(
        self, spec: Mapping[str, Any], *, impatient: float | None = None, group: Path | None = None
    ) -> Run:
        """Start the slim supervisor as the planner does.

        Args:
            spec: the plan.
            impatient: seconds after which a backend has served well, and must have listed its devices; None
                leaves the product's own.
            group: the cgroup it runs in, with all that it starts.
        """
        handle = os.memfd_create("plan")
        os.write(handle, json.dumps(spec).encode())
        os.lseek(handle, 0, os.SEEK_SET)
        try:
            argv = [sys.executable, "-c", SUPERVISE, str(handle)]
            if impatient is not None:
                argv[2:3] = [IMPATIENT, str(impatient)]
            if group is not None:
                argv = [*entering(group), *argv]
            return Run(self, argv, self.environ(), [handle])
        finally:
            os.close(handle)

    def image(self, gfx: Sequence[str] = ("gfx1151",), **backends: list[str]) -> Path:
        """Write an image description; keyword names have `_` for `-`."""
        data = {
            "schema": 1,
            "image": "llama",
            "hash": "sha256:0",
            "gfx": list(gfx),
            "rocm": {"provider": "debian", "version": "7.2.4", "prefix": "/usr"},
            "llama": {"package": "llama-cpp-python", "version": "0", "commit": "0", "source": "sdist"},
            "vulkan": {"icd": "/usr/share/vulkan/icd.d/radeon_icd.json"},
            "backends": {name.replace("_", "-"): {"argv": argv} for name, argv in backends.items()},
        }
        path = self.folder / "image.json"
        path.write_text(json.dumps(data), encoding="utf-8")
        return path

    def environ(self, **changes: str) -> dict[str, str]:
        """An environment that knows this bed and nothing of the machine's own AMDSERVE_ variables."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AMDSERVE_")}
        return {
            **own,
            "PYTHONPATH": str(SOURCE),
            "AMDSERVE_STATE_DIR": str(self.state),
            "AMDSERVE_IMAGE_JSON": str(self.folder / "image.json"),
            "AMDSERVE_SYSROOT": str(self.folder / "no-machine"),
            **changes,
        }

    def serve(self, *arguments: str, **environ: str) -> Run:
        """Start `amdserve serve` itself."""
        argv = [sys.executable, "-m", "amdserve.serve.entry", "serve", *arguments]
        return Run(self, argv, self.environ(**environ))

    def amdserve(self, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
        """Run `amdserve` to its end."""
        argv = [sys.executable, "-m", "amdserve.serve.entry", *arguments]
        return subprocess.run(
            argv, env=self.environ(**environ), capture_output=True, text=True, timeout=60, check=False
        )

    def status(self) -> dict[str, Any]:
        return state.read_object(self.state / state.file_name()) or {}

    def processes(self) -> list[int]:
        """Every process whose command line names this bed's folder."""
        found = []
        for place in Path("/proc").iterdir():
            if not place.name.isdigit():
                continue
            try:
                words = (place / "cmdline").read_bytes()
                status = (place / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            zombie = status.rpartition(")")[2].split()[:1] == ["Z"]
            if str(self.folder).encode() in words and not zombie:
                found.append(int(place.name))
        return found

    def starts(self, file: Path) -> list[dict[str, Any]]:
        """What stubs with `record` wrote."""
        return (
            [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            if file.exists()
            else []
        )

    def nothing_left(self) -> None:
        """No process, no port, no torn file."""
        wait_for(lambda: not self.processes())
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", self.port))
        for file in self.state.iterdir():
            assert not file.name.startswith("."), f"a torn file is left: {file}"
            if file.suffix == ".json":
                json.loads(file.read_text(encoding="utf-8"))


@contextmanager
def memory_group(limit: int) -> Iterator[Path]:
    """A cgroup with so many bytes of memory, as a container has one; skips where none can be made."""
    old = Path("/sys/fs/cgroup/memory")
    place = (old if old.is_dir() else Path("/sys/fs/cgroup")) / f"amdserve-test-{os.getpid()}"
    try:
        place.mkdir()
    except OSError:
        pytest.skip("no cgroup can be made here")
    try:
        try:
            if old.is_dir():
                (place / "memory.limit_in_bytes").write_text(str(limit))
            else:
                (place / "memory.max").write_text(str(limit))
                (place / "memory.swap.max").write_text("0")
        except OSError:
            pytest.skip("memory cannot be limited here")
        yield place
    finally:
        wait_for(lambda: not (place / "cgroup.procs").read_text(), 10)
        place.rmdir()


def entering(group: Path) -> list[str]:
    """Give the beginning of a command that is to run in a cgroup."""
    return ["/bin/sh", "-c", f'echo $$ > {group}/cgroup.procs; exec "$@"', "sh"]


def eat_in(group: Path) -> int:
    """Take memory in a cgroup until the kernel ends it; give how it ended."""
    command = [*entering(group), sys.executable, "-I", "-S", "-c", HOARD]
    return subprocess.run(command, timeout=60, check=False).returncode


@contextmanager
def other_server(port: int) -> Iterator[None]:
    """Somebody else who listens on a port."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen(1)
        yield
