"""Shaders are stored compressed and come out as they were, or nothing is packed."""

from __future__ import annotations

import os
import random
import shutil
import sys
from pathlib import Path

import pytest

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/vulkan/pack.py"
# Of zstd.h what packed.hpp asks for: the library is on every machine, its headers are not.
ZSTD = """#include <cstddef>
#define ZSTD_CONTENTSIZE_UNKNOWN (0ULL - 1)
#define ZSTD_CONTENTSIZE_ERROR (0ULL - 2)
extern "C" {
unsigned long long ZSTD_getFrameContentSize(const void *, size_t);
size_t ZSTD_decompress(void *, size_t, const void *, size_t);
unsigned ZSTD_isError(size_t);
}
"""
# What llama.cpp does, as far as packing goes: takes a shader by pointer and length, and reads its words.
PROGRAM = """#include "shaders.hpp"
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <string>
static void ggml_vk_create_pipeline_func(int& device, size_t spv_size, const void* spv_data,
                                         const std::string entrypoint, bool robust) {
    fprintf(stderr, "%d\\n", __LINE__);
    fwrite(spv_data, 1, spv_size, stdout);  // createShaderModule(
}
int main(int count, char **) try {
    int device = 0;
    if (count > 1) {
        unsigned wrong[] = {0x5650537a, 0, 16, 8, 1, 2, 3, 4};
        ggml_vk_create_pipeline_func(device, sizeof(wrong), wrong, "main", false);
    }
    ggml_vk_create_pipeline_func(device, one_len, one_data, "main", false);
    ggml_vk_create_pipeline_func(device, pair_len[1], pair_data[1], "main", false);
    ggml_vk_create_pipeline_func(device, plain_len, plain_data, "main", false);
    fprintf(stderr, "%d\\n", __LINE__);
} catch (const std::exception & failed) {
    fprintf(stderr, "%s\\n", failed.what());
    return 7;
}
"""
HEADER = """#include <cstdint>
extern const uint64_t one_len;
extern const unsigned char one_data[];
extern const uint64_t two_len;
extern const unsigned char two_data[];
extern const uint64_t plain_len;
extern const unsigned char plain_data[];
extern const void * pair_data[2];
extern const uint64_t pair_len[2];
"""
PAIR = """const void * pair_data[2] = {one_data, two_data};
const uint64_t pair_len[2] = {one_len, two_len};
"""

LIBRARY = Path("/usr/lib/x86_64-linux-gnu/libzstd.so.1")

needs = pytest.mark.skipif(
    not all(map(shutil.which, ("g++", "zstd"))) or not LIBRARY.exists(),
    reason="needs g++ and Zstandard, as the image's build has them",
)


def spirv(seed: int, words: int) -> bytes:
    """Give what looks like SPIR-V: few words, again and again."""
    chance = random.Random(seed)
    return b"\x03\x02\x23\x07" + b"".join(chance.randrange(500).to_bytes(4, "little") for _ in range(words))


def array(name: str, code: bytes) -> str:
    """Give a shader as vulkan-shaders-gen writes it."""
    lines = "\n".join(
        "".join(f"{hex(byte)}," for byte in code[at : at + 12]) for at in range(0, len(code), 12)
    )
    return (
        f"const uint64_t {name}_len = {len(code)};\n"
        f"const unsigned char {name}_data[{len(code)}] = {{\n{lines}\n}};\n\n"
    )


def run(folder: Path, *words: str, check: bool = True) -> process.Result:
    return process.run([*words], cwd=folder, env=dict(os.environ), check=check)


def compiled(folder: Path, shaders: dict[str, bytes], more: str = "") -> Path:
    """Compile a generated file through the tool."""
    (folder / "shaders.hpp").write_text(HEADER)
    (folder / "all.comp.cpp").write_text(
        '#include "shaders.hpp"\n\n' + "".join(array(*each) for each in shaders.items()) + more
    )
    run(folder, sys.executable, str(TOOL), "g++", "-fPIC", "-fvisibility=hidden", "-MD", "-MT", "all.o",
        "-MF", "all.o.d", "-o", "all.o", "-c", str(folder / "all.comp.cpp"))  # fmt: skip
    return folder / "all.o"


@needs
def test_a_program_finds_every_shader_as_it_was_and_lines_keep_their_numbers(tmp_path: Path) -> None:
    one, two = spirv(1, 100_000), spirv(2, 60_000)  # two blocks
    object_ = compiled(tmp_path, {"one": one, "two": two}, PAIR)
    assert object_.stat().st_size < (len(one) + len(two)) * 0.5
    assert "/pack-" not in (listed := (tmp_path / "all.o.d").read_text())
    assert str(tmp_path / "all.comp.cpp") in listed
    (tmp_path / "zstd.h").write_text(ZSTD)
    shutil.copy(TOOL.with_name("packed.hpp"), tmp_path)
    plain = spirv(3, 1000)
    (tmp_path / "plain.cpp").write_text('#include "shaders.hpp"\n' + array("plain", plain))
    (tmp_path / "program.cpp").write_text(PROGRAM)
    run(tmp_path, sys.executable, str(TOOL), "--hook", "program.cpp")
    parts = ("program.cpp", "plain.cpp", "all.o", str(LIBRARY))
    run(tmp_path, "g++", "-std=c++17", "-I.", "-fPIC", "-pie", "-o", "program", *parts)
    program = str(tmp_path / "program")
    done = run(tmp_path, "sh", "-c", f"{program} > got")
    assert (tmp_path / "got").read_bytes() == one + two + plain
    lines = PROGRAM.splitlines()
    said = 1 + next(at for at, line in enumerate(lines) if "__LINE__" in line)
    last = len(lines) - next(at for at, line in enumerate(lines[::-1]) if "__LINE__" in line)
    assert done.err.split() == [str(said)] * 3 + [str(last)]
    damaged = run(tmp_path, program, "damaged", check=False)
    assert damaged.code == 7
    assert "libggml-vulkan.so is damaged" in damaged.err


def test_what_holds_no_shaders_is_compiled_as_it_came(tmp_path: Path) -> None:
    for name in ("other.cpp", "none.comp.cpp"):
        (tmp_path / name).write_text("int none;\n")
        done = run(tmp_path, sys.executable, str(TOOL), "echo", "-c", name)
        assert done.out == f"-c {name}\n"


@needs
def test_the_compilers_own_refusal_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.comp.cpp").write_text(array("one", spirv(1, 4)) + "nonsense\n")
    (tmp_path / "none.comp.cpp").write_text('#include "absent.h"\n' + array("one", spirv(1, 4)))
    for name, word in (("bad", "nonsense"), ("none", "absent.h")):
        command = [sys.executable, str(TOOL), "g++", "-MD", "-MF", "bad.d", "-c", "-o", "bad.o"]
        done = run(tmp_path, *command, f"{name}.comp.cpp", check=False)
        assert done.code != 0
        assert word in done.err
        assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "text",
    [
        PROGRAM.replace("spv_data,", "code,"),
        PROGRAM + PROGRAM,
        PROGRAM.replace("createShaderModule(", ""),
        PROGRAM + "// createShaderModule(\n",
    ],
)
def test_without_the_one_place_that_takes_a_shader_nothing_is_changed(tmp_path: Path, text: str) -> None:
    source = tmp_path / "ggml-vulkan.cpp"
    source.write_text(text)
    done = run(tmp_path, sys.executable, str(TOOL), "--hook", str(source), check=False)
    assert done.code == 3
    assert "all stay as they are" in done.err
    assert source.read_text() == text
    source.unlink()
    done = run(tmp_path, sys.executable, str(TOOL), "--hook", str(source), check=False)
    assert (done.code, "all stay as they are" in done.err) == (3, True)
