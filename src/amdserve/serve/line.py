"""What plans are made of: the job, a line that takes only flags the backend knows, and an entry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from amdserve.serve.described import Model
from amdserve.serve.flags import Help
from amdserve.serve.image import Backend, Image
from amdserve.serve.machine import Machine
from amdserve.values import dataclass, field

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest

Device = Literal["gpu", "cpu"]

MEMLOCK_FIX = "--ulimit memlock=-1:-1"


@dataclass(frozen=True, slots=True)
class Job:
    """All that a command depends on, but for the backend and the GPU.

    Attributes:
        request: what is asked for.
        model: what is served.
        image: what the image holds.
        machine: limits and drivers.
    """

    request: ModelLoadRequest
    model: Model
    image: Image
    machine: Machine

    @property
    def purpose(self) -> str:
        """What to serve: what was asked for, else what the model is for."""
        return self.request.server_type or self.model.purpose

    @property
    def lockable(self) -> bool:
        """Whether the limit allows to lock the model in memory."""
        return self.machine.memlock is None or self.machine.memlock >= max(self.model.bytes, 1)


class Refused(Exception):  # noqa: N818 - not an error: the plan leaves this backend out and says why
    """This backend cannot do what was asked for; the text says what."""


@dataclass(slots=True)
class Command:
    """A command to start: its line, what it changes in the environment, and what to say about it.

    Attributes:
        argv: program and arguments.
        env: variables to set.
        unset: variables to remove.
        env_files: variables whose value is read from a file at the start, so that no plan ever holds it.
        notes: sentences for the person who asked.
    """

    argv: list[str]
    env: dict[str, str] = field(default_factory=dict)
    unset: tuple[str, ...] = ()
    env_files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Line:
    """Adds flags to a command line: each only if the backend knows it, and the user did not give it too."""

    def __init__(self, command: Command, backend: Backend, request: ModelLoadRequest) -> None:
        self.command = command
        self.help: Help = backend.help
        self.given = request.model_fields_set
        # vLLM also takes a part of an option's JSON: `--compilation-config.mode=3`.
        flags = [
            re.split(r"[=.]", part, maxsplit=1)[0] for part in request.extra_args if part.startswith("-")
        ]
        self.extra: set[str] = set()
        for flag in flags:
            if flag.lstrip("-")[:1].isdigit():  # a negative number, not a flag
                continue
            spelled = flag.replace("_", "-") if flag.startswith("--") else flag
            if not self.help.has(spelled) and not self.help.has(flag):
                raise Refused(f"it does not know {flag}, which was given after `--`")
            self.extra |= self.help.aliases(spelled) | {flag}

    def has(self, flag: str) -> bool:
        """Tell whether the backend knows the flag."""
        return self.help.has(flag)

    def add(self, field_name: str, flag: str, *values: object) -> bool:
        """Add a flag for a field of the request.

        Args:
            field_name: the field, for the text of a refusal; an empty one for what the plan itself needs.
            flag: the flag in today's words.
            values: what follows it.

        Raises:
            Refused: the backend lacks the flag, and the user asked for it.
        """
        if flag in self.extra:
            return True
        if not self.has(flag):
            if field_name in self.given or not field_name:
                raise Refused(f"it has no {flag}" + (f", needed for {field_name}" if field_name else ""))
            return False
        self.command.argv += [flag, *(str(value) for value in values)]
        return True


@dataclass(frozen=True, slots=True)
class Entry:
    """One backend to try.

    Attributes:
        backend: its name.
        reason: why it is in this place.
        command: what starts it.
        device: `gpu` or `cpu`.
        probe: the path that answers 200 once it is ready.
        hints: words by which the GPU is found in the backend's own list of devices.
        offload: the log must say that layers went to the GPU.
    """

    backend: str
    reason: str
    command: Command
    device: Device
    probe: str
    hints: tuple[str, ...] = ()
    offload: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the entry as `serve --dry-run --json` prints it."""
        return {
            "backend": self.backend,
            "reason": self.reason,
            "argv": list(self.command.argv),
            "env": dict(self.command.env),
            "unset": list(self.command.unset),
            "device": self.device,
            "hints": list(self.hints),
            "notes": list(self.command.notes),
        }
