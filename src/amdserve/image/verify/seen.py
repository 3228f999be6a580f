"""What is known of an image when it is judged: its configuration, what the probe saw, what it should be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

LABEL = "io.amdserve."
# Where each backend's programs and libraries are, and the library that makes it what it is.
FOLDERS = {
    "llama-server-vulkan": "/opt/llama/vulkan",
    "llama-server-rocm": "/opt/llama/rocm",
    "llama-cpp-python": "/opt/llama/cpu",
}
PLUGINS = {"llama-server-vulkan": "libggml-vulkan.so", "llama-server-rocm": "libggml-hip.so"}

Verdict = tuple[list[str], str]
"""What is wrong, one phrase per thing; and what was seen when nothing is."""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that an image must be: its name, whether it holds, and what was seen."""

    name: str
    ok: bool
    detail: str

    def to_dict(self) -> dict[str, object]:
        """Give the check as in the contract of `invoke verify --json`."""
        return {"name": self.name, "ok": self.ok, "detail": self.detail}


@dataclass(frozen=True, slots=True)
class Report:
    """All checks of one image."""

    ref: str
    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether all checks hold (and there were some)."""
        return bool(self.checks) and all(check.ok for check in self.checks)

    def to_dict(self) -> dict[str, object]:
        """Give the report as in the contract of `invoke verify --json`."""
        return {"ref": self.ref, "checks": [check.to_dict() for check in self.checks]}


class Planned(Protocol):
    """What a planned cell says of the image that it should become."""

    @property
    def image(self) -> str:
        """The name in the catalogue."""

    @property
    def gfx(self) -> tuple[str, ...]:
        """The targets."""

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends by name."""

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that it must carry."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What an image should be; `labels` are None where nothing but the image itself says what it is."""

    image: str
    gfx: tuple[str, ...]
    backends: tuple[str, ...]
    labels: Mapping[str, str] | None = None

    @classmethod
    def of(cls, planned: Planned) -> Expected:
        """Take it from a planned cell."""
        return cls(planned.image, tuple(planned.gfx), tuple(planned.backends), dict(planned.labels))

    @classmethod
    def from_labels(cls, labels: Mapping[str, str]) -> Expected:
        """Take it from the image's own labels, which the inside is then held to."""
        gfx, backends = (labels.get(LABEL + name, "") for name in ("gfx", "backends"))
        return cls(
            labels.get(LABEL + "image", ""),
            tuple(part for part in gfx.split(",") if part),
            tuple(part for part in backends.split(",") if part),
        )

    @property
    def rocm(self) -> bool:
        """Whether ROCm belongs into it."""
        return "llama-server-rocm" in self.backends or "vllm" in self.backends


@dataclass(frozen=True, slots=True)
class Seen:
    """An image as it is judged.

    `attributes` is what the engine says of it (`docker image inspect`), `facts` what the probe printed, and
    `budget_mb` the size that the catalogue allows, in MB of 10^6 bytes (None: it does not know the image).
    """

    attributes: Mapping[str, Any]
    expected: Expected
    facts: Mapping[str, Any] = field(default_factory=dict)
    budget_mb: int | None = None

    @property
    def config(self) -> Mapping[str, Any]:
        """The part of the attributes that a container is started with."""
        return self.attributes.get("Config") or {}

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the image sets."""
        return dict(entry.partition("=")[::2] for entry in self.config.get("Env") or ())

    @property
    def labels(self) -> Mapping[str, str]:
        """The labels that the image carries."""
        return self.config.get("Labels") or {}

    def fact(self, name: str) -> Any:
        """Give what the probe saw under a name.

        Raises:
            LookupError: it could not look; the text says why.
        """
        if name not in self.facts:
            raise LookupError("nobody could look inside the image")
        value = self.facts[name]
        if isinstance(value, dict) and set(value) == {"error"}:
            raise LookupError(str(value["error"]))
        return value


def read_facts(output: str) -> dict[str, Any]:
    """Read what the probe printed.

    Raises:
        ValueError: it is no JSON object.
    """
    facts = json.loads(output)
    if not isinstance(facts, dict):
        raise ValueError("no JSON object")
    return facts
