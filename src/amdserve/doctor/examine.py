"""The examination: every check over the same facts, in the order in which things depend on each other."""

from __future__ import annotations

from collections.abc import Callable

from amdserve.doctor import devices, kernel, rights, room, software, start
from amdserve.doctor.facts import Facts
from amdserve.doctor.report import Check, Report, void

CHECKS: tuple[Callable[[Facts], Check], ...] = (
    devices.gpu,
    devices.render_nodes,
    devices.kfd_node,
    rights.groups,
    devices.visible_devices,
    devices.selinux,
    kernel.kernel,
    kernel.cwsr,
    kernel.firmware,
    kernel.gtt,
    kernel.memlock,
    room.memory,
    room.disk,
    software.vulkan_icd,
    software.vulkan_device,
    software.rocm_device,
    software.libraries,
    software.image_gfx,
    software.blas,
    room.engine,
    room.buildx,
    room.cdi,
)


def examine(facts: Facts) -> Report:
    """Judge the facts.

    A check that cannot be made says so and stops nothing: whoever asks a doctor has trouble already.
    """
    checks = tuple(_made(check, facts) for check in CHECKS)
    return Report(facts.place, checks, start.docker_run(facts), start.compose(facts))


def _made(check: Callable[[Facts], Check], facts: Facts) -> Check:
    try:
        return check(facts)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as reason:
        return void(check.__name__.replace("_", "-"), f"cannot be checked: {type(reason).__name__}: {reason}")
