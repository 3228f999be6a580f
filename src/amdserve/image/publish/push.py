"""One image to its registry: what is there is compared, what is missing is sent, nothing overwritten."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amdserve.errors import PublishError
from amdserve.image import show
from amdserve.image.catalog import Sources
from amdserve.image.local import LocalImage
from amdserve.image.models import Cell
from amdserve.image.publish import archive, compress, normal, provenance
from amdserve.image.publish.compress import Compression
from amdserve.image.publish.inventory import Inventory
from amdserve.image.publish.reference import Reference, parse
from amdserve.image.publish.registry import OCI_CONFIG, OCI_MANIFEST, Manifest, Registry
from amdserve.image.publish.tags import LABEL

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

FOLDER = "build/publish"
# As annotations too: what somebody asks without pulling. The list of all inputs stays a label.
LONG = frozenset({LABEL + "inputs"})
CREATED = "org.opencontainers.image.created"

State = Literal["there", "pushed", "missing"]


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push came to: the reference with tag and digest, whether it had to be sent, how much of it."""

    reference: Reference
    state: State
    sent: int = 0
    shared: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object; sizes in bytes."""
        return {
            "reference": str(self.reference.at(tag=self.reference.tag)),
            "digest": self.reference.digest,
            "state": self.state,
            "sent_bytes": self.sent,
            "shared_bytes": self.shared,
        }


def epoch(sources: Sources, environ: Mapping[str, str] | None = None) -> int:
    """Give the latest time that may stand in a published layer, in seconds.

    SOURCE_DATE_EPOCH where it is set; else the day of the pinned llama.cpp, which is an input like others.
    """
    said = (os.environ if environ is None else environ).get("SOURCE_DATE_EPOCH", "")
    if said.isdigit():
        return int(said)
    return int(datetime.fromisoformat(sources.llama.date).replace(tzinfo=UTC).timestamp())


def published(registry: Registry, cell: Cell) -> Manifest | None:
    """Give what the registry has under a cell's immutable tag, None where there is nothing.

    Raises:
        PublishError: something else is under it. It is never overwritten.
    """
    wanted = parse(cell.immutable)
    found = registry.manifest(str(wanted.tag))
    if found is None:
        return None
    labels = labels_of(registry, found)
    if labels.get(LABEL + "hash") != cell.hash:
        raise PublishError(
            f"{cell.immutable} holds something else than what this plan makes",
            cause=f"made from {labels.get(LABEL + 'hash') or 'nobody knows what'}, planned is {cell.hash}",
            fix="a tag that never moves is not overwritten: find out who pushed it, and verify it",
        )
    return found


def otherwise(manifest: Manifest, compression: Compression) -> str:
    """Say that a published image is compressed otherwise than asked for; nothing where it is not."""
    held = compress.of_layers(manifest.body)
    if held == compress.form(compression):
        return ""
    return f", and stays compressed with {held}: its tag never moves"


def labels_of(registry: Registry, manifest: Manifest) -> dict[str, str]:
    """Give the labels of a published image; none of what is no image."""
    if not manifest.config:
        return {}
    try:
        config = json.loads(registry.blob(manifest.config))
    except ValueError:
        return {}
    return (config.get("config") or {}).get("Labels") or {}


def push(
    registry: Registry,
    cell: Cell,
    image: LocalImage,
    engine: Engine,
    *,
    folder: Path,
    latest: int,
    compression: Compression = compress.DEFAULT,
    say: Callable[[str], None] = show.say,
) -> Pushed:
    """Have a built cell in the registry under its immutable tag.

    Args:
        registry: the repository.
        cell: what it is.
        image: it, in the engine.
        engine: the engine.
        folder: where the packed layers are for a while.
        latest: the latest time that may stay in its layers, in seconds.
        compression: with what they are compressed, unless it is there already.
        say: takes the lines that tell how it goes.

    Raises:
        PublishError: the registry refuses, does not answer, is full, or holds something else under the tag.
    """
    where = parse(cell.immutable)
    if found := published(registry, cell):
        say(f"{where}: there already, {found.digest}{otherwise(found, compression)}")
        return Pushed(where.at(tag=where.tag, digest=found.digest), "there")
    if image.hash != cell.hash:
        raise PublishError(
            f"the image in the engine is not what this plan makes of {cell.id}",
            cause=f"made from {image.hash or 'nobody knows what'}, planned is {cell.hash}",
            fix="./inv build",
        )
    sent = shared = 0
    with archive.packed(
        engine, image.id, folder, epoch=latest, compression=compression, size=image.size, say=say
    ) as packed:
        manifest = manifest_of(packed, {**image.labels, **_inside(packed)}, latest)
        for place, layer in enumerate(packed.layers, 1):
            head = f"  layer {place} of {len(packed.layers)} {layer.digest[:19]} {show.megabytes(layer.size)}"
            if registry.put_blob(layer.digest, packed.file(layer)):
                sent += layer.size
                say(f"{head}: sent")
            else:
                shared += layer.size
                say(f"{head}: there already")
        registry.put_blob(packed.digest, packed.config)
        # Somebody else may have been quicker.
        if found := published(registry, cell):
            return Pushed(where.at(tag=where.tag, digest=found.digest), "there", sent, shared)
        registry.put_manifest(str(where.tag), manifest)
    say(f"{where}: pushed, {manifest.digest}")
    return Pushed(where.at(tag=where.tag, digest=manifest.digest), "pushed", sent, shared)


def _inside(packed: archive.Packed) -> dict[str, str]:
    """Give the versions that only the image itself knows."""
    found = Inventory()
    for layer in packed.layers:
        with normal.opened(packed.file(layer)) as tar:
            found.add(tar)
    return provenance.versions(found)


def manifest_of(packed: archive.Packed, labels: Mapping[str, str], latest: int) -> Manifest:
    """Give the manifest of a packed image, with its labels as annotations."""
    annotations = {name: value for name, value in labels.items() if name not in LONG and value}
    annotations[CREATED] = archive.stamp(latest)
    body = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": OCI_CONFIG, "digest": packed.digest, "size": len(packed.config)},
        "layers": [
            {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            for layer in packed.layers
        ],
        "annotations": dict(sorted(annotations.items())),
    }
    return Manifest(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode())
