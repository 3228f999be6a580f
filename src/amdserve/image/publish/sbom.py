"""The bill of materials of an image, as SPDX and as CycloneDX.

debsbom writes what dpkg knows, with sources and dependencies. The Python packages, and llama.cpp itself,
which no package manager installed, are added to both documents here.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.errors import PublishError
from amdserve.image.publish.archive import stamp
from amdserve.image.publish.inventory import STATUS, Inventory

LLAMA = "https://github.com/ggml-org/llama.cpp"
_ID = re.compile(r"[^A-Za-z0-9.-]+")


@dataclass(frozen=True, slots=True)
class Part:
    """One thing in an image that dpkg does not know: its package URL says which."""

    name: str
    version: str
    purl: str
    license: str = ""
    where: str = ""
    sha256: str = ""


@dataclass(frozen=True, slots=True)
class Documents:
    """The two documents, as values."""

    spdx: Mapping[str, Any]
    cyclonedx: Mapping[str, Any]


def parts(found: Inventory, labels: Mapping[str, str], sdist: str = "") -> tuple[Part, ...]:
    """Give what is in an image beside Debian's packages.

    Args:
        found: what its layers hold.
        labels: the image's.
        sdist: the sha256 of the source distribution that llama.cpp came in, empty where it came otherwise.
    """
    python = [Part(one.name, one.version, one.purl, one.license, one.where) for one in found.python]
    commit = labels.get("io.amdserve.llama.commit", "")
    if not commit:
        return tuple(python)
    llama = Part("llama.cpp", commit, f"pkg:github/ggml-org/llama.cpp@{commit}", "MIT", "/opt/llama", sdist)
    return (llama, *python)


def documents(found: Inventory, more: tuple[Part, ...], *, name: str, digest: str, latest: int) -> Documents:
    """Give both documents; the same image gives the same ones.

    Args:
        found: what its layers hold.
        more: what dpkg does not know.
        name: the image's name in the documents.
        digest: the image's digest, from which the documents' own names are made.
        latest: the documents' time, in seconds.

    Raises:
        PublishError: the image has no dpkg, or debsbom fails.
    """
    if not found.status:
        raise PublishError(
            f"{name} has no {STATUS}",
            cause="it is not made from Debian or Ubuntu",
            fix="build it with ./inv build",
        )
    serial = str(uuid.uuid5(uuid.NAMESPACE_URL, digest))
    with tempfile.TemporaryDirectory(prefix="amdserve-sbom-") as folder:
        status = Path(folder, STATUS)
        status.parent.mkdir(parents=True)
        status.write_bytes(found.status)
        out = Path(folder, "sbom")
        process.run(
            [
                str(Path(sys.executable).with_name("debsbom")),
                *("generate", "--root", folder, "--out", str(out), "--distro-arch", "amd64"),
                *("--distro-name", name, "--timestamp", stamp(latest).replace("Z", "+00:00")),
                *("--spdx-namespace", f"urn:uuid:{serial}", "--cdx-serialnumber", serial),
            ],
            error=PublishError,
            timeout=300,
        )
        spdx = json.loads(Path(f"{out}.spdx.json").read_bytes())
        cyclonedx = json.loads(Path(f"{out}.cdx.json").read_bytes())
    return Documents(_spdx(spdx, more), _cyclonedx(cyclonedx, more))


def _spdx(document: dict[str, Any], more: tuple[Part, ...]) -> dict[str, Any]:
    root = next(
        one["relatedSpdxElement"]
        for one in document["relationships"]
        if one["relationshipType"] == "DESCRIBES"
    )
    for part in more:
        ident = "SPDXRef-" + _ID.sub("-", f"{part.purl}-{part.where}".removeprefix("pkg:"))
        package = {
            "SPDXID": ident,
            "name": part.name,
            "versionInfo": part.version,
            "downloadLocation": f"git+{LLAMA}@{part.version}" if part.name == "llama.cpp" else "NOASSERTION",
            "filesAnalyzed": False,
            "copyrightText": "NOASSERTION",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "MIT" if part.license == "MIT" else "NOASSERTION",
            "primaryPackagePurpose": "LIBRARY",
            "comment": f"in {part.where}",
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE_MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": part.purl,
                }
            ],
        }
        if part.sha256:
            package["sourceInfo"] = f"from the source distribution with sha256 {part.sha256}"
        document["packages"].append(package)
        document["relationships"].append(
            {"spdxElementId": ident, "relatedSpdxElement": root, "relationshipType": "PACKAGE_OF"}
        )
    # debsbom gives its sets in any order; the same image is to have the same document.
    document["packages"].sort(key=lambda one: str(one["SPDXID"]))
    document["relationships"].sort(key=lambda one: json.dumps(one, sort_keys=True))
    return document


def _cyclonedx(document: dict[str, Any], more: tuple[Part, ...]) -> dict[str, Any]:
    for part in more:
        component: dict[str, Any] = {
            "bom-ref": f"{part.purl}#{part.where}",
            "type": "library",
            "name": part.name,
            "version": part.version,
            "purl": part.purl,
            "properties": [{"name": "io.amdserve.folder", "value": part.where}],
        }
        if part.license:
            component["licenses"] = [{"expression": part.license}]
        if part.sha256:
            component["externalReferences"] = [
                {
                    "type": "source-distribution",
                    "url": LLAMA,
                    "hashes": [{"alg": "SHA-256", "content": part.sha256}],
                }
            ]
        document["components"].append(component)
    document["components"].sort(key=lambda one: str(one["bom-ref"]))
    for one in document["dependencies"]:
        one.get("dependsOn", []).sort()
    root = document["metadata"]["component"]["bom-ref"]
    for one in document["dependencies"]:
        if one["ref"] == root:
            own = [f"{part.purl}#{part.where}" for part in more]
            one["dependsOn"] = sorted([*one.get("dependsOn", []), *own])
    document["dependencies"].sort(key=lambda one: str(one["ref"]))
    return document
