"""Starting, recognising and stopping: what is ours, and only that."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from amdserve.errors import EngineError
from amdserve.image import engine
from amdserve.image.engine import daemon, network, obtain, packages, trouble
from amdserve.image.engine.facts import Facts
from amdserve.process import spawn

from .conftest import Machine, Serve, http
from .test_engine_decide import FRESH
from .test_engine_probe import NEW

# The last words of a dockerd that may not touch the firewall, and of one whose disk is full.
NO_RIGHTS = (
    "failed to start daemon: Error initializing network controller: error obtaining controller instance: "
    'failed to register "bridge" driver: failed to create NAT chain DOCKER: iptables failed: iptables --wait '
    "-t nat -N DOCKER: iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied"
)
NO_SPACE = (
    "failed to start daemon: error saving ID file: write /data/docker/.tmp-engine-id2784515871: "
    "no space left on device"
)
HARMLESS = 'time="…" level=warning msg="skip loading plugin" error="overlayfs: operation not permitted"'


@pytest.fixture
def ready(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine of root with an engine in its prefix, and no other dockerd."""
    facts = replace(FRESH, private=True, private_buildx=True, missing=frozenset())
    monkeypatch.setattr(obtain, "look", lambda *_a, **_k: facts)
    monkeypatch.setattr(daemon, "others", lambda _paths: ())
    machine.install_private()
    return machine


def have(machine: Machine, *, dry: bool = False) -> engine.Engine:
    return engine.ensure(dry, machine.said.append, paths=machine.paths, environ=machine.environ)


def stop(machine: Machine) -> bool:
    return engine.stop(machine.said.append, paths=machine.paths, environ=machine.environ)


def test_it_is_started_found_again_and_stopped(ready: Machine) -> None:
    first = have(ready)
    assert first.host == ready.paths.host
    assert first.started_by_us
    assert first.buildx == (str(ready.paths.buildx),)
    assert str(ready.paths.socket) in " ".join(ready.said)
    pid = ready.pid()
    assert os.getsid(pid) != os.getsid(0), "it would end with this terminal"

    ready.said.clear()
    assert have(ready) == first
    assert ready.said == []
    assert ready.pid() == pid

    assert stop(ready)
    assert daemon.command_line(pid) == ()
    assert not stop(ready)


def test_what_will_be_done_is_said_first_and_a_dry_run_does_none_of_it(ready: Machine) -> None:
    planned = have(ready, dry=True)
    assert planned.host == ready.paths.host
    assert planned.version == ""
    assert "would be done" in ready.said[0]
    assert not ready.paths.run.exists()
    assert not ready.paths.data.exists()


def installed(machine: Machine, monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """Lay out a stopped engine of the distribution, with an init script that fails."""
    facts = replace(FRESH, dockerd=(26, 1, 5), manager=service, missing=frozenset())
    monkeypatch.setattr(obtain, "look", lambda *_a, **_k: facts)
    monkeypatch.setattr(obtain, "manager", lambda _environ: service)
    monkeypatch.setattr(daemon, "which", lambda _name, _environ: str(machine.paths.dockerd))
    broken = machine.script(
        machine.root / "bin" / service, "#!/bin/sh\necho 'ulimit: error setting limit' >&2\nexit 2\n"
    )
    monkeypatch.setenv("PATH", str(broken.parent))
    machine.install_private()


def test_an_installed_engine_is_started_itself_where_its_script_fails(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(machine, monkeypatch, "service")
    found = have(machine)
    assert found.host == f"unix://{machine.system_socket}"
    assert found.started_by_us
    assert any("ulimit" in line for line in machine.said)
    assert stop(machine)
    assert not machine.system_socket.exists()


def test_a_service_of_systemd_that_fails_is_not_gone_around(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(machine, monkeypatch, "systemctl")
    with pytest.raises(EngineError) as error:
        have(machine)
    assert "journalctl" in error.value.fix
    assert not machine.system_socket.exists()


def test_a_dry_run_names_the_engine_that_would_be_there(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(machine, monkeypatch, "systemctl")
    assert have(machine, dry=True).host == f"unix://{machine.system_socket}"


def test_the_hint_for_the_docker_command_is_only_given_where_it_is_needed(ready: Machine) -> None:
    have(ready)
    assert f"export DOCKER_HOST={ready.paths.host}" in ready.said[-1]


def test_after_a_crash_the_stale_process_file_is_no_obstacle(ready: Machine) -> None:
    ready.paths.run.mkdir()
    ready.paths.pidfile.write_text(str(os.getpid()))  # handed out again: this very process
    assert daemon.our_pid(ready.paths) is None
    assert have(ready).started_by_us


def test_a_process_that_is_not_ours_is_never_stopped(machine: Machine) -> None:
    machine.paths.run.mkdir()
    bystander = spawn(["sleep", "30"])
    try:
        machine.paths.pidfile.write_text(str(bystander.pid))
        assert not stop(machine)
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
        machine.paths.pidfile.unlink()


def test_an_engine_of_somebody_else_is_used_but_not_stopped(machine: Machine, serve: Serve) -> None:
    serve(machine.system_socket, http(NEW))
    machine.install_private()
    found = have(machine)
    assert found.host == f"unix://{machine.system_socket}"
    assert not found.started_by_us
    assert machine.said == []
    assert not stop(machine)
    assert "somebody else started it" in machine.said[-1]


@pytest.mark.parametrize(
    ("command", "ours"),
    [
        (("/opt/amdserve/engine/usr/sbin/dockerd", "--pidfile", "{pidfile}", "-H", "unix:///x"), True),
        (("dockerd", "--pidfile", "{pidfile}"), True),
        (("/usr/sbin/dockerd", "--pidfile", "/run/docker.pid"), False),
        (("/usr/bin/vim", "{pidfile}"), False),
        ((), False),
    ],
)
def test_ours_is_a_dockerd_that_names_our_process_file(
    machine: Machine, command: tuple[str, ...], ours: bool
) -> None:
    filled = tuple(part.format(pidfile=machine.paths.pidfile) for part in command)
    assert daemon.is_ours(filled, machine.paths) is ours


def test_a_daemon_knows_how_to_reach_a_registry_and_no_token(machine: Machine) -> None:
    outer = {"PATH": "/bin", "HTTPS_PROXY": "p", "no_proxy": "n", "SSL_CERT_FILE": "c", "GITHUB_TOKEN": "t"}
    env = daemon.environment(outer, machine.paths.search)
    assert env["PATH"].startswith(f"{machine.paths.prefix}/usr/bin:")
    assert "/usr/sbin" in env["PATH"].split(":")
    assert (env["HTTPS_PROXY"], env["no_proxy"], env["SSL_CERT_FILE"]) == ("p", "n", "c")
    assert "GITHUB_TOKEN" not in env


@pytest.mark.parametrize(
    ("words", "cause"), [(NO_RIGHTS, "--privileged"), (NO_SPACE, "disk is full"), ("strange", "see the log")]
)
def test_a_daemon_that_dies_is_explained_by_the_end_of_its_log(
    ready: Machine, words: str, cause: str
) -> None:
    ready.script(ready.paths.dockerd, f"#!/bin/sh\n/bin/cat >&2 <<'END'\n{HARMLESS}\n{words}\nEND\nexit 1\n")
    with pytest.raises(EngineError) as error:
        have(ready)
    assert "status 1" in error.value.what
    assert words in error.value.what
    assert HARMLESS not in error.value.what
    assert cause in error.value.cause
    assert not ready.paths.socket.exists()


def test_a_daemon_that_never_answers_is_given_up_and_ended(
    ready: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []

    def note(*words: Any, **options: Any) -> Any:
        started.append(spawn(*words, **options))
        return started[0]

    monkeypatch.setattr(daemon, "spawn", note)
    monkeypatch.setattr(daemon, "START_SECONDS", 0.3)
    ready.script(ready.paths.dockerd, "#!/bin/bash\nexec /bin/sleep 60\n")
    with pytest.raises(EngineError, match="did not answer"):
        have(ready)
    assert started[0].wait(timeout=20) == -signal.SIGTERM


def test_every_known_trouble_names_a_next_step() -> None:
    assert trouble.diagnose([HARMLESS]) == ("", "")
    for words in (
        "dockerd: overlay2: the backing filesystem is not supported",
        "Devices cgroup isn't mounted",
        "AppArmor enabled on system but the docker-default profile could not be loaded",
        "iptables v1.8.9 (legacy): can't initialize iptables table `nat': Table does not exist",
        'exec: "runc": executable file not found in $PATH',
    ):
        cause, fix = trouble.diagnose([HARMLESS, words])
        assert cause
        assert fix


# /proc/net/route of a machine with a default route, docker0 (172.17.0.0/16) and a /23.
ROUTES = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0
eth1\t004CD50A\t00000000\t0001\t0\t0\t0\t00FEFFFF\t0\t0\t0
"""


def test_a_network_that_nobody_uses_is_chosen() -> None:
    taken = network.routed(ROUTES)
    assert taken == (IPv4Network("172.17.0.0/16"), IPv4Network("10.213.76.0/23"))
    chosen = network.choose(taken)
    assert not any(chosen.overlaps(other) for other in taken)
    with pytest.raises(EngineError, match="no free network"):
        network.choose([IPv4Network("0.0.0.0/0")])


def test_a_bridge_of_its_own_leaves_the_firewall_to_the_other_engine() -> None:
    bridge = network.Bridge("amdserve0", IPv4Network("10.213.77.0/24"))
    assert {"--iptables=false", "--bridge"} <= set(bridge.options)
    assert {(table, chain) for table, chain, _ in bridge.rules} == {
        ("nat", "POSTROUTING"),
        ("filter", "FORWARD"),
    }
    for _, _, rule in bridge.rules:
        assert "10.213.77.0/24" in rule or "amdserve0" in rule, "a rule for more than its own containers"


def test_the_private_apt_checks_signatures_and_ignores_the_host_s_sources(tmp_path: Path) -> None:
    text = packages.configuration(tmp_path, ['Acquire::http::Proxy "http://proxy:3142";'])
    assert 'Acquire::AllowInsecureRepositories "false";' in text
    assert 'APT::Get::AllowUnauthenticated "false";' in text
    assert 'Acquire::http::Proxy "http://proxy:3142";' in text
    for part in ("SourceParts", "PreferencesParts", "TrustedParts", "Parts", "Main"):
        assert f'Dir::Etc::{part} "/dev/null";' in text


def test_programs_that_do_not_run_here_are_refused_before_anything_is_replaced(tmp_path: Path) -> None:
    tree = tmp_path / "usr/sbin"
    tree.mkdir(parents=True)
    (tree / "dockerd").write_text("#!/bin/sh\necho 'version GLIBC_2.99 not found' >&2\nexit 1\n")
    (tree / "dockerd").chmod(0o755)
    with pytest.raises(EngineError) as error:
        packages.check_programs(tmp_path)
    assert "GLIBC_2.99" in error.value.cause


def test_no_room_for_the_programs_is_said_before_anything_is_fetched(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "ROOM", 10**18)
    with pytest.raises(EngineError) as error:
        packages.unpack(("docker.io",), machine.paths, machine.said.append)
    assert "GB are free" in error.value.cause
    assert not machine.paths.prefix.exists()


def test_facts_are_read_without_changing_anything(machine: Machine) -> None:
    from amdserve.image.engine.facts import look

    facts = look(machine.paths, machine.environ, neighbour=False)
    assert isinstance(facts, Facts)
    assert facts.private is False
    machine.install_private()
    assert look(machine.paths, machine.environ, neighbour=False).private is True


def test_an_engine_that_was_killed_by_hand_is_started_again(ready: Machine) -> None:
    have(ready)
    before = ready.pid()
    os.kill(before, signal.SIGKILL)
    limit = time.monotonic() + 5
    while daemon.command_line(before) and time.monotonic() < limit:
        time.sleep(0.02)
    ready.paths.socket.unlink()
    assert have(ready).started_by_us
    assert ready.pid() != before
