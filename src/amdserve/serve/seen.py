"""What `amdserve.serve.look` saw, and how it comes from the process that looked to the one that plans."""

from __future__ import annotations

import os
import pickle
from dataclasses import dataclass

from amdserve.gpu.models import GPUDetectionResult
from amdserve.serve.described import Model
from amdserve.serve.machine import Machine


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found.

    Attributes:
        path: what was taken for the model's place.
        vendor: whose GPUs were looked for; None is everybody's.
        model: the model.
        detection: the GPUs.
        machine: the rest of the machine.
    """

    path: str
    vendor: str | None
    model: Model
    detection: GPUDetectionResult
    machine: Machine


def send(seen: Seen, to: int) -> None:
    """Write what was seen to a file descriptor, and close it."""
    with os.fdopen(to, "wb") as pipe:
        pipe.write(pickle.dumps(seen))


def receive(handle: int) -> Seen | None:
    """Read what was seen from a file descriptor, to its end; None where there was nothing."""
    with os.fdopen(handle, "rb") as pipe:
        data = pipe.read()
    seen = pickle.loads(data) if data else None
    return seen if isinstance(seen, Seen) else None
