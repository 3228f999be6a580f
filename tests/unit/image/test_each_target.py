"""HIP is compiled one target at a time: ccache is asked for each part; the object is clang's own."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/rocm/each_target.py"
# Stand-ins that tell what they were asked, and leave a text that tells what it was made of: one is clang
# and its bundler, the other ccache: it keeps what it made for the same words, but for the result's name.
CLANG = """#!{python}
import sys
from pathlib import Path
words = sys.argv[1:]
open({calls!r}, "a").write(" ".join(words) + chr(10))
def after(word): return words[words.index(word) + 1] if word in words else ""
def told(word): return [each.partition("=")[2] for each in words if each.startswith(word + "=")]
if "-fail" in words: sys.exit(5)
if "bundler" in sys.argv[0]:
    parts = [Path(name).read_text() for name in told("-input") if name != "/dev/null"]
    names = told("-targets")[0].split(",")
    assert len(names) == len(parts) + 1 and names[0].startswith("host-")
    mark = "packed " if "-compress" in words else ""
    text = mark + "+".join(f"{{name.rpartition('--')[2]}}:{{part}}" for name, part in zip(names[1:], parts))
    Path(told("-output")[0]).write_text(text)
elif "--offload-device-only" in words:
    target, = told("--offload-arch")
    assert "--no-gpu-bundle-output" in words
    source, = (word for word in words if word.endswith(".cu"))
    text = Path(source).read_text()
    if "wrong" in text: sys.exit(f"{{source}}:1: error: wrong")
    level = [word for word in words if word[:2] == "-O"]
    if "-dependency-file" in words:
        file, name = (words[words.index(word) + 2] for word in ("-dependency-file", "-MT"))
        assert file == after("-MF") and "-MD" in words
        wrap = " " + chr(92) + chr(10) + "  "
        Path(file).write_text(f"{{after('-o')}} {{name}}:{{wrap}}one.cu{{wrap}}of\\ {{target}}.h" + chr(10))
    # What follows two strokes is no code, and so is not in what LLVM starts from.
    code = f"{{target}} {{text.partition('//')[0].strip()}}"
    assert ("-emit-llvm" in words) == ("-disable-llvm-passes" in words)
    Path(after("-o")).write_text(code if "-emit-llvm" in words else f"<{{code}} {{level}}>")
elif "ir" in words:
    assert {{"--target=amdgcn-amd-amdhsa", "-nogpulib", "-amdgpu-internalize-symbols"}} < set(words)
    code = Path(words[words.index("ir") + 1]).read_text()
    assert code.startswith(told("-mcpu")[0] + " ")
    if "unfit" in code: sys.exit("error: unfit")
    Path(after("-o")).write_text(f"<{{code}} {{[word for word in words if word[:2] == '-O']}}>")
elif "--offload-host-only" in words:
    assert not told("--offload-arch") and "-S" in words and "-c" not in words
    source, = (word for word in words if word.endswith(".cu"))
    text = Path(source).read_text()
    name = "__hip_fatbin_b04fd23c98500190"
    register = f"__hip_fatbin_wrapper: .quad {{name}}" if "kernel" in text else ""
    Path(after("-o")).write_text(f"host of {{text.strip()}}" + chr(10) + register + chr(10))
    if "-MF" in words: Path(after("-MF")).write_text(after("-MT") + ": one.cu host.h" + chr(10))
elif "assembler" in words:
    lines = Path(words[words.index("assembler") + 1]).read_text().splitlines()
    wanted = [line.split()[-1] for line in lines if ".quad" in line]
    labels = [line.removesuffix(":") for line in lines if line.endswith(":")]
    assert labels == wanted, (labels, wanted)
    parts = [Path(line.split()[-1].strip('"')).read_text() for line in lines if ".incbin" in line]
    Path(after("-o")).write_text(" ".join([lines[0], *parts]))
"""
CCACHE = """#!{python}
import hashlib, os, shutil, subprocess, sys
from pathlib import Path
assert not {{"CCACHE_PREFIX", "CCACHE_DISABLE"}} & set(os.environ)
assert os.environ["CCACHE_EXTRAFILES"]
words = sys.argv[1:]
out = words[words.index("-o") + 1]
made = [out, *(words[words.index("-MF") + 1 :][:1] if "-MF" in words else ())]
source, = (word for word in words if word.endswith(".cu"))
key = hashlib.sha256(repr([[w for w in words if w != out], Path(source).read_text()]).encode()).hexdigest()
kept = [Path({folder!r}) / f"{{key}}.{{number}}" for number in range(len(made))]
if not kept[0].exists():
    code = subprocess.run(words).returncode
    if code: sys.exit(code)
    for one, to in zip(made, kept): shutil.copy(one, to)
for one, to in zip(made, kept): shutil.copy(to, one)
"""


@dataclass(frozen=True)
class Bed:
    folder: Path
    cached: bool = False

    def source(self, text: str) -> None:
        (self.folder / "one.cu").write_text(text)

    def calls(self) -> list[str]:
        """Give what the compiler was asked for since the last time."""
        file = self.folder / "calls"
        found = file.read_text().splitlines() if file.is_file() else []
        file.unlink(missing_ok=True)
        return found

    def compiled(self) -> list[str]:
        """Give what was compiled since the last time: targets, and `host`."""
        found = []
        for words in (line.split() for line in self.calls()):
            if "--offload-device-only" in words:
                found += [word.partition("=")[2] for word in words if word.startswith("--offload-arch=")]
            elif "--offload-host-only" in words:
                found.append("host")
            elif "ir" in words:
                found.append("LLVM's")
        return found

    def run(self, *words: str) -> tuple[int, str]:
        """Run it as ccache does; give the exit status and what was said."""
        path = f"{self.folder}:{os.environ['PATH']}"
        own = {"CCACHE_PREFIX": str(TOOL), "CCACHE_EXTRAFILES": str(TOOL), "CCACHE_DISABLE": "1"}
        cache = {"HIP_CODE_CACHE": str(self.folder / "codes")} if self.cached else {}
        env = {"PATH": path, **own, **cache}
        command = [sys.executable, str(TOOL), str(self.folder / "clang++"), *words]
        done = process.run(command, env=env, check=False)
        return done.code, done.err

    def compile(self, *targets: str, words: tuple[str, ...] = ()) -> str:
        """Compile for targets, with the words in ccache's order; give the object."""
        out = self.folder / "one.o"
        out.unlink(missing_ok=True)
        asked = [f"--offload-arch={target}" for target in targets]
        code, said = self.run(*words, *asked, "-x", "hip", "-c", "-o", str(out), str(self.folder / "one.cu"))
        assert code == 0, said
        return out.read_text()


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    kept = tmp_path / "kept"
    kept.mkdir()
    clang = CLANG.format(python=sys.executable, calls=str(tmp_path / "calls"))
    texts = {"clang++": clang, "clang-offload-bundler": clang}
    texts["ccache"] = CCACHE.format(python=sys.executable, folder=str(kept))
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    bed = Bed(tmp_path)
    bed.source("kernel\n")
    return bed


def test_the_object_holds_every_target_in_order(bed: Bed) -> None:
    made = bed.compile("b", "a", words=("-O3",))
    assert made == "host of kernel b:<b kernel ['-O3']>+a:<a kernel ['-O3']>"


def test_a_second_target_compiles_its_own_code_alone(bed: Bed) -> None:
    bed.compile("a")
    assert bed.compiled() == ["a", "host"]
    assert bed.compile("a", "b") == "host of kernel a:<a kernel []>+b:<b kernel []>"
    assert bed.compiled() == ["b"]


def test_another_target_compiles_its_own_code_alone(bed: Bed) -> None:
    bed.compile("a")
    bed.compiled()
    assert bed.compile("b") == "host of kernel b:<b kernel []>"
    assert bed.compiled() == ["b"]


def test_a_file_without_a_kernel_embeds_none(bed: Bed) -> None:
    bed.source("nothing\n")
    assert bed.compile("a") == "host of nothing"


def test_code_is_compressed_once_all_of_it_is_there(bed: Bed) -> None:
    assert bed.compile("a", words=("--offload-compress",)).startswith("host of kernel packed a:")
    # Compressed or not, the code is the same.
    bed.compile("a")
    assert bed.compiled() == ["a", "host"]


def test_the_name_of_a_files_symbols_is_the_same_in_all_its_parts_and_no_other_files(bed: Bed) -> None:
    bed.compile("a", "b")
    bed.compile("a")
    names = {word for line in bed.calls() for word in line.split() if word.startswith("-cuid=")}
    assert len(names) == 1
    (bed.folder / "two.cu").write_text("kernel\n")
    code, _ = bed.run(
        "--offload-arch=a", "-x", "hip", "-c", "-o", f"{bed.folder}/two.o", f"{bed.folder}/two.cu"
    )
    assert code == 0
    assert not names & {word for line in bed.calls() for word in line.split()}


@pytest.mark.parametrize("words", [("-MD", "-MT", "one.o", "-MF", "{folder}/one.d"), ("-MD",)])
def test_the_dependencies_are_those_of_all_parts(bed: Bed, words: tuple[str, ...]) -> None:
    """Each is told once, and of the object; whether or not its part was compiled now."""
    depfile, target = bed.folder / "one.d", "one.o" if "-MT" in words else f"{bed.folder}/one.o"
    asked = tuple(word.format(folder=bed.folder) for word in words)
    for targets in (("a",), ("a", "b"), ("a", "b")):
        bed.compile(*targets, words=asked)
        told, _, files = depfile.read_text().partition(": ")
        assert told == target
        own = [f"of\\ {each}.h" for each in targets]
        assert files.split(" \\\n  ") == ["one.cu", "host.h", *own[:-1], f"{own[-1]}\n"]
        assert list(bed.folder.glob("*.d")) == [depfile]
    assert bed.compiled() == ["a", "host", "b"]


def test_an_error_is_the_compilers_and_ends_it(bed: Bed) -> None:
    bed.source("wrong\n")
    for _ in range(2):
        files = ("-x", "hip", "-c", "-o", f"{bed.folder}/one.o", f"{bed.folder}/one.cu")
        code, said = bed.run("--offload-arch=a", "--offload-arch=b", *files)
        assert code != 0
        assert "one.cu:1: error: wrong" in said
        assert bed.compiled() == ["a"]
    assert not (bed.folder / "one.o").exists()


class TestCodes:
    """What a target's code is compiled from is compared, where a folder is named."""

    @pytest.fixture
    def bed(self, bed: Bed) -> Bed:
        return replace(bed, cached=True)

    def test_other_text_of_the_same_code_is_read_and_not_compiled(self, bed: Bed) -> None:
        bed.source("kernel // as it was")
        made = bed.compile("b", "a", words=("-O3",))
        assert made == "host of kernel // as it was b:<b kernel ['-O3']>+a:<a kernel ['-O3']>"
        assert bed.compiled() == ["b", "LLVM's", "a", "LLVM's", "host"]
        bed.source("kernel // in other words")
        made = bed.compile("b", "a", words=("-O3",))
        assert made == "host of kernel // in other words b:<b kernel ['-O3']>+a:<a kernel ['-O3']>"
        assert bed.compiled() == ["b", "a", "host"]

    def test_other_code_and_other_words_are_compiled(self, bed: Bed) -> None:
        bed.source("kernel")
        bed.compile("a", words=("-O3",))
        bed.compiled()
        assert "<a kernel ['-O2']>" in bed.compile("a", words=("-O2",))
        assert bed.compiled() == ["a", "LLVM's", "host"]
        bed.source("another kernel")
        assert "<a another kernel ['-O2']>" in bed.compile("a", words=("-O2",))
        assert bed.compiled() == ["a", "LLVM's", "host"]

    def test_words_about_code_reach_both_steps(self, bed: Bed) -> None:
        words = ("-O3", "-fPIC", "-mllvm", "-some-threshold=600", "-DNAME", "-I", "/headers", "-std=gnu++17")
        bed.compile("a", words=words)
        [last] = [line.split() for line in bed.calls() if " ir " in line]
        assert {"-O3", "-fPIC", "-some-threshold=600"} < set(last)
        assert not {"-DNAME", "/headers", "-std=gnu++17"} & set(last)

    @pytest.mark.parametrize("word", ["-flto", "-fgpu-rdc", "-march=native", "-g", "--no-such-word"])
    def test_with_a_word_that_is_not_known_it_is_one_step(self, bed: Bed, word: str) -> None:
        assert "a:<a kernel ['-O3']>" in bed.compile("a", words=("-O3", word))
        assert bed.compiled() == ["a", "host"]

    def test_what_fails_in_the_second_step_is_not_kept(self, bed: Bed) -> None:
        bed.source("unfit kernel")
        for _ in range(2):
            files = ("-x", "hip", "-c", "-o", f"{bed.folder}/one.o", f"{bed.folder}/one.cu")
            code, said = bed.run("--offload-arch=a", *files)
            assert code != 0
            assert "error: unfit" in said
        assert not (bed.folder / "one.o").exists()
        assert not [one for one in (bed.folder / "codes").rglob("*") if one.is_file()]

    def test_a_folder_that_cannot_be_written_costs_the_cache_alone(self, bed: Bed) -> None:
        (bed.folder / "codes").write_text("no folder")
        assert bed.compile("a") == "host of kernel a:<a kernel []>"


@pytest.mark.parametrize(
    "words",
    [
        ("-c", "one.c", "-o", "one.o"),
        ("-x", "c++", "-c", "one.cpp", "-o", "one.o"),
        ("--version",),
        ("-x", "hip", "-E", "one.cu", "--offload-arch=a"),
        ("-x", "hip", "-c", "one.cu", "-o", "one.o"),
    ],
)
def test_what_is_no_code_for_a_target_is_run_as_it_came(bed: Bed, words: tuple[str, ...]) -> None:
    assert bed.run(*words)[0] == 0
    assert bed.run(*words, "-fail")[0] == 5
    assert bed.calls() == [" ".join(words), f"{' '.join(words)} -fail"]
