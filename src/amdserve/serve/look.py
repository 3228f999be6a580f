"""What a plan is made of beside what was asked for: the model, the GPUs and the machine, as they are found.

Looking takes as long as importing what planning needs: a vocabulary has 300,000 texts. So at a start a
process of its own looks, beside the planner.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Mapping
from typing import Any

from amdserve.errors import AmdserveError
from amdserve.gpu.chain import UnifiedGPUDetector
from amdserve.gpu.sysroot import Sysroot
from amdserve.serve import machine, model, seen


def look(path: str, vendor: str | None, environ: Mapping[str, str]) -> seen.Seen:
    """Look.

    Args:
        path: a GGUF file, a folder, or a Hub name.
        vendor: whose GPUs to look for; None is everybody's.
        environ: the environment.

    Raises:
        ModelError: the model is not there, cannot be read, is damaged, or is none.
    """
    found = model.inspect(path)
    detection = UnifiedGPUDetector(Sysroot.from_environ(environ), environ, vendor).detect()
    return seen.Seen(path, vendor, found, detection, machine.look(environ))


def send(values: Mapping[str, Any], environ: Mapping[str, str], to: int) -> int:
    """Look in a process of its own; give its exit code.

    What goes wrong is not told: the planner then looks itself, and says it.

    Args:
        values: what was asked for, unchecked: field name to value.
        environ: the environment.
        to: file descriptor for what was seen.
    """
    gc.disable()
    with contextlib.suppress(AmdserveError, OSError):
        seen.send(look(str(values.get("model_path", "")), values.get("vendor"), environ), to)
    return 0
