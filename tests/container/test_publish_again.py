"""The same inputs built twice: the layers that this project writes have the same digests once packed."""

from __future__ import annotations

import secrets
import time
from pathlib import Path
from typing import Any

import pytest

from amdserve import process
from amdserve.image.engine import Engine
from amdserve.image.publish import archive

EPOCH = 1_700_000_000
# One of each kind: a linked copy out of another stage, compiled Python that keeps its source's time, a link,
# a file with rights of its own, a folder made on the way.
STEPS = """
FROM {base} AS made
RUN mkdir -p /made/deep && echo text > /made/deep/file && ln -s deep/file /made/link \\
    && chmod 4711 /made/deep/file && chown 10001 /made/deep
FROM {base}
COPY --link --from=made /made /made
RUN mkdir -p /compiled && echo 'x = 1' > /compiled/one.py && perl -e \\
    'print pack("a4 V V V", "magc", 0, (stat "/compiled/one.py")[9], 6), "code"' > /compiled/one.pyc
"""


@pytest.fixture
def base(client: Any) -> str:
    """A base image that an image of this project was built from."""
    return str(next(tag for one in client.images.list("amdserve-base") for tag in one.tags))


def test_built_twice_it_has_the_same_layers(engine: Engine, client: Any, base: str, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text(STEPS.format(base=base))
    raw, published, configs = [], [], []
    for number in range(2):
        tag = f"amdserve-test:again-{secrets.token_hex(4)}"
        command = [*engine.buildx, "build", "--no-cache", "--load", "--tag", tag, str(tmp_path)]
        process.run(command, env=engine.env(), timeout=600)
        try:
            held = client.api.inspect_image(tag)
            raw.append(held["RootFS"]["Layers"])
            folder = tmp_path / f"pack-{number}"
            with archive.packed(engine, held["Id"], folder, epoch=EPOCH, compression="zstd-fast") as packed:
                published.append([layer.digest for layer in packed.layers])
                configs.append(packed.digest)
                assert packed.layers[0].diff_id == raw[-1][0], "the base stays as it is"
        finally:
            client.images.remove(tag, force=True)
        time.sleep(1.1)
    assert raw[0][1:] != raw[1][1:], "the builder leaves the time of day in them"
    assert published[0] == published[1]
    assert configs[0] == configs[1]
