"""What `amdserve bench --save` found with this model on this GPU, as the plan uses it. Pure.

The order of the backends and each one's flash attention and micro-batch are taken from there, in place of
the static ones; what the user has set himself stays as he set it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from amdserve.serve.line import Job
from amdserve.values import dataclass, replace

if TYPE_CHECKING:
    from amdserve.serve.line import Entry

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Setting:
    """What is best for one backend, and how fast it was: tokens per second, seconds of a typical request."""

    flash_attn: str
    n_ubatch: int
    prefill: float
    generation: float | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Measured:
    """A saved result.

    Attributes:
        date: the day, as 2026-11-25.
        settings: the backends that work, the fastest first.
        failed: those that were tried and gave no number.
    """

    date: str
    settings: Mapping[str, Setting]
    failed: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give it as it is kept, and as `status --json` shows it."""
        return {
            "format": FORMAT,
            "date": self.date,
            "order": list(self.settings),
            "failed": list(self.failed),
            "settings": {
                name: {field: getattr(one, field) for field in Setting.__slots__}
                for name, one in self.settings.items()
            },
        }


def read(data: Mapping[str, Any] | None) -> Measured | None:
    """Read what was kept; None where there is nothing, or nothing that holds."""
    try:
        if data is None or data["format"] != FORMAT:
            return None
        from amdserve.serve.request import ModelLoadRequest  # noqa: PLC0415  (a start without one does without)

        made = {}
        for name in data["order"]:
            one = data["settings"][name]
            generation = None if one["generation"] is None else float(one["generation"])
            rates = float(one["prefill"]), generation, float(one["seconds"])
            # The request's own rules say what a setting may be.
            ModelLoadRequest(model_path="-", flash_attn=one["flash_attn"], n_ubatch=one["n_ubatch"])
            made[str(name)] = Setting(str(one["flash_attn"]), int(one["n_ubatch"]), *rates)
        return Measured(str(data["date"]), made, tuple(str(name) for name in data["failed"]))
    except (KeyError, TypeError, ValueError):
        return None


def apply(measured: Measured | None, job: Job, backend: str) -> Job:
    """Give the job with the backend's measured settings, but for what the user has set himself."""
    setting = measured.settings.get(backend) if measured else None
    if setting is None:
        return job
    request = job.request
    given = request.model_fields_set
    wanted: dict[str, Any] = {"flash_attn": setting.flash_attn, "n_ubatch": setting.n_ubatch}
    if setting.n_ubatch > request.n_batch:
        wanted["n_batch"] = setting.n_ubatch
    changed = {name: value for name, value in wanted.items() if name not in given}
    return replace(job, request=request.model_copy(update=changed))


def arrange(measured: Measured, job: Job, entries: Sequence[Entry]) -> list[Entry]:
    """Put the entries in the measured order, and say so in their reasons.

    The measured ones change places among themselves; one that was not measured keeps its place; one that
    failed goes last.
    """
    good = [entry for entry in entries if entry.backend not in measured.failed]
    ranks = {name: rank for rank, name in enumerate(measured.settings)}
    queue = iter(sorted((one for one in good if one.backend in ranks), key=lambda one: ranks[one.backend]))
    placed = [next(queue) if entry.backend in ranks else entry for entry in good]
    last = [entry for entry in entries if entry.backend in measured.failed]
    return [replace(entry, reason=_reason(measured, job, entry)) for entry in (*placed, *last)]


def _reason(measured: Measured, job: Job, entry: Entry) -> str:
    where = f", on {entry.reason.rpartition(', on ')[2]}" if ", on " in entry.reason else ""
    if entry.backend in measured.failed:
        return f"measured {measured.date}: it failed, so it is tried last{where}"
    own = measured.settings.get(entry.backend)
    if own is None:
        return entry.reason
    other = next((one for name, one in measured.settings.items() if name != entry.backend), None)
    request = apply(measured, job, entry.backend).request
    used = f"flash attention {request.flash_attn}, micro-batch {request.n_ubatch}"
    return f"measured {measured.date}: {_speed(own, other)}; {used}{where}"


def _speed(own: Setting, other: Setting | None) -> str:
    """Say how fast a backend is, against the fastest of the others: first the rate people look at first."""

    def against(rate: float, digits: int, rival: float | None) -> str:
        return f"{rate:.{digits}f} t/s" + (f" against {rival:.{digits}f}" if rival else "")

    prefill = against(own.prefill, 0, other.prefill if other else None)
    if own.generation is None:
        return prefill
    return f"{against(own.generation, 1, other.generation if other else None)} (prefill {prefill})"
