"""An engine without an image or a layer, as somebody has who pulls for the first time."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import docker

from amdserve import process
from amdserve.image.engine import EnginePaths, daemon
from amdserve.image.engine.probe import Candidate, ask

# Containers use this machine's own network. The bridge only keeps the engine away from that of the other one:
# with `--bridge=none` it would take docker0 away.
BRIDGE = "amdserve-empty"
ALONE = (f"--bridge={BRIDGE}", "--iptables=false", "--ip6tables=false")


def possible() -> bool:
    """Tell whether one can be started: only root may, with the programs of the engine of this project."""
    return os.geteuid() == 0 and EnginePaths().dockerd.exists()


@contextmanager
def emptied() -> Iterator[Any]:
    """Start a second engine; give its client. It ends with all that it has."""
    # A socket's path holds 107 bytes at most: the folder of a test is too deep.
    with (
        tempfile.TemporaryDirectory(prefix="amdserve-") as folder,
        _bridge(),
        _started(Path(folder)) as client,
    ):
        yield client


@contextmanager
def _bridge() -> Iterator[None]:
    process.run(["ip", "link", "delete", BRIDGE], check=False)  # a run that was killed has left it
    process.run(["ip", "link", "add", "name", BRIDGE, "type", "bridge"])
    process.run(["ip", "address", "add", "10.213.213.1/24", "dev", BRIDGE])
    try:
        yield
    finally:
        process.run(["ip", "link", "delete", BRIDGE], check=False)


@contextmanager
def _started(folder: Path) -> Iterator[Any]:
    paths = replace(EnginePaths(), data=folder / "data", run=folder / "run")
    for each in (paths.data, paths.run):
        each.mkdir(parents=True)
    with paths.log.open("wb") as log:
        running = process.spawn(
            daemon.private_command(paths, ALONE),
            env=daemon.environment(os.environ, paths.search),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        end = time.monotonic() + daemon.START_SECONDS
        while not ask(Candidate(paths.host, "the engine of a test"), {}).running:
            assert running.poll() is None, paths.log.read_text()
            assert time.monotonic() < end, paths.log.read_text()
            time.sleep(0.1)
        client = docker.DockerClient(base_url=paths.host, timeout=600)
        yield client
        client.close()
    finally:
        running.terminate()
        running.wait(daemon.STOP_SECONDS)
        # What a daemon leaves mounted: the network that containers used, and, if it died early, its data.
        left = (paths.run / "exec/netns/default", paths.data / "docker")
        process.run(["umount", *map(str, left)], check=False)
