"""Whatever rights a container is given, it serves; whatever it is given, it keeps no more than it needs."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest

from .gpus import bind
from .server import Serve, Server

MODEL = "/models/llama.gguf"
CPU = "llama-cpp-python"
NODES = {"renderD128": ("/dev/dri/renderD128", 44444), "kfd": ("/dev/kfd", 44445)}
LITTLE: dict[str, Any] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}


@pytest.fixture
def nodes(tmp_path: Path) -> list[str]:
    """Nodes as those of a GPU, for root and their groups only; no image knows the groups."""
    found = []
    for name, (target, group) in NODES.items():
        path = tmp_path / name
        try:
            os.mknod(path, stat.S_IFCHR | 0o660, os.makedev(1, 3))
            os.chown(path, 0, group)
            path.chmod(0o660)
        except PermissionError:
            pytest.skip("device nodes can only be made by root")
        found.append(f"{path}:{target}:rwm")
    return found


def rights(server: Server) -> dict[str, set[str]]:
    """Give what the kernel says of the supervisor and its backend."""
    words = ("/amdserve serve", "cpu_server")
    ours = [number for number, line in server.processes().items() if any(word in line for word in words)]
    assert len(ours) == 2
    code, text = server.exec("/bin/cat", *(f"/proc/{number}/status" for number in ours), user="0")
    assert code == 0, text
    names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs")
    return {
        name: {" ".join(one.split()) for one in re.findall(rf"^{name}:(.*)$", text, re.M)} for name in names
    }


def test_root_that_may_not_change_its_user_keeps_no_capability(serve: Serve, llama: str) -> None:
    found = rights(serve(llama, "serve", MODEL, cap_drop=["SETUID"]).wait_for(CPU))
    assert found["Uid"] == {"0 0 0 0"}
    assert {found[name] == {"0" * 16} for name in found if name.startswith("Cap")} == {True}


def test_root_becomes_nobody_with_the_groups_of_the_gpu(serve: Serve, llama: str, nodes: list[str]) -> None:
    server = serve(llama, "serve", MODEL, devices=nodes).wait_for(CPU)
    found = rights(server)
    assert found["Uid"] == {"10001 10001 10001 10001"}
    assert found["Gid"] == {"10001 10001 10001 10001"}
    assert found["Groups"] == {"10001 44444 44445"}
    assert {name: found[name] for name in found if name.startswith("Cap")} == {
        name: {"0" * 16} for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    }
    assert found["NoNewPrivs"] == {"1"}
    assert "--group-add" not in server.logs()


def test_another_user_is_told_which_groups_are_missing(serve: Serve, llama: str, nodes: list[str]) -> None:
    server = serve(llama, "serve", MODEL, devices=nodes, user="12345").wait_for(CPU)
    for path, group in NODES.values():
        assert (
            f"{path} cannot be opened as uid 12345: start the container with --group-add {group}"
            in server.logs()
        )
    given = serve(llama, "serve", MODEL, devices=nodes, user="12345", group_add=[44444, 44445]).wait_for(CPU)
    assert "--group-add" not in given.logs()
    (groups,) = rights(given)["Groups"]
    assert {"44444", "44445"} <= set(groups.split())


@pytest.mark.parametrize(
    "options",
    [
        {"user": "12345"},
        {"read_only": True},
        {"user": "12345:12345", "read_only": True},
        {"read_only": True, **LITTLE},
        {"user": "12345", "read_only": True, **LITTLE},
        {"user": "1000660000:0", **LITTLE},
        {"user": "1000660000:0", "read_only": True, "tmpfs": {"/tmp": ""}, **LITTLE},
    ],
    ids=[
        "user",
        "root read-only",
        "read-only",
        "root without rights",
        "user without rights",
        "openshift",
        "openshift read-only",
    ],
)
def test_it_serves_with_little(serve: Serve, llama: str, options: dict[str, Any]) -> None:
    server = serve(llama, "serve", MODEL, **options).wait_for(CPU)
    answer = server.post("/v1/completions", prompt="Once upon a time", max_tokens=4)
    assert answer["usage"]["completion_tokens"] == 4
    assert server.exec("amdserve", "health")[0] == 0
    assert rights(server)["CapEff"] == {"0" * 16}
    assert server.stop() == 0, server.logs()


def test_a_secret_that_only_root_may_read(serve: Serve, llama: str, tmp_path: Path) -> None:
    """As Docker and Kubernetes mount secrets: the key is used, and is on no command line and in no log."""
    key = "sk-0123456789abcdef"
    (tmp_path / "key").write_text(key + "\n", encoding="utf-8")
    (tmp_path / "key").chmod(0o400)
    words, mounts = ["--api-key-file", "/run/secrets/key"], [bind(tmp_path, "/run/secrets")]
    server = serve(llama, "serve", MODEL, *words, mounts=mounts).wait_for(CPU)
    body = {"prompt": "Once", "max_tokens": 2}
    assert server.ask("/v1/completions", body)[0] == 401
    assert server.ask("/v1/completions", body, headers={"Authorization": f"Bearer {key}"})[0] == 200
    assert key not in server.logs()
    assert not [line for line in server.processes().values() if key in line]
