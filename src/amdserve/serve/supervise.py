"""The supervisor: tries the plan's backends in order on one port, watches the one that serves, falls back."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amdserve.errors import (
    AmdserveError,
    BackendsFailedError,
    ModelError,
    NoGPUError,
    OutOfMemoryError,
    PortInUseError,
    UsageError,
)
from amdserve.serve.ahead import Ahead
from amdserve.serve.attempt import Attempt
from amdserve.serve.classify import Failure, decide
from amdserve.serve.logs import Log
from amdserve.serve.loop import Loop
from amdserve.serve.memory import Memory, order
from amdserve.serve.probe import port_is_free
from amdserve.serve.reference import load
from amdserve.serve.runner import House, read_keys
from amdserve.serve.state import Status

ERRORS: Mapping[str, type[AmdserveError]] = {
    "usage": UsageError,
    "model": ModelError,
    "no-device": NoGPUError,
    "oom": OutOfMemoryError,
    "port": PortInUseError,
}
PORT_PATIENCE = 3.0
LESS = "less context (--n-ctx), smaller batches (--n-ubatch), or a smaller model"


class Supervisor:
    """Runs one plan to its end.

    Args:
        spec: the plan, as `amdserve.serve.planner` wrote it.
        ahead: what was asked before there was a plan, if anything was.
    """

    def __init__(self, spec: Mapping[str, Any], ahead: Ahead | None = None) -> None:
        self.spec = spec
        self.entries: list[Mapping[str, Any]] = list(spec["entries"])
        keys = read_keys(spec.get("api_key_file"))
        self.log = Log(spec["log_format"], keys)
        place = Path(spec["state_dir"]) if spec.get("state_dir") else None
        self.status = Status(place, port=spec["port"], host=spec["host"])
        self.status.phases.lap("plan", of_which=("detect", float(spec.get("detect", 0.0))))
        if spec.get("measured"):
            self.status.data["measured"] = spec["measured"]
        self.loop = Loop(self.log.together)
        self.memory = Memory(place if spec["remember"] else None, spec["about"], spec["proof"])
        self.house = House(
            spec,
            self.loop,
            self.log,
            self.status,
            self.memory,
            load(spec["reference"]) if spec.get("reference") else None,
            keys[0] if keys else None,
            ahead,
        )
        if ahead is not None:
            ahead.join(self.loop)
        self.crashed: dict[str, float] = {}

    def run(self) -> int:
        """Serve until stopped or until nothing is left to try; give the exit code."""
        index = 0
        failures: list[Failure] = []
        self._use_memory()
        if self._unchecked():
            self.log.say("this image has no reference: no backend's arithmetic is checked", "warning")
        while index < len(self.entries):
            entry = self.entries[index]
            if not self._port_is_free(patience=PORT_PATIENCE if failures else 0.0):
                return self._fail(self._port_error())
            attempt = Attempt(self.house, entry)
            failure = attempt.run()
            if failure is None:
                self.log.say("stopped as asked")
                self.status.remove()
                return 0
            failures.append(failure)
            self._record(entry, failure, attempt.served)
            now = time.monotonic()
            before = self.crashed.get(entry["backend"])
            step = decide(failure, served=attempt.served, last_crash=None if before is None else now - before)
            if step == "stop":
                return self._fail(self._error(entry, failure))
            if failure.cls == "crash":
                self.crashed[entry["backend"]] = now
            index += step == "next"
            if index < len(self.entries):
                what = "once more" if step == "again" else "next"
                self.log.say(f"{what}: {self.entries[index]['backend']} ({self.entries[index]['reason']})")
                self.status.set("falling-back", backend=self.entries[index]["backend"], device=None)
        return self._fail(self._exhausted(failures))

    def _unchecked(self) -> bool:
        """Whether a GPU will compute that should be checked first, and cannot be."""
        gpu = any(entry["device"] == "gpu" and entry.get("asks") for entry in self.entries)
        return gpu and bool(self.spec["selftest"]) and self.house.reference is None

    def _use_memory(self) -> None:
        """Put the backends that failed here before behind the others."""
        failures = self.memory.failures()
        for entry in self.entries:
            before = failures.get(entry["backend"])
            if before and len(self.entries) > 1:
                what = f"{before['class']}: {before['detail']}"
                self.log.say(
                    f"{entry['backend']} failed here before ({what}): it is tried last. --forget forgets it",
                    "warning",
                )
        self.entries = order(self.entries, failures)

    def _record(self, entry: Mapping[str, Any], failure: Failure, served: float) -> None:
        backend = str(entry["backend"])
        self.memory.failed(backend, failure, served=served)
        self.status.record(failure.to_dict(backend))
        self.status.phases.failed(served=served > 0)
        self.log.say(
            f"{backend} failed after {failure.seconds:.1f} s: {failure.cls}: {failure.detail}",
            "warning",
            backend=backend,
            failure=failure.cls,
        )

    def _port_is_free(self, patience: float) -> bool:
        limit = time.monotonic() + patience
        while port_is_free(self.spec["host"], self.spec["port"]):
            if time.monotonic() >= limit:
                return False
            self.loop.turn(0.05)
        return True

    def _port_error(self) -> PortInUseError:
        host, port = self.spec["host"], self.spec["port"]
        return PortInUseError(
            f"port {port} cannot be listened on",
            cause=f"{host}: {port_is_free(host, port) or 'it was taken for a moment'}",
            fix=f"stop what listens there (ss -ltnp 'sport = :{port}'), or choose another: --port {port + 1}",
        )

    def _error(self, entry: Mapping[str, Any], failure: Failure) -> AmdserveError:
        if failure.cls == "port":
            return self._port_error()
        fixes = {
            "usage": "check the options; `amdserve serve --dry-run` shows the command",
            "model": "check the file (compare its sha256), or take a newer image",
            "oom": self.spec.get("advice") or LESS,
        }
        what = {
            "usage": f"{entry['backend']} does not accept its command line",
            "model": f"{self.spec['model']} cannot be served",
            "oom": f"{self.spec['model']} does not fit in memory",
        }
        return ERRORS[failure.cls](what[failure.cls], cause=failure.detail, fix=fixes[failure.cls])

    def _exhausted(self, failures: list[Failure]) -> AmdserveError:
        tried = "; ".join(
            f"{entry['backend']}: {entry['class']}: {entry['detail']}"
            for entry in self.status.data["history"]
        )
        if self.spec.get("require_gpu") and failures and all(one.cls == "no-device" for one in failures):
            return NoGPUError(
                "a GPU is required, and no backend sees one",
                cause=tried,
                fix="amdserve doctor says what is missing",
            )
        return BackendsFailedError(
            "every backend failed",
            cause=tried,
            fix="amdserve doctor; the log above has each one's last words",
        )

    def _fail(self, error: AmdserveError) -> int:
        self.log.say(str(error), "error", **error.to_dict())
        self.status.set("failed", error=error.to_dict())
        return error.exit_code
