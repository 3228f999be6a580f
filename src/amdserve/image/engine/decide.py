"""What has to be done to a machine before a Docker Engine answers there.

`decide` is pure: it turns facts into steps, each of which can be told before it is done. Apt is only asked
when the answer depends on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from amdserve.errors import EngineError
from amdserve.image.engine.facts import Facts
from amdserve.image.engine.models import (
    BUILDX_MIN,
    ENGINE_MIN,
    EnginePaths,
    Version,
    parse_version,
    show_version,
)

# The suite whose packages go into the private prefix, where the system's own are too old.
SUITE = "forky"
MIRROR = "http://deb.debian.org/debian"
PACKAGES = ("docker.io", "docker-cli", "containerd", "docker-buildx", "tini-static")

Candidates = Mapping[str, str]


class Do(StrEnum):
    """The kinds of steps."""

    APT = "apt"  # install packages of the system's own distribution
    UNPACK = "unpack"  # download newer packages, and unpack them into the private prefix
    SERVICE = "service"  # start the installed engine through the system's service manager
    DAEMON = "daemon"  # start the installed engine's daemon, where there is no service manager
    PRIVATE = "private"  # start the private engine


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do: its kind, what it concerns, and the sentence that announces it."""

    do: Do
    what: tuple[str, ...]
    text: str


def decide(
    facts: Facts, *, engine: bool, buildx: bool, candidates: Callable[[], Candidates], paths: EnginePaths
) -> tuple[Step, ...]:
    """Decide what to do.

    Args:
        facts: what is here.
        engine: whether an engine is needed.
        buildx: whether a buildx is needed.
        candidates: asks apt which version of each package it would install.
        paths: where the private engine lives.

    Raises:
        EngineError: nothing can be done by this user or on this system; it says what to install.
    """
    if not (engine or buildx):
        return ()
    steps = _steps(facts, engine, buildx, candidates, paths) if facts.root else ()
    if not steps or (not facts.apt and {step.do for step in steps} & {Do.APT, Do.UNPACK}):
        raise _by_hand(facts, engine=engine)
    return steps


def _steps(
    facts: Facts, engine: bool, buildx: bool, candidates: Callable[[], Candidates], paths: EnginePaths
) -> tuple[Step, ...]:
    if not engine:
        return (_get_buildx(facts, candidates(), paths),)
    if facts.dockerd is not None and facts.dockerd >= ENGINE_MIN and not facts.neighbour:
        start = _start_installed(facts)
        return (_get_buildx(facts, candidates(), paths), start) if buildx else (start,)
    if not facts.private and facts.dockerd is None:
        found = candidates()
        if _new_enough(found, "docker.io", ENGINE_MIN) and _new_enough(found, "docker-buildx", BUILDX_MIN):
            # Newer distributions have the command in a package of its own.
            command = ("docker-cli",) if "docker-cli" in found else ()
            names = ("docker.io", "docker-buildx", "iptables", "ca-certificates", *command)
            text = f"install {facts.pretty}'s own {_listed(found, names)} with apt-get"
            return (Step(Do.APT, (*names, *_apparmor(facts)), text), _start_installed(facts))
    steps: list[Step] = []
    if not (facts.private and facts.private_buildx):
        steps.append(_unpack(PACKAGES, paths))
    needed = (*sorted(facts.missing & {"runc", "iptables"}), *_apparmor(facts))
    if facts.own_network and "ip" in facts.missing:
        needed += ("iproute2",)
    if needed:
        steps.append(Step(Do.APT, needed, f"install {facts.pretty}'s own {', '.join(needed)} with apt-get"))
    beside = ", on a network of its own beside the installed engine" if facts.own_network else ""
    started = f"start it: socket {paths.socket}, data in {paths.data}{beside}"
    return (*steps, Step(Do.PRIVATE, ("own-network",) if facts.own_network else (), started))


def _get_buildx(facts: Facts, found: Candidates, paths: EnginePaths) -> Step:
    # Docker's own packages call it docker-buildx-plugin; the two cannot be installed together.
    for name in ("docker-buildx-plugin", "docker-buildx"):
        if _new_enough(found, name, BUILDX_MIN):
            return Step(Do.APT, (name,), f"install {_listed(found, (name,))} with apt-get")
    if facts.private_buildx:
        raise EngineError(
            f"{paths.buildx} does not work here",
            cause="it was unpacked for another system",
            fix=f"rm -r {paths.prefix}, then run this again",
        )
    return _unpack(("docker-buildx",), paths)


def _unpack(names: tuple[str, ...], paths: EnginePaths) -> Step:
    text = (
        f"download Debian {SUITE}'s {', '.join(names)}, verified by apt's signatures, and unpack them into "
        f"{paths.prefix}; the system's own packages stay as they are"
    )
    return Step(Do.UNPACK, names, text)


def _start_installed(facts: Facts) -> Step:
    if facts.manager:
        return Step(Do.SERVICE, (facts.manager,), f"start the installed Docker Engine ({facts.manager})")
    return Step(Do.DAEMON, (), "start the installed Docker Engine (dockerd)")


def _apparmor(facts: Facts) -> tuple[str, ...]:
    return ("apparmor",) if "apparmor_parser" in facts.missing else ()


def _new_enough(found: Candidates, name: str, least: Version) -> bool:
    version = parse_version(found.get(name, ""))
    return version is not None and version >= least


def _listed(found: Candidates, names: tuple[str, ...]) -> str:
    return ", ".join(f"{name} {found[name]}" if name in found else name for name in names)


def _by_hand(facts: Facts, *, engine: bool) -> EngineError:
    least = (
        f"Docker Engine {show_version(ENGINE_MIN)} or newer with buildx {show_version(BUILDX_MIN)} or newer"
    )
    if facts.apt:
        cause = "none runs here, and this user may not install or start one"
        fix = (
            "sudo ./inv engine; or, where one runs already: sudo usermod -aG docker $USER, then log in again"
        )
        if not engine:
            cause, fix = (
                "the engine is there, but buildx is missing or too old",
                "sudo apt-get install docker-buildx",
            )
    else:
        cause = f"this is {facts.pretty}: only on Debian and Ubuntu can it be got for you"
        fix = _HINTS.get(next((name for name in facts.distribution if name in _HINTS), ""), _ELSEWHERE)
    return EngineError(f"there is no {least}", cause=cause, fix=fix)


_ELSEWHERE = (
    "install Docker Engine and its buildx plugin (https://docs.docker.com/engine/install/), then start it"
)
_HINTS = {
    "fedora": "sudo dnf install moby-engine docker-buildx && sudo systemctl start docker",
    "rhel": f"add Docker's own repository, for Podman has no BuildKit: {_ELSEWHERE}",
    "arch": "sudo pacman -S docker docker-buildx && sudo systemctl start docker",
    "suse": "sudo zypper install docker docker-buildx && sudo systemctl start docker",
    "opensuse": "sudo zypper install docker docker-buildx && sudo systemctl start docker",
    "alpine": "apk add docker docker-cli-buildx && rc-service docker start",
    "nixos": "set virtualisation.docker.enable = true, and add pkgs.docker-buildx",
}
