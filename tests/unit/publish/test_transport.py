"""How a registry on this machine is spoken with, while it starts too: plain or not is its own word."""

from __future__ import annotations

import http.server
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import certifi
import pytest

from amdserve import process
from amdserve.errors import PublishError
from amdserve.image.publish.backoff import Backoff
from amdserve.image.publish.reference import parse
from amdserve.image.publish.transport import Transport

Start = Callable[..., "Starting"]


class Starting(http.server.ThreadingHTTPServer):
    """A registry that hangs up on the first callers, as the port of a container does that is not up yet."""

    daemon_threads = True

    def __init__(self, hangs_up: int, trust: ssl.SSLContext | None, answer: int) -> None:
        self.left, self.trust, self.asked = hangs_up, trust, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked += 1
                self.send_response(answer)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None: ...

        super().__init__(("127.0.0.1", 0), Handler)

    def get_request(self) -> tuple[socket.socket, object]:
        called, address = super().get_request()
        if self.trust and not self.left:
            called = self.trust.wrap_socket(called, server_side=True)
        return called, address

    def verify_request(self, *_: object) -> bool:
        self.left, refused = max(0, self.left - 1), self.left > 0
        return not refused


@pytest.fixture
def start() -> Iterator[Start]:
    running: list[Starting] = []

    def started(hangs_up: int = 0, trust: ssl.SSLContext | None = None, answer: int = 404) -> Starting:
        running.append(Starting(hangs_up, trust, answer))
        threading.Thread(target=running[-1].serve_forever, args=(0.01,), daemon=True).start()
        return running[-1]

    yield started
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def trust(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A server's certificate, which this host trusts."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificate")
    crt, key = tmp_path / "tls.crt", tmp_path / "tls.key"
    words = (
        "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=127.0.0.1 -addext subjectAltName=IP:127.0.0.1"
    )
    process.run(["openssl", *words.split(), "-keyout", str(key), "-out", str(crt)], timeout=60)
    monkeypatch.setenv("SSL_CERT_FILE", str(crt))
    # What requests itself would rather believe.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(crt, key)
    return context


def to(server: Starting, said: list[str] | None = None, attempts: int = 8) -> Transport:
    backoff = Backoff(attempts=attempts, pause=lambda _: None)
    told = [] if said is None else said
    return Transport(parse(f"127.0.0.1:{server.server_port}/a/b"), backoff=backoff, say=told.append)


@pytest.mark.parametrize("hangs_up", range(5))
def test_registry_without_tls_that_still_starts_is_spoken_plain_with(start: Start, hangs_up: int) -> None:
    server = start(hangs_up)
    transport = to(server)
    assert transport.send("GET", "/v2/a/b/tags/list", expect=(404,)).status_code == 404
    assert transport.base == f"http://127.0.0.1:{server.server_port}"


@pytest.mark.parametrize("answer", [200, 401, 404, 503])
def test_any_plain_answer_says_that_it_is_plain(start: Start, answer: int) -> None:
    assert to(start(answer=answer)).base.startswith("http://")


@pytest.mark.parametrize("hangs_up", range(5))
def test_registry_with_tls_is_never_spoken_plain_with(
    start: Start, trust: ssl.SSLContext, hangs_up: int
) -> None:
    server = start(hangs_up, trust)
    transport = to(server)
    assert transport.send("GET", "/v2/a/b/tags/list", expect=(404,)).status_code == 404
    assert transport.base == f"https://127.0.0.1:{server.server_port}"


def test_certificate_nobody_trusts_is_told_at_once(
    start: Start, trust: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    said: list[str] = []
    with pytest.raises(PublishError, match="the certificate of"):
        to(start(trust=trust), said).send("GET", "/v2/", expect=(200,))
    assert said == []


def test_registry_that_never_comes_up_is_told_after_the_attempts(start: Start) -> None:
    said: list[str] = []
    with pytest.raises(PublishError, match="does not answer") as caught:
        to(start(1000), said, attempts=3).send("GET", "/v2/", expect=(200,))
    assert "(3 attempts)" in caught.value.cause
    assert len(said) == 2
