"""The registry's API (OCI distribution 1.1, and the older registries that lack its referrers)."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from amdserve.errors import PublishError
from amdserve.image.publish import transport
from amdserve.image.publish.backoff import Backoff
from amdserve.image.publish.reference import Reference
from amdserve.image.publish.transport import FAILURES, Transport
from amdserve.image.publish.upload import Upload

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
ACCEPT = ", ".join((OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST))


def sha256(content: bytes) -> str:
    """Give the digest of some bytes."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it stands in the registry: its very bytes, since they are what the digest is of."""

    content: bytes
    kind: str = OCI_MANIFEST

    @property
    def digest(self) -> str:
        """The digest of the bytes."""
        return sha256(self.content)

    @property
    def body(self) -> dict[str, Any]:
        """The manifest as a value."""
        found: dict[str, Any] = json.loads(self.content)
        return found

    @property
    def config(self) -> str:
        """The digest of the image's configuration, empty where it is no image."""
        return str(self.body.get("config", {}).get("digest", ""))


class Registry:
    """One repository in one registry."""

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.path = f"/v2/{transport.reference.path}"

    @classmethod
    def open(cls, reference: Reference, *, backoff: Backoff | None = None) -> Registry:
        """Give the repository of a reference, asked as whom `docker login` has stored."""
        who = transport.credentials(reference.registry)
        return cls(Transport(reference, who=who, backoff=backoff))

    @property
    def reference(self) -> Reference:
        """What it was opened for."""
        return self.transport.reference

    def manifest(self, name: str) -> Manifest | None:
        """Give the manifest of a tag or digest, None where there is none.

        Raises:
            PublishError: the registry refuses, does not answer, or gives other bytes than the digest says.
        """
        url = f"{self.path}/manifests/{name}"
        answer = self.transport.send("GET", url, expect=(200, 404), headers={"Accept": ACCEPT})
        if answer.status_code == 404:
            return None
        kind = answer.headers.get("Content-Type", OCI_MANIFEST).partition(";")[0]
        found = Manifest(answer.content, kind)
        if name.startswith("sha256:") and found.digest != name:
            raise PublishError(
                f"{self.reference.registry} gives other bytes for {name} than that digest is of",
                cause=f"it gave {found.digest}: the manifest was changed after it was pushed",
                fix="do not use it; push it again under a new tag",
            )
        return found

    def put_manifest(self, name: str, manifest: Manifest) -> None:
        """Put a manifest under a tag, or under its own digest.

        Raises:
            PublishError: the registry refuses or does not answer.
        """
        self.transport.send(
            "PUT",
            f"{self.path}/manifests/{name}",
            expect=(200, 201, 202),
            headers={"Content-Type": manifest.kind},
            data=manifest.content,
        )

    def tags(self) -> tuple[str, ...]:
        """Give all tags; none where the repository is not there yet."""
        found: list[str] = []
        url = f"{self.path}/tags/list?n=500"
        while url:
            answer = self.transport.send("GET", url, expect=(200, 404))
            if answer.status_code == 404:
                break
            found += answer.json().get("tags") or []
            following = answer.links.get("next", {}).get("url", "")
            url = following.removeprefix(self.transport.base)
        return tuple(sorted(found))

    def referrers(self, digest: str) -> tuple[dict[str, Any], ...]:
        """Give the descriptors of what is attached to a manifest, by API or by the tag in its place."""
        url, accept = f"{self.path}/referrers/{digest}", {"Accept": OCI_INDEX}
        answer = self.transport.send("GET", url, expect=(200, 400, 404, 405), headers=accept)
        if answer.status_code == 200:
            return tuple(answer.json().get("manifests") or ())
        listed = self.manifest(digest.replace(":", "-", 1))
        return tuple(listed.body.get("manifests") or ()) if listed else ()

    def has_blob(self, digest: str) -> bool:
        """Tell whether the registry holds a blob."""
        answer = self.transport.send("HEAD", f"{self.path}/blobs/{digest}", expect=(200, 404))
        return answer.status_code == 200

    def blob(self, digest: str) -> bytes:
        """Give a small blob whole; its digest is checked."""
        content = b"".join(self.read_blob(digest))
        if sha256(content) != digest:
            raise PublishError(
                f"{self.reference.registry} gives other bytes for {digest} than that digest is of",
                cause="the blob was changed after it was pushed",
                fix="do not use it; push the image again to another repository",
            )
        return content

    def read_blob(self, digest: str) -> Iterator[bytes]:
        """Give a blob piece by piece. Its digest is not checked here: whoever reads it sees it whole."""
        answer = self.transport.send("GET", f"{self.path}/blobs/{digest}", expect=(200,), stream=True)
        try:
            yield from answer.iter_content(1 << 20)
        except FAILURES as reason:
            raise self.transport.unreachable(reason) from reason
        finally:
            answer.close()

    def put_blob(self, digest: str, source: Path | bytes) -> bool:
        """Send a blob unless it is there; give whether it was sent.

        It goes in chunks: where a connection drops, the registry is asked how much has arrived, and the rest
        follows.

        Raises:
            PublishError: the registry refuses or does not answer.
        """
        if self.has_blob(digest):
            return False
        file: BinaryIO = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
        with file:
            Upload(self.transport, digest, file).run()
        return True
