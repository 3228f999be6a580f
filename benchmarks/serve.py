"""What the supervisor costs: from a crash to the next backend's start, memory, idle time, and answers.

Run it from a checkout on an idle machine: `python benchmarks/serve.py IMAGE [--runs N] [--json]`. The first
part has real supervisors watch stub backends here; the others look at the image's own supervisor and its CPU
backend. It exits with 1 where something is over its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/unit/serve")]

from container.server import Server  # noqa: E402
from fixtures import models  # noqa: E402
from serve_bed import CPU, VULKAN, Bed  # noqa: E402

from amdserve.image import engine as engines  # noqa: E402

NEXT_MS, RSS_MB, IDLE_SHARE = 200.0, 25.0, 0.005
# It is not in the way of answers: what lies between the two is the noise of two runs.
SLOWER = 1.25
IDLE_SECONDS = 20.0
REQUESTS = 200

# Asks a server in this container again and again; prints the seconds of each answer.
ASK = """
import http.client, json, sys, time
found = []
for _ in range(int(sys.argv[1])):
    begun = time.perf_counter()
    one = http.client.HTTPConnection("127.0.0.1", 8080)
    body = json.dumps({"prompt": "Once", "max_tokens": 1, "temperature": 0})
    one.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
    assert one.getresponse().read()
    one.close()
    found.append(time.perf_counter() - begun)
print(json.dumps(found))
"""


def crash_to_start(runs: int, phase: str) -> list[float]:
    """Give the milliseconds from a backend's death to the start of the next one."""
    found = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as place:
            bed = Bed(Path(place))
            record = bed.folder / "starts"
            fault = {"how": "signal:SIGSEGV", "after": 0.3 if phase == "serving" else 0.0, "stamp": True}
            first = bed.entry(VULKAN, **{phase: fault})
            with bed.supervise(bed.spec(first, bed.entry(CPU, record=str(record)), remember=False)) as run:
                run.until("ready", CPU)
                died = float(run.log.split("dies at ")[1].split()[0])
                found.append((bed.starts(record)[0]["at"] - died) * 1e3)
                run.stop()
    return found


def supervisor_of(server: Server) -> int:
    return next(number for number, line in server.processes().items() if "/amdserve serve" in line)


def ticks(server: Server, pid: int) -> tuple[int, float]:
    """Give the ticks a process has computed, and its resident memory in MB."""
    _, text = server.exec("/bin/cat", f"/proc/{pid}/stat", f"/proc/{pid}/statm")
    stat, statm = text.strip().splitlines()
    fields = stat.rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12]), int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def answers(server: Server) -> float:
    """Give the median milliseconds of an answer of one token, asked for inside the container."""
    code, text = server.exec("/opt/amdserve/bin/python", "-c", ASK, str(REQUESTS))
    assert code == 0, text
    seconds: list[float] = json.loads(text)
    return statistics.median(seconds) * 1e3


def in_image(image: str) -> dict[str, float]:
    """Look at the image's supervisor while nothing happens; compare its answers with the bare server's."""
    client = engines.ensure(say=lambda line: print(line, file=sys.stderr)).client()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        models.write_llama(folder / "llama.gguf")
        folder.chmod(0o755)
        words = ("serve", "/models/llama.gguf")
        server = Server.start(client, image, words, folder)
        try:
            server.wait()
            pid = supervisor_of(server)
            before, _ = ticks(server, pid)
            time.sleep(IDLE_SECONDS)
            after, rss = ticks(server, pid)
            through = answers(server)
        finally:
            server.remove()
        argv = ("-m", "amdserve.serve.cpu_server", "--model", "/models/llama.gguf", "--host", "0.0.0.0",
                "--port", "8080", "--n-ctx", "8192", "--n-batch", "2048", "--n-ubatch", "2048")  # fmt: skip
        environment = {"LLAMA_CPP_LIB_PATH": "/opt/llama/cpu"}
        bare_server = Server.start(
            client, image, argv, folder, entrypoint=["/opt/amdserve/bin/python"], environment=environment
        )
        try:
            bare_server.wait()
            bare = answers(bare_server)
        finally:
            bare_server.remove()
    share = (after - before) / os.sysconf("SC_CLK_TCK") / IDLE_SECONDS
    return {"rss_mb": rss, "idle_share": share, "answer_ms": through, "bare_answer_ms": bare}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", help="reference of an image")
    parser.add_argument("--runs", type=int, default=20, help="crashes in each phase (20)")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    result: dict[str, Any] = {"image": options.image, "load": load}
    for phase in ("start", "serving"):
        seen = crash_to_start(options.runs, phase)
        result[f"crash_{phase}_ms"] = round(statistics.median(seen), 1)
        result[f"crash_{phase}_worst_ms"] = round(max(seen), 1)
    result.update({name: round(value, 4) for name, value in in_image(options.image).items()})
    ok = (
        max(result["crash_start_ms"], result["crash_serving_ms"]) <= NEXT_MS
        and result["rss_mb"] <= RSS_MB
        and result["idle_share"] <= IDLE_SHARE
        and result["answer_ms"] <= SLOWER * result["bare_answer_ms"]
    )
    if options.json:
        print(json.dumps({**result, "ok": ok}))
        return 0 if ok else 1
    print(f"{options.image}, {os.cpu_count()} CPUs, load {load:.1f}")
    for phase in ("start", "serving"):
        median, worst = result[f"crash_{phase}_ms"], result[f"crash_{phase}_worst_ms"]
        print(f"crash while {phase:<8} → next start   {median:>8} ms (worst {worst}), limit {NEXT_MS:.0f}")
    print(f"supervisor, resident            {result['rss_mb']:>8.1f} MB, limit {RSS_MB:.0f}")
    print(f"supervisor, idle                {result['idle_share']:>8.2%} of a CPU, limit {IDLE_SHARE:.1%}")
    bare = result["bare_answer_ms"]
    print(
        f"one token through it            {result['answer_ms']:>8.2f} ms; bare server {bare:.2f} ms, "
        f"limit {SLOWER} times that"
    )
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
