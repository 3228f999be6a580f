"""What the rooms of the engine hand each other: where things are, and the engine that was found."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Say = Callable[[str], None]
Version = tuple[int, ...]

# Named contexts, bake with secrets and contexts, cache mounts, heredocs and `COPY --link` need BuildKit 0.10,
# which Engine 23.0 was the first to carry and to use unasked. A buildx of 0.12 knows all of it too, and is
# the oldest that a distribution still in support ships.
ENGINE_MIN: Version = (23, 0)
BUILDX_MIN: Version = (0, 12)


def say_aside(text: str) -> None:
    """Print to standard error: standard output belongs to answers."""
    print(text, file=sys.stderr, flush=True)


def parse_version(text: str) -> Version | None:
    """Give the first dotted number in `text` as a tuple: `28.5.2+dfsg4` → (28, 5, 2); None without one.

    A Debian epoch (`5:28.0.1-1`) is not part of it.
    """
    found = re.search(r"(?<![\w.:])(?:\d+:)?v?(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else None


def show_version(version: Version) -> str:
    """Give a version as it is written."""
    return ".".join(str(part) for part in version)


@dataclass(frozen=True, slots=True)
class EnginePaths:
    """Where the private engine lives. Nothing of it is outside these three folders.

    Args:
        prefix: its programs, unpacked from Debian's packages.
        data: images, build cache and the log.
        run: socket, process id and run-time state; gone after a reboot.
    """

    prefix: Path = Path("/opt/amdserve/engine")
    data: Path = Path("/var/lib/amdserve-engine")
    run: Path = Path("/run/amdserve-engine")

    @property
    def socket(self) -> Path:
        """Where the private engine listens."""
        return self.run / "docker.sock"

    @property
    def host(self) -> str:
        """The same, as DOCKER_HOST writes it."""
        return f"unix://{self.socket}"

    @property
    def pidfile(self) -> Path:
        """Holds the process id of the dockerd that was started by this tool."""
        return self.run / "docker.pid"

    @property
    def service(self) -> Path:
        """Exists when this tool started the system's own service: holds how (systemctl, service)."""
        return self.run / "service"

    @property
    def network(self) -> Path:
        """Exists when this tool made a bridge of its own: holds its name and subnet."""
        return self.run / "network"

    @property
    def log(self) -> Path:
        """What dockerd says."""
        return self.data / "dockerd.log"

    @property
    def dockerd(self) -> Path:
        """The private engine's daemon."""
        return self.prefix / "usr/sbin/dockerd"

    @property
    def buildx(self) -> Path:
        """The private buildx; works without the docker command."""
        return self.prefix / "usr/libexec/docker/cli-plugins/docker-buildx"

    @property
    def search(self) -> tuple[Path, ...]:
        """Folders that go before PATH for the private engine's programs."""
        return (self.prefix / "usr/bin", self.prefix / "usr/sbin")


@dataclass(frozen=True, slots=True)
class Engine:
    """A Docker Engine that answers, with a buildx that can build on it.

    Args:
        host: its address, as DOCKER_HOST writes it.
        docker: the docker command, where there is one; nothing here needs it.
        buildx: the start of every buildx command line.
        started_by_us: whether `stop` would stop it.
        version: the engine's.
        buildx_version: buildx's.
        context: the docker context that leads to it, where the address alone does not (TLS, ssh).
        environ: what `env` adds to; None means this process's environment.
    """

    host: str
    docker: Path | None
    buildx: tuple[str, ...]
    started_by_us: bool
    version: str
    buildx_version: str = ""
    context: str = ""
    environ: Mapping[str, str] | None = field(default=None, repr=False, compare=False)

    def env(self) -> dict[str, str]:
        """Give the environment in which docker and buildx talk to this engine, whatever else is set up."""
        env = dict(os.environ if self.environ is None else self.environ)
        env.pop("DOCKER_CONTEXT", None)
        env.pop("DOCKER_HOST", None)
        env.update({"DOCKER_CONTEXT": self.context} if self.context else {"DOCKER_HOST": self.host})
        return env

    def client(self, timeout: float = 60) -> Any:
        """Give a client of the docker SDK. `timeout`: seconds without an answer until a call gives up."""
        import docker  # noqa: PLC0415  it costs a fifth of a second, which most commands never need

        ssh = self.host.startswith("ssh://")
        if self.context:
            tls = docker.ContextAPI.get_context(self.context).TLSConfig
            return docker.DockerClient(base_url=self.host, tls=tls, timeout=timeout, use_ssh_client=ssh)
        if self.host.startswith("unix://"):
            return docker.DockerClient(base_url=self.host, timeout=timeout)
        return docker.from_env(environment=self.env(), timeout=timeout, use_ssh_client=ssh)

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {
            "host": self.host,
            "version": self.version,
            "buildx": list(self.buildx),
            "buildx_version": self.buildx_version,
            "docker": str(self.docker) if self.docker else None,
            "started_by_us": self.started_by_us,
        }

    def __str__(self) -> str:
        """Give it as one line."""
        if not self.version:
            return f"a Docker Engine at {self.host}, not there yet"
        ours = ", started by amdserve" if self.started_by_us else ""
        return f"Docker Engine {self.version} at {self.host} (buildx {self.buildx_version}{ours})"
