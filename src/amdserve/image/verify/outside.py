"""The checks of what an engine says of an image: size, labels, how a container of it starts."""

from __future__ import annotations

import json

from amdserve.image.verify.seen import LABEL, Seen, Verdict

OCI = "org.opencontainers.image."
PORT = "8080/tcp"
HEALTH = ["CMD", "amdserve", "health"]
# Labels that every image carries, whoever built it; they are held against image.json.
REQUIRED = (
    *(OCI + name for name in ("title", "description", "version", "licenses")),
    *(
        LABEL + name
        for name in ("image", "cell", "hash", "backends", "llama.version", "llama.commit", "inputs")
    ),
)


def size(seen: Seen) -> Verdict:
    """The uncompressed image is within the catalogue's budget."""
    megabytes = int(seen.attributes.get("Size") or 0) / 1e6
    if seen.budget_mb is None:
        return [f"{megabytes:.0f} MB, and the catalogue has no image {seen.expected.image!r}"], ""
    said = f"{megabytes:.0f} MB of at most {seen.budget_mb} MB"
    return [said] if megabytes > seen.budget_mb or not megabytes else [], said


def labels(seen: Seen) -> Verdict:
    """The labels are those that were planned, and say the same as the image's own description of itself."""
    carried = seen.labels
    wrong = [f"{name} is missing" for name in REQUIRED if not carried.get(name)]
    for name, value in (seen.expected.labels or {}).items():
        if carried.get(name) != value:
            wrong.append(f"{name} is {carried.get(name)!r}, planned was {value!r}")
    said = seen.fact("image")
    for name in ("image", "cell", "hash"):
        if carried.get(LABEL + name) != said.get(name):
            wrong.append(
                f"{LABEL}{name} is {carried.get(LABEL + name)!r}, image.json says {said.get(name)!r}"
            )
    try:
        if not json.loads(carried.get(LABEL + "inputs") or "{}"):
            wrong.append(f"{LABEL}inputs does not say what the image was built from")
    except ValueError:
        wrong.append(f"{LABEL}inputs is no JSON")
    return wrong, f"{len(carried)} labels"


def healthcheck(seen: Seen) -> Verdict:
    """The engine asks the entrypoint whether the backend answers."""
    test = (seen.config.get("Healthcheck") or {}).get("Test")
    return [] if test == HEALTH else [f"the health check is {test}"], " ".join(HEALTH[1:])


def port(seen: Seen) -> Verdict:
    """The port is declared, and no other."""
    exposed = sorted(seen.config.get("ExposedPorts") or {})
    return [] if exposed == [PORT] else [f"it exposes {', '.join(exposed) or 'nothing'}"], PORT


def entrypoint(seen: Seen) -> Verdict:
    """A container starts as root under an init process, which hands signals on to the entrypoint."""
    wrong = []
    entry, default = seen.config.get("Entrypoint") or [], seen.config.get("Cmd")
    if len(entry) < 2 or not entry[0].endswith("tini") or not entry[-1].endswith("amdserve"):
        wrong.append(f"the entrypoint is {entry}")
    if default != ["serve"]:
        wrong.append(f"the default command is {default}")
    if seen.config.get("User") not in ("", None, "0", "root", "0:0"):
        # Root is what opens the devices whatever their group is; the entrypoint then becomes somebody else.
        wrong.append(f"a container starts as {seen.config.get('User')!r}")
    if seen.config.get("Volumes"):
        wrong.append(f"it makes volumes that nobody asked for: {sorted(seen.config['Volumes'])}")
    return wrong, " ".join([*entry, *(default or [])])


def platform(seen: Seen) -> Verdict:
    """It is for the machines that AMD's GPUs are in."""
    found = f"{seen.attributes.get('Os')}/{seen.attributes.get('Architecture')}"
    return [] if found == "linux/amd64" else [f"it is for {found}"], found
