"""From root to nobody in particular: the groups of the GPU's nodes, uid 10001, and no capability left.

Started as root, the server gives its rights away before it reads a model. Started as anybody else, it uses
what it was given, and says what is missing.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
from collections.abc import Mapping
from pathlib import Path

UID = GID = 10001
PR_SET_DUMPABLE, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT = 4, 24, 38, 47
CAP_LAST = 63
NODES = ("/dev/kfd", "/dev/dri")
UNMAPPED = 65534  # how a group looks that has no number in this container


def node_groups(nodes: tuple[str, ...] = NODES) -> dict[str, int]:
    """Give the group of `/dev/kfd` and of each render node that is here."""
    return {name: status.st_gid for name, status in _nodes(nodes).items()}


def _nodes(nodes: tuple[str, ...]) -> dict[str, os.stat_result]:
    found: dict[str, os.stat_result] = {}
    for name in nodes:
        path = Path(name)
        paths = sorted(path.glob("renderD*")) if path.is_dir() else [path]
        for one in paths:
            with contextlib.suppress(OSError):
                found[str(one)] = one.stat()
    return found


def missing_access(nodes: tuple[str, ...] = NODES) -> list[str]:
    """Say which nodes are here and cannot be opened, each with what to start the container with."""
    said = []
    for name, gid in node_groups(nodes).items():
        if not os.access(name, os.R_OK | os.W_OK):
            group = "keep-groups" if gid == UNMAPPED else gid
            said.append(
                f"{name} cannot be opened as uid {os.getuid()}: start the container with --group-add {group}"
            )
    return said


def drop(
    environ: Mapping[str, str], folders: tuple[Path, ...] = (), nodes: tuple[str, ...] = NODES
) -> tuple[dict[str, str], list[str]]:
    """Give up root.

    Args:
        environ: the environment.
        folders: what the new user must be able to write to; made and handed over if it can be.
        nodes: what the new user must be able to open.

    Returns:
        The environment to go on with, and notes. Where the container was started without the capabilities
        that a change of user takes, it goes on as root without them.
    """
    env = dict(environ)
    if os.getuid() != 0:
        return env, missing_access(nodes)
    notes: list[str] = []
    unbound = False
    if not _open_to_all(Path(os.__file__)):
        return env, ["started as root, and only root may read this Python: going on as root"]
    for place in folders:
        _hand_over(place)
    try:
        _take_groups(nodes)
        os.setresgid(GID, GID, GID)
        _forbid_capabilities()
        unbound = True
        os.setresuid(UID, UID, UID)
        # Changing the user hides a process's own /proc from it, until it executes something.
        _libc().prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    except PermissionError:
        if unbound:
            _give_capabilities_up()
        notes.append("started as root without the capability to change user: going on as root")
    _forbid_new_privileges()
    if os.getuid() != 0:
        env.update(HOME="/", USER="amdserve", LOGNAME="amdserve")
        notes += missing_access(nodes)
    return env, notes


def _take_groups(nodes: tuple[str, ...]) -> None:
    """Keep the groups that were given (`--group-add`), and take those of the nodes.

    Root's own group only where a node is root's alone. In a rootless container the host's groups have no
    number: those that were kept (`--group-add keep-groups`) are lost for good once any are set.

    Raises:
        PermissionError: this process may not set its groups.
    """
    given = set(os.getgroups())
    if UNMAPPED in given:
        return
    found = _nodes(nodes).values()
    needed = {one.st_gid for one in found if one.st_gid or one.st_mode & 0o006 != 0o006}
    os.setgroups(sorted((given - {0}) | (needed - {UNMAPPED}) | {GID}))


def _open_to_all(file: Path) -> bool:
    """Whether any user may read a file: it, and each folder above it. A user without Python is of no use."""
    try:
        return bool(file.stat().st_mode & 0o004) and all(
            above.stat().st_mode & 0o001 for above in file.parents
        )
    except OSError:
        return False


def hold_secret(file: str) -> tuple[str, int] | None:
    """Keep a file that only root may read readable for the user we become.

    Its text goes into memory, never onto a disk; the file descriptor goes on to the backend.

    Args:
        file: the file.

    Returns:
        The path to read it at and its file descriptor; None where the file needs no such help.
    """
    if os.getuid() != 0 or not file:
        return None
    try:
        status = os.stat(file)  # noqa: PTH116
        if status.st_mode & 0o004 or status.st_uid == UID:
            return None
        data = Path(file).read_bytes()
    except OSError:
        return None
    handle = os.memfd_create("amdserve-secret", 0)
    os.write(handle, data)
    os.fchmod(handle, 0o400)
    os.fchown(handle, UID, GID)
    os.set_inheritable(handle, True)
    return f"/proc/self/fd/{handle}", handle


def _hand_over(place: Path) -> None:
    with contextlib.suppress(OSError):
        place.mkdir(parents=True, exist_ok=True)
        if place.stat().st_uid == 0 and not place.stat().st_mode & 0o002:
            os.chown(place, UID, GID)


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _forbid_capabilities() -> None:
    """Empty the bounding set and the ambient set; changing the user then empties the rest."""
    libc = _libc()
    libc.prctl(PR_CAP_AMBIENT, 4, 0, 0, 0)  # PR_CAP_AMBIENT_CLEAR_ALL
    for number in range(CAP_LAST + 1):
        # Changing the user itself still needs these two until it is done; the kernel keeps what is in use.
        libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def _give_capabilities_up() -> None:
    """Empty the sets that this process itself has, where no change of user does that."""
    version_3, nobody_else = 0x20080522, 0
    libc = _libc()
    libc.capset((ctypes.c_uint32 * 2)(version_3, nobody_else), (ctypes.c_uint32 * 6)())


def _forbid_new_privileges() -> None:
    _libc().prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def raise_memlock() -> None:
    """Lift the limit on locked memory as far as this process may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    for wanted in ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), (hard, hard)):
        if soft == wanted[0]:
            return
        try:
            resource.setrlimit(resource.RLIMIT_MEMLOCK, wanted)
            return
        except (ValueError, OSError):
            continue
