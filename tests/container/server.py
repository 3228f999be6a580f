"""One container that serves, seen from outside: its port, its words, its end."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asked import READY, Asked
from docker.errors import APIError
from openai import OpenAI
from requests import RequestException


def document(said: str) -> Any:
    """Give the JSON document with which ends what a container said: all of its stdout, after its stderr."""
    begin = re.search(r"^\{", said, re.MULTILINE)
    assert begin, f"no document is in: {said}"
    return json.loads(said[begin.start() :])


class Server(Asked):
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

    def exec(self, *argv: str, user: str = "") -> tuple[int, str]:
        """Run a program in the container; give its exit code and standard output."""
        done = self.container.exec_run(list(argv), user=user, demux=True)
        out, err = done.output
        return int(done.exit_code), (out or b"").decode() + (
            "" if done.exit_code == 0 else (err or b"").decode()
        )

    def computed(self) -> float:
        """Give the seconds of CPU that all its processes have computed."""
        told = self.container.client.api.stats(self.container.id, stream=False, one_shot=True)
        return float(told["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9

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
