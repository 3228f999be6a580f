"""The whole way of a release: plan, build, verify, push, sign, verify as pulled, aliases, notes.

Nothing is remembered beside the engine and the registry: each step looks whether it is done already, so a
release that was stopped anywhere goes on where it stopped. A name that moves is set last, when every image
of the release carries a signed statement that it was tested as pulled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from amdserve.errors import PublishError, VerifyError
from amdserve.image import show
from amdserve.image.catalog import Sources
from amdserve.image.local import Images, LocalImage
from amdserve.image.models import Cell, LlamaSource, Plan
from amdserve.image.publish import compress, notes, provenance, published, push, sbom, sign
from amdserve.image.publish.compress import Compression
from amdserve.image.publish.pull import pulled
from amdserve.image.publish.reference import Reference, parse
from amdserve.image.publish.registry import Registry
from amdserve.image.publish.sign import Signer
from amdserve.image.verify import Report

if TYPE_CHECKING:
    from amdserve.image.engine import Engine

Step = Literal["build", "push", "sign", "test", "aliases", "notes"]
STEPS: tuple[Step, ...] = ("build", "push", "sign", "test", "aliases", "notes")


@dataclass(frozen=True, slots=True)
class Released:
    """What a release came to for one cell: where it is, what was done now, and the names that lead to it."""

    cell: Cell
    reference: Reference
    done: tuple[Step, ...] = ()
    aliases: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Give it as one JSON object."""
        return {
            "id": self.cell.id,
            "reference": str(self.reference.at(tag=self.reference.tag)),
            "digest": self.reference.digest,
            "done": list(self.done),
            "aliases": list(self.aliases),
        }


@dataclass
class Release:
    """One release of the cells of a plan into one repository.

    `build` gives the verified image of a cell in the engine, building it where it must; `prove` checks an
    image that was pulled. `latest` is the latest time that may stay in a layer, in seconds; `folder` holds
    packed layers for a while; `compression` is with what they are compressed.
    """

    plan: Plan
    engine: Engine
    registry: Registry
    signer: Signer
    sources: Sources
    llama: LlamaSource
    folder: Path
    latest: int
    build: Callable[[Cell], LocalImage]
    prove: Callable[[str, Cell], Report]
    compression: Compression = compress.DEFAULT
    say: Callable[[str], None] = show.say
    _seen: dict[str, published.Published] = field(default_factory=dict)

    def run(self, *, through: Step = "notes", promote: bool = False) -> list[Released]:
        """Do what is not done yet.

        Args:
            through: the last step to do.
            promote: build and push nothing: only set the aliases of what is there, signed and tested.

        Raises:
            AmdserveError: a step failed. What was done stays, and is not done again; no alias has moved.
        """
        released = [self.cell(cell, through=through, promote=promote) for cell in self.plan.cells]
        if STEPS.index(through) >= STEPS.index("aliases"):
            released = [self.aliases(one) for one in released]
        if STEPS.index(through) >= STEPS.index("notes"):
            text = notes.text([(one.cell, self._image(one.reference)) for one in released], self.signer)
            self.say(f"notes: {notes.write(self.folder.parent, text)}")
        return released

    def cell(self, cell: Cell, *, through: Step, promote: bool) -> Released:
        """Have one cell in the registry, signed and tested."""
        done: list[Step] = []
        where = parse(cell.immutable)
        manifest = push.published(self.registry, cell)
        if manifest is None:
            if promote:
                raise _not_ready(cell, "it is not in the registry")
            image = self.build(cell)
            done.append("build")
            if through == "build":
                return Released(cell, where, tuple(done))
            sent = push.push(
                self.registry,
                cell,
                image,
                self.engine,
                folder=self.folder,
                latest=self.latest,
                compression=self.compression,
                say=self.say,
            )
            done.append("push")
            where = sent.reference
        else:
            where = where.at(tag=where.tag, digest=manifest.digest)
            stays = push.otherwise(manifest, self.compression)
            self.say(f"{cell.id}: in the registry already, {manifest.digest}{stays}")
        if STEPS.index(through) >= STEPS.index("sign") and not promote and self.sign(cell, where):
            done.append("sign")
        if STEPS.index(through) >= STEPS.index("test") and self.test(cell, where, promote=promote):
            done.append("test")
        return Released(cell, where, tuple(done))

    def sign(self, cell: Cell, where: Reference) -> bool:
        """Have the signature and the signed documents beside an image; give whether any was missing."""
        missing = [
            kind
            for kind in (sign.PROVENANCE, sign.SPDX, sign.CYCLONEDX)
            if self.signer.statement(where, kind)[0] is None
        ]
        if missing:
            image = self._image(where)
            statements = self.statements(cell, image, missing)
            for kind in missing:
                self.say(f"{cell.id}: attaching {kind}")
                self.signer.attest(where, kind, statements[kind])
        # Last: a signature says that all of it is there.
        if self.signer.signed(where):
            self.say(f"{cell.id}: signing {where.digest}")
            self.signer.sign(where)
            return True
        return bool(missing)

    def statements(self, cell: Cell, image: published.Published, kinds: Sequence[str]) -> dict[str, Any]:
        """Give the documents about an image, by kind."""
        found: dict[str, Any] = {}
        if sign.PROVENANCE in kinds:
            found[sign.PROVENANCE] = provenance.provenance(
                cell, image.labels, self.sources, self.llama, latest=self.latest
            )
        if sign.SPDX in kinds or sign.CYCLONEDX in kinds:
            sdist = self.sources.llama.sha256 if self.llama.kind == "sdist" else ""
            documents = sbom.documents(
                image.inventory,
                sbom.parts(image.inventory, image.labels, sdist),
                name=f"amdserve-{cell.id}",
                digest=str(image.reference.digest),
                latest=self.latest,
            )
            found |= {sign.SPDX: documents.spdx, sign.CYCLONEDX: documents.cyclonedx}
        return found

    def test(self, cell: Cell, where: Reference, *, promote: bool) -> bool:
        """Have a signed statement that the image was tested as pulled; give whether that was done now.

        Raises:
            VerifyError: the image is not what it should be, once it is pulled.
        """
        if trouble := self.signer.signed(where):
            raise _not_ready(cell, f"its signature does not hold: {trouble}")
        said, _ = self.signer.statement(where, sign.TESTED)
        if said is not None and said.get("result") == "PASSED":
            return False
        if promote:
            raise _not_ready(cell, "no signed statement says that it was tested as pulled")
        image = self._image(where)
        checks = [*image.checks, *published.attached(image, self.signer)]
        with pulled(self.engine, image, say=self.say) as reference:
            checks += self.prove(reference, cell).checks
        bad = [check for check in checks if not check.ok]
        if bad:
            raise VerifyError(
                f"{where.pinned}, as pulled, is not what it should be: "
                + "; ".join(f"{check.name}: {check.detail}" for check in bad),
                cause="no alias was moved to it",
                fix=f"./inv verify {where.pinned}",
            )
        self.signer.attest(where, sign.TESTED, provenance.tested(checks, str(where.digest)))
        return True

    def aliases(self, one: Released) -> Released:
        """Bring the moving names of a cell to its image; they are set one by one, each in one step."""
        manifest = self.registry.manifest(str(one.reference.digest))
        if manifest is None:
            raise _not_ready(one.cell, "it is not in the registry any more")
        moved = False
        for alias in one.cell.aliases:
            tag = str(parse(alias).tag)
            now = self.registry.manifest(tag)
            if now is None or now.digest != manifest.digest:
                self.registry.put_manifest(tag, manifest)
                self.say(f"{alias}: {manifest.digest}")
                moved = True
        done: tuple[Step, ...] = (*one.done, "aliases") if moved else one.done
        return Released(one.cell, one.reference, done, one.cell.aliases)

    def _image(self, where: Reference) -> published.Published:
        """Read a published image whole, once per run.

        Raises:
            VerifyError: it is not whole.
        """
        key = str(where.digest)
        if key not in self._seen:
            found = published.fetch(self.registry, where, say=self.say)
            if not found.ok:
                raise VerifyError(
                    f"{where.pinned} is not whole: "
                    + "; ".join(check.detail for check in found.checks if not check.ok),
                    cause="it was changed in the registry after it was pushed",
                    fix="do not use it; ask who runs the registry",
                )
            self._seen[key] = found
        return self._seen[key]


def in_engine(images: Images, cell: Cell) -> LocalImage | None:
    """Give the verified image of a cell, under whatever repository's name it was built.

    The labels alone do not tell: an image made on one of ours has them too, and so has a candidate, which is
    not verified yet. Neither has a tag of the cell's.
    """
    names = {tag.rpartition(":")[2] for tag in (*cell.tags, *cell.aliases)}
    for image in images.labelled({"hash": cell.hash}):
        if any(tag.rpartition(":")[2] in names for tag in image.tags):
            return image
    return None


def dry(plan: Plan, signer: Signer, *, through: Step = "notes", promote: bool = False) -> list[str]:
    """Give every step of a release as a line, without asking anybody anything."""
    lines = []
    last = STEPS.index(through)
    for cell in plan.cells:
        where = parse(cell.immutable)
        words = f"--image {cell.image}" + (f" --gfx {','.join(cell.gfx)}" if cell.gfx else "")
        steps = [
            ("build", f"./inv build {words} (unless the engine or the registry has {cell.hash[:19]})"),
            ("build", "./inv verify of what was built"),
            ("push", f"push {where}, layers that are missing only"),
            ("sign", f"read {where} back whole; attach provenance, SPDX and CycloneDX; sign its digest"),
            ("test", f"docker pull {where.repository}@DIGEST; ./inv verify of it; attach the test result"),
        ]
        lines += [
            f"{cell.id}: {name}: {text}" for name, text in steps if STEPS.index(name) <= last and not promote
        ]
    if last >= STEPS.index("aliases"):
        lines += [f"{cell.id}: alias: {alias}" for cell in plan.cells for alias in cell.aliases]
    if last >= STEPS.index("notes"):
        lines.append(f"notes: build/{notes.FILE}, signed by {signer.key or signer.identity or 'nobody yet'}")
    return lines


def _not_ready(cell: Cell, why: str) -> PublishError:
    return PublishError(
        f"{cell.id} cannot be released: {cell.immutable} is not ready",
        cause=why,
        fix=f"./inv release --image {cell.image}" + (f" --gfx {','.join(cell.gfx)}" if cell.gfx else ""),
    )
