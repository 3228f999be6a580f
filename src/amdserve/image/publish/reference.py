"""Image references taken apart as Docker does: registry, path, tag, digest."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from amdserve.errors import UsageError

HUB = "docker.io"
# Where Docker Hub's API really answers.
HUB_API = "registry-1.docker.io"
LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_PATH = re.compile(r"^[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*$")
_TAG = re.compile(r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$")
_DIGEST = re.compile(r"^sha256:[0-9a-f]{64}$")


@dataclass(frozen=True, slots=True)
class Reference:
    """One image in a registry; `registry` is `host` or `host:port`, `tag` and `digest` may be missing."""

    registry: str
    path: str
    tag: str | None = None
    digest: str | None = None

    @property
    def repository(self) -> str:
        """What stands before the tag, registry included."""
        return f"{self.registry}/{self.path}"

    @property
    def pinned(self) -> str:
        """The reference by digest alone, which nobody can move."""
        return f"{self.repository}@{self.digest}"

    @property
    def api(self) -> str:
        """The host whose API is asked."""
        return HUB_API if self.registry == HUB else self.registry

    @property
    def loopback(self) -> bool:
        """Whether the registry is on this machine, where plain HTTP is nobody's risk."""
        return self.registry.rpartition(":")[0] in LOOPBACK or self.registry in LOOPBACK

    def at(self, *, tag: str | None = None, digest: str | None = None) -> Reference:
        """Give another image of the same repository."""
        return replace(self, tag=tag, digest=digest)

    def __str__(self) -> str:
        """Give it as it is written."""
        tag, digest = f":{self.tag}" if self.tag else "", f"@{self.digest}" if self.digest else ""
        return self.repository + tag + digest


def names_registry(text: str) -> bool:
    """Tell whether a reference begins with a registry's host, by Docker's rule."""
    first, slash, _ = text.partition("/")
    return bool(slash) and ("." in first or ":" in first or first == "localhost")


def parse(text: str) -> Reference:
    """Take a reference apart.

    Raises:
        UsageError: it names no registry, or is no reference at all.
    """
    if not names_registry(text):
        raise UsageError(
            f"{text!r} names no registry",
            cause="a name without a host is an image of this host's engine only",
            fix=f"write the registry first: --repository ghcr.io/somebody/{text.partition(':')[0]}",
        )
    rest, at, digest = text.partition("@")
    registry, _, name = rest.partition("/")
    path, colon, tag = name.partition(":")
    if not (_PATH.match(path) and (not colon or _TAG.match(tag)) and (not at or _DIGEST.match(digest))):
        raise UsageError(
            f"{text!r} is no image reference",
            cause="it is REGISTRY/NAME, then :TAG or @sha256:DIGEST; names are lower-case",
            fix="ghcr.io/somebody/amdserve:llama-gfx1151",
        )
    return Reference(registry, path, tag or None, digest or None)
