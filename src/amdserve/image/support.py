"""The page that says what is supported: made of the gfx table and of records of what was seen, nothing else.

Records stand in `docs/evidence/`: `verify-<cell>.json` is written by `invoke verify --record`, `ran*.json`
are lists of what ran on which hardware, `not-run.yaml` names what was not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from amdserve.errors import ConfigError
from amdserve.gpu.catalogue import CATALOGUE, PROVIDERS, markdown_table
from amdserve.image.engine import Engine
from amdserve.image.render import Environment

EVIDENCE = "docs/evidence"
PAGE = "docs/support.md"
TEMPLATE = "docs/support.md.j2"
MEGABYTE = 1_000_000


def record(labels: Mapping[str, str], size: int, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the record of a verified image.

    Args:
        labels: the image's labels.
        size: bytes, uncompressed.
        checks: what `verify` found, as in its JSON.
    """
    own = {key.removeprefix("io.amdserve."): value for key, value in labels.items()}
    provider = own.get("rocm.provider")
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cell": own.get("cell", ""),
        "image": own.get("image", ""),
        "gfx": [gfx for gfx in own.get("gfx", "").split(",") if gfx],
        "rocm": f"{own['rocm.version']} ({provider})" if provider else None,
        "llama": "{} ({} {})".format(
            *(own.get(f"llama.{key}", "") for key in ("commit", "package", "version"))
        ),
        "size": f"{size / MEGABYTE:.0f} MB",
        "checks": [{"name": check["name"], "ok": check["ok"]} for check in checks],
    }


def seen(engine: Engine, ref: str, checks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make the record of an image in an engine; see `record`."""
    found = engine.client().images.get(ref)
    return record(found.labels, found.attrs["Size"], checks)


def keep(root: Path, found: Mapping[str, Any]) -> Path:
    """Write a record beside the others; the newer one of a cell takes the older one's place."""
    path = root / EVIDENCE / f"verify-{found['cell']}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def page(root: Path) -> str:
    """Render the support page.

    Raises:
        ConfigError: a record is no JSON, or lacks what the page shows.
    """
    built = [_with_held(entry) for entry in _records(root, "verify-*.json")]
    ran = [entry for part in _records(root, "ran*.json") for entry in part]
    not_run = yaml.safe_load((root / EVIDENCE / "not-run.yaml").read_text("utf-8")) or []
    good = [entry for entry in built if entry["held"] == len(entry["checks"])]
    template = (root / "templates" / TEMPLATE).read_text("utf-8")
    return (
        Environment({TEMPLATE: template})
        .get_template(TEMPLATE)
        .render(
            rows=[_row(gfx, built, good) for gfx in CATALOGUE],
            vulkan=next((entry["date"] for entry in good if entry["image"] == "vulkan"), ""),
            built=built,
            ran=ran,
            not_run=not_run,
            table=markdown_table(),
        )
    )


def write(root: Path) -> Path:
    """Write the support page; give its path."""
    path = root / PAGE
    path.write_text(page(root), encoding="utf-8")
    return path


def _row(gfx: str, built: Sequence[Mapping[str, Any]], good: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    target = CATALOGUE[gfx]
    return {
        "gfx": gfx,
        "products": ", ".join(target.products[:3]),
        "architecture": target.architecture,
        "rendered": ", ".join(name for name in PROVIDERS if name in target.blas) or "–",
        "built": _dates(gfx, built),
        "proven": _dates(gfx, good),
    }


def _dates(gfx: str, records: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{entry['cell']} ({entry['date']})" for entry in records if gfx in entry["gfx"]) or "–"


def _with_held(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {**entry, "held": sum(bool(check["ok"]) for check in entry["checks"])}


def _records(root: Path, pattern: str) -> list[Any]:
    found = []
    for path in sorted((root / EVIDENCE).glob(pattern)):
        try:
            found.append(json.loads(path.read_text("utf-8")))
        except ValueError as reason:
            fix = f"git checkout -- {EVIDENCE}"
            raise ConfigError(f"{path.name} is no JSON: {reason}", fix=fix) from reason
    return found
