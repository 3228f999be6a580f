"""How long detection takes: importing `amdserve.gpu` and going through the chain, in a new process each time.

Run it from a checkout on an idle machine: `python benchmarks/detect.py [--runs N] [--json]`. It exits with 1
where a median is over its limit. Each machine is a folder of `tests/fixtures/machines`; `this machine` is the
real one, which has no limit: what a vendor's library takes there is the library's.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MACHINES = ROOT / "tests" / "fixtures" / "machines"

# Name, machine, and the limit in milliseconds for import and chain together.
CASES: tuple[tuple[str, str, float | None], ...] = (
    ("KFD answers: Strix Halo", "strix-halo", 50.0),
    ("KFD answers: eight MI300X", "mi300x", 50.0),
    ("nothing answers", "no-gpu", 150.0),
    ("this machine", "", None),
)

MEASURE = """
import json, time
start = time.perf_counter()
from amdserve.gpu import UnifiedGPUDetector
imported = time.perf_counter()
result = UnifiedGPUDetector().detect()
end = time.perf_counter()
print(json.dumps({
    "import": (imported - start) * 1e3, "chain": (end - imported) * 1e3, "detector": result.detector,
    "attempts": {one.detector: [one.outcome, round(one.ms, 1)] for one in result.attempts},
}))
"""
# What the same question costs where torch is asked in the process that wants to know.
NAIVE = """
import json, time
start = time.perf_counter()
import torch
seen = torch.cuda.is_available()
print(json.dumps({"naive": (time.perf_counter() - start) * 1e3, "seen": seen}))
"""


def ask(code: str, machine: str) -> dict[str, Any]:
    """Run the code in a new interpreter and give what it prints."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    env.pop("AMDSERVE_SYSROOT", None)
    if machine:
        env["AMDSERVE_SYSROOT"] = str(MACHINES / machine)
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measure(name: str, machine: str, limit: float | None, runs: int) -> dict[str, Any]:
    """Measure one machine; the first run warms the file cache and does not count."""
    ask(MEASURE, machine)
    seen = [ask(MEASURE, machine) for _ in range(runs)]
    totals = [one["import"] + one["chain"] for one in seen]
    median = statistics.median(totals)
    return {
        "case": name,
        "detector": seen[0]["detector"],
        "import_ms": round(statistics.median(one["import"] for one in seen), 1),
        "chain_ms": round(statistics.median(one["chain"] for one in seen), 1),
        "total_ms": round(median, 1),
        "best_ms": round(min(totals), 1),
        "worst_ms": round(max(totals), 1),
        "limit_ms": limit,
        "ok": limit is None or median <= limit,
        "attempts": seen[0]["attempts"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15, help="processes for each case (15)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    rows = [measure(*case, options.runs) for case in CASES]
    naive = ask(NAIVE, "")["naive"] if find_spec("torch") else None
    if options.json:
        print(
            json.dumps(
                {"python": sys.version.split()[0], "load": load, "cases": rows, "torch_in_process_ms": naive}
            )
        )
    else:
        print(
            f"Python {sys.version.split()[0]}, {os.cpu_count()} CPUs, load {load:.1f}; "
            f"medians of {options.runs} processes, milliseconds"
        )
        print(
            f"{'case':<28}{'import':>9}{'chain':>9}{'together':>10}{'best':>8}{'worst':>8}{'limit':>8}  share"
        )
        for row in rows:
            share = f"{row['total_ms'] / row['limit_ms']:.0%}" if row["limit_ms"] else "–"
            limit = f"{row['limit_ms']:.0f}" if row["limit_ms"] else "–"
            print(
                f"{row['case']:<28}{row['import_ms']:>9}{row['chain_ms']:>9}{row['total_ms']:>10}"
                f"{row['best_ms']:>8}{row['worst_ms']:>8}{limit:>8}  {share}  {row['detector']}"
            )
        if naive is not None:
            print(f"for comparison, torch imported and asked in the process itself: {naive:.0f} ms")
    return 0 if all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
