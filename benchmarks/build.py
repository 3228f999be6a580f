"""What sharing saves: both servers and the CPU binding over one compile cache, against each alone; rebuilds.

Run it from a checkout: `python benchmarks/build.py [--gfx gfx1151]`. On two cores it takes an hour or two,
so it goes in phases: each is written down as soon as it is measured, and a second call goes on with the first
one that is missing. `--phase NAME` measures one (again), `--report` only prints. CPU times are compared:
every core is busy in all builds, so that on an idle machine wall times say the same, and on another one they
say nothing. `--releases FOLDER...` are the trees of releases of llama-cpp-python, from old to new: they are
measured instead, the first with no cache, each other one over what those before it left, into
results/releases.*.

The compilers, the flags and the source are those of the product: the stages of its rendered Dockerfile are
built as an image, and the very commands of its RUN lines are run in containers of that image.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import json
import os
import re
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from machine import machine

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

VULKAN, ROCM, BINDING = "llama-vulkan", "llama-rocm", "python"
# What the stages bring along for the build: files of this tree, and texts of the Dockerfile's own.
_TOOLS = r"^COPY (?:--chmod=\d+ )?(?:templates/[^\n]*\n|<<'EOF' /tools/.*?^EOF\n)"
_MOUNT = re.compile(r"--mount=\S+\s+(?:\\\n\s*)?")
_TIME = re.compile(r"^amdserve-time ([\d.]+) ([\d.]+) ([\d.]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Phase:
    """One build to measure: its name, its shell command, its compile cache, what is done before it.

    `cache` is `none`, `new` (begins empty), `more` (goes on with what the ones before it left, and leaves its
    own) or `copy` (finds what they left, and leaves nothing). `kept` names the volume it lies in. `tree` is
    built in place of the project's own release.
    """

    name: str
    script: str
    cache: Literal["none", "new", "more", "copy"]
    before: str = ":"
    kept: str = CCACHE
    tree: Path | None = None


@dataclass(frozen=True, slots=True)
class Goal:
    """What is compared: these phases together take at most `limit` of those."""

    what: str
    phases: tuple[str, ...]
    against: tuple[str, ...]
    limit: float


SHARED = ("vulkan-shared", "rocm-shared", "binding-shared")
# What is the same in both ways is measured once: the first build has nothing to share, and the ROCm build's
# HIP code is compiled once either way. Alone, that build compiles the rest again, and the binding all of it.
ALONE = ("vulkan-shared", "rocm-shared", "rocm-rest", "binding-alone")
GOALS = (
    Goal("over one cache, against each alone", SHARED, ALONE, 0.70),
    Goal("one changed file of the CPU backend, against cold", ("one-file",), SHARED, 0.10),
    Goal("a second gfx added, against cold", ("second-gfx",), SHARED, 0.60),
)
RELEASE_LIMIT = 0.50
"""Of the median of newer releases, each over its predecessors' cache, against the first one's cold build."""
CHANGED = "vendor/llama.cpp/ggml/src/ggml-cpu/ggml-cpu.c"
SOURCE = "/src/llama-cpp-python"


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


def phases(dockerfile: str, two: str, trees: Sequence[Path], *, trial: bool = False) -> tuple[Phase, ...]:
    """Give what is measured, in order: the builds over one cache, a rebuild, what is more without the cache.

    Args:
        dockerfile: the rendered one, from which the commands are taken.
        two: the same for two targets.
        trees: of releases, from old to new.
        trial: build one small library instead of everything, to try this program itself.
    """

    def server(text: str, name: str) -> str:
        script = command(text, name, "cmake -S").partition("&& ccache --show-stats")[0].rstrip(" \\\n")
        return re.sub(r"--target .*", "--target ggml-base", script) if trial else script

    vulkan, rocm = server(dockerfile, VULKAN), server(dockerfile, ROCM)
    wheel = command(dockerfile, BINDING, "-DLLAMA_BUILD=OFF").partition("&&")[0].rstrip(" \\\n")
    flags = re.search(r"-B /build(.*?)-DGGML_VULKAN=ON", vulkan, re.S)
    if flags is None:
        raise BuildError("the rendered commands have another form than this benchmark knows")
    # Alone, the binding compiles llama.cpp itself: the same flags, but for the paths it sets on its own.
    own = [flag for flag in re.findall(r"-D[\w]+=[\w]+", flags.group(1)) if "RPATH" not in flag]
    alone = wheel.replace("CMAKE_ARGS=-DLLAMA_BUILD=OFF", f"CMAKE_ARGS='{' '.join(own)}'")
    # Of the same tree: with the variants of the CPU's libraries that the others are built with.
    if fewer := re.search(r"ggml=/src.*?; fi\b", rocm, re.S):
        alone = f"{fewer.group()} && {alone}"
    every = f"({vulkan}\n)\nrm -rf /build\n({rocm}\n)\n"
    # Without a web page, of which nothing is compiled: each release has a form of its own for it.
    other = f"mv {SOURCE} /src/this && cp -a /other {SOURCE}"
    releases = (
        Phase(_release(tree), every + wheel, "more" if place else "new", other, CCACHE + "-releases", tree)
        for place, tree in enumerate(trees)
    )
    return (
        Phase("vulkan-shared", vulkan, "new"),
        Phase("rocm-shared", rocm, "more"),
        Phase("binding-shared", wheel, "copy"),
        Phase("one-file", every, "copy", f"echo 'int amdserve_changed = 1;' >> {SOURCE}/{CHANGED}"),
        Phase("binding-alone", wheel if trial else alone, "none"),
        Phase("rocm-rest", f"unset CMAKE_C_COMPILER_LAUNCHER CMAKE_CXX_COMPILER_LAUNCHER; {rocm}", "copy"),
        Phase("second-gfx", server(two, ROCM), "copy"),
        *releases,
    )


def _release(tree: Path) -> str:
    """Name the phase that builds a release."""
    return "release-" + tree.name.removeprefix("llama_cpp_python-")


def _copied(dockerfile: str) -> list[str]:
    return re.findall(_TOOLS, dockerfile, re.M | re.S)


def tools(root: Path, dockerfile: str) -> list[str]:
    """Give what stands between the build and the compilers: how it is copied, and digests of the files.

    What was kept by one of another version may not be found again, as if nothing had been kept.
    """
    lines = sorted(set(_copied(dockerfile)))
    files = sorted({name for line in lines for name in re.findall(r"(?:templates|src)/\S+\.\w+", line)})
    return [*lines, *(digest((root / name).read_bytes()) for name in files)]


def prepare(project: Project, cell: Cell, engine: Engine, dockerfile: str) -> None:
    """Build the image with every compiler and the source in it; the build cache has most of it already."""
    source.obtain(project.llama, project.sources, project.root)
    name = render.base_name(cell, project.sources)
    reference = base.ensure(engine, project.sources, mode="auto", name=name, say=show.say)
    packages = next(text for text in stage(dockerfile, VULKAN) if "apt-get install" in text)
    tools = next(text for text in stage(dockerfile, BINDING) if "venv /build-tools" in text)
    # Not the image's own environment, only what makes wheels.
    tools = tools.partition("&& PATH=")[0].rstrip(" \\\n")
    text = dockerfile + (
        f"\nFROM rocm-toolchain AS benchmark\nRUN {packages}\n"
        f"COPY requirements/container-build.txt requirements/container.txt /requirements/\nRUN {tools}\n"
        f"COPY --from=source / /src/llama-cpp-python\n{''.join(_copied(dockerfile))}"
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


def measure(engine: Engine, phase: Phase) -> dict[str, Any]:
    """Run one phase in a new container; give its wall and CPU time in seconds."""
    client = engine.client(timeout=4 * 3600)
    script = f"{phase.before}\nTIMEFORMAT='amdserve-time %R %U %S'; time {{ {phase.script}\n}}\n"
    environment = {"CCACHE_DISABLE": "1"} if phase.cache == "none" else {"CCACHE_DIR": "/ccache"}
    volumes = {str(phase.tree): {"bind": "/other", "mode": "ro"}} if phase.tree else {}
    if phase.cache != "none":
        volumes[phase.kept] = {"bind": "/kept", "mode": "ro" if phase.cache == "copy" else "rw"}
    if phase.cache in ("more", "copy"):
        # A copy, so that a phase that is broken off and begun again finds what it found the first time.
        script = f"cp -a /kept /ccache\n{script}"
    if phase.cache in ("new", "more"):
        script += "cp -a /ccache/. /kept/\n"
    load = os.getloadavg()[0]
    show.say(f"{phase.name}: building")
    container = client.containers.run(
        IMAGE,
        entrypoint=["/bin/bash", "-e", "-o", "pipefail", "-c"],
        command=[script],
        environment=environment,
        volumes=volumes,
        network_mode="none",
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
    return {"wall": wall, "cpu": round(user + system, 1), "load_before": round(load, 2), "date": now}


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


def summary(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Compare what is measured with the goals; a goal of which a phase is missing is left out."""
    sums = []
    for goal in GOALS:
        # Until it is measured: the ROCm build compiles the libraries of the binding, and the servers.
        against_phases = tuple(
            "binding-alone" if name == "rocm-rest" and name not in found else name for name in goal.against
        )
        if any(name not in found for name in (*goal.phases, *against_phases)):
            continue
        took, against = (sum(found[name]["cpu"] for name in names) for names in (goal.phases, against_phases))
        sums.append(_compared(goal.what, took, against, goal.limit, at_most=against_phases != goal.against))
    first, *newer = [name for name in found if name.startswith("release-")] or [""]
    if newer:
        took = statistics.median(found[name]["cpu"] for name in newer)
        what = f"a newer release, against the first one cold: the median of {len(newer)}"
        sums.append(_compared(what, took, found[first]["cpu"], RELEASE_LIMIT))
    for older, name in itertools.pairwise((first, *newer)):
        what = f"{name.removeprefix('release-')} after {older.removeprefix('release-')}"
        sums.append(_compared(what, found[name]["cpu"], found[first]["cpu"], None))
    return sums


def _compared(
    what: str, took: float, against: float, limit: float | None, *, at_most: bool = False
) -> dict[str, Any]:
    ratio = round(took / against, 3)
    return {
        "what": what,
        "cpu": round(took, 1),
        "against": round(against, 1),
        "ratio": ratio,
        "at_most": at_most,
        "limit": limit,
        "met": limit is None or ratio <= limit,
    }


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
    lines += ["", "| compared | CPU s | against | ratio | goal |", "|---|---:|---:|---:|---:|"]
    for one in results["summary"]:
        lines.append(
            f"| {one['what']} | {one['cpu']:.0f} | {one['against']:.0f} | "
            f"{'at most ' if one['at_most'] else ''}{one['ratio']} | "
            f"{one['limit'] or ''}{'' if one['met'] else ', missed'} |"
        )
    if "vulkan-shared" not in results["phases"]:
        return "\n".join(lines) + "\n"
    lines += [
        "",
        "Each alone: vulkan-shared, which found nothing to share; rocm-shared for its HIP code; rocm-rest,",
        "that build again with all but its HIP code compiled anew; and binding-alone, as pip builds it.",
        "Where rocm-rest is not measured, binding-alone stands for it: the same libraries without servers.",
    ]
    return "\n".join(lines) + "\n"


def plot(results: dict[str, Any], to: Path) -> None:
    """Draw what was measured: each build's part of the cold one, with the goals."""
    import matplotlib as mpl  # noqa: PLC0415

    mpl.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    sums = results["summary"][::-1]
    figure, axes = pyplot.subplots(figsize=(8, 0.7 * len(sums) + 1.3), layout="constrained")
    colours = ["#8a9299" if one["limit"] is None else "#2a7f62" if one["met"] else "#b5452c" for one in sums]
    bars = axes.barh(
        [one["what"] for one in sums], [one["ratio"] for one in sums], color=colours, height=0.55
    )
    axes.bar_label(bars, [f"{one['ratio']:.2f}" for one in sums], padding=4)
    for place, one in enumerate(sums):
        if one["limit"] is not None:
            axes.plot([one["limit"]] * 2, [place - 0.38, place + 0.38], color="black", linewidth=2)
    axes.set_xlim(0, max(1.0, *(one["ratio"] for one in sums)) * 1.12)
    axes.set_xlabel("part of the CPU time; black: the goal")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to, dpi=120, metadata={"Software": None})
    pyplot.close(figure)


def main() -> int:
    """Measure what is missing, write results/build.{json,md}, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gfx", default="gfx1151", help="the target of the ROCm build")
    parser.add_argument("--second", default="gfx1201", help="the target that is added to it")
    parser.add_argument("--releases", type=Path, nargs="+", default=[], help="trees of releases, old to new")
    parser.add_argument("--phase", action="append", default=[], help="measure this one, even again")
    parser.add_argument("--fresh", action="store_true", help="forget what was measured and begin again")
    parser.add_argument("--report", action="store_true", help="print what was measured, measure nothing")
    parser.add_argument("--trial", action="store_true", help="build next to nothing: tries this program")
    asked = parser.parse_args()
    names = ["releases" if asked.releases else "build", *(["trial"] if asked.trial else [])]
    file = RESULTS / ("-".join(names) + ".json")
    project = Project(ROOT)
    request = project.complete(Request(images=("llama",), gfx=(asked.gfx,)))
    (cell,) = project.plan(request).cells
    (both,) = project.plan(project.complete(Request(images=("llama",), gfx=(asked.gfx, asked.second)))).cells
    dockerfile, two = (
        project.renderer.dockerfile(one, project.sources, project.llama, jobs=request.jobs)
        for one in (cell, both)
    )
    trees = [tree.resolve(strict=True) for tree in asked.releases]
    todo = phases(dockerfile, two, trees, trial=asked.trial)
    # By what is compiled, with which words and which tools; the words are the same for every release.
    scripts = (phase.script for phase in todo[:2])
    key = digest("\0".join((project.llama.digest, *scripts, *tools(project.root, dockerfile))))
    known = json.loads(file.read_text("utf-8")) if file.is_file() and not asked.fresh else {}
    todo = tuple(phase for phase in todo if bool(phase.tree) == bool(trees))
    if asked.report:
        known["summary"] = summary(known.get("phases", {}))
        print(table(known) if "versions" in known else "nothing is measured yet")
        return 0
    if unknown := set(asked.phase) - {phase.name for phase in todo}:
        parser.error(f"no phase {', '.join(unknown)}: {', '.join(phase.name for phase in todo)}")
    engine = engines.ensure(say=show.say)
    prepare(project, cell, engine, dockerfile)
    if known.get("key") != key:
        # Other flags or another source: nothing that was measured before can be compared with it.
        known = {"key": key, "phases": {}}
    for phase in todo:
        if not (phase.name in asked.phase or (not asked.phase and phase.name not in known["phases"])):
            continue
        if phase.cache == "new":
            _forget_cache(engine, phase.kept)
        known["phases"][phase.name] = measure(engine, phase)
        made = versions(engine, project, cell)
        if trees:
            made = {name: value for name, value in made.items() if not name.startswith("llama")}
        known |= {"machine": machine(), "versions": made}
        known["summary"] = summary(known["phases"])
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(known, indent=2) + "\n", "utf-8")
        file.with_suffix(".md").write_text(table(known), "utf-8")
        if known["summary"]:
            plot(known, file.with_suffix(".png"))
    print(table(known))
    return 0 if all(one["met"] for one in known["summary"]) else 1


def _forget_cache(engine: Engine, volume: str) -> None:
    """Take the compile cache of earlier measurements away: the first build begins with none."""
    from docker.errors import NotFound  # noqa: PLC0415

    with contextlib.suppress(NotFound):
        engine.client().volumes.get(volume).remove(force=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except AmdserveError as failure:
        show.error(failure)
        sys.exit(failure.exit_code)
