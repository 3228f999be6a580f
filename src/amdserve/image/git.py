"""A tree at a ref of a git repository, without its history."""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from amdserve import process
from amdserve.errors import SourceError

TIMEOUT = 1800.0
_SHA = re.compile(r"^[0-9a-f]{40}$")
# scheme://authority/path or user@host:path, then what may be a ref
_URL = re.compile(r"^(?P<head>[a-z+]+://[^/]*/|[^/@\s]+@[^/:\s]+:)(?P<path>[^@\s]+)(@(?P<ref>\S+))?$")


@dataclass(frozen=True, slots=True)
class GitSpec:
    """A git URL and the ref in it: branch, tag or full commit."""

    url: str
    ref: str

    @classmethod
    def parse(cls, text: str) -> GitSpec | None:
        """Take `URL` or `URL@ref` apart; None where it is no git URL."""
        found = _URL.match(text)
        return cls(found["head"] + found["path"], found["ref"] or "HEAD") if found else None

    @property
    def public(self) -> str:
        """The URL and ref without the name and password that may be in it."""
        return re.sub(r"(://)[^/@]*@", r"\1", f"{self.url}@{self.ref}")

    @property
    def name(self) -> str:
        """The last part of the URL's path, for a folder's name."""
        return re.sub(r"[^A-Za-z0-9.-]+", "-", self.url.rstrip("/").rpartition("/")[2].removesuffix(".git"))


def head(tree: Path) -> str | None:
    """Give the commit of a tree that is the root of a git checkout; `.commit` is what `checkout` leaves."""
    if (tree / ".commit").is_file():
        return (tree / ".commit").read_text().strip()
    if not (tree / ".git").exists():
        return None
    found = process.run(["git", "-C", str(tree), "rev-parse", "HEAD"], check=False)
    return found.out.strip() if found.ok else None


def resolve(git: GitSpec) -> str:
    """Give the commit that a ref names now; a full commit needs no network."""
    if _SHA.match(git.ref):
        return git.ref
    listed = _git("ls-remote", git.url, git.ref, f"{git.ref}^{{}}", url=git.url).splitlines()
    found = (line.partition("\t") for line in listed)
    refs = {name: commit for commit, _, name in found}
    order = (f"refs/tags/{git.ref}^{{}}", f"refs/tags/{git.ref}", f"refs/heads/{git.ref}", git.ref)
    commit = next((refs[name] for name in order if name in refs), None)
    if commit is None:
        raise SourceError(
            f"{git.url} has no ref {git.ref!r}",
            cause="it is no branch and no tag there; a commit must be given in full",
            fix=f"git ls-remote {git.url}",
        )
    return commit


def checkout(git: GitSpec, commit: str, into: Path) -> None:
    """Check one commit out with its submodules, without history; every `.git` is taken away afterwards."""
    _git("init", "-q", str(into), url=git.url)
    here = ("-C", str(into))
    _git(*here, "fetch", "-q", "--depth", "1", git.url, commit, url=git.url)
    _git(*here, "checkout", "-q", "FETCH_HEAD", url=git.url)
    _git(*here, "submodule", "update", "-q", "--init", "--recursive", "--depth", "1", url=git.url)
    for mark in list(into.rglob(".git")):
        tree = mark.parent
        (tree / ".commit").write_text(_git("-C", str(tree), "rev-parse", "HEAD", url=git.url))
    for mark in list(into.rglob(".git")):
        shutil.rmtree(mark) if mark.is_dir() else mark.unlink()


def _git(*arguments: str, url: str) -> str:
    return process.run(
        ["git", "-c", "credential.helper=", *arguments],
        timeout=TIMEOUT,
        error=SourceError,
        fix=f"check the network and the address: git ls-remote {url}",
    ).out
