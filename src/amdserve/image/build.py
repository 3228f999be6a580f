"""Build cells with the engine: nothing where nothing changed, and no final tag before the image is proven.

An image is built under a candidate's tag. Only when `verify` has found nothing does it get its own tags, so
a failed or interrupted build leaves nothing behind under a name that somebody runs.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from amdserve import process
from amdserve.errors import BuildError, VerifyError
from amdserve.image import index, render, show, source, vllm_context
from amdserve.image.alone import alone
from amdserve.image.engine.models import parse_version
from amdserve.image.local import Images
from amdserve.image.models import Cell, Plan, Request
from amdserve.image.progress import TAIL, Progress
from amdserve.image.project import Project
from amdserve.image.report import Outcome, because
from amdserve.image.trouble import explain

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

GB = 10**9
# The first buildx that tells its progress as JSON, and the first whose bake reads outside the folder that it
# is run in only where that is allowed by name; older ones do not know the words for it.
SPEAKS_JSON = (0, 13)
ASKS_FIRST = (0, 19)
_QUOTED = re.compile(r'process ".*" (?=did not complete)', re.DOTALL)
REVISION = "org.opencontainers.image.revision"


@dataclass(frozen=True, slots=True)
class Options:
    """How to build, which changes nothing of what is built.

    `builder` names a buildx builder; `force` builds what has not changed; `dry` prints and does nothing.
    `cache` is a repository that build caches are read from, and with a builder of its own also kept in.
    """

    builder: str | None = None
    force: bool = False
    dry: bool = False
    cache: str = ""


def build(project: Project, request: Request, options: Options) -> list[Outcome]:
    """Build what a request asks for.

    Raises:
        UsageError: the request does not hold; ConfigError: the project's files do not.
        EngineError: no engine.
        SourceError: a source cannot be fetched, or is not what was pinned.
        BuildError: a build failed, or there is no room for it.
        VerifyError: an image was built and is not what it should be.
    """
    from amdserve.image import engine  # noqa: PLC0415 - not needed for a request that does not hold

    plan = project.plan(request)
    for note in plan.notes:
        show.say(f"note: {note}")
    found = engine.ensure(dry=options.dry, say=show.say)
    # A dry run goes on where no engine runs yet: it then has no version.
    images = Images(found if found.version or not options.dry else None)
    return Build(project, request, options, found, images).cells(plan)


@dataclass(frozen=True, slots=True)
class Build:
    """One run of `invoke build`, with everything it needs."""

    project: Project
    request: Request
    options: Options
    engine: Engine
    images: Images

    def cells(self, plan: Plan) -> list[Outcome]:
        """Build the cells of a plan that are not built yet."""
        outcomes = {cell.id: self.known(cell) for cell in plan.cells}
        todo = tuple(cell for cell in plan.cells if outcomes[cell.id].state == "planned")
        if not todo:
            return list(outcomes.values())
        self.check_disk(todo)
        with alone(self.project.root, show.say) as waited:
            if waited:
                outcomes |= {cell.id: self.known(cell) for cell in todo}
                todo = tuple(cell for cell in todo if outcomes[cell.id].state == "planned")
            outcomes |= self.all(plan, {cell.id: outcomes[cell.id].why for cell in todo})
        return list(outcomes.values())

    def all(self, plan: Plan, why: Mapping[str, tuple[str, ...]]) -> dict[str, Outcome]:
        """Build those cells of a plan for which there is a reason, one after the other."""
        todo = tuple(cell for cell in plan.cells if cell.id in why)
        if not todo:
            return {}
        if not self.options.dry:
            source.obtain(self.project.llama, self.project.sources, self.project.root)
        for path in self.project.render(replace(plan, cells=todo), self.request.jobs):
            show.say(f"rendered {path.relative_to(self.project.root)}")
        bases = self.bases(todo)
        return {
            cell.id: self.build(cell, bases[render.base_name(cell, self.project.sources)], why[cell.id])
            for cell in todo
        }

    def known(self, cell: Cell) -> Outcome:
        """Say what the engine already has of a cell; the state `planned` means that it must be built."""
        begin = time.monotonic()
        moving, final = self.images.find(cell.tag), self.images.find(cell.immutable)
        same = final is not None and final.hash == cell.hash and not self.options.force
        if same and final is not None:
            if moving is not None and moving.id == final.id:
                show.say(f"{cell.id}: nothing changed since {cell.immutable} was built")
                return Outcome(cell, "unchanged", time.monotonic() - begin, final.size)
            show.say(f"{cell.id}: {cell.immutable} is exactly this: tagging it again")
            if self.options.dry:
                show.say(f"+ docker tag {cell.immutable} {cell.tag}")
            else:
                self.images.tag(cell.immutable, (cell.tag,))
            return Outcome(cell, "tagged", time.monotonic() - begin, final.size)
        why = moving.differs(cell) if moving else ()
        show.say(f"{cell.id}: " + (because(why) or ("built again as asked" if moving else "not built yet")))
        return Outcome(cell, "planned", why=why)

    def check_disk(self, todo: Sequence[Cell]) -> None:
        """Refuse to begin a build that the engine's disk has no room for.

        What the build cache already holds counts as room: a repeat needs that much less.

        Raises:
            BuildError: there is not enough.
        """
        root = Path(self.images.data_root())
        if not self.engine.host.startswith("unix:") or not root.is_dir():
            return
        need = max(self.project.catalog.images[cell.image].build_disk_gb for cell in todo) * GB
        free = shutil.disk_usage(root).free
        if free >= need or free + self.images.cache_bytes() >= need:
            return
        raise BuildError(
            f"not enough disk to build {', '.join(cell.id for cell in todo)}: {free / GB:.1f} GB are free "
            f"under {root}, {need / GB:.0f} GB are needed",
            cause="compilers, ROCm's development packages and the compile cache take most of it",
            fix=f"df -h {root}; `docker system df` says what the engine holds",
        )

    def bases(self, todo: Sequence[Cell]) -> dict[str, str]:
        """Have the base images that some cells start from; give distribution → reference for FROM."""
        from amdserve.image import base  # noqa: PLC0415

        names = dict.fromkeys(render.base_name(cell, self.project.sources) for cell in todo)
        return {
            name: base.ensure(
                self.engine,
                self.project.sources,
                mode=self.request.base,
                name=name,
                dry=self.options.dry,
                say=show.say,
            )
            for name in names
        }

    def command(self, cell: Cell, tag: str, base: str) -> list[str]:
        """Give the command that builds one cell under a tag, with what differs per machine."""
        root, llama = self.project.root.resolve(), self.project.llama
        buildx = parse_version(self.engine.buildx_version) or (99,)
        progress = "rawjson" if buildx >= SPEAKS_JSON else "plain"
        command = [*self.engine.buildx, "bake", "--file", render.BAKE_FILE, "--progress", progress]
        command += ["--metadata-file", f"build/{cell.id}/metadata.json"]
        if self.options.builder:
            command += ["--builder", self.options.builder]
        if self.options.cache:
            kept = f"type=registry,ref={self.options.cache}:cache-{cell.id}"
            command += ["--set", f"{cell.id}.cache-from={kept}"]
            # The engine's own builder can read such a cache, and not write one.
            if self.options.builder:
                command += ["--set", f"{cell.id}.cache-to={kept},mode=max,ignore-error=true"]
        command += ["--set", f"{cell.id}.tags={tag}", "--set", f"{cell.id}.args.BASE_IMAGE={base}"]
        if revision := _revision(root):
            command += ["--set", f"{cell.id}.labels.{REVISION}={revision}"]
        reads = [llama.binding_dir, llama.llama_dir]
        reads += map(Path, vllm_context.contexts(cell.backends, self.project.sources.vllm).values())
        if bundle := index.ca_bundle():
            command += ["--set", f"{cell.id}.secrets=id=ca,src={bundle}"]
            reads.append(bundle)
        for path in dict.fromkeys(path.resolve() for path in reads):
            if buildx >= ASKS_FIRST and not path.is_relative_to(root):
                command.append(f"--allow=fs.read={path}")
        return [*command, cell.id]

    def build(self, cell: Cell, base: str, why: tuple[str, ...]) -> Outcome:
        """Build one cell, prove it and give it its tags.

        Raises:
            BuildError: it was not built; VerifyError: it is not what it should be. It has no tag then.
        """
        from amdserve.image import verify  # noqa: PLC0415

        begin = time.monotonic()
        # Of this process alone: a build of the same from another checkout does not take it away.
        candidate = (
            f"{self.request.repository}:candidate-{cell.hash.removeprefix('sha256:')[:24]}-{os.getpid()}"
        )
        command = self.command(cell, candidate, base)
        if self.options.dry:
            show.say(f"+ {process.show(command)}")
            show.say(f"+ ./inv verify {candidate}")
            for tag in reversed(cell.tags):
                show.say(f"+ docker tag {candidate} {tag}")
            return Outcome(cell, "planned", why=why)
        show.say(f"building {cell.id}; the whole log is build/{cell.id}/build.log")
        try:
            self.bake(cell, command)
            found = verify.verify(candidate, engine=self.engine, expect=cell, catalog=self.project.catalog)
            if not found.ok:
                bad = [check for check in found.checks if not check.ok]
                raise VerifyError(
                    f"{cell.id} was built and is not what it should be: "
                    + "; ".join(f"{check.name}: {check.detail}" for check in bad),
                    cause="it was not tagged: what had its tags before still has them",
                    fix=f"read build/{cell.id}/build.log",
                )
            self.images.tag(candidate, cell.tags)
        finally:
            self.images.remove(candidate)
        image = self.images.find(cell.tag)
        size = image.size if image else 0
        return Outcome(cell, "built", time.monotonic() - begin, size, why, len(found.checks))

    def bake(self, cell: Cell, command: list[str]) -> None:
        """Run one build and tell how it goes.

        Raises:
            BuildError: it failed, with the last words of the step that did.
        """
        log, line = self.project.root / "build" / cell.id / "build.log", show.Line()
        with log.open("w", encoding="utf-8") as file:
            file.write(f"$ {process.show(command)}\n")
            progress = Progress(file, line)
            result = process.stream(command, progress.feed, cwd=self.project.root, env=self.engine.env())
        line.clear()
        if result.ok:
            return
        step = progress.failed
        # Where buildx is too old to tell steps, its own last words must do.
        tail = list(step.tail) if step else list(progress.words)[-TAIL:]
        for text in tail:
            show.say(f"  | {text}")
        said = [text for text in progress.words if text.startswith("ERROR")] or tail[-1:]
        cause, fix = explain([*tail, *progress.errors, *progress.words])
        raise BuildError(
            f"{cell.id} was not built" + (f": it failed in {step.name[:100]}" if step else ""),
            # BuildKit quotes the whole command, of which the log has the one line that matters.
            cause=cause or _QUOTED.sub("the command ", " ".join(said)) or f"buildx ended with {result.code}",
            fix=fix or f"read {log.relative_to(self.project.root)}",
        )


def _revision(root: Path) -> str:
    """Give the commit that is built from, with `-dirty` where files differ from it."""
    describe = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    found = process.run(describe, check=False)
    return found.out.strip() if found.ok else ""
