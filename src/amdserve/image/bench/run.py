"""Measures in a container: shows how far it is, and brings the result to this host."""

from __future__ import annotations

import io
import re
import signal
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from amdserve import process
from amdserve.errors import AmdserveError, BackendsFailedError
from amdserve.image import show
from amdserve.image.bench.launch import OUT, Launch
from amdserve.image.container import EXITS, started
from amdserve.image.local import answering

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

FOLDER = "build/bench"
RESULT = "result.json"
# Seconds without a line; a test of a large model on the CPU is long.
PATIENCE = 86400.0
_PROGRESS = re.compile(r"^\[(\d+)/(\d+)\] (.*)")
_ERROR = "amdserve: error: "


def run(launch: Launch, engine: Engine, out: Path, *, dry: bool = False) -> int | None:
    """Measure; the result's files lie in `out` afterwards. Ctrl-C ends it with what there is by then.

    Args:
        launch: what to start.
        engine: where.
        out: the folder on this host.
        dry: print the line only.

    Returns:
        The exit code of the bench, None where nothing was started.

    Raises:
        EngineError: the engine refuses.
        AmdserveError: it ended without a result; the class is that of its exit code.
    """
    show.say(process.show(launch.argv()))
    if dry:
        return None
    with answering():
        container = started(engine.client(timeout=PATIENCE), launch)
    try:
        said = _follow(container)
        with answering():
            code = int(container.wait().get("StatusCode", 1))
            files = _copy(container)
    finally:
        with answering():
            container.remove(force=True)
    if RESULT not in files:
        raise failure(code, said)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (out / name).write_bytes(content)
    return code


def _follow(container: Any) -> list[str]:
    """Show each line of its standard error as it comes; give them all."""
    said: list[str] = []
    with _bar() as each:
        while True:
            try:
                since = time.time()
                for line in _lines(
                    container.logs(stream=True, follow=True, stdout=False, tail="all" if not said else 0)
                ):
                    said.append(line)
                    each(line)
                return said
            except KeyboardInterrupt:
                each(f"stopping after {time.time() - since:.0f} s; a moment")
                container.kill(signal=signal.SIGINT)


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    rest = b""
    for chunk in chunks:
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode("utf-8", "replace").rstrip("\r")
    if rest:
        yield rest.decode("utf-8", "replace")


@contextmanager
def _bar() -> Iterator[Callable[[str], None]]:
    """Give what takes a line: it moves a bar on a terminal, and prints the line in a pipe."""
    if not show.on_terminal():
        yield show.say
        return
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("starting", total=None)

        def each(line: str) -> None:
            match = _PROGRESS.match(line)
            if match:
                progress.update(task, completed=int(match[1]), total=int(match[2]), description=match[3])
                return
            progress.console.print(line, markup=False, highlight=False)

        yield each


def _copy(container: Any) -> dict[str, bytes]:
    """Give the files that it left; none where it did not get so far."""
    from docker.errors import NotFound  # noqa: PLC0415

    try:
        chunks, _ = container.get_archive(OUT)
    except NotFound:
        return {}
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        return {
            PurePosixPath(member.name).name: file.read()
            for member in archive
            if member.isfile() and (file := archive.extractfile(member)) is not None
        }


def failure(code: int, said: Iterable[str]) -> AmdserveError:
    """Give the error that it said it ended with, of the class of its exit code."""
    kind = EXITS.get(code, BackendsFailedError)
    lines = list(said)
    at = next((number for number, line in enumerate(lines) if line.startswith(_ERROR)), None)
    if at is None:
        return kind(
            f"the bench ended with {code} and no result", cause="its last words are above", fix="./inv doctor"
        )
    told = {"likely cause": "", "next": ""}
    for line in lines[at + 1 :]:
        name, _, rest = line.strip().partition(": ")
        if name in told:
            told[name] = rest
    return kind(lines[at].removeprefix(_ERROR), cause=told["likely cause"], fix=told["next"])
