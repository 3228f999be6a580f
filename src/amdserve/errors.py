"""Every error this project raises on purpose: what failed, the likely cause, the next command.

The tree, with the exit code of the process that dies of it::

    AmdserveError                1
    ├── UsageError               2   a wrong argument, option, variable or name
    │   └── ConfigError          2   a YAML file that does not hold: file, line and key
    ├── ModelError               3   the model cannot be served: missing, truncated, unsupported
    ├── NoGPUError               4   no GPU, and one was required
    ├── BackendsFailedError      5   every backend was tried and failed
    ├── OutOfMemoryError         6   the model does not fit
    ├── PortInUseError           7   somebody else listens there
    ├── ProcessError             1   a command that was needed failed
    ├── NotRunningError          1   nothing was started that could be asked
    ├── EngineError              1   no Docker Engine that can build, or it does not answer
    ├── SourceError              1   a source cannot be fetched, or is not what was pinned
    ├── BuildError               1   an image was not built
    ├── VerifyError              1   an image was built, and is not what it should be
    └── PublishError             1   a registry refuses, does not answer, or holds something else
"""

from __future__ import annotations


class AmdserveError(Exception):
    """An error with three parts that a person can act on.

    Args:
        what: one sentence: what failed, with the name of the thing.
        cause: the likely cause, if known.
        fix: the next command or change to make.
    """

    exit_code = 1

    def __init__(self, what: str, *, cause: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.cause = cause
        self.fix = fix

    def __str__(self) -> str:
        """Give the text as it is shown: `what`, then the cause and the next step, each on a line."""
        lines = [self.what]
        if self.cause:
            lines.append(f"  likely cause: {self.cause}")
        if self.fix:
            lines.append(f"  next: {self.fix}")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, str | int]:
        """Give the error as one JSON object."""
        return {
            "error": type(self).__name__,
            "what": self.what,
            "cause": self.cause,
            "next": self.fix,
            "exit": self.exit_code,
        }


class UsageError(AmdserveError):
    """A wrong argument, option, variable or name."""

    exit_code = 2


class ConfigError(UsageError):
    """A YAML file that does not hold: the text names file, line and key."""


class ModelError(AmdserveError):
    """The model cannot be served: missing, truncated, unsupported."""

    exit_code = 3


class NoGPUError(AmdserveError):
    """No GPU is here, and one was required."""

    exit_code = 4


class BackendsFailedError(AmdserveError):
    """Every backend was tried and failed."""

    exit_code = 5


class OutOfMemoryError(AmdserveError):
    """The model does not fit in device or host memory."""

    exit_code = 6


class PortInUseError(AmdserveError):
    """Somebody else listens on the port."""

    exit_code = 7


class ProcessError(AmdserveError):
    """A command that was needed failed, is missing, or took too long."""


class NotRunningError(AmdserveError):
    """No server has been started here."""


class EngineError(AmdserveError):
    """There is no Docker Engine that can build, or it does not answer."""


class SourceError(AmdserveError):
    """A source cannot be fetched, or is not what was pinned."""


class BuildError(AmdserveError):
    """An image was not built."""


class VerifyError(AmdserveError):
    """An image was built, and is not what it should be."""


class PublishError(AmdserveError):
    """A registry refuses, does not answer, or holds something else than what it should."""
