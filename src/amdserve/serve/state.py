"""The status file: what the server does now, for `amdserve status` and `health`, and what befell it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from amdserve.serve.phases import Phases, begun

VARIABLE = "AMDSERVE_STATE_DIR"
DEFAULT = "/var/lib/amdserve"
# Where nothing else can be written to: a read-only root file system still has these.
LAST_RESORTS = ("/dev/shm/amdserve", "/tmp/amdserve")
STALE_SECONDS = 30 * 86400
MOST_HISTORY = 50


def candidates(environ: Mapping[str, str]) -> tuple[Path, ...]:
    """Give the folders for state, best first."""
    first = environ.get(VARIABLE) or DEFAULT
    return (Path(first), *(Path(f"{folder}-{os.getuid()}") for folder in LAST_RESORTS))


def folder(environ: Mapping[str, str]) -> tuple[Path | None, str]:
    """Find a folder that can be written to.

    Returns:
        The folder, or None; and a note where it is not the first choice.
    """
    choices = candidates(environ)
    for place in choices:
        if _writable(place):
            note = "" if place == choices[0] else f"{choices[0]} cannot be written; state is in {place}"
            return place, note
    return None, f"no folder for state can be written ({choices[0]}): nothing is remembered"


def keep_caches(place: Path, environ: dict[str, str]) -> None:
    """Have drivers and llama.cpp keep what they compile and fetch with the state, if the user names no place.

    The folder is made: NVIDIA's driver keeps nothing in one that it does not find.

    Args:
        place: the folder for state.
        environ: the environment of the backends, which is changed.
    """
    for variable, name in (("XDG_CACHE_HOME", "cache"), ("LLAMA_CACHE", "cache/llama.cpp")):
        environ[variable] = environ.get(variable) or str(place / name)
    kept = Path(environ["XDG_CACHE_HOME"])
    if kept.is_absolute():  # by its specification any other is passed over
        with contextlib.suppress(OSError):
            kept.mkdir(parents=True, exist_ok=True)


def _writable(place: Path) -> bool:
    try:
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK | os.X_OK):
            # Rights alone do not tell of a read-only file system that is full of write bits.
            probe = place / f".probe-{os.getpid()}"
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
            probe.unlink()
            return True
    except OSError:
        pass
    return False


def _here() -> str:
    """Name this container: several may share one volume, and with the host's network also its name."""
    try:
        namespace = str(os.stat("/proc/self/ns/pid").st_ino)  # noqa: PTH116
    except OSError:
        namespace = "0"
    return f"{os.uname().nodename}-{namespace}"


def file_name() -> str:
    """Name this container's status file."""
    return f"status-{_here()}.json"


def write_atomically(path: Path, data: Mapping[str, Any], *, durable: bool = True) -> None:
    """Write JSON so that a reader sees the old file or the new one, whatever happens.

    Args:
        path: the file.
        data: what is to be in it.
        durable: wait until it is on the disk; else a power cut may leave an empty file.

    Raises:
        OSError: it cannot be written.
    """
    # No two processes share container, process id and file; no two writes of one process overlap.
    name = path.with_name(f".{path.name}.{_here()}.{os.getpid()}")
    handle = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file)
            file.flush()
            if durable:
                os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        name.unlink(missing_ok=True)
        raise


def read_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None where there is none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) else None


class Status:
    """The status of one server, written at every change.

    Args:
        place: the folder, or None to keep it in memory only.
        port: where it listens.
        host: the address to ask it at.

    Attributes:
        phases: where the time of its start goes; it is written with the next change.
    """

    def __init__(self, place: Path | None, *, port: int, host: str) -> None:
        self.path = place / file_name() if place else None
        started = _start_time(os.getpid())
        self.phases = Phases(begun(started))
        self.data: dict[str, Any] = {
            "state": "starting",
            "backend": None,
            "device": None,
            "port": port,
            "since": time.time(),
            "history": [],
            "host": host,
            "supervisor": os.getpid(),
            "started": started,
            "phases": self.phases.seconds,
        }
        self._sweep()

    def set(self, state: str, **changes: Any) -> None:
        """Change the state and write it down; a full disk must not stop a server."""
        self.data.update(changes, state=state, since=time.time())
        if self.path is None:
            return
        with contextlib.suppress(OSError):
            # A disk takes its time, and a start waits; after a power cut nobody asks how it was before.
            write_atomically(self.path, self.data, durable=False)

    def record(self, entry: dict[str, Any]) -> None:
        """Add to the history; it is written with the next change."""
        self.data["history"] = [*self.data["history"], entry][-MOST_HISTORY:]

    def remove(self) -> None:
        """Take the file away: nothing runs here any more."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Take away the files of containers long gone, and what they had half written when they died."""
        if self.path is None:
            return
        place = self.path.parent
        for old in (*place.glob("status-*.json"), *place.glob(".*.json.*")):
            try:
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    old.unlink()
            except OSError:
                continue


def read(environ: Mapping[str, str]) -> dict[str, Any] | None:
    """Read this container's status; one whose supervisor is gone is `failed`. None: none was ever written.

    Whoever asks may be another user than the server, which has its own last resorts.
    """
    others = [sorted(Path(base).parent.glob(f"{Path(base).name}-*")) for base in LAST_RESORTS]
    for place in (candidates(environ)[0], *chain.from_iterable(others)):
        data = read_object(place / file_name())
        if data is None:
            continue
        pid = data.get("supervisor")
        if data.get("state") != "failed" and (
            not isinstance(pid, int) or _start_time(pid) != data.get("started")
        ):
            data["state"] = "failed"
            data["error"] = {"what": "the supervisor is gone", "exit": None}
        return data
    return None


def _start_time(pid: int) -> str | None:
    """Tell when a process started, in the kernel's ticks: with the id, it names one process only."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
