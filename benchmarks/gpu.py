"""What serving through the entrypoint costs on a real GPU: the image's own files, without a Docker Engine.

Two steps, since a machine with a GPU need not have an engine. Where the engine is:

    python benchmarks/gpu.py pack amdserve:vulkan FILE.tar.xz [--packages NAME...]

writes the image's files and its environment into one archive; `--packages` are Debian's, for what the driver
of another vendor loads. Then, as root, on the machine with the GPU:

    python benchmarks/gpu.py run FILE.tar.xz --driver FOLDER --icd LIBRARY --gpu NAME \\
        --env GGML_VK_VISIBLE_DEVICES=0

lays the files out, mounts the folder of the driver at the same path inside, and measures what `throughput.py`
does, in the same way: one side is `amdserve serve`, the other the very command line of the backend that
serves in the first one; both in a chroot, as the image's user. The variable tells the entrypoint that it may
use a device which is not AMD's. It writes results/gpu.{json,md,png}. Starts scatter: with `--only-starts` all
the time is for them, and the results are gpu-starts.{json,md}; with `--cached` too, which gives the side by
hand a folder for shaders as well, gpu-starts-cached.{json,md}.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import rootfs  # noqa: E402
from asked import Asked  # noqa: E402
from machine import machine  # noqa: E402
from ports import free_port  # noqa: E402
from ratios import summary, table, write  # noqa: E402
from rootfs import HOST  # noqa: E402
from sides import LARGE, MODEL, SHAPE, STATE, USER, VULKAN, Budget, Case, Place, measure  # noqa: E402

from amdserve import process  # noqa: E402
from amdserve.image import show  # noqa: E402

RESULTS = ROOT / "benchmarks/results"
TOLD = "amdserve-image.json"
ICD = "/etc/benchmark-icd.json"
CACHE = f"{STATE}/cache"
CASES = tuple(
    Case(name, VULKAN, prompt=64, answer=128, clients=4, checked=True, shape=shape)
    for name, shape in (("31 million parameters", SHAPE), ("1 billion parameters, 4 GB", LARGE))
)


@dataclass(slots=True)
class Rooted(Asked):
    """A server in a folder that is its root.

    `enter` is the beginning of every command line in there, `own` the server's process.
    """

    enter: list[str]
    port: int
    log: Path
    own: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where its port is."""
        return f"http://127.0.0.1:{self.port}"

    def running(self) -> bool:
        """Tell whether it still runs."""
        return self.own.poll() is None

    def logs(self, **_: bool) -> str:
        """Give all that it said."""
        return self.log.read_text("utf-8", "replace")

    def exec(self, *argv: str, user: str = "") -> tuple[int, str]:
        """Run a program in the same root."""
        del user
        done = process.run([*self.enter, *argv], timeout=120, check=False)
        return done.code, done.out + (done.err if done.code else "")

    def computed(self) -> float:
        """Give the seconds of CPU that it and its children have computed."""
        parents, seconds = {}, {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                fields = (place / "stat").read_text("utf-8").rpartition(") ")[2].split()
            except OSError:
                continue
            parents[int(place.name)] = int(fields[1])
            seconds[int(place.name)] = sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")

        def below(number: int) -> bool:
            while number and number != self.own.pid:
                number = parents.get(number, 0)
            return bool(number)

        return sum(took for number, took in seconds.items() if below(number))

    def remove(self) -> None:
        """End it and all that it started."""
        for word in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.own.pid, word)
                self.own.wait(20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue
            return


@dataclass(slots=True)
class Chroot(Place):
    """The image's files in a folder, and the driver that they are to use."""

    root: Path
    driver: Path
    environment: dict[str, str]
    entrypoint: list[str]
    logs: Path
    ports: tuple[int, int] = field(default_factory=lambda: (free_port(), free_port()))

    def start(
        self, words: Sequence[str], port: int, environment: dict[str, str], state: Path | None
    ) -> Rooted:
        """Start a program in there."""
        variables = {**self.environment, **environment}
        enter = rootfs.enter(self.root, variables, folders=(*HOST, self.driver), state=state, user=USER)
        log = self.logs / f"{len(list(self.logs.iterdir()))}.log"
        with log.open("wb") as file:
            streams = {"stdin": subprocess.DEVNULL, "stdout": file, "stderr": file}
            started = process.spawn([*enter, *words], start_new_session=True, **streams)
        server = Rooted(enter, port, log, started)
        self.servers.append(server)
        return server

    def served(self, case: Case, state: Path | None) -> Rooted:
        """Start the entrypoint, always on the same port, as in a container."""
        port = self.ports[0]
        if state is None:
            state = Path(tempfile.mkdtemp(dir=self.logs.parent))
        os.chown(state, *map(int, USER.split(":")))
        words = [*self.entrypoint, "serve", MODEL, *case.options, "--port", str(port), *case.extra]
        return self.start(words, port, {}, state)

    def bare(self, case: Case, argv: Sequence[str], environment: dict[str, str]) -> Rooted:
        """Start the server by hand, on a port of its own."""
        del case
        port, words = self.ports[1], list(argv)
        words[words.index("--port") + 1] = str(port)
        return self.start(words, port, environment, None)


def pack(image: str, to: Path, packages: Sequence[str]) -> None:
    """Write the files of an image, and what it says of itself, into an archive."""
    from container.images import layered  # noqa: PLC0415
    from throughput import versions  # noqa: PLC0415

    from amdserve.image import engine as engines  # noqa: PLC0415

    engine = engines.ensure(say=show.say)
    client = engine.client(timeout=600)
    installed = f"RUN apt-get update && apt-get install -y --no-install-recommends {' '.join(packages)}"
    clean = " && rm -rf /var/lib/apt/lists/* /var/cache/apt /usr/share/doc /var/log/*"
    made = layered(engine, image, f"USER 0\n{installed}{clean}\n") if packages else image
    told = client.images.get(image).attrs["Config"]
    about = {"image": versions(engine, image), "env": told["Env"], "entrypoint": told["Entrypoint"]}
    with tempfile.TemporaryDirectory() as name:
        packed = Path(name) / "root.tar"
        (Path(name) / TOLD).write_text(json.dumps(about), "utf-8")
        try:
            rootfs.export(client, made, packed)
        finally:
            if made != image:
                client.images.remove(made)
        process.run(["tar", "--append", "--file", str(packed), "--directory", name, TOLD], timeout=60)
        process.run(["xz", "-9e", "--threads=0", str(packed)], timeout=3600)
        shutil.move(packed.with_suffix(".tar.xz"), to)
    show.say(f"{to}: {to.stat().st_size / 1e6:.1f} MB")


def run(asked: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Lay the archive out and measure all cases."""
    begun, root, logs = time.monotonic(), folder / "root", folder / "logs"
    for one in (folder, root, logs):
        one.mkdir(exist_ok=True)
        one.chmod(0o755)
    with tarfile.open(asked.archive) as archive:
        archive.extractall(root, filter="fully_trusted")
    about = json.loads((root / TOLD).read_text("utf-8"))
    icd = {"library_path": asked.icd, "api_version": asked.api}
    (root / ICD[1:]).write_text(json.dumps({"file_format_version": "1.0.1", "ICD": icd}), "utf-8")
    environment = dict(one.split("=", 1) for one in about["env"])
    environment |= dict.fromkeys(("VK_DRIVER_FILES", "VK_ICD_FILENAMES"), ICD)
    environment |= {"LD_LIBRARY_PATH": asked.library_path or str(asked.driver / "lib64"), "HOME": STATE}
    # The archive's root is no container: nothing in it is the first process.
    environment["TINI_SUBREAPER"] = "1"
    if asked.cached:
        # The entrypoint's is with its state; whoever starts it by hand has made one.
        cache = root / CACHE[1:]
        cache.mkdir()
        os.chown(cache, *map(int, USER.split(":")))
        environment["XDG_CACHE_HOME"] = CACHE
    environment |= dict(one.split("=", 1) for one in asked.env)
    place = Chroot(root, asked.driver, environment, about["entrypoint"], logs)
    budget = Budget(asked.seconds, asked.starts or asked.seconds, 0, asked.pairs)
    cases = []
    for case in CASES[: asked.cases]:
        (root / "models").mkdir(exist_ok=True)
        try:
            asked_for = replace(case, checked=case.checked and not asked.kept, loads=not asked.only_starts)
            cases.append(measure(place, asked_for, budget, root / MODEL[1:]))
        except AssertionError:
            for log in sorted(logs.iterdir())[-2:]:
                show.say(log.read_text("utf-8", "replace")[-4000:])
            raise
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "quick": False,
        "machine": machine() | {"load": round(os.getloadavg()[0], 1), "gpu": asked.gpu},
        "image": about["image"],
        "skipped": {},
        "cases": cases,
        "bench": {},
        "summary": summary(cases, {}),
        "seconds": round(time.monotonic() - begun, 1),
    }


def main() -> int:
    """Pack, or measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    both = parser.add_subparsers(dest="step", required=True)
    packing = both.add_parser("pack", help="write an image's files into an archive")
    packing.add_argument("image")
    packing.add_argument("archive", type=Path)
    packing.add_argument("--packages", nargs="*", default=[], help="Debian packages that the driver needs")
    running = both.add_parser("run", help="measure")
    running.add_argument("archive", type=Path)
    running.add_argument("--driver", type=Path, required=True, help="folder with the driver's libraries")
    running.add_argument("--icd", required=True, help="the library that is the Vulkan driver")
    running.add_argument("--api", default="1.3.0", help="the version of Vulkan that it has")
    running.add_argument("--library-path", help="where libraries lie (lib64 in the driver's folder)")
    running.add_argument("--env", action="append", default=[], help="more for both sides: NAME=VALUE")
    running.add_argument("--gpu", required=True, help="name of the GPU and version of its driver")
    running.add_argument("--seconds", type=float, default=60, help="for each case's load, and for its starts")
    running.add_argument("--starts", type=float, help="seconds for each case's starts, where those differ")
    running.add_argument("--kept", action="store_true", help="no starts without a state, which take long")
    running.add_argument(
        "--only-starts", action="store_true", help="no load: writes gpu-starts.* and leaves gpu.* alone"
    )
    running.add_argument(
        "--cached",
        action="store_true",
        help="by hand too with a folder where shaders are kept (gpu-starts-cached.*)",
    )
    running.add_argument("--pairs", type=int, default=4, help="how often both are started for the load")
    running.add_argument("--cases", type=int, default=len(CASES), help="only the first so many")
    running.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    asked = parser.parse_args()
    if asked.step == "pack":
        pack(asked.image, asked.archive, asked.packages)
        return 0
    # Whoever ends it before its end ends the servers too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with tempfile.TemporaryDirectory(prefix="amdserve-gpu-") as name:
        results = run(asked, Path(name))
    name = "gpu-starts-cached" if asked.cached else "gpu-starts"
    write(results, asked.out / (f"{name}.json" if asked.only_starts else "gpu.json"))
    print(table(results), end="")
    return 0 if all(one["met"] for one in results["summary"]) else 1


if __name__ == "__main__":
    sys.exit(main())
