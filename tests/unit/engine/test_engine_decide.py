"""What is done to get an engine, on each kind of machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from amdserve.errors import EngineError
from amdserve.image.engine import EnginePaths
from amdserve.image.engine.decide import Do, Step, decide
from amdserve.image.engine.facts import Facts, parse_os_release, parse_policy

# What `apt-cache policy docker.io docker-cli docker-buildx docker-buildx-plugin` prints on each.
BOOKWORM = """\
docker.io:
  Installed: (none)
  Candidate: 20.10.24+dfsg1-1+deb12u1+b6
  Version table:
     20.10.24+dfsg1-1+deb12u1+b6 500
        500 http://deb.debian.org/debian bookworm/main amd64 Packages
"""
TRIXIE = """\
docker.io:
  Installed: (none)
  Candidate: 26.1.5+dfsg1-9+deb13u1+b1
  Version table:
     26.1.5+dfsg1-9+deb13u1+b1 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
docker-cli:
  Installed: (none)
  Candidate: 26.1.5+dfsg1-9+deb13u1+b1
  Version table:
     26.1.5+dfsg1-9+deb13u1+b1 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
docker-buildx:
  Installed: (none)
  Candidate: 0.13.1+ds1-3
  Version table:
     0.13.1+ds1-3 500
        500 http://deb.debian.org/debian trixie/main amd64 Packages
docker-buildx-plugin:
  Installed: (none)
  Candidate: (none)
  Version table:
"""
DEBIAN_12 = (
    'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nNAME="Debian GNU/Linux"\nVERSION_ID="12"\nID=debian\n'
)
NOBLE = 'PRETTY_NAME="Ubuntu 24.04.3 LTS"\nNAME="Ubuntu"\nVERSION_ID="24.04"\nID=ubuntu\nID_LIKE=debian\n'
MINT = 'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\nPRETTY_NAME="Linux Mint 22"\n'
FEDORA = "NAME='Fedora Linux'\nID=fedora\nPRETTY_NAME='Fedora Linux 43 (Server Edition)'\n"

PATHS = EnginePaths()
FRESH = Facts(
    distribution=("debian",),
    pretty="Debian GNU/Linux 12 (bookworm)",
    root=True,
    dockerd=None,
    manager="",
    missing=frozenset({"runc", "iptables", "ip"}),
    private=False,
    private_buildx=False,
    neighbour=False,
)


def steps(facts: Facts, policy: str = BOOKWORM, *, engine: bool = True, buildx: bool = True) -> list[Step]:
    found = parse_policy(policy)
    return list(decide(facts, engine=engine, buildx=buildx, candidates=lambda: found, paths=PATHS))


def kinds(facts: Facts, policy: str = BOOKWORM, *, engine: bool = True, buildx: bool = True) -> list[Do]:
    return [step.do for step in steps(facts, policy, engine=engine, buildx=buildx)]


def test_a_running_engine_with_buildx_needs_nothing() -> None:
    assert decide(FRESH, engine=False, buildx=False, candidates=dict, paths=PATHS) == ()


def test_debian_12_gets_newer_programs_privately_and_the_rest_from_its_own_suite() -> None:
    unpack, apt, start = steps(FRESH)
    assert (unpack.do, apt.do, start.do) == (Do.UNPACK, Do.APT, Do.PRIVATE)
    assert {"docker.io", "containerd", "docker-buildx"} <= set(unpack.what)
    assert set(apt.what) == {"runc", "iptables"}
    assert str(PATHS.prefix) in unpack.text
    assert str(PATHS.socket) in start.text


def test_what_is_there_already_is_not_got_again() -> None:
    here = replace(FRESH, private=True, private_buildx=True, missing=frozenset({"ip"}))
    assert kinds(here) == [Do.PRIVATE]


def test_a_newer_distribution_installs_its_own_packages() -> None:
    apt, start = steps(replace(FRESH, manager="systemctl"), TRIXIE)
    assert (apt.do, start.do) == (Do.APT, Do.SERVICE)
    assert {"docker.io", "docker-buildx", "docker-cli", "iptables"} <= set(apt.what)
    assert "26.1.5+dfsg1" in apt.text


def test_an_installed_engine_is_started_through_its_service_manager_or_directly() -> None:
    installed = replace(FRESH, dockerd=(26, 1, 5))
    assert kinds(installed, buildx=False) == [Do.DAEMON]
    assert kinds(replace(installed, manager="systemctl"), buildx=False) == [Do.SERVICE]
    assert kinds(replace(installed, manager="service"), TRIXIE) == [Do.APT, Do.SERVICE]


@pytest.mark.parametrize("dockerd", [(20, 10, 24), ()])
def test_an_installed_engine_that_is_too_old_stays_and_is_kept_clear_of(dockerd: tuple[int, ...]) -> None:
    found = steps(replace(FRESH, dockerd=dockerd))
    assert [step.do for step in found] == [Do.UNPACK, Do.APT, Do.PRIVATE]
    assert "iproute2" in found[1].what
    assert found[2].what == ("own-network",)
    assert "beside" in found[2].text


def test_a_private_engine_alone_keeps_the_usual_network() -> None:
    assert steps(FRESH)[-1].what == ()


def test_only_a_missing_buildx_leaves_the_engine_alone() -> None:
    (own,) = steps(FRESH, TRIXIE, engine=False)
    assert (own.do, own.what) == (Do.APT, ("docker-buildx",))
    (private,) = steps(FRESH, BOOKWORM, engine=False)
    assert (private.do, private.what) == (Do.UNPACK, ("docker-buildx",))
    docker_ce = TRIXIE.replace(
        "docker-buildx-plugin:\n  Installed: (none)\n  Candidate: (none)",
        """\
docker-buildx-plugin:
  Installed: (none)
  Candidate: 0.29.1-1~debian.13~trixie""",
    )
    (plugin,) = steps(FRESH, docker_ce, engine=False)
    assert plugin.what == ("docker-buildx-plugin",)


def test_apparmor_without_its_tools_is_completed() -> None:
    bare = replace(FRESH, missing=FRESH.missing | {"apparmor_parser"})
    assert "apparmor" in steps(bare)[1].what
    assert "apparmor" in steps(bare, TRIXIE)[0].what


def test_without_root_nothing_is_planned_and_the_way_out_is_named() -> None:
    with pytest.raises(EngineError) as error:
        steps(replace(FRESH, root=False))
    assert "sudo ./inv engine" in error.value.fix
    with pytest.raises(EngineError) as error:
        steps(replace(FRESH, root=False), engine=False)
    assert "buildx" in error.value.fix


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FEDORA, "dnf install moby-engine docker-buildx"),
        ("ID=arch\nPRETTY_NAME=Arch\n", "pacman -S docker docker-buildx"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\n', "Podman has no BuildKit"),
        ("ID=void\n", "https://docs.docker.com"),
    ],
)
def test_other_systems_are_told_what_to_install(text: str, words: str) -> None:
    names, pretty = parse_os_release(text)
    with pytest.raises(EngineError) as error:
        steps(replace(FRESH, distribution=names, pretty=pretty))
    assert words in error.value.fix
    assert pretty in error.value.cause


def test_another_system_still_starts_what_it_has_installed() -> None:
    fedora = replace(FRESH, distribution=("fedora",), dockerd=(28, 0, 1), manager="systemctl")
    assert kinds(fedora, "", buildx=False) == [Do.SERVICE]


def test_apt_is_not_asked_when_the_answer_does_not_depend_on_it() -> None:
    def never() -> dict[str, str]:
        raise AssertionError("apt was asked")

    ready = replace(FRESH, private=True, private_buildx=True)
    assert decide(ready, engine=True, buildx=False, candidates=never, paths=PATHS)
    installed = replace(FRESH, dockerd=(26, 1, 5))
    assert decide(installed, engine=True, buildx=False, candidates=never, paths=PATHS)


@pytest.mark.parametrize(
    ("text", "names", "apt"),
    [
        (DEBIAN_12, ("debian",), True),
        (NOBLE, ("ubuntu", "debian"), True),
        (MINT, ("linuxmint", "ubuntu", "debian"), True),
        (FEDORA, ("fedora",), False),
        ("", ("linux",), False),
    ],
)
def test_the_distribution_is_read_with_what_it_is_made_of(
    text: str, names: tuple[str, ...], apt: bool
) -> None:
    found, _ = parse_os_release(text)
    assert found == names
    assert replace(FRESH, distribution=found).apt is apt


def test_the_policy_of_apt_gives_what_it_would_install() -> None:
    assert parse_policy(BOOKWORM) == {"docker.io": "20.10.24+dfsg1-1+deb12u1+b6"}
    assert parse_policy(TRIXIE) == {
        "docker.io": "26.1.5+dfsg1-9+deb13u1+b1",
        "docker-cli": "26.1.5+dfsg1-9+deb13u1+b1",
        "docker-buildx": "0.13.1+ds1-3",
    }
    assert parse_policy("") == {}
