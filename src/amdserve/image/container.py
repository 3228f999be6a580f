"""Start a container that serves a model, wait until it answers, and stay with it.

The equivalent `docker run` line is printed first, so that everything done here can be done without it.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from amdserve import errors, process, values
from amdserve.errors import AmdserveError, BackendsFailedError, EngineError, PortInUseError, UsageError
from amdserve.image import show
from amdserve.image.launch import Launch
from amdserve.image.local import answering

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

LAST_LINES = 25
POLL = 0.5
EXITS: Mapping[int, type[AmdserveError]] = {
    kind.exit_code: kind
    for kind in (
        errors.UsageError,
        errors.ModelError,
        errors.NoGPUError,
        errors.BackendsFailedError,
        errors.OutOfMemoryError,
        errors.PortInUseError,
    )
}


def start(launch: Launch, engine: Engine, *, detach: bool, wait: float, dry: bool = False) -> None:
    """Start the container, wait until it answers, and stay with it unless it is detached.

    Args:
        launch: what to start.
        engine: where.
        detach: come back when it answers; else its log is shown until it ends or Ctrl-C stops it.
        wait: seconds until it must answer.
        dry: print the line only.

    Raises:
        PortInUseError: somebody listens there already.
        EngineError: the engine refuses.
        AmdserveError: the container ended; the class is that of its exit code.
    """
    show.say(process.show(launch.argv(detach=detach)))
    if dry:
        return
    check_port(launch.host, launch.port)
    with answering():
        container = started(engine.client(), launch)
    try:
        device = until_ready(container, wait, show.Line(every=10.0))
        show.say(f"ready: {launch.url} ({device})")
        show.say(f"  {curl(launch.url)}")
        if detach:
            show.say(f"stop it with: docker rm -f {container.name}")
            return
        _follow(container)
    except KeyboardInterrupt:
        show.say(f"stopping {container.name}")
        container.stop(timeout=30)
    except AmdserveError:
        for text in _last_lines(container):
            show.say(f"  | {text}")
        container.remove(force=True)
        raise
    container.remove(force=True)


def started(client: Any, launch: Launch) -> Any:
    """Create the container and start it; what cannot be started does not stay."""
    from docker.errors import APIError  # noqa: PLC0415

    container = None
    try:
        container = client.containers.create(**launch.arguments())
        container.start()
        return container
    except APIError as refused:
        if container is not None:
            container.remove(force=True)
        # An engine that is itself in a container may lack the right to raise a limit. Serving does without.
        if launch.options.ulimits and "rlimit" in str(refused.explanation):
            limits = ", ".join(launch.options.ulimits)
            show.say(f"note: this engine may not set --ulimit {limits}: started without it")
            return started(client, replace(launch, options=values.replace(launch.options, ulimits=())))
        raise _refused(refused, launch) from refused


def until_ready(
    container: Any, wait: float, line: show.Line, pause: Callable[[float], None] = time.sleep
) -> str:
    """Wait until `amdserve status` in the container says that it is ready; give backend and device.

    Raises:
        AmdserveError: the container ended, says it failed, or takes longer than `wait` seconds.
    """
    begin = time.monotonic()
    state = "starting"
    while True:
        with answering():
            container.reload()
        if container.status in ("exited", "dead"):
            raise _ended(int(container.attrs["State"].get("ExitCode", 1)))
        status = _status(container)
        state = status.get("state", state)
        what = " on ".join(str(status[key]) for key in ("backend", "device") if status.get(key))
        if state == "ready":
            line.clear()
            return what or "ready"
        passed = time.monotonic() - begin
        line.update(f"  {show.seconds(passed):>10}  {state} {what}")
        if passed > wait:
            line.clear()
            raise BackendsFailedError(
                f"no answer after {show.seconds(wait)}: it is still {state}",
                cause="a large model from a slow disk, or a backend that hangs",
                fix="its last words are above; a longer --wait gives it more time",
            )
        pause(POLL)


def _status(container: Any) -> dict[str, Any]:
    """Ask `amdserve status --json` inside; empty while nothing answers yet."""
    from docker.errors import APIError  # noqa: PLC0415

    try:
        done = container.exec_run(["amdserve", "status", "--json"], demux=True)
        found = json.loads((done.output or (b"", b""))[0] or b"{}")
    except (APIError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def curl(url: str) -> str:
    """Give one line that asks the server for a sentence."""
    body = json.dumps({"messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 64})
    return f"curl -s {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'"


def check_port(host: str, port: int) -> None:
    """Refuse a port that somebody else listens on.

    Raises:
        PortInUseError: somebody does.
        UsageError: the host's address is none of this machine's, or the port is no port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OverflowError as reason:
            raise UsageError(f"{port} is no port", cause="1 to 65535", fix="--port 8080") from reason
        except OSError as reason:
            if reason.errno == errno.EADDRINUSE:
                raise PortInUseError(
                    f"somebody else listens on {host}:{port}",
                    cause="another container or server",
                    fix=f"ss -ltnp 'sport = :{port}', or --port {port + 1}",
                ) from reason
            raise UsageError(
                f"{host}:{port} cannot be listened on", cause=str(reason), fix="--host 127.0.0.1"
            ) from reason


def _follow(container: Any) -> None:
    for chunk in container.logs(stream=True, follow=True, tail=0):
        show.say(chunk.decode("utf-8", "replace").rstrip("\n"))
    code = int(container.wait().get("StatusCode", 0))
    if code:
        raise _ended(code)


def _last_lines(container: Any) -> list[str]:
    with suppress(EngineError), answering():
        text: str = container.logs(tail=LAST_LINES).decode("utf-8", "replace")
        return text.splitlines()
    return []


def _ended(code: int) -> AmdserveError:
    kind = EXITS.get(code, BackendsFailedError)
    return kind(
        f"the container ended with {code} before it served",
        cause="its last words are above",
        # What was asked for does not hold, whatever the host has.
        fix="take the next step that they name"
        if kind in (errors.UsageError, errors.ModelError)
        else "./inv doctor says what this host lacks",
    )


def _refused(refused: Any, launch: Launch) -> AmdserveError:
    why = str(getattr(refused, "explanation", "") or refused)
    if "is already in use by container" in why:
        return UsageError(
            f"there is a container {launch.name} already",
            fix=f"docker rm -f {launch.name}, or another --name",
        )
    if "port is already allocated" in why:
        return PortInUseError(
            f"another container has {launch.host}:{launch.port}", fix=f"--port {launch.port + 1}"
        )
    return EngineError("the engine refuses to start the container", cause=why, fix="./inv doctor")
