"""What goes into and comes out of published layers, without a registry: times, inventories, documents."""

from __future__ import annotations

import gzip
import http.server
import io
import json
import os
import random
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from amdserve.errors import PublishError, UsageError
from amdserve.image.publish import compress, normal, sbom
from amdserve.image.publish.backoff import Backoff
from amdserve.image.publish.compress import COMPRESSIONS, Compression, Plain
from amdserve.image.publish.inventory import Inventory
from amdserve.image.publish.pieces import Pieces
from amdserve.image.publish.reference import parse
from amdserve.image.publish.registry import Registry, sha256
from amdserve.image.publish.transport import Transport

EPOCH = 1_700_000_000
STATUS = b"""Package: libc6
Status: install ok installed
Maintainer: Nobody <nobody@example.org>
Architecture: amd64
Version: 2.42-1
Description: the C library

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1.0
Description: not there any more
"""
PACKAGE = "opt/amdserve/lib/python3.14/site-packages/Some_Thing-1.2.dist-info/METADATA"


def archive(*entries: tuple[str, bytes | str, dict[str, Any]]) -> bytes:
    """Write a tar archive: a file for bytes, a link for a text."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, more in entries:
            entry = tarfile.TarInfo(name)
            for key, value in more.items():
                setattr(entry, key, value)
            if isinstance(content, str):
                entry.type, entry.linkname = tarfile.SYMTYPE, content
                tar.addfile(entry)
            else:
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def pyc(time: int, flags: int = 0) -> bytes:
    return struct.pack("<4sIII", b"magc", flags, time, 6) + b"code"


def rewritten(tmp_path: Path, content: bytes) -> tarfile.TarFile:
    (tmp_path / "in").write_bytes(content)
    found = normal.write(tmp_path / "in", tmp_path / "out", epoch=EPOCH)
    assert found.size == (tmp_path / "out").stat().st_size
    return tarfile.open(fileobj=io.BytesIO(unpacked((tmp_path / "out").read_bytes())[1]))


def unpacked(content: bytes) -> tuple[str | None, bytes]:
    """Read a layer to its end; give what it was compressed with, and what was in it."""
    plain = Plain(io.BytesIO(content))
    found = b"".join(iter(lambda: plain.read(100_003), b""))
    return plain.compression, found


def packed(content: bytes, compression: Compression, piece: int = 1 << 20) -> bytes:
    buffer = io.BytesIO()
    sink = normal.Sink(buffer, compression)
    for start in range(0, len(content), piece):
        sink.write(content[start : start + piece])
    found = sink.end()
    assert (found.digest, found.diff_id) == (sha256(buffer.getvalue()), sha256(content))
    return buffer.getvalue()


def test_times_are_taken_out_and_nothing_else(tmp_path: Path) -> None:
    xattr = {"SCHILY.xattr.security.capability": "x", "mtime": "1800000000.5", "atime": "1800000000"}
    content = archive(
        ("young", b"1", {"mtime": EPOCH + 5, "mode": 0o4755, "uid": 10001, "gid": 7}),
        ("old", b"2", {"mtime": EPOCH - 5}),
        ("link", "young", {"mtime": EPOCH + 5}),
        ("x", b"3", {"mtime": 1_800_000_000, "pax_headers": xattr}),
        ("n" * 300, b"4", {"mtime": EPOCH + 9}),
    )
    with rewritten(tmp_path, content) as tar:
        found = {entry.name: entry for entry in tar}
        assert list(found) == ["young", "old", "link", "x", "n" * 300]
        assert [entry.mtime for entry in found.values()] == [EPOCH, EPOCH - 5, EPOCH, EPOCH, EPOCH]
        assert (found["young"].mode, found["young"].uid, found["young"].gid) == (0o4755, 10001, 7)
        assert found["link"].linkname == "young"
        assert found["x"].pax_headers == {"SCHILY.xattr.security.capability": "x"}
        young = tar.extractfile("young")
        assert young
        assert young.read() == b"1"


def test_compiled_python_goes_with_its_source(tmp_path: Path) -> None:
    content = archive(
        ("a.pyc", pyc(EPOCH + 5), {}), ("b.pyc", pyc(EPOCH - 5), {}), ("c.pyc", pyc(EPOCH + 5, 1), {})
    )
    with rewritten(tmp_path, content) as tar:
        held = [(tar.extractfile(entry) or io.BytesIO()).read() for entry in tar]
    assert held == [pyc(EPOCH), pyc(EPOCH - 5), pyc(EPOCH + 5, 1)]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("before", [None, *COMPRESSIONS])
def test_layer_of_the_base_stays_byte_for_byte(
    tmp_path: Path, before: Compression | None, compression: Compression
) -> None:
    content = archive(("young", b"1", {"mtime": EPOCH + 5}))
    (tmp_path / "in").write_bytes(packed(content, before) if before else content)
    found = normal.write(tmp_path / "in", tmp_path / "out", epoch=None, compression=compression)
    assert found.diff_id == sha256(content)
    assert found.media_type == f"application/vnd.oci.image.layer.v1.tar+{compress.form(compression)}"
    # However it came, it ends as the same bytes.
    assert (tmp_path / "out").read_bytes() == packed(content, compression)


@pytest.mark.parametrize("compression", COMPRESSIONS)
@given(content=st.binary(max_size=3000), piece=st.integers(1, 3000))
def test_what_is_compressed_is_the_same_in_whatever_pieces_it_comes(
    compression: Compression, content: bytes, piece: int
) -> None:
    whole = packed(content, compression)
    assert packed(content, compression, piece) == whole
    assert unpacked(whole) == (compress.form(compression), content)


def test_zstd_is_the_same_on_any_machine_and_is_unpacked_by_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    words = [random.Random(word).randbytes(200) for word in range(500)]
    # More than one of the parts that threads share out, which are four windows long.
    content = b"".join(random.Random(1).choices(words, k=(40 << 20) // 200))
    found = set()
    for cores, piece in ((1, 1 << 20), (2, 100_003), (16, 1 << 20)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)
        found.add(packed(content, "zstd", piece))
    (one,) = found
    held = zstandard.get_frame_parameters(one)
    assert held.window_size <= 8 << 20, "more need not be held by who unpacks it"
    assert held.has_checksum
    assert unpacked(one) == ("zstd", content)


def test_what_is_pulled_many_times_is_packed_with_more_patience() -> None:
    words = [random.Random(word).randbytes(200) for word in range(500)]
    content = b"".join(random.Random(1).choices(words, k=(2 << 20) // 200))
    assert len(packed(content, "zstd")) < len(packed(content, "zstd-fast"))
    assert unpacked(packed(content, "zstd-fast")) == ("zstd", content)


def test_layer_of_several_parts_is_read_whole() -> None:
    one, two = (zstandard.compress(part, 3) for part in (b"one", b"two"))
    skipped = b"\x5f\x2a\x4d\x18\x03\x00\x00\x00abc"
    assert unpacked(one + skipped + two) == ("zstd", b"onetwo")
    assert unpacked(skipped + one) == ("zstd", b"one")
    assert unpacked(gzip.compress(b"one") + gzip.compress(b"two")) == ("gzip", b"onetwo")
    assert unpacked(b"plain") == (None, b"plain")
    assert unpacked(b"") == (None, b"")


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_broken_layer_is_told_and_never_a_shorter_one(tmp_path: Path, compression: Compression) -> None:
    content = random.Random(1).randbytes(100_000)
    whole = packed(content, compression)
    for kept in (5, 50_000, len(whole) - 1):
        with pytest.raises(tarfile.ReadError):
            unpacked(whole[:kept])
    with pytest.raises(tarfile.ReadError):
        unpacked(whole[:50_000] + bytes([whole[50_000] ^ 1]) + whole[50_001:])
    with pytest.raises(tarfile.ReadError):
        unpacked(whole + b"more")
    layer = packed(archive(("file", content, {})) + bytes(3 << 20), compression)
    for name, epoch in (("base", None), ("ours", EPOCH)):
        (tmp_path / name).write_bytes(layer[:-1])
        with pytest.raises(tarfile.ReadError):
            normal.write(tmp_path / name, tmp_path / "out", epoch=epoch)


def test_compression_is_known_by_name_and_media_type() -> None:
    assert [compress.named(word) for word in COMPRESSIONS] == ["zstd", "zstd-fast", "gzip"]
    with pytest.raises(UsageError, match="'xz'"):
        compress.named("xz")
    docker = "application/vnd.docker.image.rootfs.diff.tar"
    names = {name: {"mediaType": name} for name in (*compress.MEDIA_TYPES.values(), docker, f"{docker}.gzip")}
    assert [compress.of_media_type(name) for name in names] == ["zstd", "gzip", None, "gzip"]
    assert compress.of_layers({"layers": list(names.values())}) == "gzip and nothing and zstd"


@given(st.lists(st.binary(max_size=50)), st.lists(st.integers(0, 60), max_size=20))
def test_pieces_are_one_stream(pieces: list[bytes], sizes: list[int]) -> None:
    stream = Pieces(pieces)
    found = b"".join(stream.read(size) for size in sizes)
    assert found == b"".join(pieces)[: sum(sizes)]


def taken(*layers: bytes) -> Inventory:
    found = Inventory()
    for layer in layers:
        found.add(io.BytesIO(layer))
    return found


def test_inventory_is_that_of_the_uppermost_layers() -> None:
    metadata = b"Metadata-Version: 2.4\nName: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT\n\nText"
    found = taken(
        archive(("var/lib/dpkg/status", b"Package: old\n", {}), (f"./{PACKAGE}", metadata, {})),
        archive(("var/lib/dpkg/status", STATUS, {}), ("etc/amdserve/image.json", b'{"cell": "x"}', {})),
    )
    assert found.version("libc6") == "2.42-1"
    assert found.version("old") == found.version("gone") == ""
    assert [(one.purl, one.license) for one in found.python] == [("pkg:pypi/some-thing@1.2", "MIT")]
    assert found.image == {"cell": "x"}
    folder, _, _ = PACKAGE.rpartition("/")
    whiteout = folder.replace("Some_Thing", ".wh.Some_Thing")
    found.add(io.BytesIO(archive((whiteout, b"", {}))))
    assert found.python == ()
    found.add(io.BytesIO(archive(("var/lib/dpkg/.wh..wh..opq", b"", {}))))
    assert found.status == b""


def documents() -> sbom.Documents:
    found = taken(
        archive(
            ("var/lib/dpkg/status", STATUS, {}),
            (PACKAGE, b"Name: Some_Thing\nVersion: 1.2\nLicense-Expression: MIT\n", {}),
        )
    )
    more = sbom.parts(found, {"io.amdserve.llama.commit": "0c1e57098"}, "b" * 64)
    return sbom.documents(found, more, name="amdserve-vulkan", digest="sha256:" + "a" * 64, latest=EPOCH)


def test_bills_of_materials_hold_by_their_standards_and_are_the_same_each_time(tmp_path: Path) -> None:
    found = documents()
    assert found == documents()
    held = JsonStrictValidator(SchemaVersion.from_version(found.cyclonedx["specVersion"]))
    assert held.validate_str(json.dumps(found.cyclonedx)) is None
    purls = {one.get("purl") for one in found.cyclonedx["components"]}
    assert {
        "pkg:deb/debian/libc6@2.42-1?arch=amd64",
        "pkg:pypi/some-thing@1.2",
        "pkg:github/ggml-org/llama.cpp@0c1e57098",
    } <= purls
    assert not any("gone" in str(one) for one in purls)

    file = tmp_path / "image.spdx.json"
    file.write_text(json.dumps(found.spdx))
    document = parse_file(str(file))
    assert validate_full_spdx_document(document, "SPDX-2.3") == []
    assert {"libc6", "Some_Thing", "llama.cpp"} <= {package.name for package in document.packages}


def test_image_without_dpkg_has_no_bill_of_materials() -> None:
    with pytest.raises(PublishError, match="has no var/lib/dpkg/status"):
        sbom.documents(Inventory(), (), name="x", digest="sha256:1", latest=EPOCH)


class Resuming(http.server.BaseHTTPRequestHandler):
    """A registry that keeps what arrived of a chunk, as the specification has it; Docker's own does not."""

    held = b""
    sent = 0
    drops = 0
    finished = ""

    def log_message(self, *_: object) -> None: ...

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/v2/":
            self._answer(200)
        else:
            self._answer(204, Location=self.path, Range=f"0-{len(type(self).held) - 1}")

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_POST(self) -> None:
        type(self).held = b""
        self._answer(202, Location="/upload")

    def do_PATCH(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        kind = type(self)
        kind.sent += len(body)
        start = int(self.headers["Content-Range"].partition("-")[0])
        assert start == len(kind.held)
        if kind.drops:
            kind.drops -= 1
            kind.held += body[: len(body) // 2]
            self.close_connection = True
            return
        kind.held += body
        self._answer(202, Location="/upload", Range=f"0-{len(kind.held) - 1}")

    def do_PUT(self) -> None:
        kind = type(self)
        kind.held += self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kind.finished = sha256(kind.held)
        self._answer(201)


@pytest.fixture
def resuming() -> Iterator[tuple[str, type[Resuming]]]:
    kind = type("Kind", (Resuming,), {})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_address[1]}", kind
    server.shutdown()
    server.server_close()


def test_upload_goes_on_where_it_broke_off(
    resuming: tuple[str, type[Resuming]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("amdserve.image.publish.upload.CHUNK", 1000)
    host, kind = resuming
    kind.drops = 2
    content = bytes(range(256)) * 20
    registry = Registry(Transport(parse(f"{host}/a/b"), backoff=Backoff(pause=lambda _: None)))
    assert registry.put_blob(sha256(content), content)
    assert kind.finished == sha256(content)
    assert kind.sent < len(content) + 2 * 1000, "what had arrived was not sent again"


def test_waits_double_and_end() -> None:
    waited: list[float] = []
    backoff = Backoff(attempts=5, first=1.0, longest=5.0, pause=waited.append, random=lambda: 1.0)
    for failures in range(1, 5):
        assert not backoff.spent(failures)
        backoff.wait(failures)
    assert waited == [1.0, 2.0, 4.0, 5.0]
    assert backoff.spent(5)
    backoff.wait(1, asked=3.0)
    assert waited[-1] == 3.0
