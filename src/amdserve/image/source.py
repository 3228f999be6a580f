"""The source of llama.cpp and its Python binding: the pinned source distribution, a git ref, or a folder.

`locate` says what a source is, which planning needs; `obtain` has its files in place, which a build needs.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

from amdserve.errors import SourceError, UsageError
from amdserve.image import git, index
from amdserve.image.catalog import SOURCES, LlamaPin, Sources
from amdserve.image.inputs import digest
from amdserve.image.models import LlamaSource
from amdserve.image.show import say

FOLDER = "build/sources"
VENDORED = "vendor/llama.cpp"
_CHANGELOG_COMMIT = re.compile(r"ggml-org/llama\.cpp@([0-9a-f]{7,40})")
_VERSION = re.compile(r"""^__version__\s*=\s*["']([^"']+)["']""", re.MULTILINE)


def locate(spec: str | None, sources: Sources, root: Path) -> LlamaSource:
    """Say what a source is.

    Args:
        spec: a git URL with `@ref`, a folder, or None for the pinned source distribution.
        sources: the pins.
        root: the checkout, for `build/sources`.

    Raises:
        UsageError: no such folder, or one that holds no llama.cpp.
        SourceError: the git repository or ref cannot be fetched.
    """
    pin = sources.llama
    if not spec or spec in ("sdist", "pinned"):
        where = pinned_folder(pin, root)
        return LlamaSource(
            "sdist", where, where / VENDORED, pin.version, pin.commit, f"sha256:{pin.sha256}", "sdist"
        )
    if wanted := git.GitSpec.parse(spec):
        return _from_git(wanted, pin, root)
    folder = Path(spec).expanduser().resolve()
    if not folder.is_dir():
        raise UsageError(
            f"--llama-source {spec}: no such folder",
            cause="it is no git URL either",
            fix="--llama-source https://github.com/ggml-org/llama.cpp@REF, or a folder",
        )
    source = _from_tree("folder", folder, pin, root, origin=f"folder {folder.name}")
    return replace(source, digest=tree_digest(folder))


def obtain(source: LlamaSource, sources: Sources, root: Path) -> None:
    """Have the files of a source in place: the pinned source distribution is fetched where it is needed.

    Raises:
        SourceError: it cannot be fetched, or is not what was pinned.
    """
    if not source.pinned:
        return
    pin, where = sources.llama, pinned_folder(sources.llama, root)
    mark = where.with_name(where.name + ".sha256")
    if where.is_dir() and mark.is_file() and mark.read_text().strip() == pin.sha256:
        return
    archive = root / FOLDER / index.filename_of(pin.package, pin.version)
    if not (archive.is_file() and _sha256(archive) == pin.sha256):
        index.fetch(pin.package, archive.name, pin.sha256, archive)
    _replace_folder(where, lambda into: unpack(archive, into))
    found = commit_of_changelog(where)
    if found and not (found.startswith(pin.commit) or pin.commit.startswith(found)):
        raise SourceError(
            f"{archive.name} holds llama.cpp {found}, {SOURCES} says {pin.commit}",
            cause="the version was changed there without its commit",
            fix=f"commit: {found} under llama: in {SOURCES}",
        )
    mark.write_text(pin.sha256 + "\n")


def pinned_folder(pin: LlamaPin, root: Path) -> Path:
    """Give the folder of the pinned source distribution's tree."""
    return root / FOLDER / f"{pin.package}-{pin.version}"


def commit_of_changelog(tree: Path) -> str | None:
    """Give the llama.cpp commit that a tree of llama-cpp-python names first in its changelog."""
    try:
        found = _CHANGELOG_COMMIT.search((tree / "CHANGELOG.md").read_text("utf-8", "replace"))
    except OSError:
        return None
    return found[1] if found else None


def unpack(archive: Path, into: Path) -> None:
    """Unpack a source distribution without its top folder; nothing may point out of it.

    Raises:
        SourceError: it is damaged, or holds a path, link or device that does not belong there.
    """
    try:
        with tarfile.open(archive) as tar:
            members = []
            for member in tar:
                _, _, name = member.name.partition("/")
                if not name:
                    continue
                member.name = name
                _check(member, archive)
                members.append(member)
            # Python before 3.11.4 has no filters: the check above stands for them.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, _path: member)
            tar.extractall(into, members)
    except (tarfile.TarError, EOFError, OSError) as reason:
        raise SourceError(
            f"{archive.name} cannot be unpacked", cause=str(reason), fix=f"rm {archive}"
        ) from reason


def tree_digest(folder: Path) -> str:
    """Give `sha256:…` over all files of a folder, their names and whether they can be executed; no `.git`."""
    total = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if ".git" in name.parts:
            continue
        if path.is_symlink():
            total.update(f"{name}\0link\0{path.readlink()}\n".encode())
        elif path.is_file():
            runs = path.stat().st_mode & 0o100
            total.update(f"{name}\0{'x' if runs else '-'}\0{_sha256(path)}\n".encode())
    return "sha256:" + total.hexdigest()


def _check(member: tarfile.TarInfo, archive: Path) -> None:
    inside = Path("/in")
    aims = [inside / member.name]
    if member.issym():
        aims.append((inside / member.name).parent / member.linkname)
    aims = [Path(re.sub(r"/+", "/", str(_normal(aim)))) for aim in aims]
    if not (member.isfile() or member.isdir() or member.issym()) or not all(
        aim.is_relative_to(inside) for aim in aims
    ):
        raise SourceError(
            f"{archive.name} holds {member.name!r}, which may not be in a source distribution",
            cause="a path or link out of it, or a device",
            fix=f"rm {archive}, and take it from https://pypi.org/simple",
        )


def _normal(path: Path) -> Path:
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            # Leaving the root of the archive shows as a path that no longer begins with it.
            parts = parts[:-1] or ["/outside"]
        else:
            parts.append(part)
    return Path(*parts)


def _from_git(wanted: git.GitSpec, pin: LlamaPin, root: Path) -> LlamaSource:
    commit = git.resolve(wanted)
    where = root / FOLDER / f"{wanted.name}-{commit[:12]}"
    if not where.is_dir():
        say(f"fetching {wanted.public} ({commit[:12]})")
        _replace_folder(where, lambda into: git.checkout(wanted, commit, into))
    origin = wanted.public
    return replace(
        _from_tree("git", where, pin, root, origin=origin, commit=commit),
        digest="sha256:" + digest(f"git {commit}"),
    )


def _from_tree(
    kind: Literal["git", "folder"],
    folder: Path,
    pin: LlamaPin,
    root: Path,
    *,
    origin: str,
    commit: str | None = None,
) -> LlamaSource:
    """Tell a tree of llama-cpp-python from one of llama.cpp, which takes the pinned binding."""
    if (folder / "llama_cpp" / "__init__.py").is_file():
        llama = folder / VENDORED
        if not (llama / "CMakeLists.txt").is_file():
            raise UsageError(
                f"{folder} is llama-cpp-python without its llama.cpp",
                cause="its submodules were not fetched",
                fix=f"git -C {folder} submodule update --init",
            )
        version = _VERSION.search((folder / "llama_cpp" / "__init__.py").read_text("utf-8"))
        named = git.head(llama) or commit_of_changelog(folder) or commit or "local"
        return LlamaSource(
            kind, folder, llama, version[1] if version else "0", named[:9], "", origin, pinned=False
        )
    if not (folder / "CMakeLists.txt").is_file() or not (folder / "ggml").is_dir():
        raise UsageError(
            f"{folder} is neither llama.cpp nor llama-cpp-python",
            cause="there is no ggml/ beside a CMakeLists.txt, and no llama_cpp/",
            fix="name the root of the checkout",
        )
    named = commit or git.head(folder) or "local"
    binding = pinned_folder(pin, root)
    return LlamaSource(kind, binding, folder, pin.version, named[:9], "", origin, pinned=True)


def _replace_folder(where: Path, fill: Callable[[Path], None]) -> None:
    """Fill a new folder, then put it in place in one step: what is there is whole."""
    where.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=where.parent) as scratch:
        fresh = Path(scratch) / "tree"
        fresh.mkdir()
        fill(fresh)
        if where.exists():
            where.rename(Path(scratch) / "old")
        fresh.rename(where)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
