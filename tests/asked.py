"""A running server that is asked over HTTP, wherever it runs."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Self

READY = 600.0
"""Seconds that a server may take until it answers: lavapipe compiles every shader on the CPU."""

# Prints every process but its own, as one JSON object: the image has no `ps`.
PROCESSES = """
import json, os, pathlib
found = {}
for path in pathlib.Path("/proc").iterdir():
    if path.name.isdigit() and int(path.name) != os.getpid():
        try:
            found[path.name] = (path / "cmdline").read_bytes().replace(b"\\0", b" ").decode().strip()
        except OSError:
            pass
print(json.dumps({number: line for number, line in found.items() if line}))
"""


class Asked(ABC):
    """A server: where it is, whether it runs, and what it says of itself."""

    @property
    @abstractmethod
    def url(self) -> str:
        """Where its port is."""

    @abstractmethod
    def running(self) -> bool:
        """Tell whether it still runs."""

    @abstractmethod
    def logs(self, **streams: bool) -> str:
        """Give all that it said, or what it said on one stream (`stdout=False`, `stderr=False`)."""

    @abstractmethod
    def computed(self) -> float:
        """Give the seconds of CPU that all its processes have computed."""

    @abstractmethod
    def remove(self) -> None:
        """End it and take it away, whatever it does."""

    @abstractmethod
    def exec(self, *argv: str, user: str = "") -> tuple[int, str]:
        """Run a program beside it; give its exit code and standard output."""

    def ask(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        timeout: float = 120,
        headers: Mapping[str, str] | None = None,
    ) -> tuple[int, bytes]:
        """Send one request; give the status (0: nobody answered) and the body."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        try:
            request = urllib.request.Request(self.url + path, data=data, headers=headers)
            with urllib.request.urlopen(request, timeout=timeout) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read()
        except (OSError, KeyError, IndexError, TypeError):
            return 0, b""

    def post(self, path: str, **body: Any) -> Any:
        """Send one request that must succeed, and give the JSON in its answer."""
        status, answer = self.ask(path, body)
        assert status == 200, (status, answer)
        return json.loads(answer)

    def wait(self, seconds: float = READY) -> Self:
        """Wait until the backend answers its health check; give the server itself."""
        return self.until(lambda: self.ask("/health", timeout=10)[0] == 200, "an answer", seconds)

    def wait_for(self, backend: str, seconds: float = READY) -> Self:
        """Wait until this backend is the one that is ready."""

        def there() -> bool:
            status = self.status()
            return status.get("state") == "ready" and status.get("backend") == backend

        return self.until(there, f"{backend} to be ready", seconds)

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> Self:
        """Wait until something holds; the server must not end before."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.running(), f"it ended instead of {what}:\n{self.logs()}"
            assert time.monotonic() < end, f"no {what} within {seconds} s:\n{self.logs()}"
            time.sleep(0.5)
        return self

    def status(self) -> dict[str, Any]:
        """Give what `amdserve status --json` says; empty while there is nothing."""
        _, text = self.exec("amdserve", "status", "--json")
        try:
            found = json.loads(text)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def processes(self) -> dict[int, str]:
        """Give the processes in the container: its own id of each, and the command line."""
        code, text = self.exec("/opt/amdserve/bin/python", "-c", PROCESSES, user="0")
        assert code == 0, text
        return {int(number): line for number, line in json.loads(text).items()}
