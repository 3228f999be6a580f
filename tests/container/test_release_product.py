"""The product itself, released: pushed, signed, tested as pulled, then pulled by its tag and asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ports import free_port

from amdserve.image.engine import Engine
from amdserve.image.local import Images
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project
from amdserve.image.publish import commands, published, sign
from amdserve.image.publish.reference import parse
from amdserve.image.publish.registry import Registry
from amdserve.image.publish.release import in_engine
from amdserve.image.publish.sign import Signer

from . import registries
from .emptied import emptied, possible
from .server import Server

# Asks the server in its own container for a chat: the other engine's containers have no port of their own.
ASK = """
import json, urllib.request
body = {"model": "any", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
request = urllib.request.Request("http://127.0.0.1:%d/v1/chat/completions", json.dumps(body).encode())
request.add_header("Content-Type", "application/json")
print(urllib.request.urlopen(request, timeout=180).read().decode())
"""


@contextmanager
def elsewhere(client: Any) -> Iterator[Any]:
    """Give an engine with nothing in it; where none can be started, the one at hand, without that tag."""
    if not possible():
        yield client
        return
    with emptied() as empty:
        assert empty.images.list(all=True) == []
        yield empty


def chat(client: Any, image: str, models: Path) -> int:
    """Serve a model from an image and ask it once; give how many tokens it answered with."""
    port = free_port()
    words = ("serve", "llama.gguf", "--n-ctx", "512", "--host", "127.0.0.1", "--port", str(port))
    server = Server.start(client, image, words, models, network_mode="host", ports={})
    try:
        server.until(lambda: server.exec("amdserve", "health")[0] == 0, "an answer", 600)
        code, said = server.exec("/opt/amdserve/bin/python", "-c", ASK % port)
        assert code == 0, said
        return int(json.loads(said)["usage"]["completion_tokens"])
    finally:
        server.remove()


@pytest.fixture
def secured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[registries.Secured]:
    """A registry with TLS and a password, which this host trusts and is known to."""
    found = registries.Secured(tmp_path, monkeypatch)
    found.trusted()
    found.login("secret")
    yield found
    found.server.stop()


def test_released_image_is_pulled_by_its_tag_and_answers(
    cells: dict[str, Cell],
    project: Project,
    engine: Engine,
    model_folder: Path,
    secured: registries.Secured,
) -> None:
    """Through a registry with a password and TLS, into an engine that has never seen any of it."""
    images, client = Images(engine), engine.client(timeout=600)
    assert in_engine(images, cells["vulkan"]), "it was built and verified before"
    signer = Signer(*registries.keys(secured.folder))
    request = Request(images=("vulkan",), repository=f"{secured.host}/me/amdserve")
    # What is for the world is packed for minutes; the same with patience is seen with small images.
    options = commands.Options(compression="zstd-fast")
    (released,) = commands.release_images(project, request, signer, options)
    assert {"push", "sign", "test", "aliases"} <= set(released.done)
    tag = released.cell.immutable
    # The release pulled it to test it, and took it away again: the engine does not have it.
    assert images.find(tag) is None
    assert images.find(released.reference.pinned) is None

    _, checks = published.verify(Registry.open(parse(tag)), parse(tag), Signer(public=signer.public))
    assert [check for check in checks if not check.ok] == []
    assert {"signature", "provenance", "sbom-spdx", "layers", "tag"} <= {check.name for check in checks}
    tested, _ = signer.statement(released.reference, sign.TESTED)
    assert {"libraries", "devices", "vulkan-icd"} <= set((tested or {})["passedTests"])

    statement, _ = signer.statement(released.reference, sign.SPDX)
    names = {package["name"] for package in (statement or {})["packages"]}
    assert {"amdserve-radv", "llama.cpp", "llama_cpp_python", "pydantic"} <= names

    with elsewhere(client) as other:
        other.images.pull(request.repository, tag=tag.rpartition(":")[2])
        try:
            assert chat(other, tag, model_folder) > 0
        finally:
            other.images.remove(tag, force=True)
