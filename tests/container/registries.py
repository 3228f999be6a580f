"""A real registry on loopback, a proxy before it that misbehaves, and images of a few megabytes."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import certifi
import pytest
from ports import free_port

from amdserve import process
from amdserve.image.engine import Engine
from amdserve.image.index import CA_VARIABLES
from amdserve.image.models import Cell
from amdserve.image.plan import LABEL
from amdserve.image.publish import tools

STATUS = """\
Package: amdserve-radv
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: amd64
Version: 26.1.6-1
Description: drivers

Package: libc6
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: amd64
Version: 2.42-1
Description: the C library
"""
# "secret", as a password file of a registry keeps it.
SECRET = "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"
METADATA = "Metadata-Version: 2.4\nName: pydantic\nVersion: 2.12.0\nLicense-Expression: MIT\n"


class Server:
    """A docker-registry with its own folder.

    Args:
        folder: where it keeps what it is sent.
        http: more of its configuration's `http`.
        auth: its configuration's `auth`.
    """

    def __init__(
        self, folder: Path, http: Mapping[str, Any] | None = None, auth: Mapping[str, Any] | None = None
    ) -> None:
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True, exist_ok=True)
        config = {
            "version": "0.1",
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(folder)}},
            "http": {"addr": f"127.0.0.1:{self.port}", **(http or {})},
            **({"auth": auth} if auth else {}),
        }
        path = folder.with_name(f"{folder.name}.json")
        path.write_text(json.dumps(config))
        self.log = folder.with_name(f"{folder.name}.log")
        with self.log.open("wb") as log:
            self.process = process.spawn(
                [str(tools.ensure("docker-registry")), "serve", str(path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        end = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", self.port)):
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.05)

    @property
    def host(self) -> str:
        """What a reference begins with."""
        return f"127.0.0.1:{self.port}"

    def blob(self, digest: str) -> Path:
        """Give the file in which it keeps a blob."""
        algorithm, _, value = digest.partition(":")
        return self.folder / "docker/registry/v2/blobs" / algorithm / value[:2] / value / "data"

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait(30)


class Secured:
    """A registry that wants TLS, by a certificate of its own, and a password; who asks is told apart.

    Args:
        folder: for all of it.
        monkeypatch: what this host trusts, and what `docker login` has stored, are set with it.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self._monkeypatch, self._docker = folder, monkeypatch, folder / "docker"
        self._docker.mkdir()
        monkeypatch.setenv("DOCKER_CONFIG", str(self._docker))
        self.crt, key = certificate(folder)
        (folder / "htpasswd").write_text(f"me:{SECRET}\n")
        self.server = Server(
            folder / "secured",
            http={"tls": {"certificate": str(self.crt), "key": str(key)}},
            auth={"htpasswd": {"realm": "here", "path": str(folder / "htpasswd")}},
        )
        self.host = self.server.host

    def trusted(self) -> None:
        """Let this host trust its certificate, beside all others."""
        known = self.crt.with_name("trusted.crt")
        rest = Path(certifi.where()).read_text()
        known.write_text(rest + self.crt.read_text())
        for name in CA_VARIABLES:
            self._monkeypatch.setenv(name, str(known))

    def login(self, password: str) -> None:
        """Store a name and a password as `docker login` does."""
        auths = {self.host: {"auth": basic("me", password)}}
        (self._docker / "config.json").write_text(json.dumps({"auths": auths}))


class Proxy:
    """Hands requests on to a registry; `watch` is told each of them and may ask that it breaks off.

    Args:
        port: the registry's.
        watch: given method, path and the number of the request from 1; True breaks it off half-way.
    """

    def __init__(self, port: int, watch: Callable[[str, str, int], bool]) -> None:
        self.count = 0
        self.broken = 0
        lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120
            # Head and content go apart, and would wait for each other.
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None: ...

            def passed(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                with lock:
                    outer.count += 1
                    number = outer.count
                breaks = watch(self.command, self.path, number)
                upstream = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
                try:
                    if breaks:
                        outer.broken += 1
                        self._half(upstream, body)
                        return
                    self._head(upstream)
                    upstream.send(body)
                    self._back(upstream.getresponse())
                except OSError:
                    self.close_connection = True
                finally:
                    upstream.close()

            def _head(self, upstream: http.client.HTTPConnection) -> None:
                """Send the head on as it came: a name may be there several times."""
                upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    upstream.putheader(name, value)
                upstream.endheaders()

            def _half(self, upstream: http.client.HTTPConnection, body: bytes) -> None:
                """Let the registry have half of it, then nobody anything."""
                self._head(upstream)
                upstream.send(body[: len(body) // 2])
                assert upstream.sock
                upstream.sock.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

            def _back(self, answer: http.client.HTTPResponse) -> None:
                content = answer.read()
                self.send_response(answer.status)
                for name, value in answer.getheaders():
                    if name.lower() not in ("connection", "transfer-encoding", "content-length", "date"):
                        self.send_header(name, value)
                length = answer.getheader("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = passed  # noqa: N815

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def host(self) -> str:
        """What a reference begins with."""
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        """End it."""
        self.server.shutdown()
        self.server.server_close()


def ready(host: str, seconds: float = 60) -> None:
    """Wait until a registry answers: the port of a container takes calls before what is in it does."""
    end = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(f"http://{host}/v2/", timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < end, f"{host} does not answer"
            time.sleep(0.05)


def at(cell: Cell, repository: str) -> Cell:
    """Give a cell whose names are in another repository."""

    def moved(names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(f"{repository}:{name.rpartition(':')[2]}" for name in names)

    return replace(cell, tags=moved(cell.tags), aliases=moved(cell.aliases))


def differing(cell: Cell, seed: str = "toy") -> Cell:
    """Give the cell as it would be from other inputs.

    A small image under a cell's own hash would pass for the product with whoever looks for that meanwhile.
    """
    other = "sha256:" + hashlib.sha256(f"{cell.hash} {seed}".encode()).hexdigest()
    tags = tuple(tag.replace(cell.hash[7:19], other[7:19]) for tag in cell.tags)
    return replace(cell, hash=other, tags=tags, labels={**cell.labels, LABEL + "hash": other})


@contextmanager
def toy(engine: Engine, cell: Cell, folder: Path, size: int = 1 << 20, seed: str = "") -> Iterator[str]:
    """Build an image that carries a cell's labels and little else; give its id, and take it away afterwards.

    Args:
        engine: where.
        cell: the planned cell.
        folder: for the files it is made from.
        size: bytes of noise, a third of it in each of three layers.
        seed: other noise for another image.
    """
    context = folder / f"toy-{cell.id}-{seed}"
    context.mkdir(parents=True)
    for name, text in (
        ("status", STATUS),
        ("METADATA", METADATA),
        ("image.json", json.dumps({"hash": cell.hash, "cell": cell.id})),
    ):
        (context / name).write_text(text)
    for place in "abc":
        (context / place).write_bytes(noise(f"{cell.id}{seed}{place}", size // 3))
    (context / "Dockerfile").write_text(
        "FROM scratch\nCOPY status /var/lib/dpkg/status\n"
        "COPY METADATA /opt/amdserve/lib/python3.14/site-packages/pydantic-2.12.0.dist-info/METADATA\n"
        "COPY image.json /etc/amdserve/image.json\nCOPY a /a\nCOPY b /b\nCOPY c /c\n"
    )
    tag = f"amdserve-test:toy-{hashlib.sha256(str(context).encode()).hexdigest()[:12]}"
    labels = [word for name, value in cell.labels.items() for word in ("--label", f"{name}={value}")]
    command = [*engine.buildx, "build", "--progress", "plain", "--load", "--tag", tag, *labels, str(context)]
    process.run(command, env=engine.env(), timeout=600)
    client = engine.client()
    try:
        yield str(client.api.inspect_image(tag)["Id"])
    finally:
        client.images.remove(tag, force=True)


def noise(seed: str, size: int) -> bytes:
    """Give bytes that no compression makes smaller, the same for the same seed."""
    blocks = (hashlib.sha256(f"{seed}{place}".encode()).digest() for place in range(size // 32 + 1))
    return b"".join(blocks)[:size]


def keys(folder: Path, name: str = "cosign") -> tuple[str, str]:
    """Make a pair of keys; give the files of the private and the public one."""
    process.run(
        [str(tools.ensure("cosign")), "generate-key-pair", "--output-key-prefix", name],
        cwd=folder,
        env={**os.environ, "COSIGN_PASSWORD": ""},
        timeout=120,
    )
    return str(folder / f"{name}.key"), str(folder / f"{name}.pub")


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1 that nobody else trusts; give its file and its key's."""
    crt, key = folder / "tls.crt", folder / "tls.key"
    process.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=127.0.0.1",
            ),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(crt)),
        ],
        timeout=60,
    )
    ssl.create_default_context(cafile=str(crt))
    return crt, key


def kill(pid: int) -> None:
    """End a process and all that it started, at once."""
    os.killpg(pid, signal.SIGKILL)


def basic(user: str, password: str) -> str:
    """Give a name and a password as Docker's configuration keeps them."""
    return base64.b64encode(f"{user}:{password}".encode()).decode()
