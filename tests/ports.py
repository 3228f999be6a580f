"""Ports for the servers of tests, which are told their port before they listen on it."""

from __future__ import annotations

import itertools
import os
import socket

# Below the range from which Linux takes the ports of outgoing connections: a port found by binding to 0
# is soon given to somebody else. Each worker of a run has some for itself.
FIRST, EACH, WORKERS = 20000, 750, 16
_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_next = itertools.cycle(range(FIRST + _worker * EACH, FIRST + (_worker + 1) * EACH))


def free_port() -> int:
    """Give a port that nobody listens on."""
    for port in itertools.islice(_next, EACH):
        with socket.socket() as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError(f"no port is free from {FIRST} on")
