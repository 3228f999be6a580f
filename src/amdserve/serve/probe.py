"""Asks a server over HTTP with a bare socket: one that never blocks, for the loop, and one that waits."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from typing import Any

MOST_ANSWER = 1 << 22


def reachable(host: str) -> str:
    """Give the address at which a server that listens on `host` is asked from here."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(host, host)


def _request(method: str, host: str, path: str, body: bytes, key: str | None) -> bytes:
    name = f"[{host}]" if ":" in host else host
    lines = [f"{method} {path} HTTP/1.1", f"Host: {name}", "Connection: close"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    if body:
        lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace") + body


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


class Probe:
    """One question under way. It is asked with `start`, driven by `step`, and has a `status` at its end.

    Args:
        host: as the server was told to listen.
        port: its port.
        path: what to ask for.
        key: API key.
        body: JSON to post; with one, the whole answer is read.
        whole: read the whole answer to a GET too, not only its status.

    Attributes:
        status: the HTTP status; 0 where no answer could be had; None while nothing is known.
        answer: the answer's JSON, where the whole of it was read.
        begun: when it was asked.
    """

    def __init__(
        self,
        host: str,
        port: int,
        path: str,
        *,
        key: str | None = None,
        body: Any = None,
        whole: bool = False,
    ) -> None:
        self.address = (reachable(host), port)
        self.path = path
        self.key = key
        self.body = b"" if body is None else json.dumps(body).encode()
        self.whole = whole or body is not None
        self.answer: Any = None
        self.status: int | None = None
        self.begun = 0.0
        self.socket: socket.socket | None = None
        self._unsent = b""
        self._data = b""

    def start(self) -> None:
        """Begin to ask."""
        self.close()
        self.status, self.answer, self.begun, self._data = None, None, time.monotonic(), b""
        method = "POST" if self.body else "GET"
        self._unsent = _request(method, self.address[0], self.path, self.body, self.key)
        try:
            self.socket = socket.socket(_family(self.address[0]), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            self.socket.setblocking(False)
            self.socket.connect(self.address)
        except BlockingIOError:
            pass
        except OSError:
            self._end(0)

    @property
    def wants_write(self) -> bool:
        """Whether the next step waits for the socket to take, not to give."""
        return bool(self._unsent)

    def fileno(self) -> int:
        """Give the socket's number, for a selector; -1 where there is none."""
        return self.socket.fileno() if self.socket else -1

    def step(self) -> bool:
        """Go on, as far as it does not block; give whether the answer is there."""
        if self.socket is None:
            return self.status is not None
        try:
            if self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
                return False
            part = self.socket.recv(65536)
        except BlockingIOError:
            return False
        except OSError:
            self._end(0)
            return True
        self._data += part
        enough = _whole(self._data) if self.whole else b"\r\n" in self._data
        if enough or not part or len(self._data) > MOST_ANSWER:
            status, self.answer = _read(self._data)
            self._end(status)
        return self.status is not None

    def _end(self, status: int) -> None:
        self.status = status
        self.close()

    def close(self) -> None:
        """Let go of the socket."""
        if self.socket is not None:
            with contextlib.suppress(OSError):
                self.socket.close()
            self.socket = None


def ask(
    host: str, port: int, path: str, *, body: Any = None, timeout: float = 5.0, key: str | None = None
) -> tuple[int, Any]:
    """Ask and wait for the whole answer.

    Args:
        host: as the server was told to listen.
        port: its port.
        path: what to ask for.
        body: JSON to post; None asks with GET.
        timeout: seconds for all of it.
        key: API key.

    Returns:
        The HTTP status (0: no answer) and the answer's JSON (None: it is none).
    """
    address = (reachable(host), port)
    data = b"" if body is None else json.dumps(body).encode()
    end = time.monotonic() + timeout
    answer = b""
    try:
        with socket.create_connection(address, timeout=timeout) as connection:
            connection.sendall(_request("GET" if body is None else "POST", address[0], path, data, key))
            while len(answer) < MOST_ANSWER:
                connection.settimeout(max(0.01, end - time.monotonic()))
                part = connection.recv(65536)
                if not part:
                    break
                answer += part
                if _whole(answer):
                    break
    except OSError:
        if not answer:
            return 0, None
    return _read(answer)


def _read(answer: bytes) -> tuple[int, Any]:
    """Read status and JSON off an answer; 0 where it is none, None where the JSON is not whole."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[1].isdigit():
        return 0, None
    if b"transfer-encoding: chunked" in head.lower():
        rest = _join_chunks(rest)
    try:
        return int(words[1]), json.loads(rest)
    except ValueError:
        return int(words[1]), None


def _whole(answer: bytes) -> bool:
    head, blank, rest = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = line.partition(b":")[2].strip()
            return length.isdigit() and len(rest) >= int(length)
    return rest.endswith(b"0\r\n\r\n")


def _join_chunks(data: bytes) -> bytes:
    joined = b""
    while data:
        size, _, data = data.partition(b"\r\n")
        try:
            length = int(size.split(b";")[0], 16)
        except ValueError:
            break
        joined, data = joined + data[:length], data[length + 2 :]
        if length == 0:
            break
    return joined


def port_is_free(host: str, port: int) -> str:
    """Try to listen where the backend will; give why not, or an empty text."""
    address = "0.0.0.0" if host in ("", "0.0.0.0") else host
    try:
        infos = socket.getaddrinfo(address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as reason:
        return f"{host}: {reason.strerror or reason}"
    family, kind, protocol, _, where = infos[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(where)
            tried.listen(1)
        except OSError as reason:
            return reason.strerror or str(reason)
    return ""
