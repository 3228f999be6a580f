"""How large the images are, beside those made of Debian's own llama.cpp packages on the same base.

Run it from a checkout whose engine has the images: `python benchmarks/size.py`. It builds the two others (8
GB of disk, gone afterwards), compresses all as `zstd -9` does, ours also as they are pushed (which for the
others would take an hour), and writes results/size.{json,md}. With `--ours` the others stay as they were
measured: they are of the same suite, and take most of the time.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.image import engine as engines
from amdserve.image import show
from amdserve.image.engine import Engine
from amdserve.image.local import Images
from amdserve.image.publish import compress

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
REPOSITORY = "amdserve-benchmark"
# From the same suite as ours, without what packages recommend, without lists and archives.
DEBIAN = """
FROM {base}
RUN echo 'Acquire::Check-Valid-Until "false"; APT::Install-Recommends "false";' > /etc/apt/apt.conf.d/90 \\
    && apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y llama.cpp-tools {packages} \\
    && apt-get clean && rm -rf /var/lib/apt/lists/*
"""
# Ours, what it is measured against, and the packages of that.
PAIRS = (
    ("amdserve:vulkan", "debian-vulkan", "libggml0-backend-vulkan mesa-vulkan-drivers"),
    ("amdserve:llama-gfx1151", "debian-rocm", "libggml0-backend-hip"),
)


def debian(engine: Engine, base: str, name: str, packages: str) -> str:
    """Build an image of Debian's packages; give its reference."""
    tag = f"{REPOSITORY}:{name}"
    command = [*engine.buildx, "build", "--progress", "plain", "--load", "--tag", tag, "-"]
    process.run(command, stdin=DEBIAN.format(base=base, packages=packages), env=engine.env(), timeout=3600)
    return tag


def measure(engine: Engine, ref: str) -> dict[str, Any]:
    """Give an image's bytes, as they lie unpacked and as `zstd -9` packs them."""
    found = Images(engine).find(ref)
    assert found, f"the engine has no {ref}: ./inv build --image vulkan,llama --gfx gfx1151"
    show.say(f"packing {ref}")
    script = f"{engine.docker} save {found.id} | zstd -9 --threads=0 --quiet | wc --bytes"
    packed = process.run(["bash", "-o", "pipefail", "-c", script], env=engine.env(), timeout=3600).out
    return {"ref": found.tags[-1], "bytes": found.size, "zstd": int(packed)}


def pushed(engine: Engine, ref: str) -> dict[str, Any]:
    """Give an image's bytes as they are pushed, and the seconds that packing them takes."""
    show.say(f"packing {ref} as it is pushed")
    begun, size, packer = time.monotonic(), 0, compress.compressor(compress.DEFAULT)
    for chunk in engine.client(timeout=600).images.get(ref).save():
        size += len(packer.compress(chunk))
    return {"pushed": size + len(packer.flush()), "pushed_seconds": round(time.monotonic() - begun)}


def table(results: dict[str, Any]) -> str:
    """Write the results as a page."""
    rows = []
    for one in results["pairs"]:
        (size, packed), (other, others) = (
            (one[side]["bytes"] / 1e6, one[side]["zstd"] / 1e6) for side in ("ours", "debian")
        )
        ratio = f"{size / other:.2f} / {packed / others:.2f}"
        sent = one["ours"]["pushed"] / 1e6
        ours = f"{one['ours']['ref']} | {size:.0f} / {packed:.0f} | {sent:.0f}"
        rows.append(f"| {ours} | {other:.0f} / {others:.0f} | {ratio} |")
    head = [
        "| image | MB, unpacked / zstd -9 | as pushed | of Debian's packages, unpacked / zstd -9 | ratio |",
        "|---|---:|---:|---:|---:|",
    ]
    return "\n".join([f"{results['machine']}, {results['date']}.", "", *head, *rows]) + "\n"


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ours", action="store_true", help="only ours again")
    only = parser.parse_args().ours
    before = json.loads((RESULTS / "size.json").read_text("utf-8"))["pairs"] if only else []
    engine = engines.ensure(say=show.say)
    client: Any = engine.client()
    base = next(tag for one in client.images.list("amdserve-base") for tag in one.tags)
    pairs = []
    for place, (ours, name, packages) in enumerate(PAIRS):
        if only:
            pairs.append(before[place] | {"ours": measure(engine, ours) | pushed(engine, ours)})
            continue
        other = debian(engine, base, name, packages)
        mine = measure(engine, ours) | pushed(engine, ours)
        pairs.append({"ours": mine, "debian": measure(engine, other), "packages": packages})
        Images(engine).remove(other)
    machine = f"{platform.system()} {platform.release()}, {os.cpu_count()} cores"
    today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
    results = {"machine": machine, "date": today, "base": base, "pairs": pairs}
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "size.json").write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    (RESULTS / "size.md").write_text(table(results), "utf-8")
    print(table(results), end="")


if __name__ == "__main__":
    main()
