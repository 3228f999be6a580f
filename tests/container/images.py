"""Images that exist for tests only: something added to another image, or broken in it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from amdserve import process
from amdserve.image.engine import Engine


def layered(engine: Engine, base: str, text: str, context: Path | None = None) -> str:
    """Build an image on another one and give its reference.

    The reference says what it was made from, and which process will take it away: another one may need the
    same. The engine's build cache makes a repeat quick.

    Args:
        engine: where.
        base: the reference it starts from.
        text: the rest of its Dockerfile.
        context: the folder that COPY sees.
    """
    dockerfile = f"FROM {base}\n{text}"
    tag = f"amdserve-test:{hashlib.sha256(dockerfile.encode()).hexdigest()[:12]}-{os.getpid()}"
    command = [*engine.buildx, "build", "--progress", "plain", "--load", "--tag", tag]
    # A Dockerfile on standard input: alone it is the whole context, else it is named beside one.
    command += ["-"] if context is None else ["--file", "-", str(context)]
    process.run(command, stdin=dockerfile, env=engine.env(), timeout=1200)
    return tag


def exported(engine: Engine, base: str, text: str, folder: Path) -> None:
    """Build on an image as `layered` does, and put the files of the last stage into a folder of this host."""
    command = [*engine.buildx, "build", "--progress", "plain", "--output", f"type=local,dest={folder}", "-"]
    process.run(command, stdin=f"FROM {base}\n{text}", env=engine.env(), timeout=1200)


Layer = Callable[..., str]
