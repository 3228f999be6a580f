"""What serving through the container's entrypoint costs, against the same server started by hand.

Run it from a checkout on an idle machine: `python benchmarks/throughput.py [IMAGE] [--quick]`. It takes up to
ten minutes, with `--quick` five. Both sides are containers of the same image, with the same mounts: one runs
`amdserve serve`, the other the very command line and environment of the backend that serves in the first one.
They are asked in turn, so that what else the machine does meets both, and each number is the median of the
rounds' ratios. Two processes of one program differ by a few percent all their lives, and the one that was
started first is the slower one: so after some rounds both are started anew, in the other order. One core is
left to the client, and the image's health check is off. Three things are measured, on each backend that
needs no GPU:

- a load of streamed chats: prompt and generation rate, time to the first token, and parallel clients;
- from `docker run` to the first complete answer, with image, model and shaders warm: with a volume for the
  state that an earlier start has used, and without (then a GPU's arithmetic is checked first);
- the image's llama-bench in a container, against the same files without one (`chroot`; root only).

The models have random weights: 31 million parameters, 5 million for lavapipe; one of 4 GB shows what a start
costs with a model of a size that people serve. It writes results/throughput.{json,md,png} and exits with 1
where something is over its limit.
"""

from __future__ import annotations

import argparse
import datetime
import http.client
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from asking import PATIENCE, chat, compare, load, prompts, rounds, turns  # noqa: E402
from container.gpus import CACHE, LAVAPIPE_STAGE, Lavapipe, bind  # noqa: E402
from container.images import exported  # noqa: E402
from container.server import Server  # noqa: E402
from fixtures import models  # noqa: E402
from machine import machine  # noqa: E402

from amdserve import process  # noqa: E402
from amdserve.errors import AmdserveError, BuildError, UsageError  # noqa: E402
from amdserve.image import engine as engines  # noqa: E402
from amdserve.image import show  # noqa: E402
from amdserve.image.engine import Engine  # noqa: E402
from amdserve.image.local import Images  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
IMAGES = ("amdserve:llama-gfx1151", "amdserve:vulkan")
SHAPE = models.Shape(layers=9, width=512, heads=8, feed_forward=1536)
LARGE = models.Shape(layers=20, width=2048, heads=16, feed_forward=5632)
SMALL = models.Shape(layers=6, width=256, heads=4, feed_forward=768)
MODEL, STATE = "/models/llama.gguf", "/var/lib/amdserve"
USER = "10001:10001"
VULKAN, PYTHON = "llama-server-vulkan", "llama-cpp-python"
# Rates through the entrypoint are at least this part of the others; a start takes at most so many times.
RATE, START = 0.98, 1.05
# The client gets a core of its own: it would elsewhere have another machine.
THREADS = max(1, len(os.sched_getaffinity(0)) - 1)
# A program finds what lies beside it through /proc, and the CPU's cores through /sys.
MOUNTS = 'for each in proc sys dev; do mount --rbind "/$each" "$1/$each"; done; shift; exec "$@"'


@dataclass(frozen=True, slots=True)
class Case:
    """A backend on a device, and what is asked of it.

    `words` and `extra` are of `amdserve serve`; `prompt` is in words, `answer` in tokens; `checked`: a start
    without state computes the reference first; `loads`: without, only starts are measured.
    """

    name: str
    backend: str
    words: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    lavapipe: bool = False
    prompt: int = 16
    answer: int = 24
    clients: int = 4
    checked: bool = False
    loads: bool = True
    shape: models.Shape = SHAPE

    @property
    def options(self) -> tuple[str, ...]:
        """Give the words of `amdserve serve` before `--`."""
        return (*self.words, "--threads", str(THREADS))


# With a device in sight that it is told not to use: else the entrypoint would take llama-cpp-python.
ON_THE_CPU = (("--backend", VULKAN, "--n-gpu-layers", "0", "--no-selftest"), ("--", "--device", "none"))
CASES = (
    Case("llama-server on the CPU", VULKAN, *ON_THE_CPU, lavapipe=True),
    Case(
        "llama-server on Vulkan (lavapipe)",
        VULKAN,
        lavapipe=True,
        prompt=4,
        answer=8,
        clients=2,
        checked=True,
        shape=SMALL,
    ),
    Case("llama-cpp-python on the CPU", PYTHON, clients=2),
    Case("llama-server on the CPU, 4 GB", VULKAN, *ON_THE_CPU, lavapipe=True, loads=False, shape=LARGE),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """Seconds for each case's load, starts and llama-bench; how often both sides are started for the load."""

    load: float
    starts: float
    bench: float
    pairs: int


FULL, QUICK = Budget(60, 45, 25, 4), Budget(20, 15, 10, 2)


@dataclass(slots=True)
class Place:
    """What all containers of one run share."""

    client: Any
    image: str
    folder: Path
    lavapipe: Lavapipe | None
    servers: list[Server] = field(default_factory=list)

    def options(self, case: Case, state: Path | None) -> dict[str, Any]:
        """Give the options of a container: the device, and the folder for state."""
        made: dict[str, Any] = {}
        if case.lavapipe and self.lavapipe:
            made = self.lavapipe(LP_NUM_THREADS=str(THREADS))
        # Both would have it, at moments of its own.
        made["healthcheck"] = {"test": ["NONE"]}
        if state is not None:
            made["mounts"] = [*made.get("mounts", ()), bind(state, STATE, read_only=False)]
        return made

    def served(self, case: Case, state: Path | None) -> Server:
        """Start the entrypoint."""
        words = ("serve", MODEL, *case.options, *case.extra)
        return self._keep(
            Server.start(self.client, self.image, words, self.folder, **self.options(case, state))
        )

    def bare(self, case: Case, argv: Sequence[str], environment: dict[str, str]) -> Server:
        """Start the server by hand."""
        options = self.options(case, None)
        options["environment"] = {**options.get("environment", {}), **environment}
        # The entrypoint's user: both write to the same shader cache.
        options["user"] = USER
        return self._keep(
            Server.start(
                self.client, self.image, tuple(argv[1:]), self.folder, entrypoint=[argv[0]], **options
            )
        )

    def _keep(self, server: Server) -> Server:
        self.servers.append(server)
        return server

    def clear(self) -> None:
        """Take every container away."""
        while self.servers:
            self.servers.pop().remove()


def command(server: Server, case: Case) -> tuple[list[str], dict[str, str]]:
    """Give the command line of the backend that serves, as its process has it, and what it adds to the
    environment.
    """
    code, text = server.exec("amdserve", "serve", MODEL, *case.options, "--dry-run", "--json", *case.extra)
    assert code == 0, text
    entry = next(one for one in json.loads(text)["plan"] if one["backend"] == case.backend)
    head = " ".join(entry["argv"][:3])
    line = next(line for line in server.processes().values() if line.startswith(head))
    return line.split(), entry["env"]


# What a round gives, and its unit.
LOADS = {
    "prompt": "t/s",
    "generation": "t/s",
    "first token": "ms",
    "parallel": "t/s",
    "first token, parallel": "ms",
    "parallel, per second of CPU": "t",
}


def cpu(server: Server) -> float:
    """Give the seconds that all processes of a container have computed."""
    told = server.container.client.api.stats(server.container.id, stream=False, one_shot=True)
    return float(told["cpu_stats"]["cpu_usage"]["total_usage"]) / 1e9


def ask(server: Server, case: Case, per_word: float, number: int) -> dict[str, float]:
    """Put one round of the load on a server."""
    address, seed = where(server), str(number)
    long, single = prompts(2, 4 * case.prompt, seed + "a"), prompts(3, case.prompt, seed + "b")
    read, seconds = load(address, 1, long, 1)
    alone, _ = load(address, 1, single, case.answer)
    before = cpu(server)
    many, wall = load(address, case.clients, prompts(case.clients, case.prompt, seed + "c"), case.answer)
    computed = cpu(server) - before
    assert len(read) == len(long)
    spent = sum(one.last - one.first for one in alone)
    return {
        "prompt": len(long) * 4 * case.prompt * per_word / seconds,
        "generation": sum(one.tokens - 1 for one in alone) / spent,
        "first token": statistics.median(one.first for one in alone) * 1e3,
        "parallel": sum(one.tokens for one in many) / wall,
        "first token, parallel": statistics.median(one.first for one in many) * 1e3,
        "parallel, per second of CPU": sum(one.tokens for one in many) / computed,
    }


# What is measured ------------------------------------------------------------------------------------------


def where(server: Server) -> str:
    """Give host and port of a server."""
    return server.url.removeprefix("http://")


def per_word(server: Server) -> float:
    """Give the tokens of one word of a prompt, as the server counts them."""
    counts = []
    for prompt in prompts(1, 2, "x") + prompts(1, 4, "x"):
        message = [{"role": "user", "content": prompt}]
        counts.append(server.post("/v1/chat/completions", messages=message, max_tokens=1)["usage"])
    return float(counts[1]["prompt_tokens"] - counts[0]["prompt_tokens"]) / 2


def first_answer(server: Server, begun: float) -> float:
    """Give the seconds from a moment to the first complete answer."""
    address = where(server)
    while True:
        try:
            chat(address, "Hello", 4)
            return time.monotonic() - begun
        except (OSError, http.client.HTTPException):
            if time.monotonic() - begun > PATIENCE or not server.running():
                raise
        time.sleep(0.01)


def measure(place: Place, case: Case, budget: Budget) -> dict[str, Any]:
    """Measure one case; give its samples, round by round."""
    with tempfile.TemporaryDirectory() as name:
        state = Path(name)
        state.chmod(0o1777)
        try:
            show.say(f"{case.name}: looking at its command line")
            through = place.served(case, state).wait_for(case.backend, PATIENCE)
            bare = argv, environment = command(through, case)
            place.clear()
            loads = _loads(place, case, state, bare, budget) if case.loads else {"rounds": []}
            show.say(f"{case.name}: starting in turn")
            starts, phases = _starts(place, case, state, bare, budget.starts)
        finally:
            place.clear()
    return {
        "name": case.name,
        "argv": argv,
        "environment": environment,
        "load": loads,
        "starts": starts,
        "phases": phases,
    }


def _loads(
    place: Place, case: Case, state: Path, bare: tuple[list[str], dict[str, str]], budget: Budget
) -> dict[str, Any]:
    """Ask several pairs of servers, each in turn; give what was asked, and the rounds."""
    tokens, found = 0.0, []
    starts = {
        "served": lambda: place.served(case, state).wait_for(case.backend, PATIENCE),
        "bare": lambda: place.bare(case, *bare).wait(PATIENCE),
    }
    for pair in range(budget.pairs):
        names = list(starts) if pair % 2 else list(starts)[::-1]
        servers = {name: starts[name]() for name in names}
        # Compiles what is still to be compiled, and does not count.
        turns({name: partial(ask, server, case, 1) for name, server in servers.items()}, -1)
        tokens = tokens or per_word(servers["bare"])
        show.say(f"{case.name}: asking both in turn, pair {pair + 1} of {budget.pairs}")
        sides = {name: partial(ask, server, case, tokens) for name, server in servers.items()}
        found += [turns(sides, number) for number in rounds(budget.load / budget.pairs)]
        place.clear()
    return {
        "prompt_words": case.prompt,
        "tokens_per_word": tokens,
        "answer_tokens": case.answer,
        "clients": case.clients,
        "pairs": budget.pairs,
        "rounds": found,
    }


def _starts(
    place: Place, case: Case, state: Path, bare: tuple[list[str], dict[str, str]], seconds: float
) -> tuple[list[dict[str, float]], dict[str, dict[str, float]]]:
    """Start in turn; give the seconds of each round, and the median phases of the entrypoint's starts."""
    seen: dict[str, list[dict[str, float]]] = {"kept": [], "fresh": []}

    def start(name: str, _: int) -> float:
        begun = time.monotonic()
        if name == "bare":
            server = place.bare(case, *bare)
        else:
            server = place.served(case, state if name == "kept" else None)
        took = first_answer(server, begun)
        if name != "bare":
            seen[name].append(server.status()["phases"])
        place.clear()
        return took

    names = ("bare", "kept", "fresh") if case.checked else ("bare", "kept")
    found = []
    for number in rounds(seconds):
        found.append(turns({name: partial(start, name) for name in names}, number))
    phases = {}
    for name, told in seen.items():
        every = list(dict.fromkeys(phase for one in told for phase in one))
        phases[name] = {
            phase: round(statistics.median(one.get(phase, 0.0) for one in told), 3) for phase in every
        }
    return found, {name: one for name, one in phases.items() if one}


def bench(place: Place, budget: Budget, case: Case) -> list[dict[str, Any]]:
    """Run the image's llama-bench in containers, and the same files without one, in turn.

    Raises:
        AmdserveError: it cannot be run here without a container.
    """
    if os.geteuid() != 0:
        raise UsageError("llama-bench without a container needs root, for chroot")
    device = ("--n-gpu-layers", "999") if case.checked else ("--device", "none", "--n-gpu-layers", "0")
    words = ["--model", MODEL, "--threads", str(THREADS), "--repetitions", "1", "--output", "json", *device]
    words += ["--n-prompt", str(case.prompt * 5), "--n-gen", str(case.answer), "--flash-attn", "off"]
    options = place.options(case, None)
    with tempfile.TemporaryDirectory(prefix="amdserve-root-") as name:
        root = Path(name)
        _unpack(place, root)
        environment = dict(options.get("environment", {}))
        if not case.checked:
            environment["VK_LOADER_DRIVERS_DISABLE"] = "*"
        variables = [f"{name}={value}" for name, value in environment.items()]
        there = ["chroot", str(root), "/usr/bin/env", "-i", *variables, "/usr/local/bin/llama-bench", *words]
        # Mounts of its own: they are gone with it.
        chroot = ["unshare", "--mount", "/bin/sh", "-ec", MOUNTS, "sh", str(root), *there]

        def inside(_: int) -> dict[str, float]:
            server = Server.start(
                place.client, place.image, tuple(words), place.folder, entrypoint=["llama-bench"],
                **{**options, "environment": environment, "user": USER},
            )  # fmt: skip
            try:
                assert server.end(PATIENCE) == 0, server.logs()
                return _rates(str(server.container.logs(stderr=False).decode()))
            finally:
                server.remove()

        def outside(_: int) -> dict[str, float]:
            return _rates(process.run(chroot, timeout=PATIENCE).out)

        sides = {"served": inside, "bare": outside}
        turns(sides, -1)
        return [turns(sides, number) for number in rounds(budget.bench)]


def _unpack(place: Place, root: Path) -> None:
    """Lay the image's files out, with model, device and shaders where the containers have them."""
    container = place.client.containers.create(place.image)
    try:
        packed = root.with_suffix(".tar")
        with packed.open("wb") as file:
            for chunk in container.export():
                file.write(chunk)
        process.run(["tar", "--extract", "--file", str(packed), "--directory", str(root)], timeout=600)
    finally:
        container.remove(force=True)
        packed.unlink(missing_ok=True)
    pairs = [(place.folder, "/models")]
    if place.lavapipe:
        pairs += [(place.lavapipe.driver, "/lavapipe"), (place.lavapipe.cache, CACHE)]
    for source, target in pairs:
        to = root / target.lstrip("/")
        to.mkdir(exist_ok=True)
        process.run(["cp", "--recursive", f"{source}/.", str(to)], timeout=600)


def _rates(text: str) -> dict[str, float]:
    rows = json.loads(text[text.index("[") : text.rindex("]") + 1])
    return {"generation" if row["n_gen"] else "prompt": float(row["avg_ts"]) for row in rows}


# What comes of it ------------------------------------------------------------------------------------------


def summary(
    cases: Sequence[dict[str, Any]], benches: dict[str, list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Compare all that was measured."""
    rows = []
    for case in cases:
        for what, unit in LOADS.items() if case["load"]["rounds"] else ():
            pairs = [[one[side][what] for one in case["load"]["rounds"]] for side in ("served", "bare")]
            rows.append({"case": case["name"], **compare(what, unit, pairs[0], pairs[1], limit=RATE)})
        for kind in case["phases"]:
            pairs = [[one[side] for one in case["starts"]] for side in (kind, "bare")]
            what = f"start, {kind} state"
            rows.append({"case": case["name"], **compare(what, "s", pairs[0], pairs[1], limit=START)})
    for name, found in benches.items():
        for what in ("prompt", "generation"):
            pairs = [[one[side][what] for one in found] for side in ("served", "bare")]
            row = compare(f"llama-bench, {what}", "t/s", pairs[0], pairs[1], limit=RATE)
            rows.append({"case": name, **row})
    return rows


NOTES = """
The ratio is the median of the rounds' ratios. Of rates it is through ÷ by hand, of the time to the first
token by hand ÷ through: above 1 it is faster through the entrypoint. Of starts (`docker run` to the first
complete answer) it is the time through ÷ by hand. `kept`: an earlier start has used the state's volume;
`fresh`: there is none, and a GPU's arithmetic is checked first. llama-bench: in a container ÷ without one.
Every server has one thread less than there are cores: the client computes too. For the load both sides are
started several times, in either order: two processes of one program differ by a few percent.

Seconds of a start, as `amdserve status --json` has them (medians; without the engine's own part):
"""


def table(results: dict[str, Any]) -> str:
    """Give the results as Markdown."""
    there, image = results["machine"], results["image"]
    quick = ", --quick" if results["quick"] else ""
    date, seconds, load_before = results["date"], results["seconds"], there["load"]
    hardware = f"{there['cpu']}, {there['cores']} cores, {there['memory_gib']} GiB, Linux {there['kernel']}"
    made = f"{image['ref']} {image['id'][:19]}, llama.cpp {image['llama']}, amdserve {image['amdserve']}"
    lines = ["# Through the entrypoint, against the same server by hand", ""]
    lines.append(f"{hardware}; load before {load_before}; {date}{quick}, {seconds:.0f} s.")
    lines.append(f"{made}, engine {image['engine']}.")
    sizes = ", ".join(f"{one['parameters'] / 1e6:.0f} ({one['name']})" for one in results["cases"])
    lines += [f"Models: random weights, float32; million parameters: {sizes}.", ""]
    lines.append("| backend | what | through | by hand | ratio | quartiles | rounds | goal |")
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for one in results["summary"]:
        goal = f"{'≥' if one['limit'] < 1 else '≤'} {one['limit']}"
        goal += ", met" if one["met"] else ", missed"
        goal += " within the noise" if one["noise"] else ""
        low, high = one["quartiles"]
        served, bare = (f"{one[side]:.4g} {one['unit']}" for side in ("served", "bare"))
        numbers = f"{served} | {bare} | {one['ratio']:.3f} | {low:.3f}–{high:.3f} | {one['rounds']}"
        lines.append(f"| {one['case']} | {one['what']} | {numbers} | {goal} |")
    lines += NOTES.splitlines()
    lines.append("")
    for case in results["cases"]:
        for kind, told in case["phases"].items():
            parts = ", ".join(f"{name} {seconds:.2f}" for name, seconds in told.items())
            lines.append(f"- {case['name']}, {kind} state: {parts}")
    lines += [f"- {name}: not measured: {why}" for name, why in results["skipped"].items()]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], to: Path) -> None:
    """Draw the ratios: rates on the left, starts on the right, with the goals."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    rates = [one for one in results["summary"] if one["limit"] < 1][::-1]
    starts = [one for one in results["summary"] if one["limit"] > 1][::-1]
    heights = [len(rates), max(2, len(starts))]
    figure, both = pyplot.subplots(
        2, 1, figsize=(9, 0.34 * sum(heights) + 1.8), height_ratios=heights, layout="constrained"
    )
    for axes, rows, label in (
        (both[0], rates, "speed ÷ that by hand (black: the goal, yellow: within the noise)"),
        (both[1], starts, "seconds to the first answer ÷ those by hand"),
    ):
        colours = ["#c9a227" if one["noise"] else "#2a7f62" if one["met"] else "#b5452c" for one in rows]
        names = [f"{one['case']}: {one['what']}" for one in rows]
        ratios = [one["ratio"] for one in rows]
        sides = [
            [max(0.0, one["ratio"] - one["quartiles"][0]) for one in rows],
            [max(0.0, one["quartiles"][1] - one["ratio"]) for one in rows],
        ]
        axes.barh(names, ratios, color=colours, height=0.6, xerr=sides, error_kw={"ecolor": "#777777"})
        most = max([1.0, *(one["quartiles"][1] for one in rows)])
        for at, one in enumerate(rows):
            axes.plot([one["limit"]] * 2, [at - 0.4, at + 0.4], color="black", linewidth=2)
            axes.text(most * 1.03, at, f"{one['ratio']:.3f}", va="center")
        axes.set_xlim(0, most * 1.15)
        axes.set_xlabel(label)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


# The whole -------------------------------------------------------------------------------------------------


def versions(engine: Engine, ref: str) -> dict[str, str]:
    """Give what was measured."""
    found = Images(engine).find(ref)
    assert found is not None
    text = engine.client().containers.run(ref, ["version", "--json"], remove=True).decode()
    data = json.loads(text)
    digests = engine.client().images.get(ref).attrs.get("RepoDigests") or [""]
    return {
        "ref": ref,
        "id": found.id,
        "digest": digests[0],
        "hash": found.hash,
        "llama": str((data.get("llama") or {}).get("commit", "?")),
        "amdserve": str(data.get("amdserve", "?")),
        "engine": engine.version,
    }


def lavapipe(engine: Engine, image: str, folder: Path) -> Lavapipe:
    """Bring the Vulkan device that computes on the CPU.

    Raises:
        AmdserveError: it cannot be had.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amdserve-test" / "shaders"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o1777)
    exported(engine, image, LAVAPIPE_STAGE, folder)
    folder.chmod(0o755)
    return Lavapipe(folder, cache)


def run(engine: Engine, image: str, wanted: Sequence[Case], *, quick: bool) -> dict[str, Any]:
    """Measure all that is wanted, and give the results."""
    budget, begun = QUICK if quick else FULL, time.monotonic()
    results: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "machine": machine() | {"load": round(os.getloadavg()[0], 1)},
        "image": versions(engine, image),
        "skipped": {},
    }
    cases: list[dict[str, Any]] = []
    benches: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="amdserve-benchmark-") as name:
        folder, driver = Path(name) / "models", Path(name) / "lavapipe"
        for one in (Path(name), folder, driver):
            one.mkdir(exist_ok=True)
            one.chmod(0o755)
        place = Place(engine.client(timeout=PATIENCE), image, folder, None)
        try:
            place.lavapipe = lavapipe(engine, image, driver)
        except AmdserveError as reason:
            results["skipped"]["lavapipe"] = reason.cause or reason.what
        for case in wanted:
            if case.lavapipe and not place.lavapipe:
                results["skipped"][case.name] = "there is no lavapipe"
                continue
            file = models.write_llama(folder / Path(MODEL).name, shape=case.shape)
            file.chmod(0o644)
            cases.append(measure(place, case, budget) | {"parameters": file.stat().st_size // 4})
            if case.backend != VULKAN or not case.loads:
                continue
            show.say(f"{case.name}: llama-bench, in a container and without")
            try:
                benches[case.name] = bench(place, budget, case)
            except (AmdserveError, OSError, ValueError) as reason:
                results["skipped"][f"llama-bench, {case.name}"] = str(reason).strip().splitlines()[0]
    results |= {"cases": cases, "bench": benches, "summary": summary(cases, benches)}
    results["seconds"] = round(time.monotonic() - begun, 1)
    return results


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("image", nargs="?", help=f"reference of an image ({' or '.join(IMAGES)})")
    parser.add_argument("--quick", action="store_true", help="few rounds: five minutes at most")
    parser.add_argument("--case", action="append", default=[], help="only cases with this word in their name")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    asked = parser.parse_args()
    engine = engines.ensure(say=show.say)
    there = [name for name in ([asked.image] if asked.image else IMAGES) if Images(engine).find(name)]
    if not there:
        names = asked.image or " and no ".join(IMAGES)
        raise BuildError(f"the engine has no {names}", fix="./inv build --image llama --gfx gfx1151")
    wanted = [case for case in CASES if not asked.case or any(word in case.name for word in asked.case)]
    if (load_now := os.getloadavg()[0]) > 0.5:
        show.say(f"the machine is not idle (load {load_now:.1f}): the ratios will scatter")
    results = run(engine, there[0], wanted, quick=asked.quick)
    asked.out.mkdir(parents=True, exist_ok=True)
    file = asked.out / "throughput.json"
    file.write_text(json.dumps(results, indent=2) + "\n", "utf-8")
    file.with_suffix(".md").write_text(table(results), "utf-8")
    plot(results, file.with_suffix(".png"))
    print(json.dumps(results) if asked.json else table(results), end="\n" if asked.json else "")
    return 0 if all(one["met"] for one in results["summary"]) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AmdserveError as failure:
        show.error(failure)
        sys.exit(failure.exit_code)
