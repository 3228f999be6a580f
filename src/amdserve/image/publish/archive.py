"""An image out of the engine as files: its configuration, and its layers as they go to a registry."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.errors import PublishError
from amdserve.image import show
from amdserve.image.local import answering
from amdserve.image.publish import compress, normal
from amdserve.image.publish.compress import Compression
from amdserve.image.publish.pieces import Pieces
from amdserve.image.publish.registry import sha256

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

GB = 10**9
# What BuildKit writes beside each step of a Dockerfile; steps of the base image say something else.
BUILT = "buildkit"
NOTABLE = 2.0
"""Seconds that a layer takes to be packed until its end is told."""


@dataclass(frozen=True, slots=True)
class Packed:
    """An image ready to be sent: configuration, layers in order, and where their files are."""

    config: bytes
    layers: tuple[normal.Digests, ...]
    folder: Path

    @property
    def digest(self) -> str:
        """The digest of the configuration, which is the image's id in an engine."""
        return sha256(self.config)

    @property
    def value(self) -> dict[str, Any]:
        """The configuration as a value."""
        found: dict[str, Any] = json.loads(self.config)
        return found

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels."""
        return (self.value.get("config") or {}).get("Labels") or {}

    def file(self, layer: normal.Digests) -> Path:
        """Give the file of a layer."""
        return self.folder / layer.digest.removeprefix("sha256:")


@contextlib.contextmanager
def packed(
    engine: Engine,
    image: str,
    folder: Path,
    *,
    epoch: int,
    compression: Compression = compress.DEFAULT,
    size: int = 0,
    say: Callable[[str], None] = show.say,
) -> Iterator[Packed]:
    """Give an image of the engine as files, which are gone afterwards.

    Args:
        engine: where it is.
        image: its id.
        folder: an empty folder is made there.
        epoch: the latest time that may stay in a layer of ours, in seconds.
        compression: with what the layers are compressed.
        size: the image's bytes, to know beforehand whether there is room for them.
        say: takes the lines that tell how it goes.

    Raises:
        PublishError: there is no room, or the engine gives something else than an image.
    """
    work = folder / f"{image.removeprefix('sha256:')[:16]}-{os.getpid()}"
    _clear(folder)
    try:
        work.mkdir(parents=True)
        check_room(work, size)
        say(f"reading {show.megabytes(size)} from the engine, packing with {compression}")
        try:
            found = _pack(_save(engine, image, work), work, epoch, compression, say)
        except OSError as reason:
            raise PublishError(
                f"the image cannot be packed in {work}",
                cause=str(reason),
                fix=f"df -h {folder}; make room, then run it again",
            ) from reason
        except tarfile.TarError as reason:
            raise PublishError(
                f"a layer of {image} cannot be read as the engine gives it",
                cause=str(reason),
                fix=f"docker image rm {image}, and ./inv build it again",
            ) from reason
        yield found
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _clear(folder: Path) -> None:
    """Take away what a process left that was killed."""
    for left in folder.glob("*-*"):
        pid = left.name.rpartition("-")[2]
        if left.is_dir() and pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


def check_room(folder: Path, size: int) -> None:
    """Refuse to begin where the image does not fit beside its compressed self.

    Raises:
        PublishError: it does not.
    """
    need, free = int(size * 1.5), shutil.disk_usage(folder).free
    if free < need:
        raise PublishError(
            f"not enough disk to pack the image: {free / GB:.1f} GB are free, {need / GB:.1f} GB are needed",
            cause=f"its layers are written to {folder} before they are sent",
            fix=f"df -h {folder}",
        )


def _save(engine: Engine, image: str, work: Path) -> dict[str, Any]:
    """Write what `docker save` gives into a folder; give its manifest."""
    client = engine.client(timeout=600)
    with answering():
        stream = client.api.get_image(image, chunk_size=1 << 20)
        with tarfile.open(fileobj=Pieces(stream), mode="r|", bufsize=1 << 20) as archive:  # type: ignore[call-overload]
            archive.extractall(work / "saved", filter="data")
    try:
        (found,) = json.loads((work / "saved" / "manifest.json").read_bytes())
    except (OSError, ValueError) as reason:
        raise PublishError(
            f"the engine gives no archive of {image}", cause=str(reason), fix="./inv engine"
        ) from reason
    return dict(found)


def _pack(
    manifest: dict[str, Any], work: Path, epoch: int, compression: Compression, say: Callable[[str], None]
) -> Packed:
    config = json.loads((work / "saved" / manifest["Config"]).read_bytes())
    sources = [work / "saved" / name for name in manifest["Layers"]]
    base = base_layers(config)

    def one(place: int) -> normal.Digests:
        part = work / f"part-{place}"
        latest, begun = None if place < base else epoch, time.monotonic()
        found = normal.write(sources[place], part, epoch=latest, compression=compression)
        part.rename(work / found.digest.removeprefix("sha256:"))
        if time.monotonic() - begun > NOTABLE:
            say(f"packed layer {place + 1} of {len(sources)}: {show.megabytes(found.size)}")
        return found

    # Compressing and hashing let other threads run. Patient zstd has threads of its own, and takes 700 MB
    # for a layer.
    most = 2 if compression == "zstd" else 4
    with ThreadPoolExecutor(max_workers=min(most, os.cpu_count() or 1)) as pool:
        layers = tuple(pool.map(one, range(len(sources))))
    shutil.rmtree(work / "saved")
    return Packed(timeless(config, layers, epoch), layers, work)


def base_layers(config: dict[str, Any]) -> int:
    """Count the layers of the base image: they stay as they are, so that they are shared with it."""
    count = 0
    for step in config.get("history") or ():
        if BUILT in str(step.get("comment", "")):
            break
        count += not step.get("empty_layer")
    return count


def timeless(config: dict[str, Any], layers: tuple[normal.Digests, ...], epoch: int) -> bytes:
    """Give an image's configuration for layers that were rewritten, without the time of the build."""
    found = json.loads(json.dumps(config))
    found["rootfs"]["diff_ids"] = [layer.diff_id for layer in layers]
    found["created"] = _clamped(found.get("created"), epoch)
    for step in found.get("history") or ():
        if "created" in step:
            step["created"] = _clamped(step["created"], epoch)
    return json.dumps(found, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def stamp(epoch: int) -> str:
    """Give a time as OCI writes it."""
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _clamped(text: object, epoch: int) -> str:
    """Give the earlier of a written time and the epoch."""
    try:
        then = datetime.fromisoformat(str(text))
    except ValueError:
        return stamp(epoch)
    return str(text) if then.tzinfo and then.timestamp() <= epoch else stamp(epoch)
