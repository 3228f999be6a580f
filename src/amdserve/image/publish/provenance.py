"""How an image came to be, as SLSA provenance; and what was tested of it, as a test result."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from amdserve import __version__
from amdserve.image.catalog import Sources
from amdserve.image.models import Cell, LlamaSource
from amdserve.image.publish.archive import stamp
from amdserve.image.publish.inventory import Inventory
from amdserve.image.publish.tags import LABEL
from amdserve.image.render import base_name
from amdserve.image.verify import Check

BUILD_TYPE = "urn:amdserve:build:1"
OWN_MACHINE = "urn:amdserve:own-machine"
SOURCE = "org.opencontainers.image.source"
REVISION = "org.opencontainers.image.revision"


def builder(environ: Mapping[str, str] | None = None) -> str:
    """Say who built: the workflow where one runs, else somebody's own machine."""
    environ = os.environ if environ is None else environ
    if workflow := environ.get("GITHUB_WORKFLOW_REF"):
        return f"{environ.get('GITHUB_SERVER_URL', 'https://github.com')}/{workflow}"
    return OWN_MACHINE


def provenance(
    cell: Cell, labels: Mapping[str, str], sources: Sources, llama: LlamaSource, *, latest: int
) -> dict[str, Any]:
    """Give the SLSA v1 predicate of an image.

    Args:
        cell: what was planned.
        labels: the published image's.
        sources: the pins it was made from.
        llama: the source of llama.cpp.
        latest: the time that stands in its layers, in seconds.
    """
    base = sources.base[base_name(cell, sources)]
    pypi: dict[str, Any] = {
        "name": llama.origin if llama.kind != "sdist" else sources.llama.package,
        "annotations": {"llama.cpp": llama.commit, "version": llama.version},
    }
    if llama.kind == "sdist":
        pypi |= {
            "uri": f"pkg:pypi/{sources.llama.package}@{sources.llama.version}",
            "digest": {"sha256": sources.llama.sha256},
        }
    materials: list[dict[str, Any]] = [pypi]
    if base.digest:
        algorithm, _, value = base.digest.partition(":")
        materials.append({"name": "base", "uri": f"docker://{base.image}", "digest": {algorithm: value}})
    if revision := labels.get(REVISION):
        materials.append(
            {
                "name": "source",
                "uri": labels.get(SOURCE, "git"),
                "digest": {"gitCommit": revision.removesuffix("-dirty")},
            }
        )
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {
                "image": cell.image,
                "gfx": list(cell.gfx),
                "provider": cell.provider,
                "cell": cell.id,
                "hash": cell.hash,
            },
            "internalParameters": {
                "inputs": dict(cell.inputs),
                "sourceDateEpoch": latest,
                "revision": labels.get(REVISION, ""),
            },
            "resolvedDependencies": materials,
        },
        "runDetails": {
            "builder": {"id": builder(), "version": {"amdserve": __version__}},
            "metadata": {"invocationId": cell.immutable, "startedOn": stamp(latest)},
        },
    }


def wrong(statement: Mapping[str, Any], labels: Mapping[str, str]) -> list[str]:
    """Say in what a provenance does not fit the image that it is attached to."""
    try:
        said = statement["buildDefinition"]["externalParameters"]
    except (LookupError, TypeError):
        return ["it does not say what was built"]
    held = {"hash": labels.get(LABEL + "hash"), "cell": labels.get(LABEL + "cell")}
    return [
        f"it is for {name} {said.get(name)}, the image says {value}"
        for name, value in held.items()
        if said.get(name) != value
    ]


def tested(checks: Iterable[Check], digest: str) -> dict[str, Any]:
    """Give the test result of an image that was checked as pulled from its registry."""
    made = tuple(checks)
    return {
        "result": "PASSED" if made and all(check.ok for check in made) else "FAILED",
        "configuration": [{"name": "image", "digest": {"sha256": digest.removeprefix("sha256:")}}],
        "passedTests": sorted(check.name for check in made if check.ok),
        "failedTests": sorted(check.name for check in made if not check.ok),
    }


def versions(found: Inventory) -> dict[str, str]:
    """Give the versions that only the image itself knows: of Mesa, of vLLM."""
    vllm = next((one.version for one in found.python if one.name == "vllm"), "")
    known = {"mesa.version": found.version("amdserve-radv"), "vllm.version": vllm}
    return {LABEL + name: value for name, value in known.items() if value}
