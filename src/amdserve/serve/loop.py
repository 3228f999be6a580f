"""The supervisor's one loop: signals, children's output and ends, answers to probes. No threads."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Self

from amdserve.serve.child import Child, become_reaper
from amdserve.serve.probe import Probe

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
TAKEN = (*STOPS, signal.SIGCHLD, signal.SIGHUP)


class Loop:
    """Waits for whatever comes next. It takes over the process's signals; `close` gives them back.

    Args:
        reading: what is entered while a child's output is read.

    Attributes:
        stops: how many times somebody asked for a stop.
    """

    def __init__(self, reading: Callable[[], AbstractContextManager[None]] = nullcontext) -> None:
        self.stops = 0
        self.reading = reading
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, Child] = {}
        self.readers: dict[int, Callable[[str], str | None]] = {}
        self._receive, self._send = socket.socketpair()
        for end in (self._receive, self._send):
            end.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._send.fileno(), warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _noted) for number in TAKEN}
        self.selector.register(self._receive, selectors.EVENT_READ, None)
        become_reaper()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the signals back, before the socket's number can become another file's."""
        signal.set_wakeup_fd(self._wakeup_before)
        for number, handler in self._before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        self.selector.close()
        self._receive.close()
        self._send.close()

    def start(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        each: Callable[[str], str | None],
        keep: Sequence[int] = (),
    ) -> Child:
        """Start a command; each line of its output goes to `each`.

        Raises:
            ProcessError: it cannot be started.
        """
        child = Child(argv, env, keep)
        self.adopt(child, each)
        return child

    def adopt(self, child: Child, each: Callable[[str], str | None]) -> None:
        """Look after a child that runs already; each line of its output goes to `each`."""
        self.children[child.pid] = child
        self.readers[child.pid] = each
        self.selector.register(child.output, selectors.EVENT_READ, child)

    def turn(self, seconds: float, probe: Probe | None = None) -> None:
        """Wait until something happens, at most `seconds`, and take note of it."""
        asked = -1
        if probe is not None and probe.status is None and probe.fileno() >= 0:
            event = selectors.EVENT_WRITE if probe.wants_write else selectors.EVENT_READ
            asked = probe.fileno()
            self.selector.register(asked, event, probe)
        try:
            ready = self.selector.select(max(0.0, seconds))
        finally:
            if asked >= 0:
                self.selector.unregister(asked)
        for key, _ in ready:
            if isinstance(key.data, Child):
                self._read(key.data)
            elif isinstance(key.data, Probe):
                key.data.step()
            else:
                self._signals()
        self._reap()

    def end(self, child: Child, seconds: float) -> bool:
        """Wait for a child's end, then for what is left of its group; give whether it has ended."""
        limit = time.monotonic() + seconds
        while child.code is None and time.monotonic() < limit:
            self.turn(min(0.05, limit - time.monotonic()))
        return child.code is not None

    def kill(self, child: Child, seconds: float = 5.0) -> bool:
        """Kill a child's whole group; False where the kernel cannot end it."""
        child.send(signal.SIGKILL)
        return self.forget(child) if self.end(child, seconds) else False

    def forget(self, child: Child) -> bool:
        """Let go of a child that has ended: its group is swept, and its last words are read."""
        child.send(signal.SIGKILL)
        self._read(child)
        if child.output >= 0:
            self.selector.unregister(child.output)
            child.close()
        self.children.pop(child.pid, None)
        self.readers.pop(child.pid, None)
        return True

    def _read(self, child: Child) -> None:
        output = child.output
        if output < 0:
            return
        with self.reading():
            child.read(self.readers[child.pid])
        if child.output < 0:
            with contextlib.suppress(KeyError, ValueError):
                self.selector.unregister(output)

    def _signals(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in self._receive.recv(4096):
                self.stops += number in STOPS

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.children:
                self.children[pid].exited(status)


def _noted(number: int, frame: object) -> None:
    """Do nothing: the number has already been written to the loop's socket."""
