"""Programs that publishing needs and hosts seldom have: found on PATH, else unpacked into a private folder.

They come from Debian's packages, checked as apt checks them; nothing is installed into the system.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from amdserve import process
from amdserve.errors import PublishError
from amdserve.image import show
from amdserve.image.engine import packages
from amdserve.image.engine.decide import MIRROR, SUITE

# A program → Debian's package that has it, and where it is in there.
PACKAGES: Mapping[str, tuple[str, str]] = {
    "cosign": ("cosign", "usr/bin/cosign"),
    "docker-registry": ("docker-registry", "usr/bin/docker-registry"),
    "docker-compose": ("docker-compose", "usr/libexec/docker/cli-plugins/docker-compose"),
    "quadlet": ("podman", "usr/libexec/podman/quadlet"),
}


def prefix() -> Path:
    """Give the folder where such programs are kept."""
    if os.geteuid() == 0:
        return Path("/opt/amdserve/tools")
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "amdserve" / "tools"


def find(name: str) -> Path | None:
    """Give a program that is there already."""
    if found := shutil.which(name):
        return Path(found)
    private = prefix() / PACKAGES[name][1]
    return private if private.exists() else None


def ensure(name: str) -> Path:
    """Give a program, fetched first where it is nowhere.

    Raises:
        PublishError: it cannot be had here.
    """
    if found := find(name):
        return found
    package, inside = PACKAGES[name]
    if not shutil.which("apt-get"):
        raise PublishError(
            f"{name} is not installed",
            cause="it can be fetched only where apt is",
            fix=f"install {name}, so that it is on PATH",
        )
    _keyring(name)
    folder = prefix()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if found := find(name):
            return found
        show.say(f"fetching {name} from Debian {SUITE} into {folder}")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as work:
            (deb,) = packages.download((package,), Path(work), suite=SUITE, mirror=MIRROR)
            process.run(["dpkg-deb", "-x", str(deb), f"{work}/tree"], error=PublishError)
            target = folder / inside
            target.parent.mkdir(parents=True, exist_ok=True)
            (Path(work) / "tree" / inside).rename(target)
    return target


def _keyring(name: str) -> None:
    """Have the keys that Debian's packages are checked with; Ubuntu has them in a package of its own."""
    if packages.KEYRING.exists():
        return
    if os.geteuid() != 0:
        raise PublishError(
            f"{name} is not installed, and cannot be fetched",
            cause=f"{packages.KEYRING} is missing: Debian's packages are checked with it",
            fix="sudo apt-get install debian-archive-keyring",
        )
    packages.install(("debian-archive-keyring",), show.say)
