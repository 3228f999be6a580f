"""The one door to `/sys`, `/dev` and `/proc`: the real ones, or a machine laid out as a folder.

Git keeps neither device nodes nor owners nor files that refuse to be read. A laid-out machine therefore
names them in a file `owners` at its root, one line each, `#` begins a comment::

    /dev/dri/renderD128  0660  0  992        mode (octal), uid, gid
    /sys/…/nodes/2/properties  EPERM         opening it fails with this error

The file is looked for only where the root is not `/`: on a real machine the kernel says who owns what.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING

from amdserve.values import dataclass

# pathlib is imported only by who asks for a path: on Python 3.11 it costs a tenth of the time detection has.
if TYPE_CHECKING:
    from pathlib import Path

VARIABLE = "AMDSERVE_SYSROOT"


def read_bytes(path: str) -> bytes:
    """Read a whole file; sysfs files are small."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - pathlib costs more than the read here
        return file.read()


@dataclass(frozen=True, slots=True)
class Owner:
    """Who may open a file: permission bits, numeric user and group."""

    mode: int
    uid: int
    gid: int

    def writable_by(self, uid: int, gids: Iterable[int]) -> bool:
        """Tell whether a user with these ids may open it for reading and writing."""
        if uid == 0:
            return True
        if uid == self.uid:
            return self.mode & 0o600 == 0o600
        if self.gid in set(gids):
            return self.mode & 0o060 == 0o060
        return self.mode & 0o006 == 0o006

    @property
    def opens_to_group(self) -> bool:
        """Whether joining its group is the way to open it; nobody should join root's."""
        return self.gid != 0 and self.mode & 0o060 == 0o060


@dataclass(frozen=True)
class Sysroot:
    """A prefix before absolute paths.

    Args:
        root: `/`, or the folder that holds a laid-out machine.
        reader: what reads a file's bytes; tests put one here that raises.
    """

    root: str | os.PathLike[str] = "/"
    reader: Callable[[str], bytes] = read_bytes

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Sysroot:
        """Give the machine that AMDSERVE_SYSROOT names, or the real one."""
        return cls(environ.get(VARIABLE) or "/")

    @property
    def real(self) -> bool:
        """Whether this is the machine the process runs on."""
        return os.fspath(self.root) == "/"

    def _join(self, name: str) -> str:
        return name if self.real else f"{os.fspath(self.root).rstrip('/')}{name}"

    def path(self, name: str) -> Path:
        """Give the place of an absolute path such as `/sys/class/kfd` under this root."""
        from pathlib import Path  # noqa: PLC0415 - see above

        return Path(self._join(name))

    def read(self, name: str) -> bytes:
        """Read a file.

        Raises:
            OSError: it is not there or cannot be read.
        """
        declared = self._declared.get(name)
        if isinstance(declared, int):
            raise OSError(declared, os.strerror(declared), name)
        return self.reader(self._join(name))

    def text(self, name: str) -> str | None:
        """Read a file as stripped text, or None where it cannot be read."""
        try:
            return self.read(name).decode(errors="replace").strip()
        except OSError:
            return None

    def number(self, name: str) -> int | None:
        """Read a file that holds one integer, decimal or `0x…`, or None."""
        text = self.text(name)
        if text is None:
            return None
        try:
            return int(text, 0)
        except ValueError:
            return None

    def names(self, name: str) -> list[str]:
        """List a folder, sorted; a folder that is missing or closed is empty."""
        try:
            return sorted(os.listdir(self._join(name)))  # noqa: PTH208 - names are wanted, not paths
        except OSError:
            return []

    def exists(self, name: str) -> bool:
        """Tell whether the path is there."""
        return os.path.exists(self._join(name))  # noqa: PTH110 - pathlib costs more than the look

    def owner(self, name: str) -> Owner | None:
        """Tell who owns a path, or None where it is not there."""
        declared = self._declared.get(name)
        if isinstance(declared, Owner) and self.exists(name):
            return declared
        try:
            found = os.stat(self._join(name))  # noqa: PTH116 - as above
        except OSError:
            return None
        return Owner(found.st_mode & 0o7777, found.st_uid, found.st_gid)

    def refusal(self, name: str, uid: int, gids: Iterable[int]) -> int | None:
        """Tell with which errno a device node refuses to be opened for reading and writing, None if it opens.

        The real one is opened: access lists, device groups and SELinux decide too, and only the kernel knows
        them. On a laid-out machine the ids decide.
        """
        if self.real:
            try:
                os.close(os.open(name, os.O_RDWR | os.O_CLOEXEC))
            except OSError as reason:
                return reason.errno
            return None
        declared = self._declared.get(name)
        if isinstance(declared, int):
            return declared
        owner = self.owner(name)
        if owner is None:
            return errno.ENOENT
        return None if owner.writable_by(uid, gids) else errno.EACCES

    @cached_property
    def _declared(self) -> Mapping[str, Owner | int]:
        """Read `owners` of a laid-out machine: an `Owner`, or the errno of opening it."""
        if self.real:
            return {}
        try:
            lines = read_bytes(self._join("/owners")).decode(errors="replace").splitlines()
        except OSError:
            return {}
        found: dict[str, Owner | int] = {}
        for line in lines:
            words = line.partition("#")[0].split()
            if len(words) == 2:
                found[words[0]] = int(getattr(errno, words[1], errno.EIO))
            elif len(words) == 4:
                found[words[0]] = Owner(int(words[1], 8), int(words[2]), int(words[3]))
        return found
