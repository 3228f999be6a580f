"""A backend's process: started in its own group, read without blocking, ended with its group."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from amdserve.errors import ProcessError
from amdserve.process import spawn
from amdserve.serve.logs import Lines

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
# The kernel, when memory is short, shall take the backend and not its supervisor.
OOM_SCORE = b"500"
# At once; more than a pipe holds, so that the last words of a dead one are never left.
MOST_READS = 32

_libc = ctypes.CDLL(None, use_errno=True)


def become_reaper() -> None:
    """Have orphans of our children come to us, so that none stays as a zombie where we are not process 1."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _before_exec() -> None:
    """In the child: die with the supervisor, be first when memory is short, take signals as usual."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    with contextlib.suppress(OSError):
        handle = os.open("/proc/self/oom_score_adj", os.O_WRONLY)
        os.write(handle, OOM_SCORE)
        os.close(handle)


class Child:
    """One running command.

    Args:
        argv: program and arguments.
        env: its whole environment.
        keep: file descriptors that it inherits.

    Attributes:
        pid: its process, which is also its group.
        code: exit status, or minus the signal; None while it runs.
        lines: the last lines it wrote.
        output: what its output is read from, or -1 once that has ended.
        started: when, on the monotonic clock.

    Raises:
        ProcessError: it cannot be started.
    """

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], keep: Sequence[int] = ()) -> None:
        self.lines = Lines()
        self.code: int | None = None
        self.output, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(write, True)
        nothing = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.process = spawn(
                argv,
                env=dict(env),
                stdin=nothing,
                stdout=write,
                stderr=write,
                start_new_session=True,
                preexec_fn=_before_exec,
                pass_fds=tuple(keep),
            )
        except ProcessError:
            os.close(self.output)
            raise
        finally:
            os.close(write)
            os.close(nothing)
        self.pid = self.process.pid
        self.started = time.monotonic()

    def read(self, each: Callable[[str], str | None]) -> None:
        """Take what it has written, 2 MiB at most; each line goes to `each`, which gives what is kept."""
        for _ in range(MOST_READS):
            if self.output < 0:
                return
            try:
                data = os.read(self.output, 65536)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            for line in self.lines.feed(data) if data else self.lines.end():
                if (kept := each(line)) is not None:
                    self.lines.kept.append(kept)
            if not data:
                self.close()

    def exited(self, status: int) -> None:
        """Note its end, as `waitpid` gave it."""
        self.code = os.waitstatus_to_exitcode(status)
        self.process.returncode = self.code

    def ask(self, number: int) -> None:
        """Send a signal to the process itself, which knows in what order its own helpers are to end."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, number)

    def send(self, number: int) -> None:
        """Send a signal to its whole group."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, number)

    def close(self) -> None:
        """Stop reading what it writes."""
        if self.output >= 0:
            os.close(self.output)
            self.output = -1
