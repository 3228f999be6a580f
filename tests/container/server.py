"""One container that serves, seen from outside: its port, its words, its end."""

from __future__ import annotations

import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from docker.errors import APIError
from openai import OpenAI
from requests import RequestException

READY = 600.0
"""Seconds that a container may take until it answers: lavapipe compiles every shader on the CPU."""

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


def document(said: str) -> Any:
    """Give the JSON document with which ends what a container said: all of its stdout, after its stderr."""
    begin = re.search(r"^\{", said, re.MULTILINE)
    assert begin, f"no document is in: {said}"
    return json.loads(said[begin.start() :])


class Server:
    """A running container.

    Args:
        container: as the Docker SDK knows it.
    """

    def __init__(self, container: Any) -> None:
        self.container = container

    @classmethod
    def start(cls, client: Any, image: str, command: tuple[str, ...], models: Path, **options: Any) -> Server:
        """Start a container as `docker run` does, with the models mounted read-only and port 8080 published.

        Args:
            client: of the Docker SDK.
            image: the reference.
            command: what follows the image on the line.
            models: the folder to mount at /models.
            options: more for the SDK's `run`.
        """
        settings: dict[str, Any] = {
            "detach": True,
            "ports": {"8080/tcp": ("127.0.0.1", None)},
            "volumes": {str(models): {"bind": "/models", "mode": "ro"}},
            **options,
        }
        container = client.containers.create(image, list(command), **settings)
        try:
            container.start()
        except Exception:
            container.remove(force=True)
            raise
        return cls(container)

    @property
    def name(self) -> str:
        """The container's name."""
        return str(self.container.name)

    @property
    def url(self) -> str:
        """Where the published port is."""
        self.container.reload()
        ports = self.container.attrs["NetworkSettings"]["Ports"]["8080/tcp"]
        return f"http://127.0.0.1:{ports[0]['HostPort']}"

    @property
    def openai(self) -> OpenAI:
        """The real client, pointed here."""
        return OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=180)

    def logs(self, **streams: bool) -> str:
        """Give all that it said, or what it said on one stream (`stdout=False`, `stderr=False`)."""
        return str(self.container.logs(**streams).decode("utf-8", "replace"))

    def running(self) -> bool:
        """Tell whether it still runs."""
        self.container.reload()
        return bool(self.container.status == "running")

    def end(self, seconds: float = READY) -> int:
        """Wait for its end and give its exit code."""
        try:
            return int(self.container.wait(timeout=seconds)["StatusCode"])
        except RequestException:  # the engine says nothing until the container has ended
            raise AssertionError(f"no end within {seconds:.0f} s:\n{self.logs()}") from None

    def stop(self, seconds: int = 30) -> int:
        """Stop it as `docker stop` does and give its exit code."""
        self.container.stop(timeout=seconds)
        return self.end(10)

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
        request = urllib.request.Request(self.url + path, data=data, headers=headers)
        try:
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

    def wait(self, seconds: float = READY) -> Server:
        """Wait until the backend answers its health check; give the server itself."""
        return self.until(lambda: self.ask("/health", timeout=10)[0] == 200, "an answer", seconds)

    def wait_for(self, backend: str, seconds: float = READY) -> Server:
        """Wait until this backend is the one that is ready."""

        def there() -> bool:
            status = self.status()
            return status.get("state") == "ready" and status.get("backend") == backend

        return self.until(there, f"{backend} to be ready", seconds)

    def until(self, holds: Callable[[], bool], what: str, seconds: float) -> Server:
        """Wait until something holds; the container must not end before."""
        end = time.monotonic() + seconds
        while not holds():
            assert self.running(), f"it ended instead of {what}:\n{self.logs()}"
            assert time.monotonic() < end, f"no {what} within {seconds} s:\n{self.logs()}"
            time.sleep(0.5)
        return self

    def exec(self, *argv: str, user: str = "") -> tuple[int, str]:
        """Run a program in the container; give its exit code and standard output."""
        done = self.container.exec_run(list(argv), user=user, demux=True)
        out, err = done.output
        return int(done.exit_code), (out or b"").decode() + (
            "" if done.exit_code == 0 else (err or b"").decode()
        )

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

    def kill(self, word: str, signal: str = "SEGV") -> int:
        """Send a signal to the one process whose command line begins with a word; give its id."""
        found = [number for number, line in self.processes().items() if line.split()[0].startswith(word)]
        assert len(found) == 1, self.processes()
        code, text = self.exec("/bin/bash", "-c", f"kill -{signal} {found[0]}", user="0")
        assert code == 0, text
        return found[0]

    def remove(self) -> None:
        """Take it away, whatever it does."""
        try:
            self.container.remove(force=True, v=True)
        except APIError as gone:
            if gone.status_code not in (404, 409):
                raise


Serve = Callable[..., Server]
