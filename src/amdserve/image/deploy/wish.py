"""What is to be deployed: image, model, devices of this host or a general answer, how many of it."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from amdserve.errors import UsageError
from amdserve.gpu import catalogue
from amdserve.gpu.access import ContainerOptions, container_options
from amdserve.gpu.sysroot import Sysroot
from amdserve.image import show
from amdserve.image.host import detect
from amdserve.image.launch import MODELS, PORT, model_mounts
from amdserve.image.models import Request
from amdserve.image.plan import ALL
from amdserve.image.project import Project

_NAME = re.compile(r"^[a-z]([a-z0-9-]{0,40}[a-z0-9])?$")
_SIZE = re.compile(r"^[1-9]\d*[MGT]i$")
FORMATS: Mapping[str, str] = {
    "compose": "compose.yaml.j2",
    "kubernetes": "kubernetes.yaml.j2",
    "quadlet": "quadlet.container.j2",
}
CDI = "amd.com/gpu=all"
# The image that serves Hugging Face models, and the only one whose backend works across nodes.
FULL = "full"


@dataclass(frozen=True, slots=True)
class Wish:
    """Everything that the templates need.

    `options` are this host's devices, groups and limits; `mounts` maps its paths to the container's,
    read-only; `model` is the path in the container, `more` the words after it. `products` are the names that
    AMD's labeller gives nodes with these GPUs. `nodes` is how many hosts serve one model together,
    `replicas` and `most` how many times it is served; `storage` is the size of Kubernetes' volume for models.
    """

    name: str
    image: str
    model: str
    options: ContainerOptions
    mounts: Mapping[str, str] = field(default_factory=dict)
    gfx: tuple[str, ...] = ()
    products: tuple[str, ...] = ()
    gpu: bool = True
    shared_memory: bool = False
    more: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = PORT
    cdi: bool = False
    nodes: int = 1
    gpus: int = 1
    replicas: int = 1
    most: int = 0
    storage: str = "100Gi"

    @property
    def command(self) -> tuple[str, ...]:
        """What follows the image."""
        return ("serve", self.model, *self.more)

    @property
    def shared(self) -> bool:
        """Whether several pods read the models."""
        return self.nodes > 1 or self.replicas > 1 or self.most > 1


def wish(
    project: Project,
    *,
    format_: str,
    image: str,
    model: str,
    gfx: tuple[str, ...] = (),
    name: str = "amdserve",
    serve: str = "",
    host: str = "127.0.0.1",
    port: int = PORT,
    cdi: bool = False,
    nodes: int = 1,
    gpus: int = 1,
    replicas: int = 1,
    most: int = 0,
    storage: str = "100Gi",
) -> Wish:
    """Put together what to deploy, from the words of a command line.

    Raises:
        UsageError: a word does not hold, or the model is not on this host where it is mounted from.
    """
    _check(name, port, storage, {"nodes": nodes, "gpus": gpus, "replicas": replicas})
    if format_ not in FORMATS:
        raise UsageError(f"no format {format_!r}", fix=f"--format {'|'.join(FORMATS)}")
    held, inside = ({}, "") if format_ == "kubernetes" else model_mounts(model)
    reference, backends, targets = _image(project, image, gfx)
    rocm = "llama-server-rocm" in backends or "vllm" in backends
    if nodes > 1 and (format_ != "kubernetes" or "vllm" not in backends):
        raise UsageError(
            "only vLLM in Kubernetes serves one model on several nodes",
            cause=f"{reference} as {format_} cannot",
            fix=f"--format kubernetes --image {FULL} --nodes {nodes}; more of the same is --replicas",
        )
    mounts: dict[str, str] = {}
    if format_ == "kubernetes":
        # The volume's, not this host's.
        inside = str(PurePosixPath(MODELS) / model.removeprefix(f"{MODELS}/").lstrip("/"))
        options = ContainerOptions()
    else:
        mounts = {str(source): target for source, target in held.items()}
        here = detect()
        options = container_options(here, Sysroot.from_environ(os.environ), rocm=rocm)
        if not options.devices and not options.gpus and not cdi:
            show.say("no GPU was found on this host: the file names none, and it will serve on the CPU")
    try:
        more = tuple(shlex.split(serve))
    except ValueError as reason:
        raise UsageError(f"--serve {serve!r} cannot be taken apart", cause=str(reason)) from reason
    return Wish(
        name,
        reference,
        inside,
        options,
        mounts,
        targets,
        products(targets),
        shared_memory=rocm,
        more=more,
        host=host,
        port=port,
        cdi=cdi,
        nodes=nodes,
        gpus=gpus,
        replicas=replicas,
        most=most,
        storage=storage,
    )


def products(gfx: tuple[str, ...]) -> tuple[str, ...]:
    """Give products as AMD's labeller writes them into a node's label: blanks as underscores."""
    found = []
    for target in filter(None, map(catalogue.lookup, gfx)):
        for product in target.products:
            brand = "Instinct" if product.startswith("MI") else "Radeon"
            full = product if brand in product else f"{brand} {product}"
            found.append(f"AMD {full}".replace(" ", "_"))
    return tuple(dict.fromkeys(one for one in found if re.fullmatch(r"[A-Za-z0-9_.-]{1,63}", one)))


def _image(
    project: Project, image: str, gfx: tuple[str, ...]
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """Give the reference meant, its backends and its targets; no engine is asked."""
    images = project.catalog.images
    targets = catalogue.resolve(gfx)
    if image in images:
        request = project.complete(Request(images=(image,), gfx=targets))
        cell = project.plan(request).cells[0]
        return cell.tag, cell.backends, cell.gfx
    if image == ALL or not re.search(r"[:/@]", image):
        raise UsageError(
            f"{image!r} is neither an image of the catalogue nor a reference",
            fix=f"--image {'|'.join(images)}, or REGISTRY/NAME:TAG",
        )
    # The tag says which image of the catalogue it is; the default one is meant where it says nothing.
    tag = image.rpartition("/")[2].partition("@")[0]
    named = [one for one in images if re.search(rf"(?:^|[:-]){re.escape(one)}(?:-|$)", tag)]
    return image, tuple(images[named[-1] if named else project.catalog.default].backends), targets


def _check(name: str, port: int, storage: str, counts: Mapping[str, int]) -> None:
    if not _NAME.match(name):
        raise UsageError(
            f"--name {name!r} is no name for a service",
            cause="lower-case letters, digits and - only, a letter first",
            fix="--name amdserve",
        )
    if not 0 < port < 65536:
        raise UsageError(f"{port} is no port", cause="1 to 65535", fix="--port 8080")
    if not _SIZE.match(storage):
        raise UsageError(f"--storage {storage!r} is no size", fix="--storage 100Gi")
    for word, count in counts.items():
        if count < 1:
            raise UsageError(f"--{word} {count}: at least 1", fix=f"--{word} 1")
