"""Starts and stops a dockerd, and knows which one is ours.

Ours is the dockerd whose process id stands in our process file and whose own command line names that file:
a process id alone is handed out again after a crash.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from amdserve.errors import EngineError
from amdserve.image.engine import network
from amdserve.image.engine.facts import SBIN, which
from amdserve.image.engine.models import EnginePaths, Say
from amdserve.image.engine.probe import DEFAULT_SOCKET, Candidate, ask
from amdserve.image.engine.trouble import not_started
from amdserve.process import run, spawn

START_SECONDS = 60.0
STOP_SECONDS = 90.0  # each container gets ten seconds to end
_PROC = Path("/proc")
# What a daemon may know of the shell that started it: no token of its user, but how to reach a registry.
_KEPT = ("HOME", "LANG", "SSL_CERT_FILE", "SSL_CERT_DIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


def environment(environ: Mapping[str, str], first: Sequence[Path] = ()) -> dict[str, str]:
    """Give the environment of a daemon.

    Args:
        environ: that of this process.
        first: folders that go before all others on its PATH.
    """
    kept = {name: value for name, value in environ.items() if name.upper() in _KEPT}
    path = [*map(str, first), *environ.get("PATH", os.defpath).split(os.pathsep), *SBIN]
    return {"HOME": "/root", **kept, "PATH": os.pathsep.join(dict.fromkeys(path))}


def private_command(paths: EnginePaths, extra: Sequence[str] = ()) -> tuple[str, ...]:
    """Give the command line of the private engine."""
    return (
        str(paths.dockerd),
        *("--data-root", str(paths.data / "docker")),
        *("--exec-root", str(paths.run / "exec")),
        *("--pidfile", str(paths.pidfile)),
        *("-H", paths.host),
        *("--init-path", str(paths.prefix / "usr/bin/tini-static")),
        *("--userland-proxy-path", str(paths.prefix / "usr/sbin/docker-proxy")),
        *extra,
    )


def start_private(paths: EnginePaths, environ: Mapping[str, str], *, own_network: bool = False) -> None:
    """Start the private engine and wait until it answers.

    Raises:
        EngineError: it does not come up; with the end of its log.
    """
    paths.run.mkdir(parents=True, exist_ok=True)
    extra = network.make(paths).options if own_network else ()
    try:
        _start(private_command(paths, extra), paths, paths.host, environment(environ, paths.search))
    except EngineError:
        network.remove(paths)
        raise


def start_installed(paths: EnginePaths, environ: Mapping[str, str]) -> None:
    """Start the installed dockerd on the system's socket, where no service manager does it.

    Raises:
        EngineError: it does not come up; with the end of its log.
    """
    program = which("dockerd", environ) or "dockerd"
    host = f"unix://{DEFAULT_SOCKET}"
    command = (program, "--pidfile", str(paths.pidfile), "-H", host)
    _start(command, paths, host, environment(environ))


def start_service(manager: str, paths: EnginePaths) -> None:
    """Start the installed engine through the system's service manager, and remember that we did.

    Raises:
        EngineError: it does not come up.
    """
    command = ("systemctl", "start", "docker") if manager == "systemctl" else ("service", "docker", "start")
    why = "journalctl -u docker" if manager == "systemctl" else "tail /var/log/docker.log"
    run(command, timeout=120, error=EngineError, fix=f"see why: {why}")
    paths.run.mkdir(parents=True, exist_ok=True)
    paths.service.write_text(f"{manager}\n")
    candidate = Candidate(f"unix://{DEFAULT_SOCKET}", "the system's socket")
    limit = time.monotonic() + START_SECONDS
    while not ask(candidate, {}).running:
        if time.monotonic() > limit:
            raise EngineError("the Docker service started, but does not answer", fix=f"see why: {why}")
        time.sleep(0.1)


def _start(command: Sequence[str], paths: EnginePaths, host: str, env: Mapping[str, str]) -> None:
    for folder in (paths.data, paths.run):
        folder.mkdir(parents=True, exist_ok=True)
    if our_pid(paths) is None:
        paths.pidfile.unlink(missing_ok=True)  # of a dockerd that died; dockerd itself would trust the number
    # A session of its own: a Ctrl-C or the end of this terminal is not meant for the engine.
    with paths.log.open("ab") as log, Path(os.devnull).open("rb") as nothing:
        process = spawn(
            command, stdin=nothing, stdout=log, stderr=log, env=dict(env), cwd="/", start_new_session=True
        )
    limit = time.monotonic() + START_SECONDS
    while not ask(Candidate(host, "the engine just started"), {}).running:
        if process.poll() is not None:
            raise not_started(f"dockerd ended with status {process.returncode} at its start", paths.log)
        if time.monotonic() > limit:
            process.terminate()
            raise not_started(f"dockerd did not answer within {START_SECONDS:g} s", paths.log)
        time.sleep(0.05)


def command_line(pid: int) -> tuple[str, ...]:
    """Give the command line of a process; empty when it is gone."""
    try:
        raw = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ()
    return tuple(part.decode(errors="replace") for part in raw.split(b"\0")[:-1])


def our_pid(paths: EnginePaths) -> int | None:
    """Give the process id of the dockerd that this tool started; None when there is none."""
    try:
        pid = int(paths.pidfile.read_text())
    except (OSError, ValueError):
        return None
    return pid if is_ours(command_line(pid), paths) else None


def is_ours(command: Sequence[str], paths: EnginePaths) -> bool:
    """Tell whether a command line is that of a dockerd of ours."""
    return bool(command) and Path(command[0]).name == "dockerd" and str(paths.pidfile) in command


def others(paths: EnginePaths) -> tuple[int, ...]:
    """Give the process ids of the dockerds of this machine that are not ours."""
    found = []
    for folder in _PROC.iterdir():
        command = command_line(int(folder.name)) if folder.name.isdigit() else ()
        if command and Path(command[0]).name == "dockerd" and not is_ours(command, paths):
            found.append(int(folder.name))
    return tuple(found)


def stop(paths: EnginePaths, say: Say) -> bool:
    """Stop the engine that this tool started, and nothing else.

    Returns:
        whether there was one.

    Raises:
        EngineError: it is not this user's, or does not end.
    """
    stopped = False
    if paths.service.exists():
        manager = paths.service.read_text().strip()
        say("stopping the Docker service, which amdserve started")
        names = ("stop", "docker.socket", "docker.service") if manager == "systemctl" else ("docker", "stop")
        run((manager, *names), timeout=STOP_SECONDS, error=EngineError)
        paths.service.unlink()
        stopped = True
    pid = our_pid(paths)
    if pid is not None:
        say(f"stopping the Docker Engine that amdserve started (process {pid})")
        _end(pid, paths)
        stopped = True
    network.remove(paths)
    return stopped


def _end(pid: int, paths: EnginePaths) -> None:
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as reason:
        raise EngineError(
            "the engine cannot be stopped", cause="it belongs to root", fix="sudo ./inv engine --stop"
        ) from reason
    limit = time.monotonic() + STOP_SECONDS
    # A child of this very process stays as a zombie, whose command line is empty.
    while is_ours(command_line(pid), paths):
        if time.monotonic() > limit:
            raise not_started(f"dockerd (process {pid}) did not end within {STOP_SECONDS:g} s", paths.log)
        time.sleep(0.05)
