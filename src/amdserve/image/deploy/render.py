"""From a wish to the text of a file. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import Any

from amdserve.image.deploy.wish import CDI, FORMATS, Wish
from amdserve.image.launch import MODELS, PORT, STATE, STATE_VOLUME
from amdserve.image.render import Environment, Renderer

FOLDER = "deploy"
NODES = "leaderworkerset.yaml.j2"
# To open the devices as root, then become somebody else for good; nothing more is needed.
CAPABILITIES = ("CHOWN", "SETGID", "SETPCAP", "SETUID")
# Bytes of shared memory where ROCm's libraries or vLLM's workers exchange data.
SHARED_MEMORY = "8gb"


def render(wanted: Wish, format_: str, templates: Renderer) -> str:
    """Give the text of the file that runs what is wanted.

    Raises:
        ConfigError: a template does not hold.
    """
    name = NODES if wanted.nodes > 1 else FORMATS[format_]
    environment = Environment(templates.templates)
    filters: dict[str, Callable[[Any], str]] = {"unit": unit, "plain": plain}
    environment.filters.update(filters)
    return environment.get_template(f"{FOLDER}/{name}").render(
        wish=wanted,
        options=wanted.options,
        limits=wanted.options.compose().get("ulimits", {}),
        capabilities=CAPABILITIES,
        shm=SHARED_MEMORY,
        cdi=CDI,
        inside=PORT,
        models=MODELS,
        state=STATE,
        volume=STATE_VOLUME,
    )


def plain(word: object) -> str:
    """Give a value that systemd's quotes mean nothing in: only `%` and `$` stand for themselves twice."""
    return str(word).replace("%", "%%").replace("$", "$$")


def unit(word: object) -> str:
    """Give a word as systemd reads it back: quoted, and `%` and `$` for themselves."""
    text = plain(word)
    return text if shlex.quote(text) == text else '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
