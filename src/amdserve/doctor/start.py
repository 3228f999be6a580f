"""The one `docker run` line, and the compose service, that fit this host."""

from __future__ import annotations

import shlex
from typing import Any

from amdserve.doctor.facts import EngineFacts, Facts
from amdserve.gpu.access import DRI, KFD, ContainerOptions, container_options
from amdserve.gpu.catalogue import lookup, providers_with_blas
from amdserve.values import replace

_MODEL = "MODEL.gguf"
_PORT = 8080


def reference(facts: Facts) -> tuple[str, bool, dict[str, str]]:
    """Choose the image for this host's GPU: its reference, whether it holds ROCm, and variables it needs."""
    gpu = facts.gpu or (facts.absent[0] if facts.absent else None)
    gfx = gpu.gfx if gpu and gpu.vendor == "amd" else None
    target = lookup(gfx)
    if gfx and providers_with_blas(gfx):
        return f"{facts.repository}:llama-{gfx}", True, {}
    if target and target.stand_in and target.rocm_override:
        override = {"HSA_OVERRIDE_GFX_VERSION": target.rocm_override}
        return f"{facts.repository}:llama-{target.stand_in}", True, override
    # NVIDIA's container toolkit brings Vulkan only where the graphics capability is asked for.
    nvidia = gpu.vendor == "nvidia" if gpu else facts.nvidia
    more = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility,graphics"} if nvidia else {}
    return f"{facts.repository}:vulkan", False, more


def options(facts: Facts, *, rocm: bool) -> tuple[ContainerOptions, tuple[str, ...]]:
    """Give the options for this host, and words whose value only the host's shell can tell."""
    found = container_options(facts.detection, facts.sysroot, rocm=rocm)
    if found.devices or found.gpus:
        return found, ()
    if not facts.absent:
        return replace(found, gpus="all") if facts.nvidia else found, ()
    # In a container that was given nothing, the owners of the nodes cannot be seen: the host's shell asks.
    nodes = (*((KFD,) if rocm else ()), next(gpu.render_node for gpu in facts.absent))
    asked = tuple(f'--group-add "$(stat -c %g {node})"' for node in nodes if node)
    devices = (*((KFD,) if rocm else ()), DRI)
    return replace(found, devices=devices, ipc="host" if rocm else None), asked


def _podman(facts: Facts) -> bool:
    return isinstance(facts.engine, EngineFacts) and facts.engine.podman


def _keeps_groups(facts: Facts, found: ContainerOptions) -> bool:
    """Whether the container must keep its starter's groups: without root, podman knows no group by number."""
    engine = facts.engine
    return bool(found.groups) and isinstance(engine, EngineFacts) and engine.podman and engine.rootless


def docker_run(facts: Facts) -> str:
    """Give the line for a shell on the host."""
    image, rocm, environ = reference(facts)
    found, asked = options(facts, rocm=rocm)
    keeps = _keeps_groups(facts, found)
    if keeps:
        found, asked = replace(found, groups=()), ("--group-add keep-groups",)
    program = "podman" if _podman(facts) else "docker"
    words = [program, "run", "--rm", "--publish", f"127.0.0.1:{_PORT}:{_PORT}", *found.argv()]
    for name, value in environ.items():
        words += ["--env", f"{name}={value}"]
    tail = ["--volume", "amdserve-state:/var/lib/amdserve", image, "serve", f"/models/{_MODEL}"]
    return " ".join([shlex.join(words), *asked, '--volume "$PWD":/models:ro', shlex.join(tail)])


def compose(facts: Facts) -> dict[str, Any]:
    """Give a compose file with the one service."""
    image, rocm, environ = reference(facts)
    found, asked = options(facts, rocm=rocm)
    service: dict[str, Any] = {
        "image": image,
        "command": ["serve", f"/models/{_MODEL}"],
        "ports": [f"127.0.0.1:{_PORT}:{_PORT}"],
        "volumes": ["./:/models:ro", "amdserve-state:/var/lib/amdserve"],
        **found.compose(),
    }
    if _keeps_groups(facts, found):
        service["group_add"] = ["keep-groups"]
    if asked:
        node = next(gpu.render_node for gpu in facts.absent)
        service["group_add"] = [f"${{RENDER_GID:?set it to the output of: stat -c %g {node}}}"]
    if environ:
        service["environment"] = environ
    service["restart"] = "unless-stopped"
    return {"services": {"amdserve": service}, "volumes": {"amdserve-state": {}}}
