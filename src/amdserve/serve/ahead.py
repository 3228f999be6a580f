"""The first backend's list of devices, asked for while the plan is still being made.

Asking takes some 0.1 s, as planning does, and neither needs the other. But only the plan says what is to be
asked; so the likely question is put, and its answer counts only where the plan puts the very same: that
program, in that environment. Any other is ended unheard.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.errors import AmdserveError
from amdserve.serve.child import Child
from amdserve.serve.flags import LIST, no_device
from amdserve.serve.options import ENV_PREFIX
from amdserve.serve.procfs import oom_kills

if TYPE_CHECKING:
    from amdserve.serve.loop import Loop

SYSROOT = ENV_PREFIX + "SYSROOT"
BACKEND = "llama-server-vulkan"


def guess(values: Mapping[str, Any], environ: Mapping[str, str]) -> list[str] | None:
    """Give the command that the plan will most likely want first; None where no GPU will be asked.

    Args:
        values: what was asked for, field name to value.
        environ: the environment.
    """
    if values.get("backend", "auto") not in ("auto", BACKEND):
        return None
    if values.get("server_type", "llm") != "llm" or _is_huggingface(str(values.get("model_path", ""))):
        return None
    if no_device(values.get("extra_args", ()), environ):
        return None
    nodes = Path(environ.get(SYSROOT) or "/", "dev/dri").glob("renderD*")
    if not environ.get("GGML_VK_VISIBLE_DEVICES") and not any(nodes):
        return None
    from amdserve.serve import image as images  # noqa: PLC0415  (nothing else here has a use for it)

    try:
        backend = images.load(environ).backends.get(BACKEND)
    except AmdserveError:  # the planner says what is wrong
        return None
    return [*backend.argv, LIST] if backend and backend.help.has(LIST) else None


def _is_huggingface(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "config.json"))  # noqa: PTH113, PTH118 - a path that may not be read is none


class Ahead:
    """The question that was put ahead of the plan.

    Args:
        argv: the command.
        environ: its environment.

    Attributes:
        kills: how often the kernel had killed for memory before.
    """

    def __init__(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        self.argv, self.environ = list(argv), dict(environ)
        self.kills = oom_kills()
        self.child: Child | None = None
        with contextlib.suppress(AmdserveError):  # the attempt says why
            self.child = Child(argv, environ)

    def join(self, loop: Loop) -> None:
        """Have a loop look after its process."""
        if self.child is not None:
            loop.adopt(self.child, lambda line: line)

    def take(self, argv: Sequence[str], environ: Mapping[str, str]) -> Child | None:
        """Give the process that was asked just this, once; any other is ended."""
        if self.child is None or list(argv) != self.argv or dict(environ) != self.environ:
            self.drop()
            return None
        child, self.child = self.child, None
        return child

    def drop(self) -> None:
        """End it unheard. The loop notices; nobody waits, for a driver may hold it in the kernel."""
        if self.child is not None:
            self.child.send(signal.SIGKILL)
            self.child = None
