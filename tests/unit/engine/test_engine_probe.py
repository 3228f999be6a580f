"""Which engine and which buildx are taken, from what they really answer."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from pathlib import Path

import pytest

from amdserve.errors import EngineError
from amdserve.image.engine import find
from amdserve.image.engine.models import Engine, parse_version
from amdserve.image.engine.probe import Candidate, ask, candidates, find_buildx, judge_buildx

from .conftest import BUILDX, Machine, Serve, http

# Cut from what each of them answers to GET /version.
NEW = '{"Components":[{"Name":"Engine","Version":"28.5.2+dfsg4"}],"Version":"28.5.2+dfsg4","Os":"linux"}'
OLD = '{"Components":[{"Name":"Engine","Version":"20.10.24+dfsg1"}],"Version":"20.10.24+dfsg1","Os":"linux"}'
PODMAN = '{"Components":[{"Name":"Podman Engine","Version":"5.4.2"}],"Version":"5.4.2","Os":"linux"}'
WINDOWS = '{"Components":[{"Name":"Engine","Version":"28.0.1"}],"Version":"28.0.1","Os":"windows"}'


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("28.5.2+dfsg4", (28, 5, 2)),
        ("20.10.24+dfsg1-1+deb12u1+b6", (20, 10, 24)),
        ("5:28.0.1-1~ubuntu.24.04~noble", (28, 0, 1)),
        ("v0.12.1", (0, 12, 1)),
        ("Docker version 28.5.2+dfsg4, build 3ef3c07", (28, 5, 2)),
        ("9e66234aa13328a5e75b75aa5574e1ca6d6d9c01", None),
        ("", None),
    ],
)
def test_versions_are_read_as_programs_and_packages_write_them(text: str, version: object) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("body", "running", "reason"),
    [
        (NEW, True, ""),
        (OLD, True, "older than 23.0"),
        (PODMAN, True, "no BuildKit"),
        (WINDOWS, True, "windows"),
        ('{"Version": "devel"}', True, "cannot be read"),
        ("[]", False, "does not speak Docker's API"),
        ("<html>", False, "no answer"),
    ],
)
def test_an_engine_is_judged_by_what_it_answers(
    machine: Machine, serve: Serve, body: str, running: bool, reason: str
) -> None:
    serve(machine.system_socket, http(body))
    answer = ask(Candidate(f"unix://{machine.system_socket}", "a test"), machine.environ)
    assert (answer.running, answer.usable) == (running, not reason)
    assert reason in answer.refused


def test_a_web_server_that_refuses_is_no_engine(machine: Machine, serve: Serve) -> None:
    serve(machine.system_socket, b"HTTP/1.1 403 Forbidden\r\n\r\nno")
    answer = ask(Candidate(f"unix://{machine.system_socket}", "a test"), machine.environ)
    assert not answer.usable
    assert "403" in answer.refused


def test_no_socket_nobody_and_silence_are_three_different_reasons(machine: Machine) -> None:
    def reason(name: str) -> str:
        return ask(Candidate(f"unix://{machine.root / name}", "a test"), {}, seconds=0.2).refused

    assert "no socket" in reason("missing")
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(machine.root / "deaf"))
        assert "nobody listens" in reason("deaf")
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(machine.root / "silent"))
        silent.listen()
        began = time.monotonic()
        assert "no answer" in reason("silent")
        assert time.monotonic() - began < 2


def test_tcp_is_asked_like_a_socket(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    answer = ask(Candidate(f"tcp://127.0.0.1:{port}", "DOCKER_HOST", named=True), machine.environ)
    assert answer.refused == "nobody listens there"


def test_the_user_s_own_choice_is_asked_first_and_the_private_engine_last(machine: Machine) -> None:
    system, private = f"unix://{machine.system_socket}", machine.paths.host
    assert [each.host for each in candidates({}, machine.paths)] == [system, private]
    rootless = {"XDG_RUNTIME_DIR": "/run/user/1000"}
    assert [each.host for each in candidates(rootless, machine.paths)][
        1
    ] == "unix:///run/user/1000/docker.sock"
    named = candidates({"DOCKER_HOST": "tcp://builder:2375"}, machine.paths)
    assert (named[0].host, named[0].named) == ("tcp://builder:2375", True)


def test_the_private_engine_in_docker_host_may_be_started_again(machine: Machine) -> None:
    """It is what we tell people to set, so after a reboot it names an engine that is gone."""
    named = candidates({"DOCKER_HOST": machine.paths.host}, machine.paths)
    assert not named[0].named
    assert [each.host for each in named].count(machine.paths.host) == 1


def test_a_docker_context_leads_to_its_engine(machine: Machine) -> None:
    docker = Path(machine.environ["HOME"]) / ".docker"
    folder = docker / "contexts/meta" / hashlib.sha256(b"far").hexdigest()
    folder.mkdir(parents=True)
    (folder / "meta.json").write_text(
        json.dumps({"Name": "far", "Endpoints": {"docker": {"Host": "ssh://root@builder"}}})
    )
    (docker / "config.json").write_text('{"currentContext": "far"}')
    first = candidates(machine.environ, machine.paths)[0]
    assert (first.host, first.context, first.named) == ("ssh://root@builder", "far", False)
    chosen = candidates({**machine.environ, "DOCKER_CONTEXT": "far"}, machine.paths)[0]
    assert chosen.named
    with pytest.raises(EngineError, match="nowhere"):
        candidates({**machine.environ, "DOCKER_CONTEXT": "nowhere"}, machine.paths)


def test_an_engine_that_the_user_named_is_never_replaced_silently(machine: Machine, serve: Serve) -> None:
    serve(machine.system_socket, http(NEW))
    environ = {**machine.environ, "DOCKER_HOST": f"unix://{machine.root}/mine.sock"}
    with pytest.raises(EngineError) as error:
        find(machine.paths, environ)
    assert "mine.sock" in error.value.what
    assert "unset DOCKER_HOST" in error.value.fix


def test_the_first_engine_that_can_build_is_taken_and_the_others_are_explained(
    machine: Machine, serve: Serve
) -> None:
    serve(machine.system_socket, http(OLD))
    machine.paths.run.mkdir()
    serve(machine.paths.socket, http(NEW))
    found = find(machine.paths, machine.environ)
    assert found.answer is not None
    assert found.answer.candidate.host == machine.paths.host
    assert any("20.10.24" in reason for reason in found.reasons)


@pytest.mark.parametrize(
    ("words", "version", "refused"),
    [
        ("github.com/docker/buildx v0.12.1 30feaa1a9c4d", "0.12.1", ""),
        ("github.com/docker/buildx 0.29.1+ds1 0.29.1+ds1-4", "0.29.1", ""),
        ("github.com/docker/buildx v0.11.2 9872040b6626", "0.11.2", "older than 0.12"),
        ("github.com/docker/buildx 9e66234aa13328a5e75b75aa5574e1ca6d6d9c01", "", "does not tell"),
        ("", "", "does not tell"),
    ],
)
def test_buildx_is_judged_by_its_version(words: str, version: str, refused: str) -> None:
    judged = judge_buildx(("/x/docker-buildx",), words)
    assert judged.version == version
    assert (refused in judged.refused) if refused else not judged.refused


def test_the_user_s_buildx_goes_first_and_a_broken_one_does_not_stop_the_search(machine: Machine) -> None:
    plugins = Path(machine.environ["HOME"]) / ".docker/cli-plugins"
    machine.script(plugins / "docker-buildx", "#!/bin/sh\nexit 1\n")
    machine.script(machine.paths.buildx, BUILDX)
    found, refused = find_buildx(machine.environ, machine.paths)
    assert found is not None
    assert found.argv == (str(machine.paths.buildx),)
    assert [each.argv for each in refused] == [(str(plugins / "docker-buildx"),)]
    machine.script(plugins / "docker-buildx", BUILDX)
    found, _ = find_buildx(machine.environ, machine.paths)
    assert found is not None
    assert found.argv == (str(plugins / "docker-buildx"),)


def test_the_environment_names_this_engine_and_no_other() -> None:
    outer = {"DOCKER_HOST": "tcp://other", "DOCKER_CONTEXT": "other", "PATH": "/bin"}
    engine = Engine("unix:///run/e.sock", None, ("b",), False, "28.0", environ=outer)
    assert engine.env() == {"PATH": "/bin", "DOCKER_HOST": "unix:///run/e.sock"}
    far = Engine("ssh://x", None, ("b",), False, "28.0", context="far", environ=outer)
    assert far.env() == {"PATH": "/bin", "DOCKER_CONTEXT": "far"}
