"""One backend process from start to end: it loads under watch, is ended with its group, and is judged."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from amdserve.errors import ProcessError
from amdserve.serve import procfs
from amdserve.serve.ahead import Ahead
from amdserve.serve.child import Child
from amdserve.serve.classify import Failure, classify
from amdserve.serve.logs import Log
from amdserve.serve.loop import Loop
from amdserve.serve.memory import Memory
from amdserve.serve.probe import Probe
from amdserve.serve.reference import Reference
from amdserve.serve.state import Status
from amdserve.serve.watch import LoadWatch
from amdserve.values import dataclass

FAST, SLOW = 0.03, 0.5  # seconds between probes while loading: at first, and later
LOOK = 1.0  # seconds between measurements
OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
# The line above counts what was meant for a GPU even where there is none; this one tells where weights lie.
WEIGHTS = re.compile(r"load_tensors:\s+(\S+) model buffer size")
ON_GPU = re.compile(r"[A-Za-z]+\d+")  # Vulkan0, ROCm1; but CPU, CPU_Mapped, Vulkan_Host
# At the level at which these are told, llama-server lists every prompt in its cache too, for each request.
CHATTER = re.compile(r"\bsrv +(?:load|update): +- prompt ")


@dataclass(frozen=True, slots=True)
class House:
    """What all that one supervisor does shares."""

    spec: Mapping[str, Any]
    loop: Loop
    log: Log
    status: Status
    memory: Memory
    reference: Reference | None
    key: str | None
    ahead: Ahead | None = None


class Runner:
    """One process of one backend.

    Args:
        house: what is shared.
        entry: the backend's entry in the plan.
        address: host and port it will listen on.
        each: takes each line of its log that tells something, and gives it as it is to be kept.

    Attributes:
        child: the process, once it has been started.
        offloaded: layers on the GPU, and layers in all, as its log said; None where it has not.
        weights: where its weights lie, as its log said.
        begun: when, on the monotonic clock.
    """

    def __init__(
        self, house: House, entry: Mapping[str, Any], address: tuple[str, int], each: Callable[[str], str]
    ) -> None:
        self.house, self.entry, self.address = house, entry, address
        self.each = each
        self.child: Child | None = None
        self.offloaded: tuple[int, int] | None = None
        self.weights: set[str] = set()
        self.begun = time.monotonic()
        self._kills: int | None = None

    @property
    def seconds(self) -> float:
        """Seconds since it was begun."""
        return time.monotonic() - self.begun

    @property
    def ended(self) -> bool:
        """Whether its process has ended, or never was."""
        return self.child is None or self.child.code is not None

    def start(self, argv: Sequence[str]) -> Failure | None:
        """Start the process; give why it could not be."""
        self._kills = procfs.oom_kills()
        keep = self.house.spec.get("keep_fds", ())
        try:
            self.child = self.house.loop.start(argv, environment(self.entry), self._line, keep)
        except ProcessError as reason:
            return self.failure("crash", f"{reason.what}: {reason.cause}")
        return None

    def adopt(self, child: Child, kills: int | None) -> None:
        """Take over a process that was started when the kernel had killed so often for memory."""
        self._kills = kills
        self.begun = child.started
        self.child = child

    def _line(self, line: str) -> str | None:
        if self.entry.get("offload"):
            if CHATTER.search(line):
                return None
            if match := OFFLOADED.search(line):
                self.offloaded = (int(match[1]), int(match[2]))
            if match := WEIGHTS.search(line):
                self.weights.add(match[1])
        return self.each(line)

    def load(self) -> Failure | None:
        """Wait until it answers; give a failure where it ends, hangs, or computes on the CPU in silence."""
        child, (host, port), spec = self.child, self.address, self.house.spec
        assert child is not None
        watch = LoadWatch(spec["load_stall"], time.monotonic())
        probe = Probe(host, port, self.entry["probe"], key=self.house.key)
        asked = looked = time.monotonic()
        pause, heard = FAST, child.lines.count
        while child.code is None and not self.house.loop.stops:
            now = time.monotonic()
            if child.lines.count != heard:
                # What it says last before it answers is that it has loaded.
                heard, pause = child.lines.count, FAST
                asked = min(asked, now + FAST)
            # Somebody else may have taken the port a moment ago, and answer on it.
            if probe.status == 200 and procfs.listens(child.pid, port) is not False:
                return self._silent_cpu()
            idle = probe.status is not None or probe.begun == 0.0
            if (idle and now >= asked) or (not idle and now - probe.begun > spec["probe_timeout"]):
                probe.start()
                asked, pause = now + pause, min(SLOW, pause * 1.1)
            if now - looked >= min(LOOK, spec["load_stall"] / 4):
                looked = now
                why = watch.look(now, child.lines.count, procfs.sample(child.pid))
                if why:
                    return self.failure("hang", why)
            self.house.loop.turn(max(0.005, min(asked - now, 0.2)), probe)
        probe.close()
        return None if child.code is None else self.judged(ready=False)

    def _silent_cpu(self) -> Failure | None:
        if not self.entry.get("offload"):
            return None
        done, of = self.offloaded or (0, 0)
        elsewhere = self.weights and not any(ON_GPU.fullmatch(name) for name in self.weights)
        if done > 0 and not elsewhere:
            return None
        said = f"0 of {of} layers went to the GPU" if self.offloaded else "its log names no layer on the GPU"
        if elsewhere:
            said = f"its weights lie in {', '.join(sorted(self.weights))}"
        return self.failure("no-device", f"it would serve from the CPU in silence: {said}")

    def wait(self, probe: Probe, seconds: float) -> bool:
        """Wait for an answer; False where it ended, a stop was asked for, or the time is over."""
        limit = time.monotonic() + seconds
        probe.start()
        while probe.status is None and not self.ended and not self.house.loop.stops:
            if time.monotonic() > limit:
                break
            self.house.loop.turn(0.2, probe)
        probe.close()
        return bool(probe.status)

    def judged(self, *, ready: bool) -> Failure:
        """Say what the end of its process means."""
        child = self.child
        assert child is not None
        self.house.loop.forget(child)
        after = procfs.oom_kills()
        return classify(
            child.code or 0,
            list(child.lines.kept),
            seconds=self.seconds,
            ready=ready,
            oom_killed=None if self._kills is None or after is None else after > self._kills,
        )

    def failure(self, cls: Any, detail: str) -> Failure:
        """Make a failure of what was seen from outside."""
        return Failure(cls, detail, None, self.seconds)

    def kill(self) -> None:
        """End its group at once."""
        if self.child is not None and not self.house.loop.kill(self.child):
            message = f"{self.entry['backend']} cannot be killed: its driver holds it in the kernel"
            self.house.log.say(message, "error")

    def end(self, patience: float) -> None:
        """Ask it to end, wait, then kill what is left."""
        assert self.child is not None
        # vLLM's workers end at once when they are told to, and with them the answers under way.
        self.child.ask(signal.SIGTERM)
        if not self.house.loop.end(self.child, patience):
            self.house.log.say(f"{self.entry['backend']} did not end in time: killed", "warning")
        self.kill()


def environment(entry: Mapping[str, Any]) -> dict[str, str]:
    """Give a backend's whole environment: ours, less what it must not see, plus what it needs."""
    env = {name: value for name, value in os.environ.items() if name not in entry.get("unset", ())}
    env.update(entry.get("env", {}))
    for name, file in entry.get("env_files", {}).items():
        env[name] = next(iter(read_keys(file)), "")
    return env


def read_keys(file: str | None) -> list[str]:
    """Read API keys, one a line; `#` begins a comment. A file that cannot be read has none."""
    if not file:
        return []
    try:
        with open(file, encoding="utf-8") as lines:  # noqa: PTH123
            return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    except (OSError, ValueError):
        return []
