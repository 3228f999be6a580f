"""Renew the lock files of `requirements/`, and look for newer releases than the pinned ones."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.errors import SourceError
from amdserve.image import index
from amdserve.image.catalog import SOURCES, LlamaPin, Sources

FOLDER = "requirements"
HEADER = "./inv lock"
# Where Debian keeps the sources of rocBLAS, of every suite.
DEBIAN = "http://deb.debian.org/debian"
ROCBLAS = "pool/main/r/rocblas"
TIMEOUT = 600.0
# For Debian forky's Python; the universal lock is for whatever Python of 3.11 or newer a host has.
CONTAINER = ("--python-version", "3.14", "--python-platform", "x86_64-unknown-linux-gnu")
HOST = ("--universal", "--python-version", "3.11")
LOCKS: Mapping[str, tuple[str, ...]] = {
    "toolkit.txt": ("requirements/toolkit.in", "pyproject.toml", "--extra=build", "--group=dev", *HOST),
    "container.txt": ("requirements/container.in", *CONTAINER),
    "container-build.txt": ("requirements/container-build.in", *CONTAINER),
}


@dataclass(frozen=True, slots=True)
class Newer:
    """What an index says of something pinned; `latest` is its newest release that is no pre-release.

    `place` is where the pinned version stands in the pins, `where` the index; `trouble` says why nothing is
    known, and `latest` is then the pinned version.
    """

    package: str
    pinned: str
    latest: str
    place: tuple[str, ...] = ("llama", "version")
    where: str = "PyPI"
    trouble: str = ""

    @property
    def is_newer(self) -> bool:
        """Whether the index has a newer one."""
        return _order(self.latest) > _order(self.pinned)

    def to_dict(self) -> dict[str, Any]:
        """Give the answer as one JSON object."""
        return {
            "package": self.package,
            "pinned": self.pinned,
            "latest": self.latest,
            "newer": self.is_newer,
            "where": self.where,
            "trouble": self.trouble,
        }


def commands(*, upgrade: bool) -> list[list[str]]:
    """Give the commands that write the lock files, to be run in the root of the checkout."""
    uv = str(Path(sys.executable).with_name("uv"))
    more = ["--upgrade"] if upgrade else []
    always = ("--quiet", "--no-annotate", "--generate-hashes", "--custom-compile-command", HEADER)
    return [
        [uv, "pip", "compile", *always, *more, *inputs, "--output-file", f"{FOLDER}/{name}"]
        for name, inputs in LOCKS.items()
    ]


def renew(root: Path, *, upgrade: bool = False, dry: bool = False) -> list[str]:
    """Resolve every lock file again; give the names of those that changed.

    Args:
        root: the checkout.
        upgrade: take newer versions; without it what is locked stays where it still fits.
        dry: print the commands only.

    Raises:
        ProcessError: uv is missing, or finds no versions that fit together.
    """
    names = [f"{FOLDER}/{name}" for name in LOCKS]
    before = {name: _content(root / name) for name in names}
    environ = {"UV_DEFAULT_INDEX": index.index_url(), **os.environ}
    for command in commands(upgrade=upgrade):
        process.run(command, cwd=root, env=environ, timeout=TIMEOUT, dry=dry)
    return [name for name in names if _content(root / name) != before[name]]


def newer(pin: LlamaPin) -> Newer:
    """Ask the package index for the newest release of the pinned llama-cpp-python.

    Raises:
        SourceError: the index cannot be reached, or lists no source distribution.
    """
    return _of_index(pin.package, pin.version, ("llama", "version"))


def newest(sources: Sources) -> list[Newer]:
    """Ask for newer releases of everything that is pinned by version; what cannot be asked says so.

    ROCm is looked up for the provider that takes it from Debian: its rocBLAS, which all else waits for.
    """
    found = [_asked(newer, sources.llama)]
    if vllm := getattr(sources, "vllm", None):
        found.append(_told("vllm", vllm.version, ("vllm", "version"), "PyPI", _vllm))
    for name, provider in sources.rocm.providers.items():
        place = ("rocm", "providers", name, "version")
        where = f"{DEBIAN}/{ROCBLAS}/" if provider.suite else "AMD's own repository"
        found.append(_told("rocm", provider.version, place, where, _rocm if provider.suite else _nobody))
    return found


def _told(
    package: str, pinned: str, place: tuple[str, ...], where: str, ask: Callable[[], list[str]]
) -> Newer:
    try:
        versions = ask()
    except SourceError as reason:
        return Newer(package, pinned, pinned, place, where, reason.what)
    return Newer(package, pinned, max([*versions, pinned], key=_order), place, where)


def _asked(ask: Callable[[LlamaPin], Newer], pin: LlamaPin) -> Newer:
    try:
        return ask(pin)
    except SourceError as reason:
        return Newer(pin.package, pin.version, pin.version, trouble=reason.what)


def _of_index(package: str, pinned: str, place: tuple[str, ...]) -> Newer:
    found = _versions(index.filename_of(package, "").removesuffix("-.tar.gz"), index.listing(package))
    if not found:
        raise SourceError(
            f"{index.index_url()} lists no source distribution of {package}",
            fix="PIP_INDEX_URL=https://pypi.org/simple",
        )
    return Newer(package, pinned, max(found, key=_order), place)


def _vllm() -> list[str]:
    return _versions("vllm", index.listing("vllm"))


def _rocm() -> list[str]:
    names = index.files(f"{DEBIAN}/{ROCBLAS}/", "Debian's list of rocBLAS")
    shape = re.compile(r"^rocblas_(\d+(?:\.\d+)+)-[^/]+\.dsc$")
    return [match[1] for name in names if (match := shape.match(name))]


def _nobody() -> list[str]:
    raise SourceError("AMD's repository lists its releases for apt only", fix="look there: repo.amd.com")


def _versions(prefix: str, names: Iterable[str]) -> list[str]:
    shape = re.compile(rf"^{re.escape(prefix)}-(\d+(?:\.\d+)*)\.tar\.gz$")
    return [match[1] for name in names if (match := shape.match(name))]


def advice(answer: Newer) -> str:
    """Say what to do about a newer release."""
    if answer.trouble:
        return f"{answer.package} {answer.pinned}: not known whether there is a newer one: {answer.trouble}"
    if not answer.is_newer:
        return f"{answer.package} {answer.pinned} is the newest release"
    also = ", sha256, commit and date" if answer.place[0] == "llama" else ""
    return (
        f"{answer.package} {answer.latest} is out, {answer.pinned} is pinned: change version{also} under "
        f"{'.'.join(answer.place[:-1])}: in {SOURCES} (a build names sha256 and commit where they differ)"
    )


def _order(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _content(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""
