"""A machine of its own for each test: no engine, no plugin and no setting of the real one shows through."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from amdserve.image.engine import EnginePaths, daemon, obtain, probe

# Answers /version as dockerd does, takes its options, and ends on SIGTERM.
DOCKERD = """\
#!{python}
import os, signal, socket, sys
take = lambda name: sys.argv[sys.argv.index(name) + 1]
if "--version" in sys.argv:
    print("Docker version 28.5.2+dfsg4, build 3ef3c07")
    sys.exit()
address = take("-H").removeprefix("unix://")
open(take("--pidfile"), "w").write(str(os.getpid()))
def end(*_):
    os.unlink(take("--pidfile"))
    os.unlink(address)
    os._exit(0)
signal.signal(signal.SIGTERM, end)
server = socket.socket(socket.AF_UNIX)
server.bind(address)
server.listen()
while True:
    link, _ = server.accept()
    link.recv(4096)
    link.sendall(b'HTTP/1.0 200 OK\\r\\n\\r\\n{{"Version": "28.5.2+dfsg4", "Os": "linux"}}')
    link.close()
"""
BUILDX = "#!/bin/sh\necho 'github.com/docker/buildx 0.29.1+ds1 0.29.1+ds1-4'\n"


@dataclass
class Machine:
    """A machine laid out in a folder."""

    root: Path
    paths: EnginePaths
    environ: dict[str, str]
    system_socket: Path
    pids: list[int] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def script(self, path: Path, text: str) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        return path

    def install_private(self) -> None:
        # As dockerd does, it keeps its own name: /proc shows what was started, not the interpreter.
        code = self.root / "dockerd.py"
        code.write_text(DOCKERD.format(python=sys.executable))
        self.script(
            self.paths.dockerd, f'#!/bin/bash\nexec -a "$0" {sys.executable} {code} "$@" 2>>{self.root}/err\n'
        )
        self.script(self.paths.buildx, BUILDX)

    def pid(self) -> int:
        return int(self.paths.pidfile.read_text())


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    # A socket's path has to be short (108 bytes), which pytest's own folders are not.
    root = Path(tempfile.mkdtemp(prefix="eng-"))
    system_socket = root / "system.sock"
    for module in (probe, daemon, obtain):
        monkeypatch.setattr(module, "DEFAULT_SOCKET", system_socket)
    monkeypatch.setattr(probe, "PLUGINS", ())
    home = root / "home"
    home.mkdir()
    empty = root / "bin"
    empty.mkdir()
    machine = Machine(
        root,
        EnginePaths(root / "prefix", root / "data", root / "run"),
        {"HOME": str(home), "PATH": str(empty)},
        system_socket,
    )
    yield machine
    with contextlib.suppress(OSError, ValueError):
        os.kill(machine.pid(), signal.SIGKILL)
    shutil.rmtree(root)


Serve = Callable[[Path, bytes], None]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Listen on a socket and give each caller the same bytes."""
    servers: list[socket.socket] = []

    def start(path: Path, answer: bytes) -> None:
        server = socket.socket(socket.AF_UNIX)
        server.bind(str(path))
        server.listen()
        servers.append(server)

        def work() -> None:
            with contextlib.suppress(OSError):
                while True:
                    link, _ = server.accept()
                    with link:
                        link.recv(4096)
                        link.sendall(answer)

        threading.Thread(target=work, daemon=True).start()

    yield start
    for server in servers:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def http(body: str) -> bytes:
    return f"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{body}".encode()
