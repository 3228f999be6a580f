"""What is in the registry, looked at byte by byte: is it what it says, and did somebody known sign it."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from amdserve.errors import AmdserveError, PublishError
from amdserve.image import show
from amdserve.image.publish import compress, provenance, sign, tags
from amdserve.image.publish.inventory import Inventory
from amdserve.image.publish.pieces import Pieces, Readable
from amdserve.image.publish.reference import Reference
from amdserve.image.publish.registry import Manifest, Registry
from amdserve.image.publish.sign import Signer
from amdserve.image.verify import Check


@dataclass(frozen=True, slots=True)
class Published:
    """An image as the registry gives it; `checks` say whether it is whole."""

    reference: Reference
    manifest: Manifest
    config: Mapping[str, Any]
    inventory: Inventory = field(default_factory=Inventory)
    checks: tuple[Check, ...] = ()

    @property
    def labels(self) -> dict[str, str]:
        """The image's labels."""
        return (self.config.get("config") or {}).get("Labels") or {}

    @property
    def ok(self) -> bool:
        """Whether it is whole."""
        return bool(self.checks) and all(check.ok for check in self.checks)


def fetch(registry: Registry, reference: Reference, *, say: Callable[[str], None] = show.say) -> Published:
    """Read an image whole: each of its layers, held against what manifest and configuration say.

    Raises:
        PublishError: there is no such image, or its manifest or configuration is not what its digest says.
    """
    name = reference.digest or reference.tag or "latest"
    manifest = registry.manifest(name)
    if manifest is None or not manifest.config:
        raise PublishError(
            f"{reference} is " + ("no image" if manifest else "not in the registry"),
            cause="it is an index or something attached to an image" if manifest else "nothing is under it",
            fix=f"the tags there are: {', '.join(registry.tags()[:8]) or 'none'}",
        )
    pinned = reference.at(tag=reference.tag, digest=manifest.digest)
    config = json.loads(registry.blob(manifest.config))
    inventory, checks = Inventory(), []
    labels = (config.get("config") or {}).get("Labels") or {}
    if reference.tag:
        fits = tags.fits(reference.tag, labels)
        held = tags.of_labels(labels) or "something that does not say what it is"
        checks.append(Check("tag", fits, f"{reference.tag} holds {held}"))
    say(f"reading {reference.repository}@{manifest.digest[:19]} whole")
    checks.append(_layers(registry, manifest, config, inventory))
    return Published(pinned, manifest, config, inventory, tuple(checks))


def _layers(registry: Registry, manifest: Manifest, config: Mapping[str, Any], inventory: Inventory) -> Check:
    layers = manifest.body.get("layers") or []
    unpacked = (config.get("rootfs") or {}).get("diff_ids") or []
    if len(layers) != len(unpacked):
        return Check("layers", False, f"{len(layers)} in the manifest, {len(unpacked)} in the configuration")
    wrong, size = [], 0
    for place, (layer, diff_id) in enumerate(zip(layers, unpacked, strict=True), 1):
        stream = Stream(registry.read_blob(layer["digest"]))
        if trouble := _read(stream, layer, diff_id, inventory):
            wrong.append(f"layer {place}, {layer['digest'][:19]}, {trouble}")
        size += stream.size
    kind = compress.of_layers(manifest.body)
    whole = f"{len(layers)} layers, {show.megabytes(size)} compressed with {kind}, each what its digest says"
    return Check("layers", not wrong and bool(layers), "; ".join(wrong) or whole)


def _read(stream: Stream, layer: Mapping[str, Any], diff_id: str, inventory: Inventory) -> str:
    """Take a layer in; give what is wrong with it, in words."""
    trouble = ""
    try:
        inventory.add(stream)
        stream.drain()
    except tarfile.TarError as reason:
        trouble = f": {reason}"
        stream.drain(broken=True)
    except PublishError as reason:
        trouble = f": {reason.what}"
    if trouble or stream.digest != layer["digest"] or stream.diff_id != diff_id:
        return f"is not what its digest says{trouble}"
    media_type = str(layer.get("mediaType"))
    # Some clients go by the name, others by the bytes.
    if compress.of_media_type(media_type) != stream.compression:
        return f"is compressed with {stream.compression or 'nothing'}, and named {media_type}"
    return ""


class Stream:
    """A compressed blob as a plain stream, hashed on both sides while it goes by."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._source = Pieces(self._counted(pieces))
        self._plain = compress.Plain(self._source)
        self._outer, self._inner = hashlib.sha256(), hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        """The digest of what came in."""
        return "sha256:" + self._outer.hexdigest()

    @property
    def diff_id(self) -> str:
        """The digest of what came out."""
        return "sha256:" + self._inner.hexdigest()

    @property
    def compression(self) -> str | None:
        """What it was found to be compressed with, None for nothing."""
        return self._plain.compression

    def _counted(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            self._outer.update(piece)
            self.size += len(piece)
            yield piece

    def read(self, size: int, /) -> bytes:
        """Give up to `size` bytes of the unpacked stream, fewer only at its end.

        Raises:
            tarfile.ReadError: it is broken.
        """
        data = self._plain.read(size)
        self._inner.update(data)
        return data

    def drain(self, *, broken: bool = False) -> None:
        """Read on to the end; of a broken stream only what came in still counts.

        Raises:
            tarfile.ReadError: it is broken, and that was not known before.
        """
        source: Readable = self._source if broken else self
        while source.read(1 << 20):
            pass


def attached(image: Published, signer: Signer) -> tuple[Check, ...]:
    """Check what was signed about an image: itself, its provenance, its bills of materials."""
    checks = []
    trouble = signer.signed(image.reference)
    checks.append(Check("signature", not trouble, trouble or f"holds for {image.reference.digest}"))
    found, trouble = signer.statement(image.reference, sign.PROVENANCE)
    if found is not None:
        trouble = "; ".join(provenance.wrong(found, image.labels))
    said = trouble or f"built by {((found or {}).get('runDetails') or {}).get('builder', {}).get('id', '')}"
    checks.append(Check("provenance", not trouble, said))
    for name, kind, key in (
        ("sbom-spdx", sign.SPDX, "packages"),
        ("sbom-cyclonedx", sign.CYCLONEDX, "components"),
    ):
        found, trouble = signer.statement(image.reference, kind)
        count = len((found or {}).get(key) or ())
        checks.append(Check(name, not trouble and count > 0, trouble or f"{count} {key} by name and version"))
    return tuple(checks)


def verify(
    registry: Registry, reference: Reference, signer: Signer, *, say: Callable[[str], None] = show.say
) -> tuple[Published | None, tuple[Check, ...]]:
    """Check a published image whole; what cannot be looked at is a check that fails, with the reason."""
    try:
        image = fetch(registry, reference, say=say)
    except AmdserveError as reason:
        return None, (Check("manifest", False, f"{reason.what}: {reason.cause}"),)
    return image, (
        Check("manifest", True, str(image.reference.digest)),
        *image.checks,
        *attached(image, signer),
    )
