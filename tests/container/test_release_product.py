"""The product itself, released: pushed, signed, tested as pulled, then pulled by its tag and asked."""

from __future__ import annotations

from pathlib import Path

import pytest

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
from .server import Server


@pytest.mark.slow
def test_released_image_is_pulled_by_its_tag_and_answers(
    cells: dict[str, Cell], project: Project, engine: Engine, model_folder: Path, tmp_path: Path
) -> None:
    images, client = Images(engine), engine.client(timeout=600)
    assert in_engine(images, cells["vulkan"]), "it was built and verified before"
    registry = registries.Server(tmp_path / "registry")
    signer = Signer(*registries.keys(tmp_path))
    request = Request(images=("vulkan",), repository=f"{registry.host}/me/amdserve")
    try:
        (released,) = commands.release_images(project, request, signer, commands.Options())
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
        assert {"mesa-vulkan-drivers", "llama.cpp", "llama_cpp_python", "pydantic"} <= names

        client.images.pull(request.repository, tag=tag.rpartition(":")[2])
        answering = Server.start(client, tag, ("serve", "llama.gguf", "--n-ctx", "512"), model_folder)
        try:
            said = answering.wait().openai.chat.completions.create(
                model="any", messages=[{"role": "user", "content": "hello"}], max_tokens=8
            )
            assert said.usage
            assert said.usage.completion_tokens > 0
        finally:
            answering.remove()
            client.images.remove(tag, force=True)
    finally:
        registry.stop()
