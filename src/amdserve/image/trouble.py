"""Say in clear words why a build failed: what is in its log, what likely caused it, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Trouble:
    """A kind of failure: how it shows in a log, its likely cause and the next step."""

    shows: re.Pattern[str]
    cause: str
    fix: str


def _trouble(shows: str, cause: str, fix: str) -> Trouble:
    return Trouble(re.compile(shows, re.IGNORECASE), cause, fix)


# The first that fits is taken, so the ones that explain others come first.
KNOWN = (
    _trouble(
        r"no space left on device|you don't have enough free space",
        "the disk of the engine is full",
        "free some of it (`docker buildx prune` gives the build cache back), then run the same command again",
    ),
    _trouble(
        r"do not match the hashes|hash sum mismatch|File has unexpected size",
        "what came is not what its index or lock file names: an index in mid-update, or a changed file",
        "run the same command again in some minutes; if it stays, `invoke lock` renews the lock files",
    ),
    _trouble(
        r"certificate verify failed|certificate signed by unknown|self.signed certificate|x509:",
        "this network has a certificate authority of its own, which the build does not know",
        "name its bundle: SSL_CERT_FILE=/path/to/ca.crt; it reaches the build as a secret and is in no layer",
    ),
    _trouble(
        r"signal: killed|Killed signal terminated|cannot allocate memory|exit code: 137|out of memory",
        "a compiler ran out of memory",
        "fewer at a time: --jobs 1",
    ),
    _trouble(
        r"failed to resolve source metadata|pull access denied|manifest unknown|failed to do request",
        "the base image cannot be pulled",
        "--base bootstrap makes it from the distribution's signed packages",
    ),
    _trouble(
        r"no such host|temporary failure (in name resolution|resolving)|could not resolve|i/o timeout|"
        r"network is unreachable|connection (refused|timed out|reset)|failed to establish a new connection|"
        r"ENOTFOUND|EAI_AGAIN",
        "no network, or its name server or proxy does not answer",
        "check the network (docker run needs it too), then run the same command again: what is done is kept",
    ),
    _trouble(
        r"unable to locate package|has no installation candidate|unmet dependencies|not going to be install",
        "the suite's packages have moved on",
        "pin a snapshot that has them: snapshot: under base: in images/sources.yaml",
    ),
    _trouble(
        r"additional privileges requested|requested by build|entitlement",
        "this buildx wants to be told what a build may read",
        "use the buildx that `invoke engine` names",
    ),
)


def explain(lines: Iterable[str]) -> tuple[str, str]:
    """Give cause and next step for a failed build's last words, empty where they say nothing known."""
    text = "\n".join(lines)
    for trouble in KNOWN:
        if trouble.shows.search(text):
            return trouble.cause, trouble.fix
    return "", ""
