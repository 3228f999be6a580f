"""What goes into and comes out of published layers, without a registry: times, inventories, documents."""

from __future__ import annotations

import http.server
import io
import json
import struct
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from spdx_tools.spdx.parser.parse_anything import parse_file
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from amdserve.errors import PublishError
from amdserve.image.publish import normal, sbom
from amdserve.image.publish.backoff import Backoff
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
    return tarfile.open(tmp_path / "out")


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


def test_layer_of_the_base_stays_byte_for_byte(tmp_path: Path) -> None:
    content = archive(("young", b"1", {"mtime": EPOCH + 5}))
    (tmp_path / "in").write_bytes(content)
    found = normal.write(tmp_path / "in", tmp_path / "out", epoch=None)
    assert found.diff_id == sha256(content)
    # What comes compressed is taken apart first, and ends as the same bytes.
    (tmp_path / "gzip").write_bytes((tmp_path / "out").read_bytes())
    assert normal.write(tmp_path / "gzip", tmp_path / "again", epoch=None) == found


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
