"""What a detection, a plan, a check and a build came to, as tables for people."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from amdserve.gpu.models import GPUDetectionResult
from amdserve.image import show
from amdserve.image.models import Cell

State = Literal["built", "unchanged", "tagged", "planned"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cell after `invoke build`.

    `state` is `built`, `unchanged` (nothing to do), `tagged` (built before, its moving tag was brought
    back) or `planned` (`--dry`). `seconds` is how long that took, `size` the image's bytes, `why` what
    changed since the image that had the moving tag, `checks` how many were made.
    """

    cell: Cell
    state: State
    seconds: float = 0.0
    size: int = 0
    why: tuple[str, ...] = ()
    checks: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give the outcome as one JSON object."""
        return {
            "id": self.cell.id,
            "state": self.state,
            "seconds": round(self.seconds, 1),
            "bytes": self.size,
            "why": list(self.why),
            "checks": self.checks,
            "tags": list(self.cell.tags),
            "hash": self.cell.hash,
        }


def because(why: Sequence[str], most: int = 6) -> str:
    """Give what changed as one phrase, not longer than one can read."""
    # The rendered text changes with every template and pin: the cause is what a reader wants.
    causes = [phrase for phrase in why if not phrase.startswith("the rendered")] or list(why)
    more = f" and {len(causes) - most} more" if len(causes) > most else ""
    return ", ".join(causes[:most]) + more


def table(outcomes: Iterable[Outcome]) -> str:
    """Give the table that `invoke build` ends with."""
    rows = [
        (
            one.cell.id,
            one.state,
            show.seconds(one.seconds),
            show.megabytes(one.size) if one.size else "-",
            f"{one.checks} ok" if one.checks else "-",
            one.cell.tag,
            one.cell.immutable,
        )
        for one in outcomes
    ]
    return show.table(rows, ("image", "state", "took", "size", "checks", "tag", "never moves"))


def cells(planned: Iterable[Cell]) -> str:
    """Give the table of `invoke plan`."""
    rows = [
        (
            cell.id,
            " ".join(cell.gfx) or "any",
            cell.provider or "-",
            " ".join(cell.backends),
            cell.immutable,
        )
        for cell in planned
    ]
    return show.table(rows, ("cell", "gfx", "rocm", "backends", "tag that never moves"))


def matrix(planned: Iterable[Cell]) -> str:
    """Give the cells as a workflow's output takes them: a name and one line of JSON."""
    rows = [{"id": cell.id, "image": cell.image, "gfx": ",".join(cell.gfx)} for cell in planned]
    return "cells=" + json.dumps(rows, separators=(",", ":"))


def detection(found: GPUDetectionResult) -> str:
    """Give the tables of `invoke detect`: what is here, and what each detector did."""
    gpus = [
        (
            gpu.index,
            gpu.name,
            gpu.gfx or "-",
            gpu.gpu_type.value,
            show.megabytes(gpu.vram_bytes) if gpu.vram_bytes else "-",
            show.megabytes(gpu.gtt_bytes) if gpu.gtt_bytes else "-",
            gpu.compute_units or "-",
            gpu.render_node or "-",
        )
        for gpu in found.gpus
    ]
    head = ("", "name", "gfx", "kind", "memory", "of the system's", "units", "node")
    tried = [(one.detector, one.outcome, f"{one.ms:.0f} ms", one.reason) for one in found.attempts]
    return "\n".join(
        [show.table(gpus, head), "", show.table(tried, ("detector", "outcome", "took", "because"))]
    )


def pushed(done: Iterable[Any]) -> str:
    """Give the table of `invoke push`."""
    rows = [(one.reference.at(tag=one.reference.tag), one.state, show.megabytes(one.sent)) for one in done]
    digests = [one.reference.pinned for one in done if one.reference.digest]
    return "\n".join([show.table(rows, ("image", "", "sent")), *digests])


def released(done: Iterable[Any]) -> str:
    """Give the table of `invoke release`."""
    rows = [
        (
            one.cell.id,
            " ".join(one.done) or "nothing to do",
            one.reference.digest or "-",
            " ".join(one.aliases),
        )
        for one in done
    ]
    return show.table(rows, ("image", "done now", "digest", "names that move"))


def checks(made: Iterable[Any]) -> str:
    """Give the table of `invoke verify` or `invoke doctor`: name, whether it holds, what was seen."""
    rows = [(one.name, show.MARKS[one.ok], one.detail) for one in made]
    return show.table(rows, ("check", "", "seen"))
