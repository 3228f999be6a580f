"""What is installed in an image, read from its layers: by dpkg, by pip, and what it says itself."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from email.parser import BytesHeaderParser
from pathlib import PurePosixPath
from typing import Any

from amdserve.image.publish.pieces import Readable

STATUS = "var/lib/dpkg/status"
IMAGE_JSON = "etc/amdserve/image.json"
# Debian's own Python packages are under dist-packages, and known to dpkg.
_PYTHON = re.compile(r"^(?P<where>.+/site-packages)/[^/]+\.dist-info/METADATA$")
_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, slots=True, order=True)
class PythonPackage:
    """A Python distribution: its name, version, licence (empty where it says none) and folder."""

    name: str
    version: str
    license: str
    where: str

    @property
    def purl(self) -> str:
        """Its package URL."""
        return f"pkg:pypi/{re.sub(r'[-_.]+', '-', self.name).lower()}@{self.version}"


@dataclass
class Inventory:
    """The files of an image that tell what is installed, as its layers go by from the lowest up."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, layer: Readable) -> None:
        """Take a layer in, as a tar stream.

        Raises:
            tarfile.TarError: it is no tar archive, or its compression is broken.
        """
        with tarfile.open(fileobj=layer, mode="r|", bufsize=1 << 20) as archive:  # type: ignore[call-overload]
            for entry in archive:
                path = entry.name.removeprefix("./").strip("/")
                if PurePosixPath(path).name.startswith(_WHITEOUT):
                    self._remove(path)
                elif entry.isreg() and (path in (STATUS, IMAGE_JSON) or _PYTHON.match(path)):
                    content = archive.extractfile(entry)
                    self.files[path] = content.read() if content else b""

    def _remove(self, whiteout: str) -> None:
        folder, _, name = whiteout.rpartition("/")
        gone = folder if name == _OPAQUE else f"{folder}/{name.removeprefix(_WHITEOUT)}".lstrip("/")
        for path in [path for path in self.files if path == gone or path.startswith(f"{gone}/")]:
            del self.files[path]

    @property
    def status(self) -> bytes:
        """What dpkg knows to be installed; empty in an image without dpkg."""
        return self.files.get(STATUS, b"")

    @property
    def image(self) -> Mapping[str, Any]:
        """What the image says of itself; empty where it says nothing."""
        try:
            found = json.loads(self.files.get(IMAGE_JSON, b"{}"))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    @property
    def python(self) -> tuple[PythonPackage, ...]:
        """The Python distributions, sorted."""
        found = set()
        for path, content in self.files.items():
            if match := _PYTHON.match(path):
                head = BytesHeaderParser().parsebytes(content)
                name, version = str(head.get("Name", "")), str(head.get("Version", ""))
                license_ = str(head.get("License-Expression") or "")
                if name and version:
                    found.add(PythonPackage(name, version, license_, "/" + match["where"]))
        return tuple(sorted(found))

    def version(self, package: str) -> str:
        """Give the version of an installed Debian package, empty where it is not installed."""
        for paragraph in self._paragraphs():
            if paragraph.get("Package") == package and paragraph.get("Status", "").endswith(" installed"):
                return paragraph.get("Version", "")
        return ""

    def _paragraphs(self) -> Iterator[dict[str, str]]:
        for block in self.status.decode("utf-8", "replace").split("\n\n"):
            lines = (line.partition(": ") for line in block.splitlines() if not line.startswith(" "))
            yield {key: value for key, _, value in lines}
