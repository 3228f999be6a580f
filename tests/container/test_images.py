"""`verify` holds on what was built, and on what was broken it fails by name."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from amdserve.image.engine import Engine
from amdserve.image.models import Cell
from amdserve.image.verify import Report, layers, verify
from amdserve.image.verify.layers import certificates

from .conftest import GFX
from .images import Layer

SAMPLE = Path(__file__).parents[1] / "unit/verify/samples/hip-plain.so.gz"
PACKAGE = "/opt/amdserve/lib/python3*/site-packages/amdserve"
BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

# One thing broken a line, and the check whose name must say so, with a word of its detail.
BREAKS = [
    ("rm /usr/share/vulkan/icd.d/radeon_icd.json", "vulkan-icd", "radeon_icd.json"),
    ("ln -sf /opt/llama/gone /usr/local/bin/llama-server", "symlinks", "/opt/llama/gone"),
    ("touch /usr/bin/gcc && chmod 755 /usr/bin/gcc", "build-tools", "/usr/bin/gcc"),
    ("touch /var/lib/apt/lists/deb.example_InRelease", "caches", "deb.example"),
    ("sed -i s/--ctx-size/--context/ /etc/amdserve/help/llama-server-vulkan.txt", "help", "--context"),
    ("truncate -s 99 /etc/amdserve/reference/answer.json", "reference", "answer.json"),
    ("rm /opt/llama/cpu/libggml-cpu-x64.so*", "portable-cpu", "libggml-cpu-x64.so"),
    ("cp --remove-destination /break/hip.so /opt/llama/rocm/libggml-hip.so", "code-objects", "gfx1201"),
    ("sed -i s/^amdserve:/nobody-else:/ /etc/passwd", "user", "nobody-else"),
    ("chmod 700 /models", "folders", "/models"),
    ("rm /opt/llama/vulkan/libggml-vulkan.so", "plugins", "libggml-vulkan.so is missing"),
    ("sed -i 's/\"cell\": *\"/&x/' /etc/amdserve/image.json", "labels", "cell"),
]  # fmt: skip

# Those that would keep the checks above from looking: a server that does not start has no devices.
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
MORE_BREAKS = [
    (f"rm $(readlink -f {LIBRARIES}/libhipblas.so.3)", "libraries", "libhipblas"),
    (f"rm {LIBRARIES}/rocblas/*/library/*{GFX}*", "rocblas-kernels", "no kernel file"),
    # What is compiled is not compared with its source, so it goes first.
    (f"rm -r {PACKAGE}/serve/__pycache__", "", ""),
    (f"sed -i 's/\"--ctx-size\"/\"--no-such-flag\"/' {PACKAGE}/serve/*.py", "flags", "--no-such-flag"),
]  # fmt: skip


@pytest.fixture(scope="session")
def good(engine: Engine, cells: dict[str, Cell]) -> dict[str, Report]:
    return {name: verify(cell.immutable, engine=engine, expect=cell) for name, cell in cells.items()}


def test_what_was_built_holds(good: dict[str, Report], cells: dict[str, Cell]) -> None:
    assert set(good) == set(cells)
    for report in good.values():
        assert [check.to_dict() for check in report.checks if not check.ok] == []
        assert len(report.checks) > 20


@pytest.fixture(scope="session")
def broken(engine: Engine, layer: Layer, llama: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The product with everything broken at once: each break must be seen through all others."""
    context = tmp_path_factory.mktemp("break")
    (context / "hip.so").write_bytes(gzip.decompress(SAMPLE.read_bytes()))
    breaks = "".join(f"RUN {line}\n" for line, _, _ in BREAKS)
    changed = "HEALTHCHECK NONE\nEXPOSE 9999\nCMD []\nLABEL io.amdserve.inputs={}\n"
    with pytest.MonkeyPatch.context() as patch:
        # The layers are read in a test of their own.
        patch.setattr(layers, "of_host", frozenset)
        return verify(layer(llama, f"COPY . /break\n{breaks}{changed}", context), engine=engine)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        *((name, word) for _, name, word in BREAKS),
        ("healthcheck", "NONE"),
        ("port", "9999"),
        ("entrypoint", "default command"),
    ],
)
def test_what_was_broken_is_named(broken: Report, name: str, word: str) -> None:
    details = {check.name: check.detail for check in broken.checks if not check.ok}
    assert word in details.get(name, f"{name} holds; failing: {sorted(details)}")


@pytest.fixture(scope="session")
def broken_too(engine: Engine, layer: Layer, llama: str, tmp_path_factory: pytest.TempPathFactory) -> Report:
    text = "".join(f"RUN {line}\n" for line, _, _ in MORE_BREAKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "of_host", frozenset)
        return verify(layer(llama, text, tmp_path_factory.mktemp("break")), engine=engine)


@pytest.mark.parametrize(("name", "word"), [(name, word) for _, name, word in MORE_BREAKS if name])
def test_what_is_missing_is_named(broken_too: Report, name: str, word: str) -> None:
    details = {check.name: check.detail for check in broken_too.checks if not check.ok}
    assert word in details.get(name, f"{name} holds; failing: {sorted(details)}")


def test_what_was_not_broken_still_holds(broken: Report) -> None:
    assert {"platform", "size", "probe", "command", "rocm-environment"} <= {
        check.name for check in broken.checks if check.ok
    }


def test_an_image_that_is_none_of_ours(engine: Engine, layer: Layer, client: Any) -> None:
    empty = layer("scratch", "COPY . /\n", Path(__file__).parent)
    report = verify(empty, engine=engine)
    assert not report.ok
    failing = {check.name for check in report.checks if not check.ok}
    assert {"probe", "size", "labels", "entrypoint", "libraries"} <= failing
    assert client.containers.list(all=True, filters={"ancestor": empty}) == []


def test_no_certificate_of_this_host_is_in_any_layer(client: Any, llama: str) -> None:
    """One that every Debian has is looked for too: not to find it would mean not to have looked."""
    container = client.containers.create(llama)
    try:
        pieces, _ = container.get_archive(BUNDLE)
        with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
            file = archive.extractfile(Path(BUNDLE).name)
            assert file is not None
            public = next(certificates(file.read()))
    finally:
        container.remove()
    own = layers.of_host()
    assert public not in own
    image = client.images.get(llama)
    found, count = layers.search(client.api.get_image(image.id, layers.CHUNK), {*own, public})
    assert count == len(set(image.attrs["RootFS"]["Layers"]))  # an archive holds equal layers once
    assert {one.sha256 for one in found} == {public}
    assert BUNDLE in {one.path for one in found}


def test_a_certificate_that_a_later_layer_hides_is_found(client: Any, layer: Layer, tmp_path: Path) -> None:
    text = a_certificate()
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    (tmp_path / "first/ca.crt").write_text(text)
    (tmp_path / "second/ca.crt").write_text("gone")
    image = layer("scratch", "COPY first/ /etc/ssl/\nCOPY second/ /etc/ssl/\n", tmp_path)
    wanted = set(certificates(text.encode()))
    found, count = layers.search(client.api.get_image(image, layers.CHUNK), wanted)
    assert count == 2
    assert [one.path for one in found] == ["/etc/ssl/ca.crt"]


def a_certificate() -> str:
    """Give a certificate as text: the first of those that come with the Docker SDK."""
    import certifi

    whole = Path(certifi.where()).read_text("utf-8")
    begin = whole.index("-----BEGIN CERTIFICATE-----")
    end = whole.index("-----END CERTIFICATE-----", begin) + len("-----END CERTIFICATE-----\n")
    return whole[begin:end]


def test_shaders_are_stored_compressed_and_variants_that_others_stand_in_for_left_out(
    client: Any, llama: str
) -> None:
    """Both are done to the pinned release; with another one that looks different, neither is."""
    said = client.containers.run(
        llama, ["-c", "stat -c '%n %s' /opt/llama/vulkan/lib*.so"], entrypoint="sh", remove=True
    )
    sizes = dict(line.rsplit(maxsplit=1) for line in said.decode().splitlines())
    named = {
        Path(name).name.removeprefix("lib").removesuffix(".so"): int(size) for name, size in sizes.items()
    }
    assert named["ggml-vulkan"] < 12e6, "uncompressed it is 42 MB"
    variants = {name.removeprefix("ggml-cpu-") for name in named if name.startswith("ggml-cpu-")}
    assert {"x64", "haswell", "skylakex", "cascadelake", "cooperlake", "sapphirerapids"} < variants
    assert not variants & {"cannonlake", "icelake", "zen4"}
