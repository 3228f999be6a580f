"""A llama-bench that computes nothing: the real one's options, lines and ends, at rates that a file gives.

It is installed as an executable named llama-bench beside `llama-bench.json`:

- `prefill`, `generation`: tokens per second; `factors`: `{"flash_attn=on": 1.5, "n_ubatch=512": 0.5}`;
- `gpu`: what it says of the GPU (empty: it computes on the CPU in silence);
- `faults`: `{"when": {"flash_attn": "on", "depth": 64}, "how": HOW, "log": […], "verbose": […]}`, HOW one of
  `signal:NAME`, `exit:CODE`, `hang`; `verbose` is said only with --verbose, as the libraries' reasons are;
- `pause`: seconds for each test; `record`: a file that each command line is added to.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

VALUES = {
    "--model", "--hf-repo", "--output", "--repetitions", "--n-prompt", "--n-gen", "--n-depth", "--flash-attn",
    "--batch-size", "--ubatch-size", "--n-gpu-layers", "--device", "--load-mode", "--embeddings",
}  # fmt: skip
SWITCHES = {"--progress", "--verbose"}


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def parse(words: list[str], plan: dict[str, Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word in plan.get("unknown", ()) or word not in VALUES | SWITCHES:
            say(f"error: invalid parameter for argument: {word}")
            print("usage: llama-bench [options]\n  -h, --help")
            sys.exit(1)
        found[word] = rest.pop(0) if word in VALUES else "yes"
    return found


def fail(fault: dict[str, Any], verbose: bool) -> None:
    for line in (*(fault.get("verbose", ()) if verbose else ()), *fault.get("log", ())):
        say(line)
    how, _, what = fault["how"].partition(":")
    if how == "signal":
        os.kill(os.getpid(), getattr(signal, what))
    if how == "exit":
        sys.exit(int(what))
    while True:
        time.sleep(60)


def main() -> None:
    here = Path(__file__)
    plan = json.loads(here.with_suffix(".json").read_text("utf-8"))
    options = parse(sys.argv[1:], plan)
    if plan.get("record"):
        with Path(plan["record"]).open("a", encoding="utf-8") as file:
            file.write(json.dumps([here.parent.name, *sys.argv[1:]]) + "\n")
    attention, depth = options["--flash-attn"], int(options["--n-depth"])
    size = int(options.get("--ubatch-size", 512))
    on_cpu = options.get("--device") == "none"
    say("load_backend: loaded stub backend")
    tests = [("prefill", int(n)) for n in options["--n-prompt"].split(",") if n != "0"]
    tests += [("generation", int(n)) for n in options["--n-gen"].split(",") if n != "0"]
    for number, (kind, tokens) in enumerate(tests, 1):
        facts = {"kind": kind, "tokens": tokens, "depth": depth, "flash_attn": attention, "n_ubatch": size}
        say(f"llama-bench: benchmark {number}/{len(tests)}: starting")
        for fault in plan.get("faults", ()):
            if all(facts[name] == value for name, value in fault["when"].items()):
                fail(fault, "--verbose" in options)
        say(f"llama-bench: benchmark {number}/{len(tests)}: warmup prompt run")
        rate = float(plan[kind])
        for name, factor in plan.get("factors", {}).items():
            key, _, value = name.partition("=")
            rate *= factor if str(facts[key]) == value else 1.0
        time.sleep(plan.get("pause", 0.0))
        samples = [rate * (1 + 0.01 * shift) for shift in range(int(options["--repetitions"]))]
        row = {
            "gpu_info": "" if on_cpu else plan.get("gpu", "Stub GPU"),
            "n_prompt": tokens if kind == "prefill" else 0,
            "n_gen": tokens if kind == "generation" else 0,
            "n_depth": depth,
            "n_ubatch": size,
            "avg_ts": rate,
            "stddev_ts": plan.get("stddev", 0.5),
            "samples_ts": samples,
        }
        print(json.dumps(row), flush=True)


main()
