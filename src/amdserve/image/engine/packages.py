"""Programs from packages: of the system's own suite by apt-get, or newer ones into the private prefix.

What is unpacked privately is verified as apt verifies everything: the suite's index is signed by Debian's
archive key, and names the hash of each package. Only the expiry date of the index is not checked, because
the index of a suite on the way to release is often older than its own date.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from amdserve.errors import EngineError
from amdserve.image.engine.decide import MIRROR, SUITE
from amdserve.image.engine.facts import parse_policy
from amdserve.image.engine.models import EnginePaths, Say
from amdserve.process import run

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
ROOM = 1_200_000_000  # bytes: the packages, and the same unpacked
_NETWORK = re.compile(r"^Acquire::(?:(?:https?)(?:::|\s)|Retries|ForceIPv[46])")


def _env() -> dict[str, str]:
    return {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}


def candidates(say: Say) -> dict[str, str]:
    """Ask apt which versions of a Docker Engine's packages it would install; none without apt."""
    query = ["apt-cache", "policy", "docker.io", "docker-cli", "docker-buildx", "docker-buildx-plugin"]
    found = parse_policy(run(query, env=_env(), check=False).out)
    if not found and shutil.which("apt-get"):
        say("asking the distribution which Docker it has (apt-get update)")
        run(["apt-get", "update", "-qq"], env=_env(), check=False)
        found = parse_policy(run(query, env=_env(), check=False).out)
    return found


def install(names: tuple[str, ...], say: Say) -> None:
    """Install packages of the system's own suites; what is there already stays at its version.

    Raises:
        EngineError: apt-get could not.
    """
    command = ["apt-get", "install", "-qq", "-y", "--no-upgrade", "--no-install-recommends", *names]
    if run(command, env=_env(), check=False).ok:
        return
    say("the distribution's package lists are old or missing: apt-get update")
    run(["apt-get", "update", "-qq"], env=_env(), check=False)
    run(command, env=_env(), error=EngineError)


def unpack(
    names: tuple[str, ...], paths: EnginePaths, say: Say, *, suite: str = SUITE, mirror: str = MIRROR
) -> None:
    """Download packages of a newer Debian suite and unpack them into the private prefix, whole or not at all.

    Raises:
        EngineError: no room, no network, a signature or hash that does not hold, programs that do not run.
    """
    paths.prefix.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(paths.prefix.parent).free
    if free < ROOM:
        raise EngineError(
            f"there is no room for the engine's programs in {paths.prefix.parent}",
            cause=f"{ROOM / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free",
            fix="free some space, then run this again",
        )
    if not KEYRING.exists():
        install(("debian-archive-keyring",), say)
    with tempfile.TemporaryDirectory(prefix=".engine-", dir=paths.prefix.parent) as folder:
        work = Path(folder)
        packages = download(names, work, suite=suite, mirror=mirror)
        tree = work / "tree"
        for package in packages:
            run(["dpkg-deb", "-x", str(package), str(tree)], error=EngineError)
        check_programs(tree)
        tree.chmod(0o755)
        # What is there is incomplete, or it would have been used; it goes only now, when its successor works.
        if paths.prefix.exists():
            paths.prefix.rename(work / "old")
        tree.rename(paths.prefix)


def download(names: tuple[str, ...], work: Path, *, suite: str, mirror: str) -> tuple[Path, ...]:
    """Download packages with an apt whose state, sources and preferences are its own; installs nothing.

    Raises:
        EngineError: apt could not fetch or verify them.
    """
    inherited = [
        line
        for line in run(["apt-config", "dump"], env=_env(), check=False).out.splitlines()
        if _NETWORK.match(line)
    ]
    for folder in ("state/lists/partial", "cache/archives/partial", "packages"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    source = f"deb [signed-by={KEYRING}] {mirror} {suite} main\n"
    (work / "sources.list").write_text(source)
    (work / "apt.conf").write_text(configuration(work, inherited))
    env = {**_env(), "APT_CONFIG": str(work / "apt.conf")}
    fix = (
        f"is {mirror} reachable from here, and {KEYRING} up to date (apt-get install debian-archive-keyring)?"
    )
    run(["apt-get", "update", "-qq", "--error-on=any"], env=env, error=EngineError, fix=fix)
    run(["apt-get", "download", "-qq", *names], cwd=work / "packages", env=env, error=EngineError, fix=fix)
    return tuple(sorted((work / "packages").glob("*.deb")))


def configuration(work: Path, inherited: list[str]) -> str:
    """Give the private apt's configuration: nothing of the host's but how it reaches the network."""
    private = {
        "Dir::State": work / "state",
        "Dir::State::status": work / "status",
        "Dir::Cache": work / "cache",
        "Dir::Etc::SourceList": work / "sources.list",
        **{
            f"Dir::Etc::{part}": "/dev/null"
            for part in ("SourceParts", "Parts", "Main", "Preferences", "PreferencesParts", "TrustedParts")
        },
        "Acquire::Check-Valid-Until": "false",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "APT::Get::AllowUnauthenticated": "false",
        # Its own user could not write into these folders.
        "APT::Sandbox::User": "root",
    }
    return "\n".join([*inherited, *(f'{key} "{value}";' for key, value in private.items())]) + "\n"


def check_programs(tree: Path) -> None:
    """Start each unpacked program once: they come from a newer system, whose libraries may not be here.

    Raises:
        EngineError: one does not run.
    """
    asked: Mapping[str, str] = {
        "usr/sbin/dockerd": "--version",
        "usr/bin/containerd": "--version",
        "usr/libexec/docker/cli-plugins/docker-buildx": "version",
    }
    for program, word in asked.items():
        if (tree / program).exists():
            run(
                [str(tree / program), word],
                timeout=60,
                error=EngineError,
                fix="this system is too old for them: install Docker Engine and buildx by hand",
            )
