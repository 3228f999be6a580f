"""The files of this tree that go into an image, and the hashes of all that does.

The files are read once: what the content hash was taken of is what is written out as the build context. So
nothing reaches an image without changing its hash, not even a file that is edited while a build runs.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

CONTEXT = (
    "LICENSE",
    "pyproject.toml",
    "requirements/container-build.txt",
    "requirements/container.txt",
    "src/amdserve",
    "templates/ccache/brackets.py",
    "templates/ccache/by_text.py",
    "templates/ccache/declares.py",
    "templates/ccache/reached.py",
    "templates/rocm/each_target.py",
    "templates/rocm/fatbin.py",
    "templates/rocm/precompiled.py",
    "templates/vulkan/glslc.sh",
    "templates/vulkan/pack.py",
    "templates/vulkan/packed.hpp",
)
# The toolkit stays on the host.
CONTEXT_WITHOUT = ("src/amdserve/image",)


# How much of a hash a label keeps: enough to see a change, and dozens of them stay small.
SHORT = 12


def digest(content: bytes | str) -> str:
    """Give the sha256 of some content, in hex."""
    return hashlib.sha256(content if isinstance(content, bytes) else content.encode()).hexdigest()


def digest_of(value: object) -> str:
    """Give the sha256 of a JSON value, whatever the order of its keys."""
    return digest(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str))


def total(inputs: Mapping[str, str]) -> str:
    """Give the content hash over named inputs, as `sha256:…`."""
    return "sha256:" + digest_of(dict(inputs))


def context_files(root: Path) -> dict[str, bytes]:
    """Read every file of the build context under `root`: path → content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in _files(root)}


def write_context(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a build context out, the same bytes and modes whatever this host's umask is."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o644)
    for path in (folder, *folder.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def shortened(inputs: Mapping[str, str]) -> dict[str, str]:
    """Give the inputs with the beginning of each hash, as a label keeps them."""
    return {name: value[:SHORT] for name, value in sorted(inputs.items())}


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Name what differs between two states of the inputs, one phrase each."""
    before, now = shortened(before), shortened(now)
    phrases = {
        **{name: f"{name} is new" for name in now.keys() - before.keys()},
        **{name: f"{name} is gone" for name in before.keys() - now.keys()},
        **{name: f"{name} changed" for name in now.keys() & before.keys() if now[name] != before[name]},
    }
    return [phrases[name] for name in sorted(phrases)]


def _files(root: Path) -> Iterator[Path]:
    left_out = [root / path for path in CONTEXT_WITHOUT]
    for name in CONTEXT:
        start = root / name
        for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
            # Compiled Python is made anew in the image; hidden files are an editor's.
            if not path.is_file() or "__pycache__" in path.parts or path.name.startswith("."):
                continue
            if any(path.is_relative_to(folder) for folder in left_out):
                continue
            yield path
