"""The engine that was found, the base image in it, and a certificate authority that only a build may know."""

from __future__ import annotations

import hashlib
import http.server
import json
import shutil
import socket
import ssl
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from amdserve import process
from amdserve.errors import SourceError
from amdserve.image import base, bootstrap
from amdserve.image import engine as engines
from amdserve.image.catalog import Base, Sources
from amdserve.image.engine import Engine
from amdserve.image.project import Project


@dataclass
class Served:
    """A web server on loopback: what it gives by path, and what it was asked for."""

    port: int
    answers: dict[str, tuple[str, bytes]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def web() -> Iterator[Callable[..., Served]]:
    running: list[http.server.ThreadingHTTPServer] = []

    def start(context: ssl.SSLContext | None = None) -> Served:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                served.asked.append(self.path)
                kind, body = served.answers.get(self.path, ("text/plain", b""))
                self.send_response(200 if self.path in served.answers else 404)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Docker-Content-Digest", f"sha256:{hashlib.sha256(body).hexdigest()}")
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815 (the name that http.server calls)

            def log_message(self, *_words: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        served = Served(server.server_port)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return served

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def local(engine: Engine) -> None:
    """Only an engine on this machine can see this machine's loopback."""
    if not engine.host.startswith("unix:"):
        pytest.skip("the engine runs on another machine")


def silent(_words: str) -> None:
    pass


def test_the_engine_is_found_again_at_once_and_nothing_is_said(engine: Engine) -> None:
    said: list[str] = []
    took = []
    for _ in range(3):
        began = time.monotonic()
        assert engines.ensure(say=said.append) == engine
        took.append(time.monotonic() - began)
    assert said == []
    assert min(took) < 2, (
        "it is asked at the start of every command, so it must be quick even on a busy machine"
    )


def test_the_engine_is_asked_by_everyone_at_the_same_address(engine: Engine, client: Any) -> None:
    assert client.version()["Version"] == engine.version
    seen = process.run([*engine.buildx, "inspect", "default"], env=engine.env(), timeout=60)
    assert "running" in seen.out


def test_a_base_is_there_and_the_second_time_nothing_is_done(
    engine: Engine, project: Project, client: Any
) -> None:
    first = base.ensure(engine, project.sources, say=silent)
    identity = client.images.get(first).id
    said: list[str] = []
    assert base.ensure(engine, project.sources, say=said.append) == first
    assert said == []
    assert client.images.get(first).id == identity
    suite = project.sources.base["debian"].suite
    seen = client.containers.run(
        first, ["cat", "/etc/os-release", "/etc/debian_version"], remove=True
    ).decode()
    assert suite in seen


def tiny(tmp_path: Path, reference: str, content: bytes) -> Path:
    """Give an archive for `docker load` of an image with one file."""
    (tmp_path / "tree").mkdir(exist_ok=True)
    (tmp_path / "tree/word").write_bytes(content)
    layer = tmp_path / "layer.tar"
    date = bootstrap.parse_release_date("Date: Fri, 30 Oct 2026 08:08:01 UTC\n")
    process.run(bootstrap.pack(tmp_path / "tree", layer, date))
    return bootstrap.archive(layer, reference, {}, date, tmp_path / "image.tar")


def registry(served: Served, archive: Path, repository: str) -> str:
    """Serve an archive's image as a registry does; give its digest."""
    with tarfile.open(archive) as file:
        parts = {name: file.extractfile(name).read() for name in file.getnames()}  # type: ignore[union-attr]
    (record,) = json.loads(parts["manifest.json"])
    config, layer = parts[record["Config"]], parts[record["Layers"][0]]
    kinds = "application/vnd.docker."
    described = [
        {"mediaType": kind, "size": len(body), "digest": f"sha256:{hashlib.sha256(body).hexdigest()}"}
        for kind, body in (
            (f"{kinds}container.image.v1+json", config),
            (f"{kinds}image.rootfs.diff.tar", layer),
        )
    ]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": f"{kinds}distribution.manifest.v2+json",
            "config": described[0],
            "layers": described[1:],
        }
    ).encode()
    digest = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    served.answers["/v2/"] = ("application/json", b"{}")
    served.answers[f"/v2/{repository}/manifests/{digest}"] = (
        f"{kinds}distribution.manifest.v2+json",
        manifest,
    )
    for record, body in zip(described, (config, layer), strict=True):
        served.answers[f"/v2/{repository}/blobs/{record['digest']}"] = ("application/octet-stream", body)
    return digest


def sources_with(project: Project, record: Base) -> Sources:
    return project.sources.model_copy(update={"base": {"debian": record}})


@pytest.mark.usefixtures("local")
def test_the_pinned_image_is_pulled_by_its_digest_and_a_build_starts_from_it(
    engine: Engine, client: Any, project: Project, web: Callable[..., Served], tmp_path: Path
) -> None:
    served, word = web(), uuid4().hex
    digest = registry(served, tiny(tmp_path, "unused:unused", word.encode()), "debian")
    repository = f"127.0.0.1:{served.port}/debian"
    record = Base(suite="forky", image=f"{repository}:forky-slim", digest=digest, mirror="http://127.0.0.1:1")
    sources = sources_with(project, record)
    try:
        reference = base.ensure(engine, sources, "pull", say=silent)
        assert reference == f"{repository}@{digest}"
        served.asked.clear()
        assert base.ensure(engine, sources, "auto", say=silent) == reference
        assert served.asked == [], "what is there is not asked for again"
        command = [*engine.buildx, "build", "--output", f"type=local,dest={tmp_path}/out", "-"]
        process.run(command, stdin=f"FROM {reference}\n", env=engine.env(), timeout=120)
        assert (tmp_path / "out/word").read_text() == word
    finally:
        client.images.remove(f"{repository}@{digest}", force=True)


@pytest.mark.usefixtures("local")
def test_a_registry_that_never_answers_does_not_hold_up_the_other_way(
    engine: Engine, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "AUTO_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        record = Base(
            suite="forky",
            image=f"127.0.0.1:{deaf.getsockname()[1]}/debian:forky-slim",
            digest=f"sha256:{uuid4().hex * 2}",
            mirror="http://127.0.0.1:1",
        )
        began = time.monotonic()
        with pytest.raises(SourceError) as error:
            base.ensure(engine, sources_with(project, record), "auto", name="debian", say=silent)
        took = time.monotonic() - began
    assert took < 20, "the engine itself would have tried for 25 s"
    assert "no answer in 1 s" in error.value.cause
    assert "127.0.0.1:1" in error.value.cause, "the mirror was tried as well"


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A certificate authority that nobody knows, and a certificate of it for this machine's loopback."""
    if not shutil.which("openssl"):
        pytest.skip("openssl makes the certificates")

    def openssl(*words: str) -> None:
        process.run(["openssl", *words], cwd=tmp_path, timeout=60)

    new = ("-newkey", "rsa:2048", "-nodes", "-sha256")
    openssl(
        *("req", "-x509", *new, "-days", "2", "-subj", f"/CN=test {uuid4().hex}"),
        *("-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem"),
    )
    openssl("req", *new, "-subj", "/CN=127.0.0.1", "-keyout", "server.key", "-out", "server.csr")
    (tmp_path / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    openssl(
        *("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"),
        *("-days", "2", "-sha256", "-extfile", "names", "-out", "server.pem"),
    )
    return tmp_path


@pytest.mark.usefixtures("local")
def test_a_certificate_authority_reaches_the_build_and_no_layer(
    engine: Engine, client: Any, project: Project, web: Callable[..., Served], authority: Path
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority / "server.pem", authority / "server.key")
    served = web(context)
    served.answers["/word"] = ("text/plain", b"through the authority")
    bundle = authority / "ca.pem"
    reference = base.ensure(engine, project.sources, say=silent)
    fetch = f"/usr/lib/apt/apt-helper $trust download-file https://127.0.0.1:{served.port}/word /word"
    text = f"""FROM {reference}
RUN ! {{ trust=; {fetch}; }} && test ! -s /word
RUN --mount=type=secret,id=ca,required=true,mode=0444 \\
    trust="-oAcquire::https::CAInfo=/run/secrets/ca" && {fetch} && cat /word
"""
    tag = f"amdserve-test:ca-{uuid4().hex[:12]}"
    command = [*engine.buildx, "build", "--progress=plain", "--network=host", "--load", "--tag", tag]
    command += [f"--secret=id=ca,src={bundle}", "-"]
    process.run(command, stdin=text, env=engine.env(), timeout=300)
    try:
        lines = [line for line in bundle.read_text().splitlines() if not line.startswith("-----")]
        saved = authority / "image.tar"
        with saved.open("wb") as file:
            for chunk in client.images.get(tag).save():
                file.write(chunk)
        content = saved.read_bytes()
        assert b"through the authority" in content, "the layers are not compressed, so what is in them shows"
        assert not any(line.encode() in content for line in lines[:4])
    finally:
        client.images.remove(tag, force=True)


def test_a_build_that_needs_a_secret_fails_without_it(engine: Engine, project: Project) -> None:
    """So the test above cannot pass by accident."""
    reference = base.ensure(engine, project.sources, say=silent)
    text = f"FROM {reference}\nRUN --mount=type=secret,id=ca,required=true true {uuid4().hex}\n"
    command = [*engine.buildx, "build", "--progress=plain", "-"]
    result = process.run(command, stdin=text, env=engine.env(), timeout=300, check=False)
    assert not result.ok


def test_the_features_that_the_dockerfiles_use_are_there(
    engine: Engine, project: Project, tmp_path: Path
) -> None:
    """Named contexts, cache mounts, heredocs and linked copies: what decides which engine is too old."""
    (tmp_path / "named").mkdir()
    (tmp_path / "named/file").write_text("from a named context")
    reference = base.ensure(engine, project.sources, say=silent)
    text = f"""FROM {reference} AS work
RUN --mount=type=cache,id=amdserve-test-features,target=/cache date >/cache/file
COPY --from=named file /file
COPY <<'EOF' /here
{uuid4().hex}
EOF
FROM scratch
COPY --link --from=work /file /here /
"""
    dest = tmp_path / "out"
    command = [*engine.buildx, "build", "--output", f"type=local,dest={dest}"]
    command += ["--build-context", f"named={tmp_path / 'named'}", "-"]
    process.run(command, stdin=text, env=engine.env(), timeout=300)
    assert (dest / "file").read_text() == "from a named context"
    assert (dest / "here").exists()
