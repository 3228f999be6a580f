"""What the tasks push, release and verify do, put together from a checkout, an engine and a registry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from amdserve.errors import PublishError, UsageError
from amdserve.image import build as building
from amdserve.image import show
from amdserve.image import verify as verifying
from amdserve.image.local import Images, LocalImage
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project
from amdserve.image.publish import compress, published, push
from amdserve.image.publish.compress import Compression
from amdserve.image.publish.pull import pulled
from amdserve.image.publish.reference import names_registry, parse
from amdserve.image.publish.registry import Registry
from amdserve.image.publish.release import STEPS, Release, Released, Step, dry, in_engine
from amdserve.image.publish.sign import GITHUB, Signer
from amdserve.image.verify import Report

if TYPE_CHECKING:
    from amdserve.image.engine import Engine


def push_images(
    project: Project, request: Request, *, compression: str = compress.DEFAULT, only_show: bool = False
) -> list[push.Pushed]:
    """Push the built images of a request under the tags that never move.

    Raises:
        UsageError: the request does not hold, its repository names no registry, or no such compression is.
        PublishError: an image is not built, or the registry does not take it.
    """
    kind = compress.named(compression)
    where = parse(f"{request.repository}:latest")
    plan = project.plan(project.complete(request))
    if only_show:
        for cell in plan.cells:
            show.say(f"+ push {cell.immutable}, layers that are missing only, compressed with {kind}")
        return [push.Pushed(parse(cell.immutable), "missing") for cell in plan.cells]
    engine = _engine()
    images, registry = Images(engine), Registry.open(where)
    built = {cell.id: in_engine(images, cell) for cell in plan.cells}
    done = []
    for cell in plan.cells:
        image = built[cell.id]
        if image is None and push.published(registry, cell) is None:
            raise not_built(cell)
        # What is in the registry already needs no image here.
        known = image or LocalImage("", (), {}, 0)
        done.append(
            push.push(
                registry,
                cell,
                known,
                engine,
                folder=project.root / push.FOLDER,
                latest=push.epoch(project.sources),
                compression=kind,
            )
        )
    return done


def not_built(cell: Cell) -> PublishError:
    """Give the error for a cell that nobody has built."""
    return PublishError(
        f"no image of {cell.id} as it is planned now is in the engine",
        cause="it was not built, or something that goes into it has changed since",
        fix=f"./inv build --image {cell.image}" + (f" --gfx {','.join(cell.gfx)}" if cell.gfx else ""),
    )


@dataclass(frozen=True, slots=True)
class Options:
    """How far a release goes, how its layers are compressed, and whether it only says what it would do."""

    through: Step = "notes"
    promote: bool = False
    dry: bool = False
    builder: str | None = None
    cache: str = ""
    compression: Compression = compress.DEFAULT


def release_images(project: Project, request: Request, signer: Signer, options: Options) -> list[Released]:
    """Release the images of a request.

    Raises:
        AmdserveError: a step failed; run again it goes on there.
    """
    where = parse(f"{request.repository}:latest")
    plan = project.plan(request)
    if options.dry:
        for line in dry(plan, signer, through=options.through, promote=options.promote):
            show.say(f"+ {line}")
        return []
    folder = project.root / push.FOLDER
    signer = signer.complete(folder)
    engine = _engine()
    images = Images(engine)

    def built(cell: Cell) -> LocalImage:
        if found := in_engine(images, cell):
            show.say(f"{cell.id}: built and verified already, as {found.tags[0]}")
            return found
        one = Request(
            images=(cell.image,),
            gfx=cell.gfx,
            provider=cell.provider or request.provider,
            base=request.base,
            repository=request.repository,
            jobs=request.jobs,
        )
        building.build(project, project.complete(one), building.Options(options.builder, cache=options.cache))
        if found := in_engine(images, cell):
            return found
        raise not_built(cell)

    def prove(reference: str, cell: Cell) -> Report:
        return verifying.verify(reference, engine=engine, expect=cell, catalog=project.catalog)

    return Release(
        plan,
        engine,
        Registry.open(where),
        signer,
        project.sources,
        project.llama,
        folder,
        push.epoch(project.sources),
        built,
        prove,
        options.compression,
    ).run(through=options.through, promote=options.promote)


def verify_image(ref: str, signer: Signer, engine: Engine) -> Report:
    """Check an image: where it is a published one, in the registry too, and as pulled from there.

    It counts as published where somebody is named who should have signed it, or the engine does not have it.

    Raises:
        UsageError: it is in a registry, and nobody is named who should have signed it.
        VerifyError: neither engine nor registry has it.
    """
    here = Images(engine).find(ref)
    if not (signer.by_key or signer.identity) and (here or not names_registry(ref)):
        return verifying.verify(ref, engine=engine)
    signer.check()
    where = parse(ref)
    image, checks = published.verify(Registry.open(where), where, signer)
    if image is None:
        return Report(ref, checks)
    show.say("the same without this toolkit:")
    for line in signer.commands(image.reference):
        show.say(f"  {line}")
    if not all(check.ok for check in checks):
        # What is not genuine is not started.
        return Report(ref, checks)
    with pulled(engine, image) as reference:
        found = verifying.verify(reference, engine=engine)
    return Report(ref, (*checks, *found.checks))


def signer(*, key: str = "", public: str = "", identity: str = "", issuer: str = "") -> Signer:
    """Give who signs or should have signed, of the words of a command line."""
    return Signer(key, public, identity, issuer or GITHUB)


def options(
    through: str,
    *,
    promote: bool,
    dry: bool,
    builder: str | None = None,
    cache: str = "",
    compression: str = compress.DEFAULT,
) -> Options:
    """Give how far a release goes, of the words of a command line.

    Raises:
        UsageError: there is no such step, or no such compression.
    """
    step = next((one for one in STEPS if one == through), None)
    if step is None:
        raise UsageError(f"a release has no step {through!r}", fix=f"--through {'|'.join(STEPS)}")
    return Options(step, promote, dry, builder, cache, compress.named(compression))


def _engine() -> Engine:
    from amdserve.image import engine  # noqa: PLC0415 - not needed for a request that does not hold

    return engine.ensure(say=show.say)
