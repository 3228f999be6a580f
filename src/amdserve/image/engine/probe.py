"""Which Docker Engines answer on this machine, and is one of them good enough to build with?

No library and no docker command is needed to ask: `GET /version` over the socket takes a few milliseconds.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from amdserve.errors import EngineError
from amdserve.image.engine.models import (
    BUILDX_MIN,
    ENGINE_MIN,
    EnginePaths,
    Version,
    parse_version,
    show_version,
)
from amdserve.process import run

DEFAULT_SOCKET = Path("/var/run/docker.sock")
PLUGINS = (
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
)
ANSWER_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """An address where an engine may answer.

    Args:
        host: the address, as DOCKER_HOST writes it.
        source: what named it, for people.
        named: whether the user named it, so that no other may silently take its place.
        context: the docker context it is from, where it cannot be reached by its address alone.
    """

    host: str
    source: str
    named: bool = False
    context: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an address answered: the engine's version, or why it cannot be used."""

    candidate: Candidate
    version: str = ""
    refused: str = ""
    running: bool = False

    @property
    def usable(self) -> bool:
        """Whether an engine is there that can build."""
        return not self.refused


def candidates(environ: Mapping[str, str], paths: EnginePaths) -> tuple[Candidate, ...]:
    """List where to ask, in the order the docker command itself would follow, the private engine last."""
    found: list[Candidate] = []
    if host := environ.get("DOCKER_HOST"):
        found.append(Candidate(host, "DOCKER_HOST", named=host != paths.host))
    elif name := environ.get("DOCKER_CONTEXT"):
        if name != "default":
            found.append(_context(environ, name, "DOCKER_CONTEXT", named=True))
    elif (name := _config(environ).get("currentContext")) and name != "default":
        found.append(_context(environ, name, f"the docker context {name}", named=False))
    found.append(Candidate(f"unix://{DEFAULT_SOCKET}", "the system's socket"))
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        found.append(Candidate(f"unix://{runtime}/docker.sock", "the rootless socket"))
    found.append(Candidate(paths.host, "the private engine"))
    seen: dict[str, Candidate] = {}
    for candidate in found:
        seen.setdefault(candidate.host, candidate)
    return tuple(seen.values())


def _home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/root") / ".docker")


def _config(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        config = json.loads((_home(environ) / "config.json").read_text())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def _context(environ: Mapping[str, str], name: str, source: str, *, named: bool) -> Candidate:
    folder = hashlib.sha256(name.encode()).hexdigest()
    record = _home(environ) / "contexts/meta" / folder / "meta.json"
    try:
        host = json.loads(record.read_text())["Endpoints"]["docker"]["Host"]
    except (OSError, ValueError, KeyError, TypeError) as reason:
        raise EngineError(
            f"the docker context `{name}` cannot be read",
            cause=f"{record}: {reason}",
            fix="see `docker context ls`, and choose one with `docker context use NAME`",
        ) from reason
    return Candidate(host, source, named, "" if host.startswith("unix://") else name)


def ask(candidate: Candidate, environ: Mapping[str, str], seconds: float = ANSWER_SECONDS) -> Answer:
    """Ask one address for its version and judge what it says. Never raises."""
    try:
        return judge(candidate, _version(candidate, environ, seconds))
    except FileNotFoundError:
        return Answer(candidate, refused="no socket is there")
    except PermissionError:
        return Answer(candidate, refused="this user may not use the socket", running=True)
    except ConnectionRefusedError:
        return Answer(candidate, refused="nobody listens there")
    except (OSError, ValueError, EngineError) as reason:
        return Answer(candidate, refused=f"no answer: {reason}")


def judge(candidate: Candidate, answer: Mapping[str, Any]) -> Answer:
    """Decide from the body of `/version` whether an engine can build for us."""
    version = str(answer.get("Version", ""))
    names = [str(part.get("Name", "")) for part in answer.get("Components") or ()]
    if any("podman" in name.lower() for name in names):
        reason = f"this is Podman {version}, which has no BuildKit"
        return Answer(candidate, version, reason, running=True)
    parsed = parse_version(version)
    if parsed is None:
        return Answer(candidate, version, f"its version `{version}` cannot be read", running=True)
    if parsed < ENGINE_MIN:
        reason = f"Docker Engine {version} is older than {show_version(ENGINE_MIN)}"
        return Answer(candidate, version, reason, running=True)
    if answer.get("Os", "linux") != "linux":
        return Answer(candidate, version, f"it runs {answer['Os']} containers", running=True)
    return Answer(candidate, version, running=True)


def _version(candidate: Candidate, environ: Mapping[str, str], seconds: float) -> dict[str, Any]:
    address = urlsplit(candidate.host)
    plain = address.scheme == "tcp" and not candidate.context and not environ.get("DOCKER_TLS_VERIFY")
    if address.scheme != "unix" and not plain:
        return _version_by_command(candidate, environ)
    if address.scheme == "unix":
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        target: Any = address.path
    else:
        link = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        target = (address.hostname or "127.0.0.1", address.port or 2375)
    with link:
        link.settimeout(seconds)
        link.connect(target)
        # HTTP/1.0, so that the end of the answer is the end of the connection.
        link.sendall(b"GET /version HTTP/1.0\r\nHost: docker\r\n\r\n")
        received = b"".join(iter(lambda: link.recv(65536), b""))
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.split(b"\r\n", 1)[0]:
        raise ValueError(f"it said {head.splitlines()[0].decode(errors='replace') if head else 'nothing'}")
    parsed = json.loads(body)
    if not isinstance(parsed, dict):
        raise ValueError("it does not speak Docker's API")
    return parsed


def _version_by_command(candidate: Candidate, environ: Mapping[str, str]) -> dict[str, Any]:
    """Ask through the docker command, which knows about TLS and ssh."""
    chosen = ["--context", candidate.context] if candidate.context else ["--host", candidate.host]
    command = ["docker", *chosen, "version", "--format", "{{json .Server}}"]
    result = run(command, env=environ, timeout=20, error=EngineError)
    parsed = json.loads(result.out or "null")
    if not isinstance(parsed, dict):
        raise ValueError("no engine answered")
    return parsed


@dataclass(frozen=True, slots=True)
class Buildx:
    """A buildx: how to call it, its version, and what is wrong with it, if anything."""

    argv: tuple[str, ...]
    version: str = ""
    refused: str = ""


def find_buildx(environ: Mapping[str, str], paths: EnginePaths) -> tuple[Buildx | None, tuple[Buildx, ...]]:
    """Find a buildx that is new enough.

    Returns:
        it, or None; and those that were looked at before and refused.
    """
    refused: list[Buildx] = []
    for program in buildx_programs(environ, paths):
        result = run([str(program), "version"], env=environ, timeout=20, check=False)
        judged = judge_buildx((str(program),), result.out if result.ok else "")
        if not judged.refused:
            return judged, tuple(refused)
        refused.append(judged)
    return None, tuple(refused)


def judge_buildx(argv: tuple[str, ...], words: str) -> Buildx:
    """Decide from what `buildx version` printed whether it can build for us."""
    # "github.com/docker/buildx v0.12.1 30feaa1a", or Debian's "github.com/docker/buildx 0.29.1+ds1 …".
    version: Version | None = parse_version(" ".join(words.split()[1:2]))
    if version is None:
        return Buildx(argv, refused=f"{argv[-1]} does not tell its version")
    if version < BUILDX_MIN:
        older = f"{argv[-1]} {show_version(version)} is older than {show_version(BUILDX_MIN)}"
        return Buildx(argv, show_version(version), older)
    return Buildx(argv, show_version(version))


def buildx_programs(environ: Mapping[str, str], paths: EnginePaths) -> tuple[Path, ...]:
    """List the buildx programs here: where the docker command looks, on PATH, and the private one."""
    folders = [str(_home(environ) / "cli-plugins"), *PLUGINS]
    places = [Path(folder) / "docker-buildx" for folder in folders]
    for name in ("docker-buildx", "buildx"):
        if on_path := shutil.which(name, path=environ.get("PATH")):
            places.append(Path(on_path))
    places.append(paths.buildx)
    return tuple(dict.fromkeys(place for place in places if os.access(place, os.X_OK) and place.is_file()))
