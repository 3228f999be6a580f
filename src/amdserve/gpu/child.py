"""Asks a library in a child process: what it does there cannot harm the process that asks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from amdserve.gpu.models import GPU, OUTCOMES, GPUType, Outcome, Vendor
from amdserve.values import dataclass

# json, signal and the door to subprocesses are imported where a child is really asked: most machines never
# get that far, and together they cost more than reading the kernel's files.
_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "probe.py")  # noqa: PTH100, PTH118, PTH120


@dataclass(frozen=True, slots=True)
class Answer:
    """What a library said: outcome, reason, one mapping a device, and facts about the library itself."""

    outcome: Outcome
    reason: str
    devices: tuple[Mapping[str, Any], ...] = ()
    facts: Mapping[str, Any] = MappingProxyType({})


Probe = Callable[[Mapping[str, str]], Answer]


@dataclass(frozen=True, slots=True)
class ChildProbe:
    """Runs `probe.py` in this Python.

    Args:
        kind: amdsmi, nvml or torch.
        limit: seconds until the child is killed.
        path: more folders to import from.
        python: the interpreter, if not this one.
    """

    kind: str
    limit: float
    path: tuple[str, ...] = ()
    python: str = sys.executable or "python3"

    def __call__(self, environ: Mapping[str, str]) -> Answer:
        """Ask; the child inherits `environ` as it is, visible-devices variables included."""
        from amdserve import process  # noqa: PLC0415 - see above

        env = dict(environ)
        if self.path:
            env["PYTHONPATH"] = os.pathsep.join([*self.path, env.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        # -P: this folder holds modules named like the standard library's, which a script would import.
        argv = [self.python, "-P", _SCRIPT, self.kind]
        result = process.run(argv, env=env, timeout=self.limit, check=False)
        if result.code == process.TIMED_OUT:
            return Answer("error", f"{self.kind} gave no answer within {self.limit:g} s and was killed")
        if result.code < 0:
            return Answer(
                "error", f"{self.kind} crashed: {_signal_name(-result.code)}{_last_words(result.err)}"
            )
        return _read(self.kind, result.out, result.code, result.err)


def _read(kind: str, out: str, code: int, err: str) -> Answer:
    """Read the child's JSON; anything else is an error in words."""
    import json  # noqa: PLC0415 - see above

    try:
        answer = json.loads(out.strip().rpartition("\n")[2])
        outcome, reason, devices = answer.pop("outcome"), str(answer.pop("reason")), answer.pop("devices")
        if outcome in OUTCOMES and all(isinstance(device, dict) for device in devices):
            return Answer(outcome, reason, tuple(devices), answer)
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    return Answer("error", f"{kind} gave no readable answer (exit status {code}){_last_words(err)}")


def _signal_name(number: int) -> str:
    import signal  # noqa: PLC0415 - see above

    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _last_words(err: str) -> str:
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    return f": {lines[-1][:200]}" if lines else ""


def whole(value: Any) -> int:
    """Give a count or a size as an int, 0 for what is none (`N/A`, None, a negative)."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def word(value: Any) -> str | None:
    """Give a text that says something, or None."""
    text = value.strip() if isinstance(value, str) else ""
    return text if text and text != "N/A" else None


def pci(value: Any) -> str | None:
    """Bring an address into the form `0000:65:00.0`; None for none and for 0 (Strix Halo reports that)."""
    text = (word(value) or "").lower()
    domain, _, rest = text.partition(":")
    if not rest or not rest.strip("0:."):
        return None
    return f"{domain[-4:].rjust(4, '0')}:{rest}"


def gpu(
    device: Mapping[str, Any], index: int, vendor: Vendor, gpu_type: GPUType, gfx: str | None = None
) -> GPU:
    """Make a `GPU` of what a library said of a device."""
    minor = whole(device.get("render_minor"))
    return GPU(
        index=index,
        vendor=vendor,
        name=word(device.get("name")) or f"{vendor.upper()} GPU",
        gfx=gfx,
        gpu_type=gpu_type,
        vram_bytes=whole(device.get("vram_bytes")),
        gtt_bytes=whole(device.get("gtt_bytes")),
        integrated=device.get("integrated") is True,
        compute_units=whole(device.get("compute_units")),
        pci=pci(device.get("pci")),
        render_node=f"/dev/dri/renderD{minor}" if minor else None,
        driver=word(device.get("driver")),
    )


def installed(module: str) -> str | None:
    """Tell where a top-level module would be imported from, without importing it; None where nowhere."""
    from importlib.util import find_spec  # noqa: PLC0415 - see above

    try:
        spec = find_spec(module)
    except (ImportError, ValueError, AttributeError):
        return None
    return spec.origin if spec else None
