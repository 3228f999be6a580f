"""A bridge of its own for the private engine, for machines that have another engine.

Two daemons on one `docker0` take each other's addresses and firewall rules away. So beside another engine the
private one leaves the firewall alone (`--iptables=false`), sits on its own bridge, and the three rules
that lead its containers out are made, and taken away again, here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path

from amdserve.errors import EngineError
from amdserve.image.engine.models import EnginePaths
from amdserve.process import run

BRIDGE = "amdserve0"
# Away from what Docker, Kubernetes and home routers take first.
_SUBNETS = tuple(
    IPv4Network(f"10.{second}.{third}.0/24") for second in (213, 187, 149) for third in (77, 113)
)
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True, slots=True)
class Bridge:
    """A bridge and its subnet."""

    name: str
    subnet: IPv4Network

    @property
    def options(self) -> tuple[str, ...]:
        """What makes dockerd use it, and leave the firewall alone."""
        return ("--bridge", self.name, "--iptables=false", "--ip6tables=false")

    @property
    def rules(self) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
        """The iptables rules that lead its containers out: table, chain, rule."""
        back = ("-m", "conntrack", "--ctstate", "RELATED,ESTABLISHED")
        leaving = ("-s", str(self.subnet), "!", "-o", self.name)
        return (
            ("nat", "POSTROUTING", (*leaving, "-j", "MASQUERADE")),
            ("filter", "FORWARD", ("-i", self.name, "-j", "ACCEPT")),
            ("filter", "FORWARD", ("-o", self.name, *back, "-j", "ACCEPT")),
        )


def routed(table: str) -> tuple[IPv4Network, ...]:
    """Give the networks that this machine has a route to, from the text of /proc/net/route."""
    rows = [line.split() for line in table.splitlines()[1:]]
    # Destination and mask: eight hexadecimal digits each, lowest byte first.
    return tuple(
        IPv4Network((bytes.fromhex(row[1])[::-1], int(row[7], 16).bit_count()), strict=False)
        for row in rows
        if len(row) > 7 and row[1] != "00000000"
    )


def choose(taken: Iterable[IPv4Network]) -> IPv4Network:
    """Give a subnet that nobody here uses.

    Raises:
        EngineError: all are used.
    """
    used = tuple(taken)
    for subnet in _SUBNETS:
        if not any(subnet.overlaps(other) for other in used):
            return subnet
    raise EngineError(
        "there is no free network for the private engine",
        cause=f"all of {', '.join(map(str, _SUBNETS))} are routed elsewhere",
        fix="stop the other Docker Engine, then run this again",
    )


def make(paths: EnginePaths) -> Bridge:
    """Make the bridge and its rules, or find them made; records them for `remove`.

    Raises:
        EngineError: the kernel or the firewall refuses.
    """
    if paths.network.exists():
        name, subnet = paths.network.read_text().split()
        remove(paths)
        bridge = Bridge(name, IPv4Network(subnet))
    else:
        bridge = Bridge(BRIDGE, choose(routed(Path("/proc/net/route").read_text())))
    paths.network.write_text(f"{bridge.name} {bridge.subnet}\n")
    gateway = f"{next(bridge.subnet.hosts())}/{bridge.subnet.prefixlen}"
    for command in (
        ("link", "add", "name", bridge.name, "type", "bridge"),
        ("address", "add", gateway, "dev", bridge.name),
        ("link", "set", bridge.name, "up"),
    ):
        run(
            ["ip", *command], error=EngineError, fix="the kernel module `bridge` and CAP_NET_ADMIN are needed"
        )
    for table, chain, rule in bridge.rules:
        # First in its chain: another engine may have set the policy to DROP, or end the chain with it.
        run(["iptables", "--wait", "-t", table, "-I", chain, "1", *rule], error=EngineError)
    if _FORWARDING.read_text().strip() != "1":
        _FORWARDING.write_text("1\n")
    return bridge


def remove(paths: EnginePaths) -> None:
    """Take away what `make` made; nothing where it made nothing."""
    if not paths.network.exists():
        return
    name, subnet = paths.network.read_text().split()
    bridge = Bridge(name, IPv4Network(subnet))
    for table, chain, rule in bridge.rules:
        run(["iptables", "--wait", "-t", table, "-D", chain, *rule], check=False)
    run(["ip", "link", "delete", bridge.name], check=False)
    paths.network.unlink()
