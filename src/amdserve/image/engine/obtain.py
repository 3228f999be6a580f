"""The one question the rest of the toolkit asks: an engine to build with, please."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from amdserve.errors import EngineError
from amdserve.image.engine import daemon, packages
from amdserve.image.engine.decide import Do, Step, decide
from amdserve.image.engine.facts import look, manager, which
from amdserve.image.engine.models import Engine, EnginePaths, Say, say_aside
from amdserve.image.engine.probe import (
    DEFAULT_SOCKET,
    PLUGINS,
    Answer,
    Buildx,
    Candidate,
    ask,
    candidates,
    find_buildx,
    judge_buildx,
)

DEFAULT_PATHS = EnginePaths()


@dataclass(frozen=True, slots=True)
class Found:
    """What was found: an engine and a buildx that are good enough; and why the others are not."""

    answer: Answer | None
    buildx: Buildx | None
    refused: tuple[Answer, ...]
    refused_buildx: tuple[Buildx, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why each of the others was not taken, one sentence each."""
        engines = (f"{each.candidate.host}: {each.refused}" for each in self.refused)
        return (*engines, *(each.refused for each in self.refused_buildx))


def find(paths: EnginePaths = DEFAULT_PATHS, environ: Mapping[str, str] | None = None) -> Found:
    """Look for a running engine and a buildx that are good enough; changes nothing.

    Raises:
        EngineError: the engine that the user named does not answer, or cannot build.
    """
    env = os.environ if environ is None else environ
    refused = []
    taken = None
    for candidate in candidates(env, paths):
        answer = ask(candidate, env)
        if answer.usable:
            taken = answer
            break
        if candidate.named:
            raise EngineError(
                f"the Docker Engine that {candidate.source} names, {candidate.host}, cannot be used",
                cause=answer.refused,
                fix=f"start it, or let amdserve look for another: unset {candidate.source}",
            )
        refused.append(answer)
    buildx, refused_buildx = find_buildx(env, paths)
    return Found(taken, buildx, tuple(refused), refused_buildx)


def ensure(
    dry: bool = False,
    say: Say = say_aside,
    *,
    paths: EnginePaths = DEFAULT_PATHS,
    environ: Mapping[str, str] | None = None,
) -> Engine:
    """Give an engine to build with: one that runs, else one that is started, else one that is installed.

    Args:
        dry: tell what would be done, and do none of it; the engine given back may then not exist yet.
        say: is told each thing before it is done; nothing is said where an engine runs already.
        paths: where the private engine lives.
        environ: stands in for this process's environment.

    Raises:
        EngineError: none can be had; it says why, and what to install or do.
    """
    env = os.environ if environ is None else environ
    found = find(paths, env)
    if found.answer and found.buildx:
        return _engine(found.answer, found.buildx, paths, env)
    with _alone(paths, dry=dry):
        found = find(paths, env)
        if not (found.answer and found.buildx):
            facts = look(paths, env, neighbour=bool(daemon.others(paths)))
            steps = decide(
                facts,
                engine=not found.answer,
                buildx=not found.buildx,
                candidates=lambda: packages.candidates(say),
                paths=paths,
            )
            _announce(found, steps, say, dry=dry)
            if dry:
                return _planned(found, steps, paths, env)
            for number, step in enumerate(steps, 1):
                say(f"step {number} of {len(steps)} …")
                _do(step, paths, env, say)
            found = find(paths, env)
    if not (found.answer and found.buildx):
        raise EngineError(
            "an engine was set up, but cannot be used",
            cause="; ".join(found.reasons),
            fix=f"read {paths.log}; `invoke engine` tries again",
        )
    engine = _engine(found.answer, found.buildx, paths, env)
    if engine.host == paths.host and not DEFAULT_SOCKET.exists():
        say(f"to use it with the docker command: export DOCKER_HOST={paths.host}")
    return engine


def stop(
    say: Say = say_aside, *, paths: EnginePaths = DEFAULT_PATHS, environ: Mapping[str, str] | None = None
) -> bool:
    """Stop the engine that this tool started, and nothing else.

    Args:
        say: is told what is stopped, or that nothing is.
        paths: where the private engine lives.
        environ: stands in for this process's environment.

    Returns:
        whether there was one to stop.

    Raises:
        EngineError: it belongs to another user, or does not end.
    """
    with _alone(paths, dry=os.geteuid() != 0):
        stopped = daemon.stop(paths, say)
    if not stopped:
        running = [
            candidate.host
            for candidate in candidates(os.environ if environ is None else environ, paths)
            if ask(candidate, os.environ if environ is None else environ).running
        ]
        also = f"; {running[0]} runs, but somebody else started it" if running else ""
        say(f"no engine runs that amdserve started{also}")
    return stopped


def _announce(found: Found, steps: tuple[Step, ...], say: Say, *, dry: bool) -> None:
    for answer in found.refused:
        if answer.running:
            say(f"not used: {answer.candidate.host}: {answer.refused}")
    for old in found.refused_buildx:
        say(f"not used: {old.refused}")
    lacking = "no Docker Engine runs here that can build" if not found.answer else "there is no usable buildx"
    say(f"{lacking}; this {'would be' if dry else 'is'} done:")
    for number, step in enumerate(steps, 1):
        say(f"  {number}. {step.text}")


def _do(step: Step, paths: EnginePaths, env: Mapping[str, str], say: Say) -> None:
    match step.do:
        case Do.APT:
            packages.install(step.what, say)
        case Do.UNPACK:
            packages.unpack(step.what, paths, say)
        case Do.PRIVATE:
            daemon.start_private(paths, env, own_network="own-network" in step.what)
        case Do.SERVICE | Do.DAEMON:
            # Where a package was just installed, it may have brought a service, and even started it.
            service = manager(env)
            if ask(Candidate(f"unix://{DEFAULT_SOCKET}", "the system's socket"), env).usable:
                return
            if service == "systemctl":
                daemon.start_service(service, paths)
            elif not service or not _through(service, paths, say):
                daemon.start_installed(paths, env)


def _through(service: str, paths: EnginePaths, say: Say) -> bool:
    """Start the engine through its init script, which in a container often asks for too much."""
    try:
        daemon.start_service(service, paths)
    except EngineError as reason:
        say(f"{reason.what}: {reason.cause}; starting dockerd itself")
        return False
    return True


def _engine(answer: Answer, buildx: Buildx, paths: EnginePaths, env: Mapping[str, str]) -> Engine:
    host = answer.candidate.host
    pid = daemon.our_pid(paths)
    by_service = paths.service.exists() and host == f"unix://{DEFAULT_SOCKET}"
    return Engine(
        host=host,
        docker=_docker(paths, env),
        buildx=buildx.argv,
        started_by_us=by_service or (pid is not None and host in daemon.command_line(pid)),
        version=answer.version,
        buildx_version=buildx.version,
        context=answer.candidate.context,
        environ=env,
    )


def _planned(found: Found, steps: tuple[Step, ...], paths: EnginePaths, env: Mapping[str, str]) -> Engine:
    """Give the engine that would be there, so that a dry run can go on to show its commands."""
    kinds = {step.do for step in steps}
    host = paths.host if Do.PRIVATE in kinds else f"unix://{DEFAULT_SOCKET}"
    plugin = paths.buildx if kinds & {Do.UNPACK, Do.PRIVATE} else Path(PLUGINS[-1]) / "docker-buildx"
    answer = found.answer or Answer(Candidate(host, "planned"))
    return _engine(answer, found.buildx or judge_buildx((str(plugin),), ""), paths, env)


def _docker(paths: EnginePaths, env: Mapping[str, str]) -> Path | None:
    if on_path := which("docker", env):
        return Path(on_path)
    private = paths.prefix / "usr/bin/docker"
    return private if private.exists() else None


@contextmanager
def _alone(paths: EnginePaths, *, dry: bool) -> Iterator[None]:
    """Hold off a second process that would set up or stop the same engine."""
    # A dry run changes nothing, and a user without rights is refused later, in words.
    if dry or os.geteuid() != 0:
        yield
        return
    paths.run.mkdir(parents=True, exist_ok=True)
    with (paths.run / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
