"""What the probe reads inside an image: ldd's output, names of tools and leftovers, programs that fail."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from amdserve.gpu import offload
from amdserve.image.verify import probe

# As ldd of glibc 2.43 prints it.
COMPLETE = """\
\tlinux-vdso.so.1 (0x00007faa34887000)
\tlibggml-base.so.0 => /opt/llama/rocm/./libggml-base.so.0 (0x00007faa27fac000)
\tlibhipblas.so.3 => /usr/lib/x86_64-linux-gnu/libhipblas.so.3 (0x00007faa2656f000)
\tlibc.so.6 => /usr/lib/x86_64-linux-gnu/libc.so.6 (0x00007faa25f83000)
\t/lib64/ld-linux-x86-64.so.2 (0x00007faa34889000)
"""
LACKING = COMPLETE.replace("/usr/lib/x86_64-linux-gnu/libhipblas.so.3 (0x00007faa2656f000)", "not found")
OWN = "/opt/llama/rocm"


def test_a_complete_closure() -> None:
    assert probe.ldd(COMPLETE, OWN) == {"missing": [], "foreign": []}


def test_a_missing_library() -> None:
    assert probe.ldd(LACKING, OWN)["missing"] == ["libhipblas.so.3"]


def test_a_library_of_another_backend() -> None:
    text = COMPLETE.replace("/opt/llama/rocm/./", "/opt/llama/rocm/../vulkan/")
    assert probe.ldd(text, OWN)["foreign"] == ["/opt/llama/vulkan/libggml-base.so.0"]
    assert probe.ldd(COMPLETE, "/opt/llama/cpu")["foreign"] == ["/opt/llama/rocm/libggml-base.so.0"]


@pytest.mark.parametrize(
    "name",
    [
        "gcc",
        "gcc-16",
        "x86_64-linux-gnu-gcc-16",
        "g++",
        "cc",
        "c++",
        "cpp-16",
        "clang",
        "clang-22",
        "clang++-22",
        "ld",
        "as",
        "make",
        "cmake",
        "ninja",
        "hipcc",
        "git",
        "npm",
        "node",
        "ccache",
        "glslc",
        "amdclang++",
    ],
)
def test_a_tool_is_known_by_its_name(name: str) -> None:
    assert probe.TOOLS.match(name)


@pytest.mark.parametrize(
    "name",
    [
        "gccgo-notes",
        "ldd",
        "ldconfig",
        "ascii",
        "python3",
        "python3.14",
        "gitweb-less",
        "tini",
        "llama-server-vulkan",
        "clangd-index",
        "makeinfo",
        "asmi",
        "x86_64",
        "amdserve",
    ],
)
def test_other_programs_are_no_tools(name: str) -> None:
    assert not probe.TOOLS.match(name)


def test_tools_are_found_on_the_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, mode in (("hipcc", 0o755), ("cmake", 0o644), ("mycat", 0o755)):
        (tmp_path / name).touch(mode=mode)
    (tmp_path / "git").symlink_to("/nowhere")
    monkeypatch.setenv("PATH", str(tmp_path))
    here = [Path(one).name for one in probe.tools() if one.startswith(str(tmp_path))]
    assert here == ["git", "hipcc"]


def test_leftovers_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    places = {f"{tmp_path}{folder}": pattern for folder, pattern in probe.CACHES.items()}
    monkeypatch.setattr(probe, "CACHES", places)
    monkeypatch.setattr(probe, "EMPTY", tuple(f"{tmp_path}{folder}" for folder in probe.EMPTY))
    kept = [
        "var/lib/apt/lists/lock",
        "var/lib/apt/lists/partial/",
        "var/cache/apt/archives/lock",
        "root/.bashrc",
    ]
    left = ["ccache/1/", "root/.npm/", "run/secrets/ca", "tmp/x", "var/cache/apt/pkgcache.bin"]
    left += ["var/lib/apt/lists/deb.debian.org_InRelease"]
    for name in (*kept, *left):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir() if name.endswith("/") else path.touch()
    assert set(probe.caches()) == {str(tmp_path / name) for name in left}


def test_a_library_that_does_not_load(tmp_path: Path) -> None:
    bad = tmp_path / "libbad.so"
    bad.write_bytes(b"\x7fELF but no more")
    found = probe.load("libc.so.6", str(bad), "libdoes-not-exist.so.7")
    assert found["libc.so.6"] == ""
    assert "libbad.so" in found[str(bad)]
    assert "cannot open" in found["libdoes-not-exist.so.7"]


def test_a_library_that_ends_the_process_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    crash = "if 'bad' in sys.argv[1:]: os.abort()\n"
    monkeypatch.setattr(probe, "LOADER", "import os, sys\n" + crash + probe.LOADER)
    assert probe.load("libc.so.6", "bad") == {"libc.so.6": "", "bad": "loading it ends with -6"}


def test_a_driver_is_loaded_and_not_only_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, bad, empty = (tmp_path / f"{name}.json" for name in ("good", "bad", "empty"))
    good.write_text(json.dumps({"ICD": {"library_path": "libc.so.6"}}))
    bad.write_text(json.dumps({"ICD": {"library_path": "./libvulkan_gone.so"}}))
    empty.write_text("{}")
    monkeypatch.setenv("VK_DRIVER_FILES", f"{good}:{bad}")
    monkeypatch.setenv("VK_ICD_FILENAMES", f"{empty}:{tmp_path}/missing.json")
    found = probe.icds()
    assert found[str(good)] == {"library": "libc.so.6", "load": ""}
    assert "libvulkan_gone.so" in found[str(bad)]["load"]
    assert "ICD" in found[str(empty)]["error"]
    assert "FileNotFoundError" in found[f"{tmp_path}/missing.json"]["error"]


def test_kernel_files_are_counted_by_their_whole_target(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "lib/x86_64-linux-gnu/rocblas/5/library"
    folder.mkdir(parents=True)
    names = (
        "Kernels.so-000-gfx1151.hsaco",
        "TensileLibrary_fallback_gfx1151.dat",
        "Kernels.so-000-gfx90a-xnack+.hsaco",
    )
    for name in (*names, "TensileLibrary_lazy_gfx11510.dat", "readme"):
        (folder / name).write_bytes(b"12")
    monkeypatch.setattr(probe, "IMAGE_JSON", folder)
    monkeypatch.setattr(probe, "USR", tmp_path / "lib")
    monkeypatch.setattr(probe, "BACKENDS", tmp_path / "nothing")
    found = probe.kernels()["rocblas"]
    assert found["files"] == {"gfx1151": 2, "gfx90a": 1, "gfx11510": 1}
    assert found["bytes"] == 10


def test_code_objects_of_a_backends_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sample = Path(__file__).with_name("samples") / "hip-plain.so.gz"
    rocm = tmp_path / "rocm"
    rocm.mkdir()
    (rocm / "libggml-hip.so.0").write_bytes(gzip.decompress(sample.read_bytes()))
    (rocm / "libggml-hip.so").symlink_to("libggml-hip.so.0")
    (rocm / "libggml-hip-bad.so").write_bytes(b"nothing")
    monkeypatch.setattr(probe, "BACKENDS", tmp_path)
    monkeypatch.setattr(probe, "OFFLOAD", offload.__file__)
    found = probe.offload()
    assert found[str(rocm / "libggml-hip.so.0")]["targets"] == {"gfx1151": 2, "gfx1201": 2}
    assert "error" in found[str(rocm / "libggml-hip-bad.so")]
    assert len(found) == 2


def test_programs_are_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program, recorded = tmp_path / "server", tmp_path / "help.txt"
    program.write_text('#!/bin/sh\n[ "$1" = --list-devices ] && kill -SEGV $$\necho "$1"\n')
    program.chmod(0o755)
    recorded.write_text("--help\n")
    backend = {"argv": [str(program)], "help": str(recorded)}
    gone = {"argv": [str(tmp_path / "gone")], "help": str(tmp_path / "gone.txt")}
    monkeypatch.setattr(probe, "image", lambda: {"backends": {"llama-server-x": backend, "cpu": gone}})
    found = probe.programs()
    assert found["llama-server-x"]["help"]["out"] == found["llama-server-x"]["recorded"] == "--help\n"
    assert found["llama-server-x"]["version"]["out"] == "--version\n"
    assert found["llama-server-x"]["devices"]["exit"] == -11
    assert found["cpu"]["help"]["exit"] == 127
    assert "No such file" in found["cpu"]["recorded"]["error"]
    assert "version" not in found["cpu"]


def test_one_look_that_fails_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Any:
        raise PermissionError(13, "Permission denied")

    def fine() -> Any:
        return [1]

    monkeypatch.setattr(probe, "LOOKS", (broken, fine))
    found = probe.look()
    assert found["fine"] == [1]
    assert "Permission denied" in found["broken"]["error"]


def test_it_says_something_on_a_machine_that_is_no_image() -> None:
    json.dumps(probe.look())
