"""The compile cache for shaders: the same is compiled once; what could change the result is not the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/vulkan/glslc.sh"
# A compiler that counts its calls; its result says what it was called with and which text it saw.
COMPILER = """#!/bin/sh
echo "$@" >> {calls}
out='' from=''
for word; do
    case ${{before-}} in -o) out=$word ;; *) case $word in *.comp) from=$word ;; esac ;; esac
    before=$word
done
if grep -q broken "$from"; then echo "$from:1: error" >&2; exit 3; fi
if [ "$out" = - ]; then cat "$from"; else {{ echo "$@"; cat "$from"; }} > "$out"; fi
"""


@dataclass(frozen=True)
class Bed:
    folder: Path

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    def calls(self) -> int:
        calls = self.folder / "calls"
        return len(calls.read_text().splitlines()) if calls.is_file() else 0

    def run(
        self, *args: str, identity: str = "one", name: str = "a.spv", without: str = ""
    ) -> tuple[int, str]:
        """Compile; give the exit status, and the result or what was said of it."""
        out = self.folder / name
        out.unlink(missing_ok=True)
        env = {
            "PATH": os.environ["PATH"],
            "GLSLC": str(self.folder / "compiler"),
            "GLSLC_CACHE_DIR": str(self.folder / "cache"),
            "GLSLC_CACHE_ID": identity,
            "GLSLC_WITHOUT": without,
        }
        command = ["sh", str(TOOL), "-fshader-stage=compute", "--target-env=vulkan1.2"]
        command += [str(self.folder / "a.comp"), "-o", str(out), *args]
        done = process.run(command, env=env, check=False)
        return done.code, out.read_text() if out.is_file() else done.err


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    bed = Bed(tmp_path)
    bed.write("compiler", COMPILER.format(calls=tmp_path / "calls")).chmod(0o755)
    bed.write("deep/c.glsl", "float c;\n")
    bed.write("b.glsl", '#include "deep/c.glsl"\nfloat b;\n')
    bed.write("a.comp", '#version 450\n#ifdef B\n  #  include "b.glsl"\n#endif\nvoid main() {}\n')
    return bed


def test_the_same_is_compiled_once(bed: Bed) -> None:
    first, again = bed.run("-O", "-DB=1"), bed.run("-O", "-DB=1")
    assert first == again
    assert first[0] == 0
    assert bed.calls() == 1


def test_the_name_of_the_result_does_not_count(bed: Bed) -> None:
    bed.run("-O")
    status, text = bed.run("-O", name="other.spv")
    assert (status, bed.calls()) == (0, 1)
    assert "void main" in text


@pytest.mark.parametrize("args", [("-DB=2",), ("-O",), ("-DB=1", "-O0"), ("-DB=1", "-DC")])
def test_another_flag_is_another_shader(bed: Bed, args: tuple[str, ...]) -> None:
    bed.run("-DB=1")
    bed.run(*args)
    assert bed.calls() == 2


@pytest.mark.parametrize("name", ["a.comp", "b.glsl", "deep/c.glsl"])
def test_a_changed_text_is_another_shader(bed: Bed, name: str) -> None:
    bed.run()
    path = bed.folder / name
    path.write_text(path.read_text() + "// more\n")
    _, text = bed.run()
    assert bed.calls() == 2
    assert (bed.folder / "a.comp").read_text() in text


def test_another_compiler_is_asked_again(bed: Bed) -> None:
    bed.run()
    bed.run(identity="two")
    assert bed.calls() == 2


def test_a_shader_that_fails_is_not_kept_and_says_why(bed: Bed) -> None:
    bed.write("a.comp", "broken\n")
    for _ in range(2):
        status, said = bed.run()
        assert status == 3
        assert "a.comp:1: error" in said
    assert bed.calls() == 2


def test_an_included_text_that_is_missing_is_the_compilers_to_tell(bed: Bed) -> None:
    bed.write("a.comp", '#include "gone.glsl"\n')
    bed.run()
    bed.run()
    assert bed.calls() == 2


@pytest.mark.parametrize("args", [("-g",), ("-I/include",), ("-c",), ("-E",)])
def test_what_it_does_not_understand_goes_to_the_compiler(bed: Bed, args: tuple[str, ...]) -> None:
    bed.run(*args)
    bed.run(*args)
    assert bed.calls() == 2


def test_without_a_cache_it_is_the_compiler(bed: Bed) -> None:
    bed.run(identity="")
    bed.run(identity="")
    assert bed.calls() == 2
    assert not (bed.folder / "cache").exists()


def test_the_dependencies_are_told_of_a_kept_shader_too(bed: Bed) -> None:
    depfile = bed.folder / "a.d"
    bed.run()
    bed.run("-MD", "-MF", str(depfile))
    assert bed.calls() == 1
    told = depfile.read_text().replace("\\\n", " ").split()
    assert told == [f"{bed.folder}/{name}" for name in ("a.spv:", "a.comp", "b.glsl", "deep/c.glsl")]


@pytest.mark.parametrize("identity", ["one", ""])
def test_an_extension_that_is_left_out_is_one_the_compiler_does_not_know(bed: Bed, identity: str) -> None:
    bed.write("a.comp", "#version 460\n#extension GL_X_two : require\nvoid main() {}\n")
    assert bed.run(identity=identity, without="GL_X_one GL_X")[0] == 0
    status, said = bed.run(identity=identity, without="GL_X_one GL_X_two")
    assert status != 0
    # The words that llama.cpp's build looks for.
    assert "extension not supported: GL_X_two" in said


def test_a_shader_that_can_do_without_the_extension_is_compiled(bed: Bed) -> None:
    bed.write("a.comp", "#version 460\n#extension GL_X : enable\nvoid main() {}\n")
    assert bed.run(without="GL_X")[0] == 0
