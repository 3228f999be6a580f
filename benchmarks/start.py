"""How long the entrypoint takes from its first instruction to the start of the backend, in the image.

Run it from a checkout on an idle machine: `python benchmarks/start.py IMAGE [--runs N] [--json]`. What is
measured is all that stands between `docker run` and the backend: the interpreter, the options, the model's
header, detection of the GPU, the plan, and the exec; the backend is a program that names a GPU when asked for
its devices, and else tells the time. It exits with 1 where a median is over its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from docker.types import Mount  # noqa: E402
from fixtures import models  # noqa: E402

from amdserve.image import engine as engines  # noqa: E402

LIMIT = 250.0
SHARES = 100_000  # what else the machine does shall disturb little
MACHINES = ROOT / "tests" / "fixtures" / "machines"
# Name, and the machine that detection looks at; an empty one is the container's own.
CASES = (("no GPU", ""), ("Strix Halo", "strix-halo"), ("eight MI300X", "mi300x"))

# Runs in the container, as the entrypoint does: each backend becomes a shell that notes when it was started.
INSIDE = '''
import json, os, shutil, subprocess, sys, time
BACKEND = """if [[ $* = *--list-devices ]]; then
    printf '%s\\n' 'Available devices:' '  Vulkan0: a GPU (1 MiB, 1 MiB free)'
else
    echo $EPOCHREALTIME >> /tmp/started
fi"""
runs = int(sys.argv[1])
data = json.load(open("/etc/amdserve/image.json"))
for backend in data["backends"].values():
    backend["argv"] = ["/bin/bash", "-c", BACKEND, "backend"]
json.dump(data, open("/tmp/image.json", "w"))
env = {**os.environ, "AMDSERVE_IMAGE_JSON": "/tmp/image.json", "AMDSERVE_STATE_DIR": "/tmp/state"}
found = []
for run in range(runs + 1):
    shutil.rmtree("/tmp/state", ignore_errors=True)  # nothing is remembered
    open("/tmp/started", "w").close()
    os.chmod("/tmp/started", 0o666)
    begun = time.time()
    subprocess.run(["amdserve", "serve", "/models/llama.gguf"], env=env, capture_output=True)
    started = open("/tmp/started").readline()
    if run:
        found.append((float(started) - begun) * 1e3)
print(json.dumps(found))
'''


def measure(client: Any, image: str, machine: str, folder: Path, runs: int) -> list[float]:
    """Give the milliseconds of each run; the first warms the file cache and does not count."""
    mounts = [Mount("/models", str(folder), type="bind", read_only=True)]
    environment = {}
    if machine:
        mounts.append(Mount("/machine", str(MACHINES / machine), type="bind", read_only=True))
        environment["AMDSERVE_SYSROOT"] = "/machine"
    container = client.containers.run(
        image, ["-c", INSIDE, str(runs)], entrypoint=["/opt/amdserve/bin/python"], mounts=mounts,
        environment=environment, detach=True, cpu_shares=SHARES,
    )  # fmt: skip
    try:
        status = container.wait(timeout=600)["StatusCode"]
        said = container.logs(stdout=True, stderr=status != 0).decode()
        if status:
            raise SystemExit(said)
        found: list[float] = json.loads(said)
        return found
    finally:
        container.remove(force=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", help="reference of an image")
    parser.add_argument("--runs", type=int, default=20, help="starts for each case (20)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    client = engines.ensure(say=lambda line: print(line, file=sys.stderr)).client()
    load = os.getloadavg()[0]
    rows = []
    with tempfile.TemporaryDirectory() as place:
        models.write_llama(Path(place) / "llama.gguf")
        Path(place).chmod(0o755)
        for name, machine in CASES:
            seen = measure(client, options.image, machine, Path(place), options.runs)
            row = {
                "case": name,
                "median_ms": round(statistics.median(seen), 1),
                "best_ms": round(min(seen), 1),
            }
            rows.append({**row, "worst_ms": round(max(seen), 1), "limit_ms": LIMIT})
    if options.json:
        print(json.dumps({"image": options.image, "load": load, "cases": rows}))
    else:
        print(f"{options.image}, {os.cpu_count()} CPUs, load {load:.1f}; {options.runs} starts, milliseconds")
        print(f"{'case':<16}{'median':>9}{'best':>9}{'worst':>9}{'limit':>9}")
        for row in rows:
            numbers = "".join(f"{row[key]:>9}" for key in ("median_ms", "best_ms", "worst_ms", "limit_ms"))
            print(f"{row['case']:<16}{numbers}")
    return 0 if all(float(row["median_ms"]) <= LIMIT for row in rows) else 1  # type: ignore[arg-type]


if __name__ == "__main__":
    sys.exit(main())
