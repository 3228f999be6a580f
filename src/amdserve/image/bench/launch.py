"""What `invoke bench` starts: image, this host's devices, model, and the words of `amdserve bench`."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import Any

from amdserve.errors import UsageError
from amdserve.image import launch
from amdserve.image.local import Images

# In the container, on its own layer: it is copied out, whoever owns the folder on this host.
OUT = "/tmp/amdserve-bench"
# Variables of this host that choose a device or a driver, and mean the same in the container.
PASSED_ON = (
    "VK_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "GGML_VK_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HSA_OVERRIDE_GFX_VERSION",
)


@dataclass(frozen=True, slots=True)
class Launch(launch.Launch):
    """A container that measures and ends: no port, and `bench` in place of `serve`."""

    def argv(self, *, detach: bool = False, podman: bool = False) -> tuple[str, ...]:
        """Give the equivalent `docker run` line."""
        words = list(launch.Launch.argv(self, detach=detach, podman=podman))
        at = words.index("--publish")
        del words[at : at + 2]
        place = words.index(self.image)
        words[place + 1] = "bench"
        words[place:place] = [
            part for name, value in _environment().items() for part in ("--env", f"{name}={value}")
        ]
        return tuple(words)

    def arguments(self) -> dict[str, Any]:
        """Give the same for the Docker SDK's `containers.create`."""
        found = launch.Launch.arguments(self)
        del found["ports"]
        return {**found, "command": ["bench", *self.serve], "environment": _environment()}


def _environment() -> dict[str, str]:
    return {name: os.environ[name] for name in PASSED_ON if os.environ.get(name)}


def check(model: str) -> None:
    """Refuse, before any engine is asked, what no engine could help.

    Raises:
        UsageError: no model was named, or there is no such file.
    """
    if not model:
        raise UsageError("no model was named", fix="./inv bench --model FILE.gguf")
    launch.model_mounts(model)


def prepare(
    images: Images,
    known: tuple[str, ...],
    model: str,
    *,
    image: str,
    gfx: tuple[str, ...],
    more: dict[str, str],
) -> Launch:
    """Put together what to start.

    Args:
        images: the engine's.
        known: the names of the catalogue.
        model: a path on this host.
        image: a reference or a name of the catalogue.
        gfx: targets that the image must hold; none: those found on this host.
        more: options of `amdserve bench` and their values; an empty value is left out, `yes` is a switch.

    Raises:
        UsageError: there is no such model or image.
    """
    found = launch.prepare(images, known, model, image=image, gfx=gfx)
    chosen = images.find(found.image)
    words = [*found.serve, "--out", OUT, "--image-digest", chosen.id if chosen else ""]
    for option, value in more.items():
        if value:
            words += [f"--{option}"] if value == "yes" else [f"--{option}", *shlex.split(value)]
    return Launch(found.image, found.options, found.mounts, tuple(words), name=found.name)
