"""Check of the right to open the device nodes."""

from __future__ import annotations

import errno
from collections.abc import Mapping

from amdserve.doctor.facts import EngineFacts, Facts
from amdserve.doctor.report import Check, bad, good, void
from amdserve.gpu.access import KFD
from amdserve.gpu.sysroot import Owner

# What distributions' own udev rules say, for a host that has none.
_RULES = (
    "sudo groupadd --system --force render",
    (
        """printf '%s\\n' 'SUBSYSTEM=="kfd", GROUP="render", MODE="0660"' """
        """'SUBSYSTEM=="drm", KERNEL=="renderD*", GROUP="render", MODE="0660"' """
        "| sudo tee /etc/udev/rules.d/70-amdgpu.rules"
    ),
    "sudo udevadm control --reload && sudo udevadm trigger, then ask the doctor again",
)


def groups(facts: Facts) -> Check:
    """May this user open the nodes?"""
    nodes = [
        gpu.render_node for gpu in facts.detection.accelerators if gpu.render_node and gpu.vendor == "amd"
    ]
    if facts.sysroot.exists(KFD):
        nodes.append(KFD)
    owners = {node: owner for node in nodes if (owner := facts.sysroot.owner(node))}
    if not owners:
        return void("groups", "no device node to open")
    uid, gids = facts.who.uid, facts.who.gids
    refused = {node: reason for node in owners if (reason := facts.sysroot.refusal(node, uid, gids))}
    if not refused:
        return good("groups", f"uid {uid} may open {', '.join(owners)}{_more(facts, owners)}")
    by_rights = {
        node: owners[node]
        for node, reason in refused.items()
        if reason == errno.EACCES and not owners[node].writable_by(uid, gids)
    }
    return _no_right(facts, by_rights) if len(by_rights) == len(refused) else _not_given(facts, refused)


def _more(facts: Facts, owners: Mapping[str, Owner]) -> str:
    """Say what a container needs whose user is not root."""
    add = _add(owners)
    if not add:
        return ""
    engine = facts.engine
    if isinstance(engine, EngineFacts) and engine.rootless and not engine.podman:
        return (
            "; this engine runs without root and passes no groups on: there the nodes must be this user's own"
        )
    return f"; a container that runs without root needs {add}"


def _add(owners: Mapping[str, Owner]) -> str:
    """Give the options for the groups that open these nodes; root's, and a group without rights, do not."""
    gids = {owner.gid for owner in owners.values() if owner.mode & 0o006 != 0o006 and owner.opens_to_group}
    return " ".join(f"--group-add {gid}" for gid in sorted(gids))


def _not_given(facts: Facts, refused: Mapping[str, int]) -> Check:
    """The rights would do, and the kernel refuses all the same."""
    said = ", ".join(f"{node} ({errno.errorcode.get(reason, reason)})" for node, reason in refused.items())
    seen = f"the kernel refuses to open {said}"
    if facts.place == "host":
        return bad("groups", seen, "sudo dmesg | grep -e amdgpu -e kfd says why")
    fix = "give the nodes with --device as in the run line below: a volume shows them and does not open them"
    if errno.EACCES in refused.values():
        fix += "\nunder SELinux: --security-opt label=disable; rootless podman: --group-add keep-groups"
    return bad("groups", seen, fix)


def _no_right(facts: Facts, closed: Mapping[str, Owner]) -> Check:
    """Neither this user nor a group of his may open them."""
    gids = sorted({owner.gid for owner in closed.values()})
    seen = f"uid {facts.who.uid} may not open {', '.join(closed)}"
    if not all(owner.opens_to_group for owner in closed.values()):
        return bad("groups", f"{seen}: only root may", "\n".join(map(facts.on_host, _RULES)))
    seen = f"{seen}: not in group {', '.join(map(str, gids))}"
    add = _add(closed)
    if facts.place == "container":
        return bad("groups", seen, f"start the container with {add}")
    names = ",".join(facts.group_name(gid) or str(gid) for gid in gids)
    fix = f"for containers: docker run {add}\nfor yourself: sudo usermod -aG {names} $USER, then log in again"
    return bad("groups", seen, fix)
