"""Sources: a package index on loopback, real archives and real git repositories; nothing from outside."""

import functools
import gzip
import hashlib
import http.server
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from image_tree import ROOT, planned

from amdserve.errors import SourceError, UsageError
from amdserve.image import git, index, lock, source
from amdserve.image.catalog import LlamaPin, Sources, load_sources
from amdserve.image.inputs import changed
from amdserve.image.models import Request
from amdserve.image.project import Project

COMMIT = "abcdef012"
NAME = "llama_cpp_python-9.9.9.tar.gz"


def archive(*more: tarfile.TarInfo, commit: str = COMMIT) -> bytes:
    """Make a source distribution with what is looked at."""
    files = {
        "CHANGELOG.md": f"## [9.9.9]\n\n- feat: update llama.cpp to ggml-org/llama.cpp@{commit}\n",
        "llama_cpp/__init__.py": '__version__ = "9.9.9"\n',
        "vendor/llama.cpp/CMakeLists.txt": "",
        "vendor/llama.cpp/ggml/CMakeLists.txt": "",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"llama_cpp_python-9.9.9/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content.encode()))
        for extra in more:
            tar.addfile(extra)
    # Without a time stamp: the same bytes each time.
    return gzip.compress(out.getvalue(), mtime=0)


class Index:
    """A package index that can misbehave."""

    def __init__(self) -> None:
        self.files = {NAME: archive()}
        self.html = False
        self.cut = 0
        self.broken = 0
        self.asked: list[str] = []
        self.login = ""

    def answer(self, handler: http.server.BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.path)
        self.login = handler.headers.get("Authorization", "")
        if handler.path == "/simple/llama-cpp-python/":
            links = [{"filename": name, "url": f"../../files/{name}"} for name in self.files]
            body = json.dumps({"files": links}).encode()
            if self.html:
                anchors = (f'<a href="{link["url"]}#sha256=x">{link["filename"]}</a>' for link in links)
                body = "".join(anchors).encode()
            self.send(handler, body, len(body))
        elif self.broken:
            self.broken -= 1
            handler.send_error(503)
        elif (name := handler.path.rpartition("/")[2]) in self.files:
            body = self.files[name]
            self.send(handler, body[: len(body) - self.cut], len(body))
        else:
            handler.send_error(404)

    @staticmethod
    def send(handler: http.server.BaseHTTPRequestHandler, body: bytes, length: int) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", str(length))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    served = Index()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.02), daemon=True)
    thread.start()
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple/")
    monkeypatch.setattr("amdserve.image.index.time.sleep", lambda _seconds: None)
    yield served
    server.shutdown()
    server.server_close()


def pinned(content: bytes | None = None, **changes: str) -> Sources:
    sources = load_sources(ROOT)
    pin = LlamaPin(
        package="llama-cpp-python",
        version="9.9.9",
        sha256=hashlib.sha256(archive() if content is None else content).hexdigest(),
        commit=COMMIT,
        date="2026-01-01",
    )
    return sources.model_copy(update={"llama": pin.model_copy(update=changes)})


def obtain(root: Path, sources: Sources) -> Path:
    found = source.locate(None, sources, root)
    source.obtain(found, sources, root)
    return found.binding_dir


def leftovers(root: Path) -> list[str]:
    folder = root / "build" / "sources"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


# The pinned source distribution


@pytest.mark.parametrize("html", [False, True])
def test_pinned_source_is_fetched_checked_and_unpacked(served: Index, tmp_path: Path, html: bool) -> None:
    served.html = html
    tree = obtain(tmp_path, pinned())
    assert tree == tmp_path / "build/sources/llama-cpp-python-9.9.9"
    assert (tree / "vendor/llama.cpp/CMakeLists.txt").is_file()
    assert source.commit_of_changelog(tree) == COMMIT


def test_source_that_is_there_is_not_fetched_again(served: Index, tmp_path: Path) -> None:
    obtain(tmp_path, pinned())
    asked = len(served.asked)
    obtain(tmp_path, pinned())
    assert len(served.asked) == asked


def test_archive_put_there_by_hand_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    folder = tmp_path / "build/sources"
    folder.mkdir(parents=True)
    (folder / NAME).write_bytes(archive())
    assert (obtain(tmp_path, pinned()) / "CHANGELOG.md").is_file()


def test_other_content_is_refused_with_both_hashes_and_not_kept(served: Index, tmp_path: Path) -> None:
    sources = pinned()
    served.files[NAME] = archive(commit="bad0bad0b")
    with pytest.raises(SourceError) as caught:
        obtain(tmp_path, sources)
    assert sources.llama.sha256 in caught.value.what
    assert hashlib.sha256(served.files[NAME]).hexdigest() in caught.value.what
    assert leftovers(tmp_path) == []


def test_cut_off_download_is_tried_again_then_told(served: Index, tmp_path: Path) -> None:
    served.cut = 10
    with pytest.raises(SourceError) as caught:
        obtain(tmp_path, pinned())
    assert len([path for path in served.asked if path.startswith("/files/")]) == index.ATTEMPTS
    assert "bytes" in caught.value.cause
    assert leftovers(tmp_path) == []


def test_flaky_index_is_asked_again(served: Index, tmp_path: Path) -> None:
    served.broken = index.ATTEMPTS - 1
    assert obtain(tmp_path, pinned()).is_dir()


def test_missing_version_names_the_index(served: Index, tmp_path: Path) -> None:
    served.files.clear()
    with pytest.raises(SourceError, match=rf"{NAME} is not in the index http://127.0.0.1"):
        obtain(tmp_path, pinned())


def test_no_network_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    with pytest.raises(SourceError) as caught:
        obtain(tmp_path, pinned())
    assert f"{NAME} cannot be fetched from 127.0.0.1:9" in caught.value.what
    assert "PIP_INDEX_URL" in caught.value.fix


@pytest.mark.usefixtures("served")
def test_commit_that_differs_from_the_pin_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        obtain(tmp_path, pinned(commit="1234567"))
    assert f"commit: {COMMIT}" in caught.value.fix


@pytest.mark.usefixtures("served")
def test_half_unpacked_tree_is_replaced(tmp_path: Path) -> None:
    tree = obtain(tmp_path, pinned())
    (tree.parent / "llama-cpp-python-9.9.9.sha256").unlink()
    (tree / "CHANGELOG.md").unlink()
    (tree / "junk").touch()
    obtain(tmp_path, pinned())
    assert (tree / "CHANGELOG.md").is_file()
    assert not (tree / "junk").exists()


def link(name: str, to: str) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"llama_cpp_python-9.9.9/{name}")
    member.type, member.linkname = tarfile.SYMTYPE, to
    return member


def device() -> tarfile.TarInfo:
    member = tarfile.TarInfo("llama_cpp_python-9.9.9/null")
    member.type = tarfile.CHRTYPE
    return member


@pytest.mark.parametrize(
    "bad",
    [
        tarfile.TarInfo("llama_cpp_python-9.9.9/../../outside"),
        tarfile.TarInfo("llama_cpp_python-9.9.9//etc/outside"),
        link("a", "/etc/passwd"),
        link("a/b", "../../../outside"),
        device(),
    ],
    ids=["dots", "absolute", "link to root", "link upwards", "device"],
)
def test_archive_that_reaches_outside_is_refused(served: Index, tmp_path: Path, bad: tarfile.TarInfo) -> None:
    served.files[NAME] = archive(bad)
    with pytest.raises(SourceError, match="may not be in a source distribution"):
        obtain(tmp_path, pinned(served.files[NAME]))
    assert leftovers(tmp_path) == [NAME]
    assert not (tmp_path / "outside").exists()


def test_link_inside_is_kept(served: Index, tmp_path: Path) -> None:
    served.files[NAME] = archive(link("vendor/here", "../CHANGELOG.md"))
    tree = obtain(tmp_path, pinned(served.files[NAME]))
    assert (tree / "vendor/here").read_text() == (tree / "CHANGELOG.md").read_text()


def test_damaged_archive_is_told(served: Index, tmp_path: Path) -> None:
    served.files[NAME] = archive()[:-40]
    with pytest.raises(SourceError, match="cannot be unpacked"):
        obtain(tmp_path, pinned(served.files[NAME]))


# Which index, which certificates


def test_index_is_the_one_pip_would_use(tmp_path: Path) -> None:
    bare = {"HOME": str(tmp_path), "PIP_CONFIG_FILE": str(tmp_path / "pip.conf")}
    (tmp_path / "pip.conf").write_text("[global]\nindex-url = https://mirror.example/simple/\n")
    assert index.index_url(bare) == "https://mirror.example/simple"
    assert index.index_url({**bare, "PIP_INDEX_URL": "https://b.example/"}) == "https://b.example"


def test_password_of_an_index_is_sent_but_not_shown(
    served: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = index.index_url()
    monkeypatch.setenv("PIP_INDEX_URL", url.replace("//", "//me:s3cret@"))
    served.files.clear()
    with pytest.raises(SourceError) as caught:
        obtain(tmp_path, pinned())
    assert served.login.startswith("Basic ")
    assert "s3cret" not in str(caught.value)


def test_bundle_of_certificates_is_the_first_named_file(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.crt"
    environ = {"SSL_CERT_FILE": str(bundle), "CURL_CA_BUNDLE": str(bundle)}
    assert index.ca_bundle(environ) is None
    bundle.touch()
    assert index.ca_bundle({"CURL_CA_BUNDLE": str(bundle)}) == bundle
    assert index.ca_bundle({}) is None


# A newer release


def test_newer_release_is_found_by_number(served: Index) -> None:
    for version in ("9.9.10", "9.9.8", "10.0.0rc1"):
        served.files[f"llama_cpp_python-{version}.tar.gz"] = b""
    served.files["llama_cpp_python-11.0.0-py3-none-any.whl"] = b""
    found = lock.newer(pinned().llama)
    assert (found.pinned, found.latest, found.is_newer) == ("9.9.9", "9.9.10", True)
    assert "9.9.10 is out" in lock.advice(found)


@pytest.mark.usefixtures("served")
def test_newest_release_is_said_to_be_that() -> None:
    found = lock.newer(pinned().llama)
    assert not found.is_newer
    assert lock.advice(found) == "llama-cpp-python 9.9.9 is the newest release"


# git and folders


def run(*argv: str, at: Path) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", "-C", str(at), *who, *argv], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with llama.cpp's shape: a tag, then one more commit on its branch."""
    at = tmp_path / "upstream" / "llama.cpp"
    (at / "ggml").mkdir(parents=True)
    (at / "CMakeLists.txt").write_text("old\n")
    (at / "ggml" / "CMakeLists.txt").write_text("\n")
    run("init", "-q", "-b", "master", at=at)
    run("add", ".", at=at)
    run("commit", "-q", "-m", "one", at=at)
    run("tag", "-a", "b1", "-m", "one", at=at)
    (at / "CMakeLists.txt").write_text("new\n")
    run("commit", "-q", "-a", "-m", "two", at=at)
    return at


@pytest.mark.parametrize("ref", ["b1", "master", "", "full"])
def test_git_ref_is_fetched_as_it_is(repository: Path, tmp_path: Path, ref: str) -> None:
    commit = run("rev-parse", "b1^{commit}" if ref in ("b1", "full") else "master", at=repository)
    spec = f"file://{repository}" + (f"@{commit if ref == 'full' else ref}" if ref else "")
    found = source.locate(spec, pinned(), tmp_path)
    assert found.kind == "git"
    assert found.commit == commit[:9]
    assert (found.llama_dir / "CMakeLists.txt").read_text() == ("old\n" if ref in ("b1", "full") else "new\n")
    assert not list(found.llama_dir.rglob(".git"))
    # llama.cpp alone: the binding is the pinned one.
    assert found.binding_dir == source.pinned_folder(pinned().llama, tmp_path)
    assert found.pinned


def test_branch_that_moves_on_is_another_source(repository: Path, tmp_path: Path) -> None:
    spec = f"file://{repository}@master"
    before = source.locate(spec, pinned(), tmp_path)
    assert source.locate(spec, pinned(), tmp_path) == before
    (repository / "CMakeLists.txt").write_text("newer\n")
    run("commit", "-q", "-a", "-m", "three", at=repository)
    after = source.locate(spec, pinned(), tmp_path)
    assert after.digest != before.digest
    assert after.llama_dir != before.llama_dir


def test_unknown_ref_is_refused(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="has no ref 'b2'"):
        source.locate(f"file://{repository}@b2", pinned(), tmp_path)


def test_unreachable_repository_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(SourceError) as caught:
        source.locate(f"file://{tmp_path}/nothing@b1", pinned(), tmp_path)
    assert "git ls-remote" in caught.value.fix
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://h/o/llama.cpp@b1", "https://h/o/llama.cpp", "b1"),
        ("https://h/o/llama.cpp.git", "https://h/o/llama.cpp.git", "HEAD"),
        ("https://me@h/o/llama.cpp@feature/x", "https://me@h/o/llama.cpp", "feature/x"),
        ("git@h:o/llama.cpp@b1", "git@h:o/llama.cpp", "b1"),
        ("git@h:o/llama.cpp", "git@h:o/llama.cpp", "HEAD"),
        ("ssh://git@h:22/o/l@b1", "ssh://git@h:22/o/l", "b1"),
    ],
)
def test_git_addresses(text: str, url: str, ref: str) -> None:
    assert git.GitSpec.parse(text) == git.GitSpec(url, ref)


@pytest.mark.parametrize("text", ["../llama.cpp", "/srv/llama.cpp@x", "llama.cpp", "~/src"])
def test_folders_are_no_git_addresses(text: str) -> None:
    assert git.GitSpec.parse(text) is None


def test_password_in_an_address_is_not_told() -> None:
    spec = git.GitSpec.parse("https://me:s3cret@h/o/llama.cpp@b1")
    assert spec is not None
    assert spec.public == "https://h/o/llama.cpp@b1"


def test_folder_is_taken_as_it_is_and_known_by_content(repository: Path, tmp_path: Path) -> None:
    before = source.locate(str(repository), pinned(), tmp_path)
    assert before.kind == "folder"
    assert before.llama_dir == repository
    assert before.commit == run("rev-parse", "HEAD", at=repository)[:9]
    (repository / "CMakeLists.txt").write_text("changed, not committed\n")
    assert source.locate(str(repository), pinned(), tmp_path).digest != before.digest


def test_executable_bit_and_links_count_but_git_does_not(repository: Path) -> None:
    before = source.tree_digest(repository)
    (repository / ".git" / "x").touch()
    assert source.tree_digest(repository) == before
    (repository / "CMakeLists.txt").chmod(0o755)
    executable = source.tree_digest(repository)
    (repository / "link").symlink_to("CMakeLists.txt")
    assert len({before, executable, source.tree_digest(repository)}) == 3


@pytest.mark.usefixtures("served")
def test_folder_of_the_binding_brings_its_own_llama(tmp_path: Path) -> None:
    tree = obtain(tmp_path, pinned())
    found = source.locate(str(tree), pinned(), tmp_path)
    assert (found.binding_dir, found.llama_dir) == (tree, tree / "vendor/llama.cpp")
    assert (found.version, found.commit, found.pinned) == ("9.9.9", COMMIT, False)


def test_binding_without_its_submodule_is_refused(tmp_path: Path) -> None:
    (tmp_path / "llama_cpp").mkdir()
    (tmp_path / "llama_cpp/__init__.py").touch()
    with pytest.raises(UsageError) as caught:
        source.locate(str(tmp_path), pinned(), tmp_path)
    assert "submodule update" in caught.value.fix


def test_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"neither llama.cpp nor llama-cpp-python"):
        source.locate(str(tmp_path), pinned(), tmp_path)


def test_folder_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        source.locate(str(tmp_path / "nothing"), pinned(), tmp_path)


def test_another_source_is_another_image(repository: Path) -> None:
    mine = Project(ROOT, llama_source=str(repository))
    (cell,) = mine.plan(Request(gfx=("gfx1151",))).cells
    (usual,) = planned(gfx=("gfx1151",)).cells
    assert "the llama.cpp source changed" in changed(usual.inputs, cell.inputs)
    assert cell.labels["io.amdserve.llama.source"] == "folder llama.cpp"
