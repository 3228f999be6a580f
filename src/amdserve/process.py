"""The one door through which this project starts other programs.

`run` waits and gives the output; `spawn` gives the running process to whoever watches it; `fork` goes on in
a copy. Nothing else in the package imports `subprocess` (a test holds this), so that `--dry`, time limits and
error texts are the same everywhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.errors import AmdserveError, ProcessError
from amdserve.values import dataclass

if TYPE_CHECKING:
    import subprocess

MISSING = 127
TIMED_OUT = 124


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished command left: exit status (negative: the signal), standard output and error as text."""

    argv: tuple[str, ...]
    code: int
    out: str = ""
    err: str = ""

    @property
    def ok(self) -> bool:
        """Whether the command exited with 0."""
        return self.code == 0


def get_ready() -> None:
    """Import what starting a program takes, for who has the time now and will not have it then."""
    import subprocess  # noqa: F401, PLC0415 - see run


def show(argv: Sequence[str]) -> str:
    """Give the command as a line that can be pasted into a shell."""
    import shlex  # noqa: PLC0415 - see run

    return shlex.join(argv)


def run(
    argv: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    timeout: float | None = None,
    capture: bool = True,
    check: bool = True,
    dry: bool = False,
    error: type[AmdserveError] = ProcessError,
    fix: str = "",
) -> Result:
    """Run a command to its end.

    Args:
        argv: the command and its arguments; no shell.
        cwd: where to run it.
        env: the whole environment, or None for this process's own.
        stdin: text for its standard input; None means an empty one.
        timeout: seconds until it is killed.
        capture: keep the output; False lets it through to this process's standard error.
        check: raise when it does not exit with 0.
        dry: print the command to standard error instead of running it.
        error: what to raise.
        fix: the next command to name in the error.

    Raises:
        error: the command is missing, took too long or failed, and `check` is set.
    """
    # Much comes with it, and what makes the plan of a start, which is waited for, seldom starts a program.
    import subprocess  # noqa: PLC0415

    command = tuple(str(part) for part in argv)
    if dry:
        print(f"+ {show(command)}", file=sys.stderr)
        return Result(command, 0)
    # Standard output is for answers (`--json`), so what is not captured goes to standard error.
    stdout = subprocess.PIPE if capture else sys.stderr
    stderr = subprocess.PIPE if capture else None
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env=None if env is None else dict(env),
            input=stdin if stdin is not None else "",
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
            check=False,
            text=True,
            errors="replace",
        )
        result = Result(command, done.returncode, done.stdout or "", done.stderr or "")
    except FileNotFoundError as missing:
        result = Result(command, MISSING, "", f"{missing.filename}: not found")
    except PermissionError as denied:
        result = Result(command, 126, "", str(denied))
    except subprocess.TimeoutExpired:
        result = Result(command, TIMED_OUT, "", f"no end after {timeout:g} s")
    if check and not result.ok:
        raise failed(result, error=error, fix=fix)
    return result


def failed(result: Result, *, error: type[AmdserveError] = ProcessError, fix: str = "") -> AmdserveError:
    """Turn a failed result into the error that names command, status and last words."""
    said = result.err.strip() or result.out.strip()
    words = [line.strip() for line in said.splitlines() if line.strip()]
    status = f"signal {-result.code}" if result.code < 0 else f"exit status {result.code}"
    return error(
        f"`{show(result.argv)}` failed ({status})",
        cause=" / ".join(words[-3:]) or "it said nothing",
        fix=fix or f"run it by hand: {show(result.argv)}",
    )


def spawn(argv: Sequence[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a command and return at once; `options` are those of `subprocess.Popen`.

    Raises:
        ProcessError: it cannot be started.
    """
    import subprocess  # noqa: PLC0415 - see run

    try:
        return subprocess.Popen([str(part) for part in argv], **options)
    except OSError as reason:
        raise ProcessError(f"`{show(argv)}` cannot be started", cause=str(reason)) from reason


def fork(body: Callable[[], int]) -> int:
    """Run a function in a copy of this process, which ends with what the function returns.

    The copy starts with everything imported that this process has: that is what it saves. Only for a process
    with one thread, whose other half goes on to something else.

    Returns:
        the copy's process id.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 1
    try:
        code = body()
    except BaseException:
        import traceback  # noqa: PLC0415 - hardly ever needed, and this is on the way to every start

        traceback.print_exc()
    finally:
        # What is to be done when an interpreter ends is this process's, not the copy's.
        os._exit(code)


def stream(
    argv: Sequence[str],
    each: Callable[[str], None],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a command and hand each line of its output and error, merged, to `each` as it comes.

    Never raises for the exit status: the caller has seen the lines and knows what they mean.
    """
    import subprocess  # noqa: PLC0415 - see run

    process = spawn(
        argv,
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    lines: list[str] = []
    assert process.stdout is not None
    with process.stdout as pipe:
        for raw in pipe:
            line = raw.decode(errors="replace").rstrip("\n")
            lines.append(line)
            each(line)
    return Result(tuple(argv), process.wait(), "\n".join(lines))
