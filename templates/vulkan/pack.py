#!/usr/bin/env python3
"""Store llama.cpp's Vulkan shaders compressed: `pack.py COMPILER WORD...`; `pack.py --hook GGML-VULKAN.CPP`.

vulkan-shaders-gen writes the SPIR-V of a shader's variants as C++ arrays, nearly all of the library. The
variants are much alike, and a program uses few of them. So before such a file is compiled, its arrays are
taken out and compressed together in blocks, small enough to be unpacked for one shader's sake. In an array's
place there is what leads to the block (`packed.hpp` reads it); its length stays the unpacked one.

The hook goes where llama.cpp takes a shader to the driver, the only place that looks at one. Without that
place, or with another one that makes a shader of something, nothing may be packed: exit status 3.

Whatever holds no shaders is compiled as it came.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

GENERATED = ".comp.cpp"
ARRAY = re.compile(r"const unsigned char (\w+)_data\[\d+\] = \{([^}]*)\};")
# A third of a millisecond to unpack. Twice as large they would take 7 % less room.
BLOCK = 512 * 1024
# ASCII "zSPV": no SPIR-V starts so.
MAGIC = 0x5650537A
TAKES = re.compile(
    r"^(static void ggml_vk_create_pipeline_func\("
    r"[^{;]*\bsize_t spv_size, const void\* spv_data,[^{;]*\) \{\n)",
    re.M,
)
MAKES = "createShaderModule("
UNPACKS = """\
    const auto unpacked = amdserve::unpacked_shader(spv_data, spv_size);
    if (!unpacked.empty()) {
        spv_data = unpacked.data();
    }
"""
NOT_FOUND = 3


class Shader(NamedTuple):
    """A variant: its name, and its SPIR-V."""

    name: str
    code: bytes


def main(words: Sequence[str]) -> int:
    """Compile, or place the hook; give the exit status."""
    if words[:1] == ["--hook"]:
        return hook(Path(words[1]))
    source = Path(words[-1])
    if not source.name.endswith(GENERATED) or not ARRAY.search(text := source.read_text()):
        os.execvp(words[0], list(words))
    with tempfile.TemporaryDirectory(prefix="pack-") as name:
        work = Path(name)
        packed = work / source.name
        packed.write_text(without_arrays(text) + assembly(blocks(shaders(text)), work))
        status = subprocess.run([*words[:-1], f"-I{source.parent}", str(packed)], check=False).returncode
    if status:
        return status
    for told in (Path(file) for word, file in pairwise(words) if word == "-MF"):
        # ccache looks at what an object depends on, and the packed file is gone.
        told.write_text(told.read_text().replace(str(packed), str(source)))
    return 0


def hook(source: Path) -> int:
    """Have llama.cpp unpack a shader before it looks at it; give the exit status."""
    text = source.read_text() if source.is_file() else ""
    modules = sum(each.read_text().count(MAKES) for each in source.parent.glob("*.cpp"))
    if len(TAKES.findall(text)) != 1 or modules != 1:
        sys.stderr.write(f"{source}: no such place for a shader to be unpacked: all stay as they are\n")
        return NOT_FOUND
    before, takes, after = TAKES.split(text)
    # Lines keep their numbers: a message of llama.cpp tells them.
    following = before.count("\n") + takes.count("\n") + 1
    hooked = f'#include "packed.hpp"\n#line 1\n{before}{takes}{UNPACKS}#line {following}\n{after}'
    source.write_text(hooked)
    return 0


def shaders(text: str) -> Iterator[Shader]:
    """Give the shaders in a generated file."""
    for name, code in ARRAY.findall(text):
        yield Shader(name, bytes(int(byte, 16) for byte in code.split(",") if byte.strip()))


def without_arrays(text: str) -> str:
    """Give a generated file without its arrays; all else in it stays, the arrays' lengths too."""
    return ARRAY.sub("", text)


def blocks(found: Iterator[Shader]) -> Iterator[list[Shader]]:
    """Give the shaders in groups that are compressed together."""
    block: list[Shader] = []
    for shader in found:
        if block and sum(len(each.code) for each in block) + len(shader.code) > BLOCK:
            yield block
            block = []
        block.append(shader)
    if block:
        yield block


def assembly(grouped: Iterator[list[Shader]], work: Path) -> str:
    """Give the C++ of the blocks, which are files in a folder, and of what stands in the arrays' places."""
    lines = ['.pushsection .rodata, "a"']
    for number, block in enumerate(grouped):
        label, file, offset = f".Lpacked{number}", work / f"{number}.zst", 0
        compress(b"".join(shader.code for shader in block), file)
        lines += [f"{label}:", f'.incbin "{file}"', f"{label}_end:"]
        for shader in block:
            name = f"{shader.name}_data"
            lines += [".balign 8", f".globl {name}", f".hidden {name}", f".type {name}, @object", f"{name}:"]
            place = (str(MAGIC), str(offset), f"{label} - {name}", f"{label}_end - {label}")
            lines += [*(f".long {value}" for value in place), f".size {name}, . - {name}"]
            offset += len(shader.code)
    return 'asm(R"(\n' + "\n".join([*lines, ".popsection"]) + '\n)");\n'


def compress(content: bytes, file: Path) -> None:
    """Write a block, as one frame of Zstandard that tells its size."""
    command = ["zstd", "-q", "-19", f"--stream-size={len(content)}", "-o", str(file)]
    subprocess.run(command, input=content, check=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
