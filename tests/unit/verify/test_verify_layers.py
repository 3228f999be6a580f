"""A certificate of the host is found wherever in an image's layers it is."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from amdserve.errors import VerifyError
from amdserve.image.verify import layers

# Not a certificate that anything would accept, but with the beginning that each has, and long enough.
DER = b"\x30\x82\x02\x00\x30\x82\x01\x68" + hashlib.sha512(b"seed").digest() * 8
DER = DER[: 4 + 0x200]
SHA = hashlib.sha256(DER).hexdigest()
TEXT = base64.b64encode(DER).decode()
PEM = (
    "-----BEGIN CERTIFICATE-----\n"
    + "\n".join(TEXT[at : at + 64] for at in range(0, len(TEXT), 64))
    + "\n-----END CERTIFICATE-----\n"
).encode()


def tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def image(*layer: bytes, config: bytes = b'{"config": {}}') -> bytes:
    """An image's archive as the engine gives it."""
    blobs = {f"blobs/sha256/{hashlib.sha256(one).hexdigest()}": one for one in (config, *layer)}
    return tar({**blobs, "manifest.json": b"[]"})


def pieces(data: bytes, size: int = 1000) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


def found(archive: bytes) -> list[str]:
    return [one.path for one in layers.search(pieces(archive), {SHA})[0]]


def test_none_is_found_where_none_is() -> None:
    other = PEM.replace(TEXT[100:110].encode(), b"A" * 10)
    archive = image(tar({"etc/ssl/certs/ca-certificates.crt": other}), tar({"usr/bin/x": b"\x30\x82" * 5000}))
    assert layers.search(pieces(archive), {SHA}) == ([], 2)


@pytest.mark.parametrize(
    "content",
    [
        PEM,
        b"# a comment\n" * 20 + PEM.replace(b"\n", b"\r\n") + b"more",
        DER,
        b"PKCS12 or a keystore around it \x00\x01" + DER + b"\x00",
        b'{"ca": "' + PEM.replace(b"\n", b"\\n") + b'"}',
        PEM.replace(b"BEGIN", b"BEGIN TRUSTED").replace(b"END", b"END TRUSTED"),
    ],
)
def test_it_is_found_as_text_and_as_it_is(content: bytes) -> None:
    assert found(image(tar({"./opt/hidden.bin": content}))) == ["/opt/hidden.bin"]


def test_it_is_found_in_a_layer_whose_file_a_later_one_removed() -> None:
    first, later = tar({"run/secrets/ca": PEM}), tar({"run/secrets/.wh.ca": b""})
    assert found(image(first, later)) == ["/run/secrets/ca"]


def test_it_is_found_in_a_compressed_layer() -> None:
    for compressed in (gzip.compress, zstandard.compress):
        assert found(image(compressed(tar({"etc/ca": PEM})))) == ["/etc/ca"]


def test_a_layer_that_changes_nothing_counts() -> None:
    archive = image(tar({"a": b""}), bytes(1024), tar({"etc/ca": PEM}))
    hits, count = layers.search(pieces(archive), {SHA})
    assert ([one.path for one in hits], count) == (["/etc/ca"], 3)


def test_it_is_found_in_the_history() -> None:
    config = b'{"history": [{"created_by": "RUN echo ' + PEM.replace(b"\n", b"\\n") + b'"}]}'
    assert found(image(tar({"a": b""}), config=config)) == ["the image's own description"]


@pytest.mark.parametrize("content", [PEM, DER])
@pytest.mark.parametrize("before", range(0, 800, 130))
def test_it_is_found_across_two_pieces_of_a_large_file(
    monkeypatch: pytest.MonkeyPatch, content: bytes, before: int
) -> None:
    monkeypatch.setattr(layers, "CHUNK", 4096)
    archive = image(tar({"large": b"x" * (4096 - before) + content + b"y" * 9000}))
    assert found(archive) == ["/large"]


def test_an_unreadable_layer_is_no_clean_layer() -> None:
    for compressed in (gzip.compress, zstandard.compress):
        with pytest.raises(VerifyError, match="cannot be read"):
            found(image(compressed(tar({"a": b"b" * 5000}))[:-1]))
    with pytest.raises(VerifyError, match="cannot be read"):
        found(image(tar({"a": b"b" * 5000}))[:4000])


def test_what_the_distribution_ships_is_not_the_hosts_own(tmp_path: Path) -> None:
    local, public = tmp_path / "local", tmp_path / "public"
    local.mkdir()
    public.mkdir()
    (local / "mine.crt").write_bytes(PEM)
    assert layers.of_host({}, local=local, public=public) == {SHA}
    (public / "mine.crt").write_bytes(PEM)
    assert layers.of_host({}, local=local, public=public) == frozenset()


def test_the_bundle_of_the_environment_counts(tmp_path: Path) -> None:
    bundle, nowhere = tmp_path / "bundle.pem", tmp_path / "nowhere"
    bundle.write_bytes(b"preface\n" + PEM)
    environ = {"SSL_CERT_FILE": str(bundle)}
    assert layers.of_host(environ, local=nowhere, public=nowhere) == {SHA}
    assert layers.of_host({}, local=nowhere, public=nowhere) == frozenset()
