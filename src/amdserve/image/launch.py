"""What `invoke run` starts: image, model, devices, groups, limits; as a `docker run` line and for the SDK."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amdserve.errors import UsageError
from amdserve.gpu import catalogue
from amdserve.gpu.access import ContainerOptions, container_options
from amdserve.gpu.sysroot import Sysroot
from amdserve.image import show
from amdserve.image.host import detect
from amdserve.image.local import Images, LocalImage
from amdserve.image.plan import LABEL
from amdserve.values import replace

# Inside the container; what the host sees is the option.
PORT = 8080
MODELS = "/models"
STATE = "/var/lib/amdserve"
STATE_VOLUME = "amdserve-state"
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


@dataclass(frozen=True, slots=True)
class Launch:
    """What to start.

    `mounts` maps a path of the host to its place in the container, all read-only; `serve` are the words after
    `serve`; `host` and `port` are where the host listens.
    """

    image: str
    options: ContainerOptions
    mounts: Mapping[Path, str]
    serve: tuple[str, ...]
    host: str = "127.0.0.1"
    port: int = PORT
    name: str | None = None

    @property
    def url(self) -> str:
        """Where it answers."""
        host = "127.0.0.1" if self.host in ("0.0.0.0", "::") else self.host
        return f"http://{host}:{self.port}"

    def argv(self, *, detach: bool, podman: bool = False) -> tuple[str, ...]:
        """Give the equivalent `docker run` line, or that of podman."""
        words = ["podman" if podman else "docker", "run", "--detach" if detach else "--rm", "--publish"]
        words.append(f"{self.host}:{self.port}:{PORT}")
        if self.name:
            words += ["--name", self.name]
        if podman:
            # A rootless container knows no group of the host by number; it may keep those of who starts it.
            words += replace(self.options, groups=()).argv()
            words += ["--group-add", "keep-groups"] if self.options.groups else []
        else:
            words += self.options.argv()
        for source, target in self.mounts.items():
            words += ["--volume", f"{source}:{target}:ro"]
        words += ["--volume", f"{STATE_VOLUME}:{STATE}", self.image, "serve", *self.serve]
        return tuple(words)

    def arguments(self) -> dict[str, Any]:
        """Give the same for the Docker SDK's `containers.create`."""
        from docker.types import DeviceRequest, Ulimit  # noqa: PLC0415 - the SDK costs a third of a second

        limits = [limit.partition("=") for limit in self.options.ulimits]
        pairs = [(name, values.partition(":")) for name, _, values in limits]
        found: dict[str, Any] = {
            "image": self.image,
            "command": ["serve", *self.serve],
            "ports": {f"{PORT}/tcp": (self.host, self.port)},
            "devices": [f"{path}:{path}:rwm" for path in self.options.devices],
            "group_add": [str(group) for group in self.options.groups],
            "ulimits": [
                Ulimit(name=name, soft=int(soft), hard=int(hard or soft)) for name, (soft, _, hard) in pairs
            ],
            "volumes": {
                **{str(source): {"bind": target, "mode": "ro"} for source, target in self.mounts.items()},
                STATE_VOLUME: {"bind": STATE, "mode": "rw"},
            },
        }
        if self.name:
            found["name"] = self.name
        if self.options.ipc:
            found["ipc_mode"] = self.options.ipc
        if self.options.security:
            found["security_opt"] = list(self.options.security)
        if self.options.gpus:
            found["device_requests"] = [DeviceRequest(count=-1, capabilities=[["gpu"]])]
        return found


def model_mounts(model: str) -> tuple[dict[Path, str], str]:
    """Give the mounts that a model needs and its path in the container.

    A file is mounted alone, the first shard of several with its folder, a folder (a Hugging Face model)
    whole.

    Raises:
        UsageError: there is no such file or folder.
    """
    path = Path(model).expanduser().absolute()
    if not path.exists():
        raise UsageError(
            f"--model {model}: no such file or folder",
            cause="the path is the host's, not the container's",
            fix=f"ls -l {shlex.quote(str(path.parent))}",
        )
    if path.is_dir():
        return {path: f"{MODELS}/{path.name}"}, f"{MODELS}/{path.name}"
    if _SHARD.search(path.name):
        return {path.parent: f"{MODELS}/{path.parent.name}"}, f"{MODELS}/{path.parent.name}/{path.name}"
    # A link (as in a cache of Hugging Face's) is mounted as what it leads to, under its own name.
    return {path.resolve(): f"{MODELS}/{path.name}"}, f"{MODELS}/{path.name}"


def choose_image(asked: str, gfx: tuple[str, ...], known: tuple[str, ...], images: Images) -> LocalImage:
    """Find the image meant: a reference, or an image of the catalogue that was built for this gfx.

    Args:
        asked: a reference, or a name of the catalogue.
        gfx: the targets it must hold; none: any will do.
        known: the names of the catalogue.
        images: the engine's.

    Raises:
        UsageError: the engine has none.
    """
    if asked not in known:
        found = images.find(asked)
        if found is None:
            raise UsageError(
                f"the engine has no image {asked}",
                fix=f"docker pull {asked}, or --image {'|'.join(known)}",
            )
        return found
    # An image made on one of ours has its labels too: what has a name of our own comes first.
    built = sorted((one for one in images.labelled({"image": asked}) if one.tags), key=_name_is_foreign)
    for image in built:
        held = image.labels.get(LABEL + "gfx", "")
        if not held or set(gfx) <= set(held.split(",")):
            return image
    wanted = f" for {', '.join(gfx)}" if gfx else ""
    others = sorted({tag for image in built for tag in image.tags if not _never_moves(tag)})
    raise UsageError(
        f"no image {asked!r}{wanted} has been built in this engine",
        cause=f"there are: {', '.join(others)}" if others else "nothing has been built yet",
        fix=f"./inv build --image {asked}" + (f" --gfx {','.join(gfx)}" if gfx else ""),
    )


def _name_is_foreign(image: LocalImage) -> bool:
    cell = image.labels.get(LABEL + "cell", "")
    return not any(cell in tag.rpartition(":")[2] for tag in image.tags)


def _never_moves(tag: str) -> bool:
    return tag.rpartition(":")[2][:1].isdigit()


def prepare(
    images: Images,
    known: tuple[str, ...],
    model: str,
    *,
    image: str,
    gfx: tuple[str, ...] = (),
    host: str = "127.0.0.1",
    port: int = PORT,
    name: str = "",
    more: str = "",
) -> Launch:
    """Put together what to start: this host's devices, groups and limits, the model, what `serve` is told.

    Args:
        images: the engine's.
        known: the names of the catalogue.
        model: a path on this host.
        image: a reference or a name of the catalogue.
        gfx: names of the targets the image must hold; none: those found on this host.
        host: the address to listen on.
        port: the port to listen on.
        name: the container's, empty for one that the engine makes up.
        more: words for `serve`, as one text.

    Raises:
        UsageError: no such model, image or gfx, or `more` has an open quote.
    """
    mounts, inside = model_mounts(model)
    here = detect()
    found = tuple(gpu.gfx for gpu in here.gpus if gpu.gfx)
    chosen = choose_image(image, catalogue.resolve(gfx) or found, known, images)
    rocm = "llama-server-rocm" in chosen.labels.get(LABEL + "backends", "")
    options = container_options(here, Sysroot.from_environ(os.environ), rocm=rocm)
    if not options.devices and not options.gpus:
        show.say("no GPU was found on this host: it will serve on the CPU (./inv doctor says why)")
    try:
        words = (inside, *shlex.split(more))
    except ValueError as reason:
        raise UsageError(f"--serve {more!r} cannot be taken apart", cause=str(reason)) from reason
    # Of its tags the one that moves: it is what a person would write.
    reference = image if image not in known else min(chosen.tags, key=_never_moves)
    return Launch(reference, options, mounts, words, host, port, name or None)
