"""The chain: each detector in turn until one finds a GPU; what each one did is recorded.

No detector can break it. Libraries of vendors are asked in child processes; beyond that every detector
runs in a thread of its own with a time limit, with standard output turned to standard error, and whatever it
raises becomes one recorded attempt.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from amdserve.gpu.amd_smi import AMDSMIDetector
from amdserve.gpu.cpu import CPUDetector
from amdserve.gpu.detector import Context, Detector
from amdserve.gpu.kfd import KFDDetector
from amdserve.gpu.models import GPU, OUTCOMES, Attempt, Finding, GPUDetectionResult, GPUType
from amdserve.gpu.nvml import NVMLDetector
from amdserve.gpu.sysroot import Sysroot
from amdserve.gpu.torch_child import TorchCudaDetector, TorchProbe, TorchROCmDetector


def default_detectors() -> tuple[Detector, ...]:
    """Give the detectors in their order; the last one always answers."""
    torch = TorchProbe()
    return (
        AMDSMIDetector(),
        KFDDetector(),
        NVMLDetector(),
        TorchROCmDetector(torch),
        TorchCudaDetector(torch),
        CPUDetector(),
    )


class UnifiedGPUDetector:
    """Finds out which GPU is here.

    Args:
        sysroot: the machine; by default the one AMDSERVE_SYSROOT names, else the real one.
        environ: the environment children inherit; by default this process's.
        vendor: only GPUs of this vendor (amd, nvidia), or `cpu` for none; None or `auto` for any.
        detectors: another chain.
    """

    def __init__(
        self,
        sysroot: Sysroot | None = None,
        environ: Mapping[str, str] | None = None,
        vendor: str | None = None,
        detectors: Sequence[Detector] | None = None,
    ) -> None:
        environ = dict(os.environ) if environ is None else environ
        self._context = Context(sysroot or Sysroot.from_environ(environ), environ)
        self._vendor = None if vendor in (None, "", "auto") else vendor
        self._detectors = default_detectors() if detectors is None else tuple(detectors)

    def detect(self) -> GPUDetectionResult:
        """Go through the chain; never raises, and always ends with an answer."""
        attempts: list[Attempt] = []
        answered: tuple[str, Finding] | None = None
        for detector in self._detectors:
            name = str(getattr(detector, "name", type(detector).__name__))
            if answered is not None:
                attempts.append(Attempt(name, "skipped", f"{answered[0]} had answered", 0.0))
                continue
            wanted = getattr(detector, "vendor", "any")
            if self._vendor is not None and wanted not in (self._vendor, "cpu", "any"):
                attempts.append(Attempt(name, "skipped", f"only {self._vendor} was asked for", 0.0))
                continue
            start = time.perf_counter()
            finding = _guarded(detector, self._context)
            attempts.append(
                Attempt(name, finding.outcome, finding.reason, (time.perf_counter() - start) * 1000)
            )
            if finding.outcome == "found":
                answered = name, finding
        name, gpus = (answered[0], answered[1].gpus) if answered else (CPUDetector.name, (_BARE_CPU,))
        return GPUDetectionResult(any(gpu.vendor != "cpu" for gpu in gpus), name, gpus, tuple(attempts))


_BARE_CPU = GPU(0, "cpu", "CPU", None, GPUType.CPU, 0, 0, False, 0, None, None)


def _guarded(detector: Detector, context: Context) -> Finding:
    """Run one detector so that nothing it does ends, blocks or dirties this process."""
    box: list[Finding] = []

    def work() -> None:
        try:
            box.append(_checked(detector.detect(context)))
        except BaseException as reason:  # SystemExit and its kin included: one recorded attempt
            box.append(Finding("error", _words(reason)))

    limit = float(getattr(detector, "limit", 10.0))
    with _standard_output_elsewhere():
        thread = threading.Thread(target=work, name=f"detect-{detector.name}", daemon=True)
        thread.start()
        thread.join(limit)
    return box[0] if box else Finding("error", f"no answer within {limit:g} s")


def _checked(finding: object) -> Finding:
    """Hold a detector to its promise: a finding, of a known outcome, with GPUs where it found some."""
    if not isinstance(finding, Finding) or finding.outcome not in OUTCOMES:
        return Finding("error", f"answered {type(finding).__name__}, which is no finding")
    if finding.outcome == "found" and not finding.gpus:
        return Finding("error", "said found, and listed nothing")
    return finding


def _words(reason: BaseException) -> str:
    try:
        return f"{type(reason).__name__}: {reason}"
    except Exception:  # an exception whose text raises is still only an attempt
        return type(reason).__name__


@contextlib.contextmanager
def _standard_output_elsewhere() -> Iterator[None]:
    """Turn standard output to standard error, at the level of file descriptors: C libraries print too."""
    saved = None
    with contextlib.suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    with contextlib.suppress(OSError):
        saved = os.dup(1)
        os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        if saved is not None:
            os.dup2(saved, 1)
            os.close(saved)
