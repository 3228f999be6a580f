"""What of vLLM's packages goes into the image, and the proof of what came out.

A program of the build, with the standard library alone: `select` reads what the resolver chose, refuses a
CUDA build and leaves out the kernels of other GPUs; `prove` looks at what is installed. Both end with 1 and
one line that says why.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from importlib import metadata
from pathlib import Path

# A package with the kernels of one GPU, or of a family of them (gfx110x): amd-torch-device-gfx1151.
KERNELS = re.compile(r"(?:^|-)gfx(?P<number>[0-9a-f]+x?)(?=-|$)")
# Packages of CUDA's run time. NVIDIA's management library is pure Python, and programs that look for both
# vendors draw it along.
CUDA = re.compile(r"^(nvidia|cuda)-|^(cuda|flashinfer-cubin|flashinfer-jit-cache)$")
HARMLESS = frozenset({"nvidia-ml-py"})
CUDA_VERSION = re.compile(r"\+(cu\d+|cuda)")


class Wrong(Exception):  # noqa: N818 - said in one line, and the build ends
    """What was resolved or installed is not vLLM for ROCm; the text says why."""


def plain(name: str) -> str:
    """Give a package's name as indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements(text: str) -> Iterator[tuple[str, str, str]]:
    """Give name, version (with what follows `==`), and the lines of each requirement of a resolved list."""
    block: list[str] = []
    for line in [*text.splitlines(), ""]:
        follows = line[:1].isspace()
        if block and not follows:
            head = block[0].split(";", 1)[0].rstrip("\\ ").strip()
            name, _, version = head.partition("==")
            if not version:
                name, _, version = head.partition("@")
            yield plain(name.split("[", 1)[0].strip()), version.strip(), "\n".join(block)
            block = []
        if line.strip() and not line.lstrip().startswith("#"):
            block.append(line)


def other_gpu(name: str, gfx: Sequence[str]) -> bool:
    """Tell whether a package holds kernels, and none for these targets."""
    match = KERNELS.search(name)
    if not match:
        return False
    number = match["number"]
    wanted = [target.removeprefix("gfx") for target in gfx]
    if number.endswith("x"):
        return not any(one.startswith(number[:-1]) and len(one) == len(number) for one in wanted)
    return number not in wanted


def select(text: str, gfx: Sequence[str]) -> tuple[str, list[str]]:
    """Give the list without the kernels of other GPUs, and the names of what was left out.

    Args:
        text: what the resolver chose, one `name==version` a line, hashes behind it.
        gfx: the targets of the image.

    Raises:
        Wrong: a CUDA build is in it.
    """
    found = list(requirements(text))
    check({name: version for name, version, _ in found})
    kept = [lines for name, _, lines in found if not other_gpu(name, gfx)]
    return "\n".join(kept) + "\n", [name for name, _, _ in found if other_gpu(name, gfx)]


def check(versions: dict[str, str]) -> None:
    """Refuse a set of packages that is not vLLM for ROCm.

    Args:
        versions: version by plain name.

    Raises:
        Wrong: it is not.
    """
    version = versions.get("vllm")
    if version is None:
        raise Wrong("vllm is not among the packages")
    if "+rocm" not in version:
        raise Wrong(f"vllm {version} is not a ROCm build: `+rocm…` is missing, it is PyPI's CUDA wheel")
    torch = versions.get("torch")
    if torch is None:
        raise Wrong("torch is not among the packages")
    if "+" not in torch:
        raise Wrong(f"torch {torch} is PyPI's CUDA build: no index that was asked has one for ROCm")
    for name, one in versions.items():
        if (CUDA.match(name) and name not in HARMLESS) or CUDA_VERSION.search(one):
            raise Wrong(f"{name} {one} is a part of CUDA")


def prove(version: str, gfx: Sequence[str]) -> dict[str, object]:
    """Look at the environment this runs in; give what is there.

    Args:
        version: what vLLM's must be, with its local part; empty for any ROCm build.
        gfx: the targets of the image.

    Raises:
        Wrong: it is not vLLM for ROCm, or not this one, or not for these targets.
    """
    versions = {plain(one.name): one.version for one in metadata.distributions() if one.name}
    check(versions)
    if version and versions["vllm"] != version:
        raise Wrong(f"vllm {versions['vllm']} is installed, and {version} was asked for")
    import torch  # noqa: PLC0415 - takes seconds, and is not there where the tests of this module run

    hip = getattr(torch.version, "hip", None)
    if not hip:
        raise Wrong("torch.version.hip is not set: this torch is not built for ROCm")
    if getattr(torch.version, "cuda", None):
        raise Wrong(f"torch.version.cuda is {torch.version.cuda}: this torch is built for CUDA")
    kernels = sorted(name for name in versions if KERNELS.search(name))
    if stray := [name for name in kernels if other_gpu(name, gfx)]:
        raise Wrong(f"{', '.join(stray)}: kernels of other GPUs than {', '.join(gfx)}")
    if kernels:
        for target in gfx:
            if all(other_gpu(name, (target,)) for name in kernels):
                raise Wrong(f"no package holds kernels for {target}: {', '.join(kernels)}")
    return {
        "vllm": versions["vllm"],
        "torch": versions["torch"],
        "hip": hip,
        "python": platform.python_version(),
        "kernels": kernels,
        "packages": len(versions),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    which = parser.add_subparsers(dest="which", required=True)
    first = which.add_parser("select")
    first.add_argument("resolved", type=Path)
    first.add_argument("chosen", type=Path)
    second = which.add_parser("prove")
    second.add_argument("version", nargs="?", default="")
    second.add_argument("--record", type=Path)
    for one in (first, second):
        one.add_argument("--gfx", required=True, type=lambda text: text.split(","))
    asked = parser.parse_args(arguments)
    try:
        if asked.which == "select":
            text, left_out = select(asked.resolved.read_text("utf-8"), asked.gfx)
            asked.chosen.write_text(text, "utf-8")
            print(f"kernels of other GPUs are left out: {', '.join(left_out) or 'there are none'}")
        else:
            _tell(prove(asked.version, asked.gfx).items(), asked.record)
    except Wrong as reason:
        print(f"error: {reason}", file=sys.stderr)
        return 1
    return 0


def _tell(found: Iterable[tuple[str, object]], record: Path | None) -> None:
    text = json.dumps(dict(found), indent=1) + "\n"
    print(text, end="")
    if record is not None:
        record.write_text(text, "utf-8")


if __name__ == "__main__":
    # The folder of this file is no place to import from: it holds whatever lies beside it in the build.
    sys.path[:] = [entry for entry in sys.path if Path(entry or os.curdir).resolve() != Path(__file__).parent]
    sys.exit(main())
