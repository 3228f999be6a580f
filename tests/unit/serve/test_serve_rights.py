"""From root to nobody in particular: which groups are kept, and that nodes can be opened with them.

In a process of its own each time, and by the system's Python, which any user may read.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from amdserve.serve import rights

PYTHON = "/usr/bin/python3"
CLONE_NEWUSER = 0x10000000

# Gives up root, and says what has come of it.
DROP = f"""
import json, os, sys
sys.path.insert(0, {str(Path(rights.__file__).parents[2])!r})
from amdserve.serve import rights
_, notes = rights.drop(os.environ, (), (sys.argv[1],))
can = os.access(sys.argv[1], os.R_OK | os.W_OK)
print(json.dumps({{"uid": os.getuid(), "groups": os.getgroups(), "can": can, "notes": notes}}))
"""

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="root has to be given up"),
    pytest.mark.skipif(not Path(PYTHON).exists(), reason="no Python that any user may read"),
]


@pytest.fixture
def node() -> Iterator[Path]:
    """A file with the rights of a GPU's node, in a folder that lets everybody through."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o711)
        file = Path(place) / "renderD128"
        file.touch()
        yield file


def dropped(node: Path, **options: Any) -> dict[str, Any]:
    done = subprocess.run(
        [PYTHON, "-I", "-S", "-c", DROP, str(node)], capture_output=True, text=True, check=False, **options
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    if any("going on as root" in note for note in found["notes"]):
        pytest.skip(found["notes"][0])
    assert found["uid"] == rights.UID
    return found


@pytest.mark.parametrize(
    ("group", "mode", "groups"),
    [(44444, 0o660, [10001, 44444, 55555]), (0, 0o660, [0, 10001, 55555]), (0, 0o666, [10001, 55555])],
    ids=["its own group", "root's group", "open to all"],
)
def test_the_groups_that_are_needed_and_those_that_were_given(
    node: Path, group: int, mode: int, groups: list[int]
) -> None:
    os.chown(node, 0, group)
    node.chmod(mode)
    found = dropped(node, extra_groups=[0, 55555])
    assert found["can"]
    assert found["groups"] == groups
    assert found["notes"] == []


def in_rootless_container() -> None:
    """Become root of a user namespace that knows no group of the host, as a rootless container's is."""
    libc = ctypes.CDLL(None, use_errno=True)
    ready, go = os.pipe(), os.pipe()
    parent = os.getpid()
    helper = os.fork()
    if helper == 0:  # the maps are written from outside
        os.read(ready[0], 1)
        for kind in ("uid", "gid"):
            Path(f"/proc/{parent}/{kind}_map").write_text("0 0 1\n10001 10001 1\n", encoding="utf-8")
        os.write(go[1], b"x")
        os._exit(0)
    if libc.unshare(CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    os.waitpid(helper, 0)


@pytest.mark.parametrize("kept", [True, False])
def test_a_rootless_container_keeps_the_groups_it_cannot_name(node: Path, kept: bool) -> None:
    os.chown(node, 0, 44444)
    node.chmod(0o660)
    try:
        subprocess.run(["true"], preexec_fn=in_rootless_container, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no user namespace can be made here")
    found = dropped(node, extra_groups=[44444] if kept else [], preexec_fn=in_rootless_container)
    assert found["can"] is kept
    assert found["notes"] == (
        [] if kept
        else [f"{node} cannot be opened as uid 10001: start the container with --group-add keep-groups"]
    )  # fmt: skip
