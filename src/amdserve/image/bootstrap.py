"""Makes a distribution's root file system from its signed packages, as an image that an engine can load.

The same packages give the same image, byte for byte: every time in it is that of the suite's release file.
mmdebstrap makes it, or debootstrap; both check the archive's signature and the hash of every package.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import tarfile
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any

from amdserve.errors import SourceError
from amdserve.image.catalog import Base
from amdserve.image.engine.facts import which
from amdserve.image.engine.models import Say
from amdserve.image.engine.packages import install
from amdserve.process import run

SNAPSHOTS = "http://snapshot.debian.org/archive/debian"
KEYRINGS: Mapping[str, Path] = {
    "debian": Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    "ubuntu": Path("/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
}
KEYRING_PACKAGES = {"debian": "debian-archive-keyring", "ubuntu": "ubuntu-keyring"}
SCRIPTS = Path("/usr/share/debootstrap/scripts")
# What the `-slim` images of Debian leave out too.
EXCLUDED = ("doc", "info", "locale", "man")
ROOM = 1_500_000_000  # bytes: the tree, its packages and two tars of it
SECONDS = 1800
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def mirror_of(base: Base) -> str:
    """Give the mirror that a base is made from: the snapshot's where one is pinned.

    Raises:
        SourceError: none is written down.
    """
    if base.snapshot:
        return f"{SNAPSHOTS}/{base.snapshot}"
    if not base.mirror:
        raise SourceError(
            f"{base.image} can only be pulled",
            cause="images/sources.yaml names no mirror to make it from",
            fix="use a machine that reaches a registry, or add `mirror:` to it in images/sources.yaml",
        )
    return base.mirror.rstrip("/")


def recipe(base: Base) -> str:
    """Give the hash of what decides the content, apart from the state of the suite."""
    text = json.dumps([1, base.suite, mirror_of(base), EXCLUDED])
    return hashlib.sha256(text.encode()).hexdigest()


def make(name: str, base: Base, reference: str, labels: Mapping[str, str], *, work: Path, say: Say) -> Path:
    """Make the root file system and give it as an archive for `docker load`.

    Args:
        name: the distribution, for its keyring.
        base: what to make.
        reference: the tag that the archive gives the image.
        labels: of the image.
        work: an empty folder, whose content the caller removes.
        say: is told how it goes.

    Raises:
        SourceError: no tool, no room, no network, or a signature or hash that does not hold.
    """
    free = shutil.disk_usage(work).free
    if free < ROOM:
        raise SourceError(
            f"there is no room to make {reference} in {work.parent}",
            cause=f"{ROOM / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            fix="free some space, or name another folder: TMPDIR=…",
        )
    tool, mirror = _tool(say), mirror_of(base)
    keyring = _keyring(name, say)
    date = release_date(mirror, base.suite)
    layer = work / "layer.tar"
    env = {**os.environ, "SOURCE_DATE_EPOCH": str(int(date.timestamp())), "TMPDIR": str(work)}
    say(f"making {base.suite} of {date:%Y-%m-%d} from {mirror} with {tool} …")
    fix = f"is {mirror} reachable, and does {keyring} hold the key of {base.suite}?"
    if tool == "mmdebstrap":
        command = mmdebstrap(base.suite, mirror, keyring, layer)
        run(command, env=env, timeout=SECONDS, error=SourceError, fix=fix)
    else:
        tree = work / "tree"
        command = debootstrap(base.suite, mirror, keyring, tree)
        run(command, env=env, timeout=SECONDS, error=SourceError, fix=fix)
        slim(tree)
        run(pack(tree, layer, date), timeout=SECONDS, error=SourceError)
    return archive(layer, reference, labels, date, work / "image.tar")


def mmdebstrap(suite: str, mirror: str, keyring: Path, layer: Path) -> list[str]:
    """Give the command line of mmdebstrap."""
    options = [f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in EXCLUDED]
    return [
        *("mmdebstrap", "--quiet", "--mode=auto", "--variant=minbase", "--format=tar", "--components=main"),
        f"--keyring={keyring}",
        # The list of a suite on the way to release often outlives its own date; its signature is checked.
        '--aptopt=Acquire::Check-Valid-Until "false"',
        *options,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        # Of this machine, not of the distribution.
        '--customize-hook=rm -f "$1/etc/resolv.conf" "$1/etc/hostname"',
        *(suite, str(layer), mirror),
    ]


def debootstrap(suite: str, mirror: str, keyring: Path, tree: Path) -> list[str]:
    """Give the command line of debootstrap."""
    command = ["debootstrap", "--variant=minbase", f"--keyring={keyring}", suite, str(tree), mirror]
    # A debootstrap that is older than the suite does not know its name, but how its kind is made.
    return command if (SCRIPTS / suite).exists() else [*command, str(SCRIPTS / "sid")]


def pack(tree: Path, layer: Path, date: datetime) -> list[str]:
    """Give the command that packs a tree so that the same files give the same bytes."""
    return [
        *("tar", "--create", "--sort=name", "--numeric-owner", "--one-file-system", "--format=pax"),
        "--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime",
        *(f"--mtime=@{int(date.timestamp())}", "--clamp-mtime", "--exclude=./dev/*"),
        *(f"--file={layer}", f"--directory={tree}", "."),
    ]


def slim(tree: Path) -> None:
    """Remove what debootstrap leaves and an image does not need."""
    for folder in ("var/cache/apt/archives", "var/lib/apt/lists", "debootstrap"):
        shutil.rmtree(tree / folder, ignore_errors=True)
    for folder in ("var/cache/apt/archives/partial", "var/lib/apt/lists/partial"):
        (tree / folder).mkdir(parents=True)
    for name in ("etc/resolv.conf", "etc/hostname", "var/cache/ldconfig/aux-cache", "var/log/bootstrap.log"):
        (tree / name).unlink(missing_ok=True)
    for log in ("alternatives.log", "dpkg.log", "apt/history.log", "apt/term.log"):
        (tree / "var/log" / log).unlink(missing_ok=True)
    for folder in EXCLUDED:
        for path in (tree / "usr/share" / folder).rglob("*"):
            if not path.is_dir() and path.name != "copyright":
                path.unlink()


def archive(layer: Path, reference: str, labels: Mapping[str, str], date: datetime, to: Path) -> Path:
    """Wrap a layer as an archive for `docker load`; nothing in it is of this machine or moment."""
    created = date.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with layer.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    config: dict[str, Any] = {
        "architecture": ARCHITECTURES.get(os.uname().machine, os.uname().machine),
        "os": "linux",
        "created": created,
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["bash"],
            "Labels": dict(labels),
        },
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
        "history": [{"created": created, "created_by": reference}],
    }
    body = json.dumps(config, sort_keys=True).encode()
    name = f"{hashlib.sha256(body).hexdigest()}.json"
    manifest = [{"Config": name, "RepoTags": [reference], "Layers": [f"{digest}/layer.tar"]}]
    with tarfile.open(to, "w", format=tarfile.PAX_FORMAT) as out:
        for entry, content in ((name, body), ("manifest.json", json.dumps(manifest).encode())):
            info = tarfile.TarInfo(entry)
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        out.add(layer, f"{digest}/layer.tar")
    return to


def release_date(mirror: str, suite: str) -> datetime:
    """Ask a mirror for the date of a suite. It only dates files: what is installed is checked by signature.

    Raises:
        SourceError: the mirror does not answer, or does not have the suite.
    """
    address = f"{mirror}/dists/{suite}/InRelease"
    try:
        with urllib.request.urlopen(address, timeout=30) as reply:
            text = reply.read(65536).decode(errors="replace")
    except (OSError, ValueError) as reason:
        raise SourceError(
            f"the mirror {mirror} does not give the suite {suite}",
            cause=str(reason),
            fix="check the network and its proxy (http_proxy), or name another mirror in images/sources.yaml",
        ) from reason
    return parse_release_date(text)


def parse_release_date(text: str) -> datetime:
    """Give the date of a release file.

    Raises:
        SourceError: it has none.
    """
    found = re.search(r"^Date: (.+)$", text, flags=re.MULTILINE)
    try:
        if not found:
            raise ValueError("it has no line `Date:`")
        return parsedate_to_datetime(found[1].replace("UTC", "GMT"))
    except ValueError as reason:
        raise SourceError(
            "the mirror's release file cannot be read", cause=str(reason), fix="name another mirror"
        ) from reason


def _tool(say: Say) -> str:
    root = os.geteuid() == 0
    for tool in ("mmdebstrap", "debootstrap") if root else ("mmdebstrap",):
        if which(tool, os.environ):
            return tool
    if root and which("apt-get", os.environ):
        say("installing mmdebstrap with apt-get")
        install(("mmdebstrap",), say)
        return "mmdebstrap"
    raise SourceError(
        "the base cannot be made here",
        cause="neither mmdebstrap nor (as root) debootstrap is installed",
        fix="Debian, Ubuntu: sudo apt-get install mmdebstrap; elsewhere: --base pull",
    )


def _keyring(name: str, say: Say) -> Path:
    keyring = KEYRINGS.get(name, KEYRINGS["debian"])
    if not keyring.exists() and os.geteuid() == 0 and which("apt-get", os.environ):
        package = KEYRING_PACKAGES.get(name, KEYRING_PACKAGES["debian"])
        say(f"installing {package} with apt-get")
        install((package,), say)
    if not keyring.exists():
        raise SourceError(
            "the packages of the base cannot be verified",
            cause=f"{keyring} is missing",
            fix=f"install it: {KEYRING_PACKAGES.get(name, KEYRING_PACKAGES['debian'])}",
        )
    return keyring
