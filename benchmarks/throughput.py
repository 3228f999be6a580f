"""What serving through the container's entrypoint costs, against the same server started by hand.

Run it from a checkout on an idle machine: `python benchmarks/throughput.py [IMAGE] [--quick]`. It takes a
quarter of an hour, with `--quick` five minutes. Both sides are containers of the same image, with the same
mounts: one runs `amdserve serve`, the other the very command line and environment of the backend that serves
in the first one. They are asked in turn, so that what else the machine does meets both, and each number is
the median of the rounds' ratios. Two processes of one program differ by a few percent all their lives, and
the one that was started first is the slower one: so after some rounds both are started anew, in the other
order. One core is left to the client, and the image's health check is off. Three things are measured, on each
backend that needs no GPU:

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
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from asking import PATIENCE, rounds, turns  # noqa: E402
from container.gpus import CACHE, LAVAPIPE_STAGE, Lavapipe, bind  # noqa: E402
from container.images import exported  # noqa: E402
from container.server import Server  # noqa: E402
from machine import machine  # noqa: E402
from ratios import summary, table, write  # noqa: E402
from rootfs import enter, export  # noqa: E402
from sides import (  # noqa: E402
    FULL,
    LARGE,
    MODEL,
    PYTHON,
    QUICK,
    SMALL,
    STATE,
    THREADS,
    USER,
    VULKAN,
    Budget,
    Case,
    Place,
    measure,
)

from amdserve import process  # noqa: E402
from amdserve.errors import AmdserveError, BuildError, UsageError  # noqa: E402
from amdserve.image import engine as engines  # noqa: E402
from amdserve.image import show  # noqa: E402
from amdserve.image.engine import Engine  # noqa: E402
from amdserve.image.local import Images  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
IMAGES = ("amdserve:llama-gfx1151", "amdserve:vulkan")


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


@dataclass(slots=True)
class Containers(Place):
    """What all containers of one run share."""

    client: Any
    image: str
    folder: Path
    lavapipe: Lavapipe | None

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


def bench(place: Containers, budget: Budget, case: Case) -> list[dict[str, Any]]:
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
        chroot = [*enter(root, environment), "/usr/local/bin/llama-bench", *words]

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


def _unpack(place: Containers, root: Path) -> None:
    """Lay the image's files out, with model, device and shaders where the containers have them."""
    packed = root.with_suffix(".tar")
    try:
        export(place.client, place.image, packed)
        process.run(["tar", "--extract", "--file", str(packed), "--directory", str(root)], timeout=600)
    finally:
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
        place = Containers(engine.client(timeout=PATIENCE), image, folder, None)
        try:
            place.lavapipe = lavapipe(engine, image, driver)
        except AmdserveError as reason:
            results["skipped"]["lavapipe"] = reason.cause or reason.what
        for case in wanted:
            if case.lavapipe and not place.lavapipe:
                results["skipped"][case.name] = "there is no lavapipe"
                continue
            cases.append(measure(place, case, budget, folder / Path(MODEL).name))
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
    write(results, asked.out / "throughput.json")
    print(json.dumps(results) if asked.json else table(results), end="\n" if asked.json else "")
    return 0 if all(one["met"] for one in results["summary"]) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AmdserveError as failure:
        show.error(failure)
        sys.exit(failure.exit_code)
