"""How much a shared ccache saves: both servers and the CPU binding with it, against each built alone.

Run it from a checkout on an idle machine: `python benchmarks/build.py [--gfx gfx1151]`. On two cores it
takes about two hours, so it goes in phases: each is written down as soon as it is measured, and a second call
goes on with the first one that is missing. `--phase NAME` measures one (again), `--report` only prints.
On a machine that has other work, `--cgroup-parent` names a control group of low weight to run in: the wall
times are then worth nothing and the CPU times are compared, which on an idle machine say the same: every core
is busy in all six builds.

The compilers, the flags and the source are those of the product: the stages of its rendered Dockerfile are
built as an image, and the very commands of its RUN lines are run in containers of that image.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amdserve import process
from amdserve.errors import AmdserveError, BuildError
from amdserve.image import base, index, render, show, source
from amdserve.image import engine as engines
from amdserve.image.engine import Engine
from amdserve.image.inputs import digest
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results"
IMAGE = "amdserve-benchmark:toolchain"
CCACHE = "amdserve-benchmark-ccache"
LIMIT = 0.70
"""The goal: the shared build takes at most this part of the time of the separate ones."""

VULKAN, ROCM, BINDING = "llama-vulkan", "llama-rocm", "python"
_MOUNT = re.compile(r"--mount=\S+\s+(?:\\\n\s*)?")
_TIME = re.compile(r"^amdserve-time ([\d.]+) ([\d.]+) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Phase:
    """One build to measure: its name, whether it may use the shared ccache, its shell command.

    `fills` marks the one that begins with an empty ccache and leaves it for the others.
    """

    name: str
    shared: bool
    script: str
    fills: bool = False


def stage(dockerfile: str, name: str) -> list[str]:
    """Give the RUN instructions of a stage of a Dockerfile, without the word RUN."""
    found = re.search(rf"^FROM \S+ AS {re.escape(name)}$(.*?)(?=^FROM |\Z)", dockerfile, re.M | re.S)
    if not found:
        raise BuildError(f"the rendered Dockerfile has no stage {name}")
    return [text.strip() for text in re.findall(r"^RUN (.*?[^\\])$", found.group(1), re.M | re.S)]


def command(dockerfile: str, name: str, word: str) -> str:
    """Give the command of the RUN instruction of a stage that holds a word, without its mounts."""
    for text in stage(dockerfile, name):
        if word in text:
            return _MOUNT.sub("", text)
    raise BuildError(f"no RUN of the stage {name} says {word!r}")


def phases(dockerfile: str, *, trial: bool = False) -> tuple[Phase, ...]:
    """Give what is measured, in order: the three builds with a common ccache, then each without any.

    Args:
        dockerfile: the rendered one, from which the commands are taken.
        trial: build one small library instead of everything, to try this program itself.
    """
    servers = {}
    for name in (VULKAN, ROCM):
        script = command(dockerfile, name, "cmake -S").partition("&& ccache --show-stats")[0].rstrip(" \\\n")
        servers[name] = re.sub(r"--target .*", "--target ggml-base", script) if trial else script
    wheel = command(dockerfile, BINDING, "pip wheel").partition("&&")[0].rstrip(" \\\n")
    flags = re.search(r"-B /build(.*?)-DGGML_VULKAN=ON", servers[VULKAN], re.S)
    if flags is None or "-DLLAMA_BUILD=OFF" not in wheel:
        raise BuildError("the rendered commands have another form than this benchmark knows")
    # Alone, the binding compiles llama.cpp itself: the same flags, but for the paths it sets on its own.
    own = [flag for flag in re.findall(r"-D[\w]+=[\w]+", flags.group(1)) if "RPATH" not in flag]
    alone = wheel.replace("CMAKE_ARGS=-DLLAMA_BUILD=OFF", f"CMAKE_ARGS='{' '.join(own)}'")
    if trial:
        alone = wheel
    return (
        Phase("vulkan-shared", True, servers[VULKAN], fills=True),
        Phase("rocm-shared", True, servers[ROCM]),
        Phase("binding-shared", True, wheel),
        Phase("vulkan-alone", False, servers[VULKAN]),
        Phase("rocm-alone", False, servers[ROCM]),
        Phase("binding-alone", False, alone),
    )


def prepare(project: Project, cell: Cell, engine: Engine, dockerfile: str) -> None:
    """Build the image with every compiler and the source in it; the build cache has most of it already."""
    source.obtain(project.llama, project.sources, project.root)
    name = render.base_name(cell, project.sources)
    reference = base.ensure(engine, project.sources, mode="auto", name=name, say=show.say)
    packages = next(text for text in stage(dockerfile, VULKAN) if "apt-get install" in text)
    tools = next(text for text in stage(dockerfile, BINDING) if "/build-tools" in text)
    text = dockerfile + (
        f"\nFROM rocm-toolchain AS benchmark\nRUN {packages}\n"
        f"COPY requirements/container-build.txt requirements/container.txt /requirements/\nRUN {tools}\n"
        "COPY --from=source / /src/llama-cpp-python\n"
    )
    folder = project.root / "build" / "benchmark"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Dockerfile").write_text(text, "utf-8")
    build = [
        *engine.buildx,
        "build",
        "--progress",
        "plain",
        "--load",
        "--target",
        "benchmark",
        "--tag",
        IMAGE,
    ]
    build += ["--file", str(folder / "Dockerfile"), "--build-arg", f"BASE_IMAGE={reference}"]
    build += ["--build-context", f"llama-cpp-python={project.llama.binding_dir}"]
    build += ["--build-context", f"llama-cpp={project.llama.llama_dir}"]
    if bundle := index.ca_bundle():
        build += ["--secret", f"id=ca,src={bundle}"]
    show.say("building the image with the compilers")
    process.run([*build, str(project.root)], env=engine.env(), timeout=7200, error=BuildError)


def measure(engine: Engine, phase: Phase, parent: str | None) -> dict[str, Any]:
    """Run one phase in a new container; give its wall and CPU time in seconds.

    Args:
        engine: where it runs.
        phase: what is built.
        parent: the control group to run it in; None: the engine's own.
    """
    client = engine.client(timeout=4 * 3600)
    script = f"TIMEFORMAT='amdserve-time %R %U %S'; time {{ {phase.script}\n}}"
    environment = {"CCACHE_DIR": "/ccache"} if phase.shared else {"CCACHE_DISABLE": "1"}
    volumes = {}
    if phase.fills:
        volumes = {CCACHE: {"bind": "/ccache", "mode": "rw"}}
    elif phase.shared:
        # A copy, so that a phase that is broken off and begun again finds what it found the first time.
        volumes = {CCACHE: {"bind": "/ccache-filled", "mode": "ro"}}
        script = f"cp -a /ccache-filled /ccache\n{script}"
    load = os.getloadavg()[0]
    if load > 0.5 and not parent:
        show.say(f"{phase.name}: the machine is not idle (load {load:.1f}): the times will be too long")
    show.say(f"{phase.name}: building")
    container = client.containers.run(
        IMAGE,
        entrypoint=["/bin/bash", "-e", "-o", "pipefail", "-c"],
        command=[script],
        environment=environment,
        volumes=volumes,
        network_mode="none",
        cgroup_parent=parent,
        detach=True,
    )
    try:
        status = container.wait()["StatusCode"]
        said = container.logs().decode("utf-8", "replace")
    finally:
        container.remove(force=True)
    times = _TIME.findall(said)
    if status or not times:
        raise BuildError(
            f"{phase.name} was not built",
            cause="\n".join(said.splitlines()[-15:]),
            fix="--phase " + phase.name,
        )
    wall, user, system = (float(value) for value in times[-1])
    show.say(f"{phase.name}: {show.seconds(wall)}, {user + system:.0f} s of CPU")
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    measured = {"wall": wall, "cpu": round(user + system, 1), "load_before": round(load, 2), "date": now}
    return measured | {"idle": not parent and load <= 0.5}


def versions(engine: Engine, project: Project, cell: Cell) -> dict[str, str]:
    """Give what was measured: the source, and the tools as they name themselves."""
    asked = "gcc --version; /usr/lib/llvm-*/bin/clang --version; ccache --version; cmake --version"
    words = engine.client().containers.run(IMAGE, ["/bin/bash", "-c", asked], remove=True).decode()
    tools = re.findall(r"^((?:gcc|.*clang version|ccache version|cmake version) .*)$", words, re.MULTILINE)
    rocm = project.sources.rocm.providers[cell.provider].version if cell.provider else ""
    return {
        "llama-cpp-python": project.llama.version,
        "llama.cpp": project.llama.commit,
        "ROCm": rocm,
        "gfx": ", ".join(cell.gfx),
        "tools": "; ".join(tools),
        "engine": engine.version,
    }


def machine() -> dict[str, Any]:
    """Give what it was measured on."""
    info = Path("/proc/cpuinfo").read_text("utf-8")
    model = re.search(r"^model name\s*: (.*)$", info, re.MULTILINE)
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model.group(1) if model else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(pages / 2**30, 1),
        "kernel": platform.release(),
    }


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Add up the two ways; empty while a phase is missing."""
    sums: dict[str, Any] = {}
    for way in ("shared", "alone"):
        parts = [value for name, value in found.items() if name.endswith(way)]
        if len(parts) < 3:
            return {}
        sums[way] = {unit: round(sum(part[unit] for part in parts), 1) for unit in ("wall", "cpu")}
    sums["ratio"] = {unit: round(sums["shared"][unit] / sums["alone"][unit], 3) for unit in ("wall", "cpu")}
    sums["judged"] = "wall" if all(part["idle"] for part in found.values()) else "cpu"
    return sums


def table(results: dict[str, Any]) -> str:
    """Give the results as Markdown."""
    there, made = results["machine"], results["versions"]
    lines = [
        "# Building with a shared compile cache",
        "",
        f"{there['cpu']}, {there['cores']} cores, {there['memory_gib']} GiB, Linux {there['kernel']}.",
        *(f"{name}: {value}." for name, value in made.items()),
        "",
        "| build | wall s | CPU s | load before | date |",
        "|---|---:|---:|---:|---|",
    ]
    for name, one in results["phases"].items():
        lines.append(
            f"| {name} | {one['wall']:.0f} | {one['cpu']:.0f} | {one['load_before']} | {one['date']} |"
        )
    if sums := summary(results["phases"]):
        for way in ("shared", "alone"):
            lines.append(f"| **all {way}** | **{sums[way]['wall']:.0f}** | **{sums[way]['cpu']:.0f}** | | |")
        ratio = sums["ratio"]
        lines += ["", f"Shared against alone: {ratio[sums['judged']]} of the {sums['judged']} time."]
        if sums["judged"] == "cpu":
            lines += ["The machine had other work, so the wall times say nothing and the CPU times count."]
        lines += [f"The goal is at most {LIMIT}."]
    else:
        lines += ["", "Not all phases are measured yet."]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Measure what is missing, write results/build.{json,md}, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gfx", default="gfx1151", help="the target of the ROCm build")
    parser.add_argument("--phase", action="append", default=[], help="measure this one, even again")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured and begin again")
    parser.add_argument("--report", action="store_true", help="print what was measured, measure nothing")
    parser.add_argument("--trial", action="store_true", help="build next to nothing: tries this program")
    parser.add_argument("--cgroup-parent", help="run in this control group; only the CPU times count then")
    asked = parser.parse_args()
    file = RESULTS / ("build-trial.json" if asked.trial else "build.json")
    project = Project(ROOT)
    request = project.complete(Request(images=("llama",), gfx=(asked.gfx,)))
    (cell,) = project.plan(request).cells
    dockerfile = project.renderer.dockerfile(cell, project.sources, project.llama, jobs=request.jobs)
    todo = phases(dockerfile, trial=asked.trial)
    key = digest("\0".join((project.llama.digest, *(phase.script for phase in todo))))
    known = json.loads(file.read_text("utf-8")) if file.is_file() and not asked.fresh else {}
    if asked.report:
        print(table(known) if known else "nothing is measured yet")
        return 0
    if unknown := set(asked.phase) - {phase.name for phase in todo}:
        parser.error(f"no phase {', '.join(unknown)}: {', '.join(phase.name for phase in todo)}")
    engine = engines.ensure(say=show.say)
    prepare(project, cell, engine, dockerfile)
    if known.get("key") != key:
        # Other flags or another source: nothing that was measured before can be compared with it.
        _forget_cache(engine)
        known = {"key": key, "phases": {}}
    for phase in todo:
        if phase.name in asked.phase or (not asked.phase and phase.name not in known["phases"]):
            if phase.fills:
                _forget_cache(engine)
            known["phases"][phase.name] = measure(engine, phase, asked.cgroup_parent)
            known |= {"machine": machine(), "versions": versions(engine, project, cell)}
            known["phases"] = {
                one.name: known["phases"][one.name] for one in todo if one.name in known["phases"]
            }
            known["summary"] = summary(known["phases"])
            RESULTS.mkdir(exist_ok=True)
            file.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
            file.with_suffix(".md").write_text(table(known), "utf-8")
    print(table(known))
    sums = known["summary"]
    return 0 if not sums or sums["ratio"][sums["judged"]] <= LIMIT else 1


def _forget_cache(engine: Engine) -> None:
    """Take the compile cache of earlier measurements away: the first build begins with none."""
    from docker.errors import NotFound  # noqa: PLC0415

    with contextlib.suppress(NotFound):
        engine.client().volumes.get(CCACHE).remove(force=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AmdserveError as failure:
        show.error(failure)
        sys.exit(failure.exit_code)
