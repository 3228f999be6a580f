"""What is remembered from one start to the next: which backend failed, was proven, was measured here.

One small file in the folder for state. Several containers may share it, and any of them may die while it
writes: so it is locked while it is changed, replaced in one step, and a damaged one counts as empty.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.serve.state import candidates, read_object, write_atomically

if TYPE_CHECKING:
    from amdserve.serve.classify import Failure

FILE, LOCK = "memory.json", "memory.lock"
# Failures that would come again; a missing device or a taken port may be gone by the next start.
REMEMBERED = frozenset({"crash", "hang", "wrong-output"})
DAY = 86400.0
AT_START, WHILE_SERVING, PROVEN = 7 * DAY, DAY, 90 * DAY
LOCK_PATIENCE = 5.0
MOST_ENTRIES = 500

# Takes an entry as it is, None where there is none, and gives it as it shall be.
Change = Callable[[Mapping[str, Any] | None], Mapping[str, Any] | None]


def key(*parts: str | None) -> str:
    """Make one key of what a memory is about: model, gfx, driver, image."""
    return "|".join((part or "").replace("|", "||") for part in parts)


class Memory:
    """The memory of one image on one GPU for one model.

    Args:
        place: the folder; None remembers nothing.
        about: model, gfx, driver and image, for failures.
        proof: gfx, driver and image, for what the reference has shown.
        clock: seconds since 1970.
    """

    def __init__(
        self, place: Path | None, about: str, proof: str, clock: Callable[[], float] = time.time
    ) -> None:
        self.place, self.about, self.proof, self.clock = place, about, proof, clock

    def failures(self) -> dict[str, dict[str, Any]]:
        """Give the failures that have not expired, by backend."""
        found = self._part(self._read(), "failures", self.about)
        proofs = self._part(self._read(), "proofs", self.proof)
        wrong = {name: entry for name, entry in proofs.items() if not entry.get("ok", True)}
        return {**wrong, **found}

    def proven(self, backend: str) -> bool:
        """Tell whether the backend has given the reference's answer here."""
        return bool(self._proof(backend))

    def alone(self, backend: str) -> str | None:
        """Give the GPU that a proven backend saw, where that was the only one."""
        name = self._proof(backend).get("alone")
        return name if isinstance(name, str) else None

    def note_alone(self, backend: str, name: str | None) -> None:
        """Remember of a proven backend which GPU it saw; None where it was not the only one."""
        entry = self._proof(backend)
        if entry and entry.get("alone") != name:
            self._update("proofs", self.proof, backend, lambda now: now and {**now, "alone": name})

    def failed(self, backend: str, failure: Failure, *, served: float) -> None:
        """Remember a failure, if it is of a kind that would come again."""
        if failure.cls not in REMEMBERED:
            return
        entry = self._entry(WHILE_SERVING if served > 0 else AT_START)
        entry.update({"class": failure.cls, "detail": failure.detail[:400]})
        if failure.cls == "wrong-output":
            self._change("proofs", self.proof, backend, {**entry, "ok": False})
        else:
            self._change("failures", self.about, backend, entry)

    def works(self, backend: str) -> None:
        """Forget the failures of a backend that serves well."""
        if backend in self._part(self._read(), "failures", self.about):
            self._change("failures", self.about, backend, None)

    def prove(self, backend: str, off: float) -> None:
        """Remember that the backend gave the reference's answer, and how far off it was."""
        self._change("proofs", self.proof, backend, {**self._entry(PROVEN), "ok": True, "off": round(off, 6)})

    def keep_bench(self, data: Mapping[str, Any]) -> None:
        """Remember what `amdserve bench` has measured with this model here."""
        self._change("bench", self.about, "result", {**data, **self._entry(PROVEN)})

    def bench(self) -> dict[str, Any] | None:
        """Give what `amdserve bench` has measured with this model here, or None."""
        return self._part(self._read(), "bench", self.about).get("result")

    def _proof(self, backend: str) -> dict[str, Any]:
        """Give the entry of a backend that has given the reference's answer here; else an empty one."""
        entry = self._part(self._read(), "proofs", self.proof).get(backend, {})
        return entry if entry.get("ok") else {}

    def _entry(self, lasts: float) -> dict[str, Any]:
        return {"at": self.clock(), "until": self.clock() + lasts}

    def _read(self) -> dict[str, Any]:
        return (read_object(self.place / FILE) if self.place else None) or {}

    def _part(self, data: Mapping[str, Any], kind: str, about: str) -> dict[str, dict[str, Any]]:
        table = data.get(kind)
        found = table.get(about) if isinstance(table, dict) else None
        if not isinstance(found, dict):
            return {}
        return {name: entry for name, entry in found.items() if self._holds(entry)}

    def _holds(self, entry: Any) -> bool:
        """Whether an entry still counts; one from the future comes from a clock that was wrong."""
        if not isinstance(entry, dict):
            return False
        at, until = entry.get("at"), entry.get("until")
        if not isinstance(at, int | float) or not isinstance(until, int | float):
            return False
        return at <= self.clock() + DAY and until > self.clock()

    def _change(self, kind: str, about: str, backend: str, entry: Mapping[str, Any] | None) -> None:
        self._update(kind, about, backend, lambda _: entry)

    def _update(self, kind: str, about: str, backend: str, change: Change) -> None:
        """Put something in an entry's place, with nobody else's change between."""
        if self.place is None:
            return
        # A memory that cannot be written must not stop a server.
        with contextlib.suppress(OSError), _locked(self.place):
            data = self._pruned(self._read())
            table = data[kind].setdefault(about, {})
            entry = change(table.get(backend))
            if entry is None:
                table.pop(backend, None)
            else:
                table[backend] = dict(entry)
            write_atomically(self.place / FILE, data)

    def _pruned(self, data: Mapping[str, Any]) -> dict[str, Any]:
        kept: dict[str, Any] = {"schema": 1}
        for kind in ("failures", "proofs", "bench"):
            table = data.get(kind)
            names = list(table) if isinstance(table, dict) else []
            parts = {name: self._part(data, kind, name) for name in names[-MOST_ENTRIES:]}
            kept[kind] = {name: part for name, part in parts.items() if part}
        return kept


def find(environ: Mapping[str, str]) -> Path | None:
    """Give the folder that has a memory, for who only reads: nothing is made."""
    return next((place for place in candidates(environ) if (place / FILE).is_file()), None)


def forget(place: Path | None) -> None:
    """Forget everything."""
    if place is not None:
        with contextlib.suppress(OSError), _locked(place):
            (place / FILE).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(place: Path) -> Iterator[None]:
    """Hold the lock; after a while, or on a volume without locks, go on without it."""
    handle = os.open(place / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        limit = time.monotonic() + LOCK_PATIENCE
        while time.monotonic() < limit:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(handle)


def order(
    entries: Sequence[Mapping[str, Any]], failures: Mapping[str, Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """Put the entries whose backend failed before after all others; nothing is left out."""
    good = [entry for entry in entries if entry["backend"] not in failures]
    return good + [entry for entry in entries if entry["backend"] in failures]
