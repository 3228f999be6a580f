"""Runs inside an image and prints what it found there as one JSON document; it judges nothing.

It is copied into a container of the image together with `offload.py` and started with the image's own Python:
beside the standard library it has what that image holds of this package, and nothing newer than Python 3.11.
What cannot be looked at is an `{"error": …}` in its own place, so one thing that is broken hides no other.
"""

from __future__ import annotations

import importlib
import json
import os
import pwd
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from amdserve import process

OFFLOAD = Path(__file__).with_name("offload.py")
IMAGE_JSON = Path("/etc/amdserve/image.json")
BACKENDS = Path("/opt/llama")
PYTHON = Path("/opt/amdserve")
USR = Path("/usr/lib")
UID = 10001
TIMEOUT = 120.0  # seconds that any one program of the image may take to answer

TOOLS = re.compile(
    r"^(?:[\w]+-linux-gnu-)?"
    r"(?:gcc|g\+\+|cc|c\+\+|cpp|clang(?:\+\+|-cpp)?|ld|as|make|cmake|ctest|ninja|hipcc|amdclang(?:\+\+)?"
    r"|git|npm|npx|node|nodejs|ccache|glslc|meson|cargo|rustc|go)(?:-?\d[\d.]*)?$"
)
# Folders with programs, whether or not PATH names them.
PROGRAMS = ("usr/bin", "usr/sbin", "usr/lib*/llvm*/bin", "usr/lib/ccache", "opt/*/bin", "opt/**/llvm/bin")
CACHES = {
    "/var/lib/apt/lists": re.compile(r"^(?!lock$|partial$|auxfiles$)"),
    "/var/cache/apt": re.compile(r"\.(?:deb|bin)$"),
    "/var/cache/apt/archives": re.compile(r"\.deb$"),
    "/var/cache/debconf": re.compile(r"-old$"),
    "/root": re.compile(r"^\.(?:cache|npm|ccache|cargo)$"),
}
EMPTY = ("/ccache", "/tmp", "/var/tmp", "/build", "/src", "/wheels", "/run/secrets")
MISSING = re.compile(r"(?m)^\s*(\S+) => not found")
GFX = re.compile(r"(?<![0-9a-z])gfx[0-9a-f]+(?![0-9a-z])")
RESOLVED = re.compile(r"(?m)^\s*\S+ => (/\S+) \(0x")
# In a process of its own: what is loaded may crash, and must not be loaded twice in different versions.
LOADER = """
import ctypes, json, os, sys
def why(name):
    try: ctypes.CDLL(name, mode=os.RTLD_NOW)
    except OSError as reason: return str(reason)
    return ""
print(json.dumps({name: why(name) for name in sys.argv[1:]}))
"""


def run(*argv: str) -> dict[str, Any]:
    """Run a program; give `exit`, `out` and `err`."""
    done = process.run(argv, timeout=TIMEOUT, check=False)
    return {"exit": done.code, "out": done.out, "err": done.err}


def image() -> dict[str, Any]:
    """What the image says of itself."""
    return dict(json.loads(IMAGE_JSON.read_text("utf-8")))


def links() -> dict[str, Any]:
    """Every name in /usr/local/bin: where it leads, and whether that can be run."""
    return {
        str(path): {"real": os.path.realpath(path), "runs": path.is_file() and os.access(path, os.X_OK)}
        for path in Path("/usr/local/bin").iterdir()
    }


def places() -> dict[str, Any]:
    """The folders that a user mounts something on, with their rights."""
    found: dict[str, Any] = {}
    for name in ("/models", "/var/lib/amdserve"):
        try:
            mode = Path(name).stat().st_mode
            found[name] = {"folder": stat.S_ISDIR(mode), "mode": stat.S_IMODE(mode)}
        except OSError as reason:
            found[name] = {"error": reason.strerror}
    return found


def users() -> dict[str, Any]:
    """The user that the entrypoint becomes."""
    return {"name": pwd.getpwuid(UID).pw_name, "uid": UID}


def icds() -> dict[str, Any]:
    """The Vulkan drivers that the environment names: does the manifest exist, does its library load."""
    found: dict[str, Any] = {}
    named = (os.environ.get(name, "") for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"))
    for name in sorted({part for value in named for part in value.split(":") if part}):
        try:
            library = json.loads(Path(name).read_text("utf-8"))["ICD"]["library_path"]
        except (OSError, ValueError, KeyError, TypeError) as reason:
            found[name] = {"error": f"{type(reason).__name__}: {reason}"}
            continue
        # A bare name is for the loader to find, a path is relative to the manifest.
        path = str(Path(name).parent / library) if "/" in library else library
        found[name] = {"library": path, "load": load(path)[path]}
    return found


def load(*names: str) -> dict[str, str]:
    """Load libraries as a program would; give for each why it cannot be done, or an empty text."""
    done = run(sys.executable, "-c", LOADER, *names)
    try:
        return dict(json.loads(done["out"]))
    except ValueError:
        if len(names) == 1:
            return {names[0]: f"loading it ends with {done['exit']}"}
        # One of them took the process with it: each alone says which.
        return {name: why for one in names for name, why in load(one).items()}


def binaries() -> Iterator[Path]:
    """Every ELF file of the backends and the Python environment; a link counts where it leads elsewhere."""
    for root in (BACKENDS, PYTHON):
        for path in sorted(root.rglob("*")):
            another_name = path.is_symlink() and path.resolve().parent == path.parent
            if another_name or not path.is_file() or path.suffix == ".py":
                continue
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield path


def ldd(text: str, own: str) -> dict[str, list[str]]:
    """Read what `ldd` printed for a file of the folder `own`: what is missing, what is another backend's."""
    resolved = (os.path.normpath(path) for path in RESOLVED.findall(text))
    others = (path for path in resolved if path.startswith(f"{BACKENDS}/"))
    real = os.path.realpath
    # One file may have its name in several folders; then it does not matter in which the loader finds it.
    foreign = [path for path in others if real(path) != real(f"{own}/{Path(path).name}")]
    return {"missing": MISSING.findall(text), "foreign": foreign}


def libraries() -> dict[str, Any]:
    """For every binary: what it is linked with and is not there."""
    found: dict[str, Any] = {}
    for path in binaries():
        done = run("ldd", str(path))
        text = done["out"] + done["err"]
        if done["exit"] and "not a dynamic executable" not in text:
            found[str(path)] = {"error": text.strip()}
            continue
        within = path.relative_to(BACKENDS).parts if path.is_relative_to(BACKENDS) else ()
        found[str(path)] = ldd(text, str(BACKENDS / within[0]) if within else str(PYTHON))
    return found


def plugins() -> dict[str, Any]:
    """For each backend's folder: the ggml libraries that it loads at run time, and whether they load."""
    found: dict[str, Any] = {}
    for folder in sorted(BACKENDS.iterdir()):
        paths = [str(path) for path in sorted(folder.glob("libggml-*.so")) if path.name != "libggml-base.so"]
        found[str(folder)] = {Path(path).name: why for path, why in load(*paths).items()}
    return found


def runtime() -> dict[str, Any]:
    """What ROCm's run time loads by name, which no `ldd` shows: the compiler it hands its code objects to."""
    hip = next(linked("libamdhip64.so"), None)
    if hip is None:
        return {"error": "nothing under /opt/llama is linked with libamdhip64"}
    named = set(re.findall(rb"libamd_comgr(?:_loader)?\.so[.\d]*", Path(hip).read_bytes()))
    return {"hip": hip, "loads": load(*sorted(name.decode() for name in named))}


def linked(prefix: str) -> Iterator[str]:
    """Give where the loader finds the libraries of this name that a ROCm backend is linked with."""
    for path in sorted(BACKENDS.glob("*/libggml-hip*.so")):
        for name in RESOLVED.findall(run("ldd", str(path))["out"]):
            if Path(name).name.startswith(prefix):
                yield os.path.realpath(name)


def offload() -> dict[str, Any]:
    """For every library of a backend with GPU code in it, and rocBLAS: the targets."""
    found: dict[str, Any] = {}
    own = (path for path in BACKENDS.glob("*/lib*hip*.so*") if not path.is_symlink())
    for path in sorted({*own, *map(Path, linked("librocblas.so"))}):
        done = run(sys.executable, "-P", str(OFFLOAD), str(path))
        try:
            found[str(path)] = json.loads(done["out"])
        except ValueError:
            found[str(path)] = {"error": done["err"].strip()}
    return found


def kernels() -> dict[str, Any]:
    """For rocBLAS and hipBLASLt: is the library here, and how many kernel files are there for each target."""
    found: dict[str, Any] = {}
    root = Path((image().get("rocm") or {}).get("prefix", "/usr")) / "lib" if IMAGE_JSON.is_file() else USR
    for name in ("rocblas", "hipblaslt"):
        library = sorted(set(linked(f"lib{name}.so")))
        folders = {str(path) for path in root.glob(f"**/{name}/**/library") if path.is_dir()}
        files = [path for folder in folders for path in Path(folder).rglob("*") if path.is_file()]
        count = Counter(gfx for file in files for gfx in set(GFX.findall(file.name)))
        size = sum(file.stat().st_size for file in files)
        found[name] = {"libraries": library, "folders": sorted(folders), "files": count, "bytes": size}
    return found


def programs() -> dict[str, Any]:
    """For each backend: what its program answers, and how its help differs from the recorded one."""
    found: dict[str, Any] = {}
    for name, backend in image().get("backends", {}).items():
        argv = [str(part) for part in backend["argv"]]
        answers: dict[str, Any] = {"help": run(*argv, "--help")}
        if name.startswith("llama-server"):
            answers["version"] = run(*argv, "--version")
            answers["devices"] = run(*argv, "--list-devices")
        try:
            answers["recorded"] = Path(backend["help"]).read_text("utf-8", "replace")
        except OSError as reason:
            answers["recorded"] = {"error": str(reason)}
        found[name] = answers
    return found


def flags() -> dict[str, Any]:
    """For each backend: every flag that the entrypoint of this image can put on its command line.

    Imported by name at run time, since the room that serves is in the image and not where this was built.
    """
    commands = importlib.import_module("amdserve.serve.commands")
    return {name: sorted(commands.emittable_flags(name)) for name in image().get("backends", {})}


def reference() -> dict[str, Any]:
    """The reference model and the CPU's answers, read by the code that compares with them."""
    module = importlib.import_module("amdserve.serve.reference")
    if (found := module.load(module.FOLDER)) is None:
        names = sorted(path.name for path in Path(module.FOLDER).glob("*"))
        return {"answers": 0, "why": f"it holds {names}" if names else "it is missing or empty"}
    return {"answers": len(found.answers), "bytes": found.model.stat().st_size}


def command() -> dict[str, Any]:
    """Does the entrypoint's program answer."""
    return run("amdserve", "version")


def tools() -> list[str]:
    """Programs that build or fetch software, wherever programs are."""
    folders = {Path(part) for part in os.environ.get("PATH", "").split(":") if part}
    for pattern in PROGRAMS:
        folders |= set(Path("/").glob(pattern))
    return sorted(
        str(path)
        for folder in folders
        if folder.is_dir()
        for path in folder.iterdir()
        if TOOLS.match(path.name) and (path.is_symlink() or os.access(path, os.X_OK))
    )


def caches() -> list[str]:
    """What a package manager or a build left behind."""
    return sorted(
        str(path)
        for folder, pattern in (CACHES | dict.fromkeys(EMPTY, re.compile(""))).items()
        if Path(folder).is_dir()
        for path in Path(folder).iterdir()
        if pattern.search(path.name)
    )


LOOKS: tuple[Callable[[], Any], ...] = (
    image, tools, caches, links, places, users, icds, libraries, plugins, runtime, offload, kernels,
    programs, flags, reference, command,
)  # fmt: skip


def look() -> dict[str, Any]:
    """Look at everything; what cannot be looked at is an `error` in its place."""
    found: dict[str, Any] = {}
    for one in LOOKS:
        try:
            found[one.__name__] = one()
        except Exception as reason:
            found[one.__name__] = {"error": f"{type(reason).__name__}: {reason}"}
    return found


if __name__ == "__main__":
    json.dump(look(), sys.stdout)
