"""What a detector is: a name, a vendor, a time limit, and one question."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Protocol

from amdserve.gpu.models import Finding
from amdserve.gpu.sysroot import Sysroot
from amdserve.values import dataclass, field


@dataclass(frozen=True, slots=True)
class Context:
    """What a detector may look at: the machine's files, and the environment that its children inherit."""

    sysroot: Sysroot = field(default_factory=Sysroot)
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))


class Detector(Protocol):
    """One way to find GPUs.

    `vendor` is amd, nvidia, cpu or any; `limit` is the seconds after which the chain goes on without it.
    """

    @property
    def name(self) -> str:
        """The name under which its attempt is recorded."""

    @property
    def vendor(self) -> str:
        """Whose GPUs it finds."""

    @property
    def limit(self) -> float:
        """Seconds it may take."""

    def detect(self, context: Context) -> Finding:
        """Look; may raise anything, print anything or hang: the chain records it and goes on."""
