"""Is an image what it should be: looked at from outside and, in one container without a network, from inside.

The probe that runs inside only reports; what is right is decided here. So every check stands for itself, and
one that fails (or cannot be made) keeps no other from being made.
"""

from __future__ import annotations

import io
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from amdserve.errors import AmdserveError, ConfigError, VerifyError
from amdserve.gpu import offload
from amdserve.image import show
from amdserve.image.catalog import CATALOG, Catalog, load_catalog
from amdserve.image.verify import answers, inside, layers, native, outside
from amdserve.image.verify.seen import Check, Expected, Planned, Report, Seen, Verdict, read_facts

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

__all__ = ["Check", "Report", "verify"]

PYTHON = "/opt/amdserve/bin/python"
FOLDER = "amdserve-probe"
FILES = (Path(__file__).with_name("probe.py"), Path(offload.__file__))
# A container that looks at itself for longer than this, in seconds, hangs.
TIMEOUT = 900.0

CHECKS: tuple[tuple[str, Callable[[Seen], Verdict]], ...] = (
    ("platform", outside.platform),
    ("size", outside.size),
    ("image-json", inside.image_json),
    ("labels", outside.labels),
    ("healthcheck", outside.healthcheck),
    ("port", outside.port),
    ("entrypoint", outside.entrypoint),
    ("command", answers.command),
    ("user", inside.user),
    ("folders", inside.folders),
    ("symlinks", inside.symlinks),
    ("libraries", native.libraries),
    ("plugins", native.plugins),
    ("portable-cpu", native.portable_cpu),
    ("vulkan-icd", inside.vulkan_icd),
    ("rocm-environment", inside.rocm_environment),
    ("rocm-runtime", native.rocm_runtime),
    ("code-objects", native.code_objects),
    ("rocblas-kernels", native.rocblas_kernels),
    ("hipblaslt-kernels", native.hipblaslt_kernels),
    ("version", answers.version),
    ("devices", answers.devices),
    ("help", answers.help_recorded),
    ("flags", answers.flags),
    ("reference", inside.reference),
    ("build-tools", inside.build_tools),
    ("caches", inside.caches),
)


def verify(
    ref: str,
    *,
    engine: Engine,
    expect: Planned | None = None,
    catalog: Catalog | None = None,
    say: Callable[[str], None] = show.say,
) -> Report:
    """Check an image.

    Args:
        ref: its reference or id.
        engine: the engine that has it.
        expect: the planned cell that it should be; None: what its own labels say it is.
        catalog: knows how large it may be; None: that of this checkout.
        say: takes the lines that tell how it goes.

    Raises:
        VerifyError: the engine has no such image.
    """
    begin = time.monotonic()
    client: Any = engine.client()
    attributes = _inspect(client, ref)
    labels = (attributes.get("Config") or {}).get("Labels") or {}
    expected = Expected.of(expect) if expect is not None else Expected.from_labels(labels)
    say(f"verify {ref}: looking inside")
    facts, trouble = _probe(client, attributes["Id"])
    budget, no_catalog = _budget(expected, catalog)
    seen = Seen(attributes, expected, facts, budget)
    checks = [Check("probe", not trouble, trouble or "it ran in the image with the image's own Python")]
    checks += judge(seen)
    if no_catalog:
        checks = [Check("size", False, no_catalog) if one.name == "size" else one for one in checks]
    checks.append(_authorities(client, attributes, say))
    for check in checks:
        if not check.ok:
            say(f"verify {ref}: {check.name} FAILED: {check.detail}")
    report = Report(ref, tuple(checks))
    good = sum(check.ok for check in checks)
    say(f"verify {ref}: {good} of {len(checks)} checks hold ({show.seconds(time.monotonic() - begin)})")
    return report


def judge(seen: Seen) -> list[Check]:
    """Make all checks of what is known of an image."""
    return [_judged(name, check, seen) for name, check in CHECKS]


def _judged(name: str, check: Callable[[Seen], Verdict], seen: Seen) -> Check:
    """Make one check; what it cannot make sense of is a failure with the reason."""
    try:
        wrong, detail = check(seen)
    except (LookupError, TypeError, ValueError, AttributeError) as reason:
        return Check(name, False, f"cannot be told: {reason}")
    shown = "; ".join(wrong[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
    return Check(name, not wrong, shown or detail)


def _inspect(client: Any, ref: str) -> dict[str, Any]:
    from docker.errors import APIError, ImageNotFound  # noqa: PLC0415 - slow to import, and only here

    try:
        attributes: dict[str, Any] = client.api.inspect_image(ref)
    except ImageNotFound as reason:
        raise VerifyError(
            f"the engine has no image {ref!r}",
            cause="it was not built here, or has another tag",
            fix="./inv build, or `docker image ls` for what there is",
        ) from reason
    except APIError as reason:
        raise VerifyError(f"{ref!r} cannot be inspected", cause=str(reason.explanation or reason)) from reason
    return attributes


def _probe(client: Any, image: str) -> tuple[dict[str, Any], str]:
    """Run the probe in a container of the image; give what it saw, or why it could not look."""
    from docker.errors import DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415 - what the SDK lets through

    container = None
    try:
        container = client.containers.create(
            image,
            entrypoint=[PYTHON, f"/{FOLDER}/{FILES[0].name}"],
            command=[],
            network_mode="none",
            healthcheck={"test": ["NONE"]},
        )
        container.put_archive("/", _archive())
        container.start()
        status = container.wait(timeout=TIMEOUT)["StatusCode"]
        out = container.logs(stdout=True, stderr=False).decode("utf-8", "replace")
        err = container.logs(stdout=False, stderr=True).decode("utf-8", "replace").strip()
        if status:
            return {}, f"{PYTHON} ended with {status}: {(err.splitlines() or ['it said nothing'])[-1]}"
        return read_facts(out), ""
    except ValueError as reason:
        return {}, f"the probe printed something else than JSON: {reason}"
    except (DockerException, RequestException) as reason:
        return {}, f"no container of the image can look at it: {getattr(reason, 'explanation', '') or reason}"
    finally:
        if container is not None:
            container.remove(force=True, v=True)


def _archive() -> bytes:
    """Give the probe as an archive to be unpacked in the container."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for file in FILES:
            content = file.read_bytes()
            entry = tarfile.TarInfo(f"{FOLDER}/{file.name}")
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _budget(expected: Expected, catalog: Catalog | None) -> tuple[int | None, str]:
    """Give the size in MB that the image may have, and why nobody knows it."""
    if catalog is None:
        places = (Path.cwd(), *Path.cwd().parents, Path(__file__).parents[4])
        root = next((place for place in places if (place / CATALOG).is_file()), None)
        if root is None:
            return None, f"there is no {CATALOG} here that names a budget"
        try:
            catalog = load_catalog(root)
        except ConfigError as reason:
            return None, reason.what
    image = catalog.images.get(expected.image)
    return (image.budget(len(expected.gfx)), "") if image else (None, "")


def _authorities(client: Any, attributes: dict[str, Any], say: Callable[[str], None]) -> Check:
    """Look for this host's own certificates in every layer."""
    from docker.errors import DockerException  # noqa: PLC0415
    from requests.exceptions import RequestException  # noqa: PLC0415

    name = "certificates"
    wanted = layers.of_host()
    if not wanted:
        return Check(name, True, "this host has no certificate authority of its own to look for")
    say(f"reading all layers ({show.megabytes(attributes.get('Size') or 0)}) for this host's certificates")
    try:
        found, count = layers.search(client.api.get_image(attributes["Id"], layers.CHUNK), wanted)
    except (AmdserveError, DockerException, RequestException) as reason:
        return Check(name, False, f"the layers cannot be read: {reason}")
    if found:
        return Check(name, False, "; ".join(str(one) for one in found[:5]))
    return Check(name, bool(count), f"none of this host's {len(wanted)} in any of {count} layers")
