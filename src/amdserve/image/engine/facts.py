"""What this machine is, as far as it decides how a Docker Engine is got here; only reads."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from amdserve.image.engine.models import EnginePaths, Version, parse_version
from amdserve.process import run

SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")


@dataclass(frozen=True, slots=True)
class Facts:
    """What decides how an engine is got.

    Args:
        distribution: ID and ID_LIKE of /etc/os-release, most exact first.
        pretty: the distribution's name for people.
        root: whether this process may install and start things.
        dockerd: the version of the installed dockerd; None where none is, () where it does not tell.
        manager: `systemctl` or `service` where one of them knows docker, else empty.
        missing: programs an engine needs that are not installed.
        private: whether the private prefix holds an engine.
        private_buildx: whether it holds buildx.
        neighbour: whether another dockerd runs here that this tool did not start.
    """

    distribution: tuple[str, ...]
    pretty: str
    root: bool
    dockerd: Version | None
    manager: str
    missing: frozenset[str]
    private: bool
    private_buildx: bool
    neighbour: bool

    @property
    def apt(self) -> bool:
        """Whether this is Debian, Ubuntu or made of one of them."""
        return bool({"debian", "ubuntu"} & set(self.distribution))

    @property
    def own_network(self) -> bool:
        """Whether the private engine has to keep out of another engine's bridge and firewall rules."""
        return self.neighbour or self.dockerd is not None


def parse_os_release(text: str) -> tuple[tuple[str, ...], str]:
    """Give (ID and ID_LIKE in a row, the name for people) of an os-release file."""
    values = dict(re.findall(r"^(\w+)=[\"']?(.*?)[\"']?$", text, flags=re.MULTILINE))
    names = (values.get("ID", "linux"), *values.get("ID_LIKE", "").split())
    return names, values.get("PRETTY_NAME") or names[0]


def parse_policy(text: str) -> dict[str, str]:
    """Give package → the version apt would install, from what `apt-cache policy` printed."""
    found = re.findall(r"^(\S+):\n(?:  .*\n)*?  Candidate: (\S+)", text, flags=re.MULTILINE)
    return {name: version for name, version in found if version != "(none)"}


def look(paths: EnginePaths, environ: Mapping[str, str], neighbour: bool) -> Facts:
    """Read the facts of this machine; only reads."""
    try:
        names, pretty = parse_os_release(Path("/etc/os-release").read_text())
    except OSError:
        names, pretty = (os.uname().sysname.lower(),), os.uname().sysname
    wanted = ["runc", "iptables", "ip"]
    if _reads("/sys/module/apparmor/parameters/enabled").startswith("Y"):
        wanted.append("apparmor_parser")
    dockerd = which("dockerd", environ)
    return Facts(
        distribution=names,
        pretty=pretty,
        root=os.geteuid() == 0,
        dockerd=_dockerd_version(dockerd) if dockerd else None,
        manager=manager(environ),
        missing=frozenset(name for name in wanted if not which(name, environ)),
        private=os.access(paths.dockerd, os.X_OK),
        private_buildx=os.access(paths.buildx, os.X_OK),
        neighbour=neighbour,
    )


def which(program: str, environ: Mapping[str, str]) -> str | None:
    """Find a program, also where only root's PATH has it."""
    path = os.pathsep.join([environ.get("PATH", os.defpath), *SBIN])
    return shutil.which(program, path=path)


def _dockerd_version(program: str) -> Version:
    result = run([program, "--version"], timeout=20, check=False)
    return parse_version(result.out) or ()


def manager(environ: Mapping[str, str]) -> str:
    """Give what starts services here: `systemctl`, `service` where it knows docker, or nothing."""
    if Path("/run/systemd/system").is_dir() and which("systemctl", environ):
        return "systemctl"
    if which("service", environ) and Path("/etc/init.d/docker").exists():
        return "service"
    return ""


def _reads(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
