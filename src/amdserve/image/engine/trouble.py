"""Why a dockerd did not come up: from the last words of its log to a cause and the next step."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from amdserve.errors import EngineError

# (what the log says, the likely cause, the next step); the first that is found counts.
_KNOWN: tuple[tuple[str, str, str], ...] = (
    (
        r"no space left on device",
        "the disk is full",
        "free space on the disk that holds the engine's data, then run this again",
    ),
    (
        r"apparmor_parser.*not found|AppArmor enabled on system but",
        "AppArmor is on, but its tools are not installed",
        "apt-get install apparmor",
    ),
    (
        (
            r"Failed to initialize nft|nf_tables.*not supported"
            r"|iptables.*(Table does not exist|No chain/target/match)"
        ),
        "iptables talks to a part of the kernel that this kernel does not have",
        "update-alternatives --set iptables /usr/sbin/iptables-legacy, then run this again",
    ),
    (
        r"iptables.*(executable file not found|not found in \$PATH)|failed to find iptables",
        "iptables is not installed",
        "apt-get install iptables",
    ),
    (
        r"iptables|ip6tables|nat table|Error initializing network controller",
        "the engine may not set up a network here: in a container it needs --privileged (or CAP_NET_ADMIN)",
        "run this on the host, or name an engine that runs elsewhere: export DOCKER_HOST=…",
    ),
    (
        r"runc.*(executable file not found|not found)",
        "runc is not installed",
        "apt-get install runc",
    ),
    (
        (
            r"[Dd]evices cgroup isn't mounted"
            r"|cgroups?:.*(mountpoint does not exist|not found|permission denied|read-only)"
        ),
        "the control groups of this machine are not mounted, or read-only (a container without --privileged)",
        "mount -t cgroup2 cgroup2 /sys/fs/cgroup, or run this on the host",
    ),
    (
        (
            r"overlay.*(not supported|invalid argument|operation not permitted|no such device)"
            r"|driver not supported|failed to mount overlay"
        ),
        "the file system under the engine's data carries no overlay (overlay on overlay, or an old kernel)",
        "put the engine's data on ext4 or xfs, or load the module: modprobe overlay",
    ),
    (
        r"process with PID \d+ is still running|pid file found",
        "another dockerd holds the same process file",
        "stop it first",
    ),
    (
        r"address already in use",
        "another program holds the socket or the port",
        "stop the other engine first",
    ),
    (
        r"permission denied|operation not permitted",
        "a Docker Engine needs root with all capabilities: in a container, --privileged",
        "run this on the host as root, or name an engine that runs elsewhere: export DOCKER_HOST=…",
    ),
)


def diagnose(lines: Iterable[str]) -> tuple[str, str]:
    """Give the likely cause and the next step for the end of a dockerd's log; empty where unknown."""
    found = complaints(lines)
    for text in (found[-1:], found):
        for pattern, cause, fix in _KNOWN:
            if any(re.search(pattern, line) for line in text):
                return cause, fix
    return "", ""


def complaints(lines: Iterable[str]) -> list[str]:
    """Give the lines that tell of an error; a warning (an optional part is missing) is none."""
    return [line for line in lines if not re.search(r"level=(info|debug|warning)\b", line)]


def tail(log: Path, lines: int = 40) -> list[str]:
    """Give the last lines of a log; nothing where it cannot be read."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 32768))
            return file.read().decode(errors="replace").splitlines()[-lines:]
    except OSError:
        return []


def not_started(what: str, log: Path) -> EngineError:
    """Make the error for a dockerd that did not come up, with the end of its log."""
    lines = tail(log)
    cause, fix = diagnose(lines)
    words = "\n".join(f"    {line}" for line in (complaints(lines) or lines)[-4:])
    return EngineError(
        f"{what}\n  the end of {log}:\n{words or '    (nothing)'}",
        cause=cause or "see the log",
        fix=fix or f"read {log}; `invoke engine` tries again",
    )
