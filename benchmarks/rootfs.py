"""An image's files in a folder, and programs started there without an engine: `chroot`, as root."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sides import STATE

# A program finds what lies beside it through /proc, and the CPU's cores through /sys.
HOST = tuple(map(Path, ("/proc", "/sys", "/dev")))
# Folders of the host, at the same path inside; then one for the state. All are gone with the process.
MOUNTS = f"""
root=$1 state=$2; shift 2
while [ "$1" != -- ]; do mkdir -p "$root$1"; mount --rbind "$1" "$root$1"; shift; done; shift
[ -z "$state" ] || mount --bind "$state" "$root{STATE}"
exec "$@"
"""


def export(client: Any, image: str, to: Path) -> None:
    """Write the files of an image of the engine into a tar file."""
    container = client.containers.create(image)
    try:
        with to.open("wb") as file:
            for chunk in container.export():
                file.write(chunk)
    finally:
        container.remove(force=True)


def enter(
    root: Path,
    environment: Mapping[str, str],
    *,
    folders: Sequence[Path] = HOST,
    state: Path | None = None,
    user: str = "0:0",
) -> list[str]:
    """Give the beginning of a command line that is run in a folder with these files.

    Args:
        root: the folder.
        environment: all that the program has of variables.
        folders: of the host, mounted at the same path.
        state: a folder to mount where an image keeps its state.
        user: numbers of user and group.
    """
    mounts = [*map(str, folders), "--"]
    variables = [f"{name}={value}" for name, value in environment.items()]
    own = ["unshare", "--mount", "/bin/sh", "-ec", MOUNTS, "sh", str(root), str(state or ""), *mounts]
    return [*own, "chroot", f"--userspec={user}", str(root), "/usr/bin/env", "-i", *variables]
