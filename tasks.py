"""The commands of this project for Invoke (`./inv --list`): they parse, call and print; no logic here."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import invoke.tasks
from invoke.context import Context
from invoke.exceptions import Exit

from amdserve import process
from amdserve.errors import AmdserveError
from amdserve.image import show
from amdserve.image.asked import Asked, asks

P = ParamSpec("P")


class Task(invoke.tasks.Task[Callable[..., None]]):
    """A task whose options have letters for short names: where all others are taken, invoke takes a dash."""

    def arg_opts(self, name: str, default: str, taken_names: set[str]) -> dict[str, Any]:
        """Give what invoke is to know about an option."""
        return super().arg_opts(name, default, {*taken_names, "-"})


task = functools.partial(invoke.tasks.task, klass=Task)
ROOT = Path(__file__).resolve().parent

GFX = "GPU targets: gfx1151, a product, a family (rdna3), a comma list, or `all`"
JSON = "print one JSON document on standard output"
DRY = "print what would be done, and do nothing"
JOBS = "compilers at a time; 0: as many as cores and memory allow"
COMPRESSION = "how layers are compressed: zstd, zstd-fast (larger), or gzip for a Docker Engine older than 23"
HERE = "; without it: the ones found on this host"
WHAT = {
    "image": "images of the catalogue, comma-separated, or `all`; without it: the catalogue's default",
    "gfx": GFX + HERE,
    "each": "one image per target, where otherwise one image holds the code for all of them",
    "provider": "where ROCm comes from: debian or amd",
    "llama-source": "llama.cpp from elsewhere: a git URL with @ref, or a folder",
    "base": "the base image: auto, pull or bootstrap",
    "repository": "what the tags begin with, such as ghcr.io/somebody/amdserve",
    "vllm-version": "another release of vLLM than the pinned one (image full)",
    "vllm-variant": "which ROCm build of it: rocm100",
    "vllm-index": "package indexes, comma-separated; one may be a folder, one `default=URL` in PyPI's place",
    "vllm-python": "where its CPython comes from: uv, system, or the URL of a mirror",
    "vllm-requirement": "what is installed in place of vllm==VERSION+VARIANT",
    "vllm-source": "wheel, or build: from its source distribution",
}

SIGNED = {
    "key": "the public key that must have signed it",
    "identity": "a regular expression for the identity (a workflow) that must have signed it",
    "issuer": "who vouches for that identity; without it: GitHub's workflows",
}


def told(body: Callable[P, None]) -> Callable[P, None]:
    """Print this project's own errors (what failed, likely cause, next step); exit with their code."""

    @functools.wraps(body)
    def told_body(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            body(*args, **kwargs)
        except AmdserveError as failure:
            show.error(failure)
            raise Exit(code=failure.exit_code) from failure
        except BrokenPipeError:
            # The reader has what it wanted (`./inv plan | head`): nothing is left to be flushed at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    return told_body


@task(help={"json": JSON})
@told
def detect(_c: Context, json: bool = False) -> None:
    """Say which GPU is here, and how that was found out."""
    from amdserve.image import host, report

    found = host.detect()
    show.answer(found.to_dict()) if json else print(report.detection(found))


@task(
    help={
        **WHAT,
        "image": "images of the catalogue, comma-separated, or `all`; without it: all",
        "gfx": GFX + "; without it: all that the provider has kernels for, an image each",
        "from": "say what a published or built image was made from, and what would differ today",
        "matrix": "print `cells=` and the cells as one line of JSON, as a workflow takes it",
        "layers": "say which layers all targets share, and what another target costs",
        "size": "say what makes a built or pulled image large: the ten largest things in it",
        "against": "with --size: the image to compare it with, such as the last release",
        "json": JSON,
    }
)
@told
@asks(image="all")
def plan(
    _c: Context,
    asked: Asked,
    *,
    from_: str = "",
    layers: bool = False,
    size: str = "",
    against: str = "",
    matrix: bool = False,
    json: bool = False,
) -> None:
    """Say what would be built: cells with tags, labels and hash. Without arguments the whole matrix."""
    from amdserve.image import report

    if size:
        from amdserve.image import engine as engines
        from amdserve.image import sizes

        measured = sizes.compare(engines.ensure(say=show.say), size, against)
        show.answer(measured.to_dict()) if json else print(measured)
        return
    project = asked.project(ROOT)
    if from_:
        from amdserve.image.publish import compare

        found = compare.compare(from_, compare.labels_at(from_, compare.engine_images()), project)
        show.answer(found.to_dict()) if json else print(found)
        return
    request = project.matrix(asked.request())
    planned = project.plan(request)
    for note in planned.notes:
        show.say(f"note: {note}")
    if layers:
        from amdserve.image.publish import layers as costs

        known = costs.of_plan(planned, project)
        answer = {"cells": {cell.id: [one.to_dict() for one in held] for cell, held in known}}
        show.answer(answer) if json else print("\n\n".join(costs.table(*pair) for pair in known))
        return
    if matrix:
        print(report.matrix(planned.cells))
        return
    show.answer(planned.to_dict()) if json else print(report.cells(planned.cells))


@task(help={**WHAT, "jobs": JOBS, "docs": "write docs/support.md instead", "json": JSON})
@told
@asks()
def render(
    _c: Context,
    asked: Asked,
    *,
    jobs: int = 0,
    docs: bool = False,
    json: bool = False,
) -> None:
    """Write build/<cell>/Dockerfile and build/docker-bake.json."""
    from amdserve.image import support

    if docs:
        print(support.write(ROOT).relative_to(ROOT))
        return

    project = asked.project(ROOT)
    request = project.complete(asked.request(jobs))
    found = project.plan(request)
    paths = [str(path.relative_to(ROOT)) for path in project.render(found, request.jobs)]
    show.answer({**found.to_dict(), "files": paths}) if json else print("\n".join(paths))


@task(
    help={
        **WHAT,
        "jobs": JOBS,
        "builder": "the buildx builder to build with",
        "force": "build also what has not changed",
        "dry": DRY,
        "json": JSON,
    }
)
@told
@asks()
def build(
    _c: Context,
    asked: Asked,
    *,
    jobs: int = 0,
    builder: str = "",
    force: bool = False,
    dry: bool = False,
    json: bool = False,
) -> None:
    """Build images, prove them, and tag them."""
    from amdserve.image import build as building
    from amdserve.image import report

    project = asked.project(ROOT)
    request = project.complete(asked.request(jobs))
    options = building.Options(builder or None, force=force, dry=dry)
    outcomes = building.build(project, request, options)
    if json:
        show.answer({"images": [outcome.to_dict() for outcome in outcomes]})
    else:
        print(report.table(outcomes))


@task(
    positional=["ref"],
    help={
        "ref": "the image to look into; of a registry: its signature and documents too, and as pulled",
        **SIGNED,
        "record": "keep what was found in docs/evidence",
        "json": JSON,
    },
)
@told
def verify(
    _c: Context,
    ref: str,
    key: str = "",
    identity: str = "",
    issuer: str = "",
    record: bool = False,
    json: bool = False,
) -> None:
    """Prove that an image is what it should be. Exits with 0 only if every check holds."""
    from amdserve.image import engine as engines
    from amdserve.image import report
    from amdserve.image.publish import commands

    engine = engines.ensure(say=show.say)
    found = commands.verify_image(ref, commands.signer(public=key, identity=identity, issuer=issuer), engine)
    if record:
        from amdserve.image import support

        support.keep(ROOT, support.seen(engine, ref, [check.to_dict() for check in found.checks]))
        support.write(ROOT)
    show.answer(found.to_dict()) if json else print(report.checks(found.checks))
    if not found.ok:
        raise Exit(code=1)


@task(
    help={
        "model": "a GGUF file (the first of several) or a Hugging Face folder on this host",
        "image": "a name of the catalogue, or any reference",
        "gfx": GFX + HERE,
        "port": "where this host listens",
        "host": "the address this host listens on; 0.0.0.0 for everybody",
        "name": "the container's name",
        "serve": 'more words for `amdserve serve`, as one: --serve "--n-ctx 16384"',
        "wait": "seconds until it must answer",
        "detach": "come back when it answers, and leave it running",
        "podman": "only print the line for podman",
        "dry": DRY,
    }
)
@told
def run(
    _c: Context,
    model: str,
    image: str = "llama",
    gfx: str = "",
    port: int = 8080,
    host: str = "127.0.0.1",
    name: str = "",
    serve: str = "",
    wait: int = 900,
    detach: bool = False,
    podman: bool = False,
    dry: bool = False,
) -> None:
    """Serve a model in a container, with the devices, groups and limits that this host needs."""
    from amdserve.image import container, launch
    from amdserve.image import engine as engines
    from amdserve.image.local import Images
    from amdserve.image.project import Project

    found = engines.ensure(say=show.say)
    started = launch.prepare(
        Images(found),
        tuple(Project(ROOT).catalog.images),
        model,
        image=image,
        gfx=_words(gfx),
        host=host,
        port=port,
        name=name,
        more=serve,
    )
    if podman:
        print(process.show(started.argv(detach=detach, podman=True)))
        return
    container.start(started, found, detach=detach, wait=wait, dry=dry)


@task(help={"model": "judge memory and limits against this model's size", "json": JSON})
@told
def doctor(_c: Context, model: str = "", json: bool = False) -> None:
    """Say what is wrong with this host, and the exact fix."""
    from amdserve import doctor as doctors

    words = [*(["--json"] if json else []), *(["--model", model] if model else [])]
    raise Exit(code=doctors.main(["--place", "host", *words]))


@task(help={"stop": "stop the engine that this project started", "dry": DRY, "json": JSON})
@told
def engine(_c: Context, stop: bool = False, dry: bool = False, json: bool = False) -> None:
    """Have a Docker Engine that can build: use, start or install one. Says what it does before it does it."""
    from amdserve.image import engine as engines

    if stop:
        engines.stop(say=show.say)
        return
    found = engines.ensure(dry=dry, say=show.say)
    show.answer(found.to_dict()) if json else print(f"export DOCKER_HOST={found.host}")


@task(
    help={
        "unit": "only lint, types and the quick tests: no engine",
        "only": "words for pytest, as one: --only 'tests/unit/image -k plan'",
        "gfx": "the target whose image the container tests use",
        "vllm": "only the slow tests with a real vLLM, for the CPU; it is fetched once",
    }
)
@told
def test(
    _c: Context,
    unit: bool = False,
    only: str = "",
    gfx: str = "gfx1151",
    vllm: bool = False,
) -> None:
    """Run lint, types and unit tests, then build the images and test them in a real engine."""
    from amdserve.image import house
    from amdserve.image.project import Project

    house.test(Project(ROOT), gfx=_words(gfx), unit=unit, only=only, vllm=vllm)


@task
@told
def lint(_c: Context) -> None:
    """Check code, types and rendered Dockerfiles."""
    from amdserve.image import house
    from amdserve.image.project import Project

    house.lint(Project(ROOT))


@task(
    help={
        "upgrade": "take newer versions than the locked ones",
        "check": "only look for a newer llama-cpp-python, vLLM and ROCm; exits with 0 either way",
        "propose": "with --check: open a pull request for each newer one (git and gh)",
        "dry": DRY,
        "json": JSON,
    }
)
@told
def lock(
    _c: Context,
    upgrade: bool = False,
    check: bool = False,
    propose: bool = False,
    dry: bool = False,
    json: bool = False,
) -> None:
    """Renew the hash-locked requirements, or look for newer sources."""
    from amdserve.image import lock as locking
    from amdserve.image.project import Project

    if check or propose:
        from amdserve.image import propose as proposing

        found = locking.newest(Project(ROOT).sources)
        made = proposing.propose(ROOT, found, dry=dry) if propose else []
        lines = "\n".join(map(locking.advice, found))
        answer = {"sources": [one.to_dict() for one in found], "proposed": made}
        show.answer(answer) if json else print(lines)
        return
    changed = locking.renew(ROOT, upgrade=upgrade, dry=dry)
    show.answer({"changed": changed}) if json else print("\n".join(changed) or "nothing changed")


@task(
    help={
        "model": "a GGUF file (the first of several) on this host",
        "image": "a name of the catalogue, or any reference",
        "gfx": GFX + HERE,
        "prompts": "lengths of the prompts in tokens, comma-separated (512,2048)",
        "generate": "tokens to generate, comma-separated (128); 0: none",
        "depths": "tokens of context before each test, comma-separated (0,4096)",
        "flash-attn": "flash attention: off, on or both (off,on)",
        "ubatch": "micro-batches in tokens, comma-separated (512,2048)",
        "repeat": "times each test is run (3)",
        "budget": "seconds for all of it (900)",
        "backend": "only these, comma-separated: llama-server-vulkan, llama-server-rocm, llama-cpp-python",
        "save": "serve this model so from now on, with `./inv run` too",
        "name": "the folder under build/bench for the result",
        "compare": "measure nothing: compare two results (folders or files), with a comma between them",
        "dry": DRY,
        "json": JSON,
    }
)
@told
def bench(
    _c: Context,
    model: str = "",
    image: str = "llama",
    gfx: str = "",
    prompts: str = "",
    generate: str = "",
    depths: str = "",
    flash_attn: str = "",
    ubatch: str = "",
    repeat: str = "",
    budget: str = "",
    backend: str = "",
    save: bool = False,
    name: str = "",
    compare: str = "",
    dry: bool = False,
    json: bool = False,
) -> None:
    """Measure each backend with a model on this host's GPU, and choose; or compare two results."""
    from amdserve.image.bench import command, launch

    if compare:
        command.compare(compare, as_json=json)
        return
    more = {"prompts": prompts, "generate": generate, "depths": depths, "flash-attn": flash_attn}
    more |= {"ubatch": ubatch, "repeat": repeat, "budget": budget, "backend": backend}
    launch.check(model)
    from amdserve.image import engine as engines
    from amdserve.image.local import Images
    from amdserve.image.project import Project

    found = engines.ensure(say=show.say)
    known = tuple(Project(ROOT).catalog.images)
    more["save"] = "yes" if save else ""
    started = launch.prepare(Images(found), known, model, image=image, gfx=_words(gfx), more=more)
    code = command.measure(started, found, ROOT, name, as_json=json, dry=dry)
    if code:
        raise Exit(code=code)


@task(help={**WHAT, "compression": COMPRESSION, "dry": DRY, "json": JSON})
@told
@asks()
def push(
    _c: Context,
    asked: Asked,
    *,
    compression: str = "zstd",
    dry: bool = False,
    json: bool = False,
) -> None:
    """Publish built images under the tags that never move: what is missing is sent, nothing overwritten."""
    from amdserve.image import report
    from amdserve.image.publish import commands

    request = asked.request()
    done = commands.push_images(asked.project(ROOT), request, compression=compression, only_show=dry)
    show.answer({"images": [one.to_dict() for one in done]}) if json else print(report.pushed(done))


@task(
    help={
        **WHAT,
        "image": "images of the catalogue, comma-separated; without it: all",
        "gfx": GFX + "; without it: all that the provider has kernels for, an image each",
        "key": "the private key that signs (cosign generate-key-pair); COSIGN_PASSWORD opens it",
        "identity": "sign as the workflow this runs in; a regular expression for its name",
        "issuer": SIGNED["issuer"],
        "through": "the last step to do: build, push, sign, test, aliases or notes",
        "promote": "only set the moving names, of what is signed and tested already",
        "jobs": JOBS,
        "builder": "the buildx builder to build with",
        "cache": "a repository that keeps build caches; written with a --builder of its own only",
        "compression": COMPRESSION,
        "dry": DRY,
        "json": JSON,
    }
)
@told
@asks(image="all")
def release(
    _c: Context,
    asked: Asked,
    *,
    key: str = "",
    identity: str = "",
    issuer: str = "",
    through: str = "notes",
    promote: bool = False,
    jobs: int = 0,
    builder: str = "",
    cache: str = "",
    compression: str = "zstd",
    dry: bool = False,
    json: bool = False,
) -> None:
    """Plan, build, verify, push, sign, test as pulled, move the names; goes on where it stopped."""
    from amdserve.image import report
    from amdserve.image.publish import commands

    project = asked.project(ROOT)
    request = project.matrix(asked.request(jobs))
    signer = commands.signer(key=key, identity=identity, issuer=issuer)
    options = commands.options(
        through, promote=promote, dry=dry, builder=builder or None, cache=cache, compression=compression
    )
    done = commands.release_images(project, request, signer, options)
    show.answer({"images": [one.to_dict() for one in done]}) if json else print(report.released(done))


@task(
    help={
        "format": "compose, kubernetes or quadlet",
        "model": "a model on this host; for kubernetes: its path in the volume for models",
        "image": "a name of the catalogue, or any reference",
        "gfx": GFX + "; for kubernetes: the nodes that may run it",
        "name": "what the service is called",
        "port": "where it listens",
        "host": "the address it listens on; 0.0.0.0 for everybody",
        "serve": 'more words for `amdserve serve`, as one: --serve "--n-ctx 16384"',
        "cdi": "name the GPUs by the container device interface instead of by device and group",
        "nodes": "hosts that serve one model together (kubernetes, image full)",
        "gpus": "GPUs of each pod (kubernetes)",
        "replicas": "how many times it is served (kubernetes)",
        "most": "up to how many, by the requests that wait (kubernetes); 0: no autoscaler",
        "storage": "the size of the volume for models (kubernetes)",
        "json": JSON,
    }
)
@told
def deploy(
    _c: Context,
    model: str,
    format: str = "compose",  # noqa: A002 - the option's name
    image: str = "llama",
    gfx: str = "",
    name: str = "amdserve",
    port: int = 8080,
    host: str = "127.0.0.1",
    serve: str = "",
    cdi: bool = False,
    nodes: int = 1,
    gpus: int = 1,
    replicas: int = 1,
    most: int = 0,
    storage: str = "100Gi",
    json: bool = False,
) -> None:
    """Print the file by which compose, Kubernetes or podman's quadlet serve a model."""
    from amdserve.image import deploy as deploying
    from amdserve.image.project import Project

    project = Project(ROOT)
    wanted = deploying.wish(
        project,
        format_=format,
        image=image,
        model=model,
        gfx=_words(gfx),
        name=name,
        serve=serve,
        host=host,
        port=port,
        cdi=cdi,
        nodes=nodes,
        gpus=gpus,
        replicas=replicas,
        most=most,
        storage=storage,
    )
    text = deploying.render(wanted, format, project.renderer)
    show.answer({"format": format, "image": wanted.image, "text": text}) if json else print(text, end="")


def _words(text: str) -> tuple[str, ...]:
    return (text,) if text else ()
