"""What only asking can tell: a backend's devices, missing libraries, room on disk, the engine, firmware."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.doctor.facts import EngineFacts, Seen

_DEVICE = re.compile(r"^\s+((?:Vulkan|ROCm|CUDA|HIP)\d+: .+?)\s*$")
_ASK = 30.0
_SOCKETS = ("/var/run/docker.sock", "/run/amdserve-engine/docker.sock")
_BUILDX = "/opt/amdserve/engine/usr/libexec/docker/cli-plugins/docker-buildx"


def list_devices(binary: str) -> Seen:
    """Ask a llama.cpp binary for its devices."""
    result = process.run([binary, "--list-devices"], timeout=_ASK, check=False)
    devices = tuple(match[1] for line in result.out.splitlines() if (match := _DEVICE.match(line)))
    words = [line.strip() for line in (result.err or result.out).splitlines() if line.strip()]
    if result.ok:
        return Seen(devices, "" if devices else next((word for word in words if "no " in word.lower()), ""))
    return Seen(devices, f"exit status {result.code}" + (f": {words[-1]}" if words else ""))


def missing_libraries(folders: tuple[str, ...]) -> tuple[str, ...]:
    """Name what the shared libraries and programs in these folders need and do not find."""
    files = sorted(str(path) for folder in folders for path in Path(folder).glob("*") if path.is_file())
    if not files:
        return ()
    result = process.run(["ldd", *files], timeout=_ASK, check=False)
    found = re.findall(r"^\s*(\S+) => not found", result.out, re.MULTILINE)
    return tuple(dict.fromkeys(found))


def free_bytes(path: str) -> int | None:
    """Give the free bytes where a path is, or would be."""
    place = Path(path)
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return shutil.disk_usage(place).free
    except OSError:
        return None


class _Unix(http.client.HTTPConnection):
    """HTTP over a Unix socket: the engine's interface, without its client."""

    def __init__(self, path: str) -> None:
        super().__init__("docker", timeout=5.0)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _get(path: str, what: str) -> dict[str, Any]:
    connection = _Unix(path)
    try:
        connection.request("GET", what)
        answer = json.loads(connection.getresponse().read())
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}


def engine(environ: Mapping[str, str]) -> EngineFacts | str:
    """Ask the engine that DOCKER_HOST names, else the first known socket that answers; else say why not."""
    named = environ.get("DOCKER_HOST", "")
    if named and not named.startswith("unix://"):
        return _by_client(named)
    own = [f"{environ['XDG_RUNTIME_DIR']}/docker.sock"] if environ.get("XDG_RUNTIME_DIR") else []
    reasons = []
    for path in [named.removeprefix("unix://")] if named else [*_SOCKETS, *own]:
        try:
            version, info = _get(path, "/version"), _get(path, "/info")
        except FileNotFoundError:
            continue
        except (OSError, ValueError, http.client.HTTPException) as reason:
            reasons.append(f"{path}: {reason}")
            continue
        host = f"unix://{path}"
        return EngineFacts(
            host,
            str(version.get("Version", "of unknown version")),
            rootless=any("rootless" in str(option) for option in info.get("SecurityOptions") or []),
            buildx=buildx(host),
            root=str(info.get("DockerRootDir") or ""),
            podman="podman" in json.dumps(version.get("Components") or []).lower(),
        )
    nothing = f"DOCKER_HOST names {named}, and no socket is there" if named else "no Docker Engine runs here"
    return "; ".join(reasons) or nothing


def _by_client(host: str) -> EngineFacts | str:
    result = process.run(["docker", "version", "--format", "{{.Server.Version}}"], timeout=_ASK, check=False)
    if not result.ok:
        return f"{host}: {result.err.strip().splitlines()[-1] if result.err.strip() else 'no answer'}"
    return EngineFacts(host, result.out.strip(), buildx=buildx(host))


def buildx(host: str) -> str:
    """Give buildx's version, or an empty text where there is none."""
    env = {**os.environ, "DOCKER_HOST": host}
    for argv in (["docker", "buildx", "version"], [_BUILDX, "version"], ["docker-buildx", "version"]):
        result = process.run(argv, env=env, timeout=_ASK, check=False)
        if result.ok and "buildx" in result.out:
            return result.out.strip().splitlines()[0]
    return ""


def firmware() -> str:
    """Give the version of the package that holds the GPU's firmware, or an empty text."""
    for argv in (
        ["dpkg-query", "-W", "-f", "${Version}", "firmware-amd-graphics"],
        ["dpkg-query", "-W", "-f", "${Version}", "linux-firmware"],
        ["rpm", "-q", "--qf", "%{VERSION}", "amd-gpu-firmware"],
        ["pacman", "-Q", "linux-firmware-amdgpu"],
    ):
        result = process.run(argv, timeout=5.0, check=False)
        if result.ok and result.out.strip():
            # Without an epoch: `1:20251125-1` is of the same day.
            return result.out.split()[-1].rpartition(":")[2]
    return ""
