"""A header that HIP begins with is precompiled once; what is made with it depends on what it did before."""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/rocm/precompiled.py"
# Stands in for clang: tells what it was asked. Its precompiled header tells the words that it was read with,
# and it takes none that was read with others, or whose file is gone.
CLANG = """#!{python}
import sys, time
from pathlib import Path
words = sys.argv[1:]
def after(word): return words[words.index(word) + 1] if word in words else ""
inner = [words[at + 1] for at, word in enumerate(words) if word == "-Xclang"]
with open({calls!r}, "a") as file:
    file.write(" ".join(words) + chr(10))
source, = (word for word in words if word.endswith((".cu", ".hip")) and word[0] != "-")
text = Path(source).read_text()
flags = sorted(word for word in words if word[:2] in ("-D", "-O") or word.startswith("--offload"))
if "-emit-pch" in inner:
    assert "-include-pch" not in inner and not [word for word in words if word[:6] == "-cuid="]
    time.sleep(0.2)
    header = text.split(chr(34))[1]
    if "wrong" in Path(header).read_text(): sys.exit("error: wrong")
    Path(after("-o")).write_text(chr(10).join([source, repr(flags), header]))
    sys.exit()
kept = inner[inner.index("-include-pch") + 1] if "-include-pch" in inner else ""
listed = [source]
if kept:
    first, of, header = Path(kept).read_text().splitlines()
    assert of == repr(flags), (of, flags)
    if not Path(first).is_file(): sys.exit("error: gone")
    listed = [first, header, source]
if "unfit" in text and kept: sys.exit("error: unfit")
if "bad" in text: sys.exit("error: bad")
print("warning: odd", file=sys.stderr)
Path(after("-o")).write_text("made")
if "-MF" in words:
    Path(after("-MF")).write_text("object: " + (" " + chr(92) + chr(10) + "  ").join(listed) + chr(10))
"""


@dataclass(frozen=True)
class Bed:
    folder: Path

    def write(self, **files: str) -> None:
        """Write files: `one_cu` is `one.cu`."""
        for name, text in files.items():
            (self.folder / name.replace("_", ".")).write_text(text)

    def run(self, *words: str, **more: str) -> process.Result:
        kept = {"HIP_HEADERS": str(self.folder / "kept"), "HIP_HEADER": "common.cuh"}
        env = {"PATH": os.environ["PATH"], **kept, **more}
        command = [sys.executable, str(TOOL), str(self.folder / "clang++"), *words]
        return process.run(command, cwd=self.folder, env=env, check=False)

    def compile(self, *words: str, source: str = "one.cu", **more: str) -> list[str]:
        """Compile; give how the compiler was asked: `header`, `with` it and `without`."""
        made = f"{source}.o"
        asked = ("-x", "hip", "-MD", "-MF", f"{source}.d", "-MT", made, f"-cuid={source}", "-c", "-o", made)
        done = self.run(*words, *asked, source, **more)
        assert done.code == 0, done.err
        assert (self.folder / made).read_text() == "made"
        return self.calls()

    def calls(self) -> list[str]:
        """Give how the compiler was asked since the last time."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.is_file() else []
        file.unlink(missing_ok=True)
        return [
            "header" if "-emit-pch" in line else "with" if "-include-pch" in line else "without"
            for line in lines
        ]


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    clang = tmp_path / "clang++"
    clang.write_text(CLANG.format(python=sys.executable, calls=str(tmp_path / "calls")))
    clang.chmod(0o755)
    bed = Bed(tmp_path)
    bed.write(
        common_cuh="#pragma once\nint one;\n",
        one_cu='#include "common.cuh"\n',
        two_cu='#include "common.cuh"\n',
    )
    return bed


def test_the_header_is_read_once_for_all_files(bed: Bed) -> None:
    assert bed.compile("-O3") == ["header", "with"]
    assert bed.compile("-O3", source="two.cu") == ["with"]


def test_other_words_want_the_header_again(bed: Bed) -> None:
    bed.compile("-O3", "-DONE")
    for words in (("-O2", "-DONE"), ("-O3",), ("-O3", "-DONE", "--offload-host-only")):
        assert bed.compile(*words) == ["header", "with"]
        assert bed.compile(*words, source="two.cu") == ["with"]


def test_words_about_one_file_want_none(bed: Bed) -> None:
    """As each_target.py says them for a target's code."""
    listing = ("-Xclang", "-dependency-file", "-Xclang", "{}.dd", "-Xclang", "-MT", "-Xclang", "{}.o")
    inner = ("-Xclang", "-sys-header-deps", "-Xclang", "-disable-llvm-passes")
    for source, calls in (("one.cu", ["header", "with"]), ("two.cu", ["with"])):
        words = (*(word.format(source) for word in listing), *inner)
        assert bed.compile(*words, source=source) == calls


@pytest.mark.parametrize(
    "text",
    [
        '// about it\n/* and\n#include "other.cuh"\n*/\n#pragma once\n\n  #  include "common.cuh"\n',
        '#include "by.cuh"\nint one() { return 1; }\n',
        '#include "deep/by.cuh"\n',
    ],
)
def test_a_file_begins_with_what_it_includes_first_by_way_of_others(bed: Bed, text: str) -> None:
    (bed.folder / "deep").mkdir()
    bed.write(by_cuh='#pragma once\n#include "common.cuh"\n#include "other.cuh"\n', one_cu=text)
    (bed.folder / "deep/by.cuh").write_text('#include "../common.cuh"\n')
    assert bed.compile() == ["header", "with"]


@pytest.mark.parametrize(
    "text",
    [
        '#include <vector>\n#include "common.cuh"\n',
        '#define ONE 1\n#include "common.cuh"\n',
        'int one;\n#include "common.cuh"\n',
        '#ifdef ONE\n#include "common.cuh"\n#endif\n',
        '#include "other.cuh"\n#include "common.cuh"\n',
        '#include "round.cuh"\n',
        '#include "gone/common.cuh"\n',
        "int one;\n",
    ],
)
def test_another_file_is_compiled_as_it_came(bed: Bed, text: str) -> None:
    bed.write(one_cu=text, other_cuh="int other;\n", round_cuh='#include "round.cuh"\n')
    assert bed.compile() == ["without"]


def test_what_an_object_depends_on_is_what_it_was(bed: Bed) -> None:
    bed.compile()
    listed = (bed.folder / "one.cu.d").read_text().replace("\\\n", " ").split()
    assert listed == ["object:", str(bed.folder / "common.cuh"), "one.cu"]


def test_what_fails_with_it_is_compiled_without(bed: Bed) -> None:
    bed.write(one_cu='#include "common.cuh"\nunfit\n')
    assert bed.compile() == ["header", "with", "without"]


def test_a_header_that_fails_is_tried_once(bed: Bed) -> None:
    bed.write(common_cuh="wrong\n")
    assert bed.compile() == ["header", "without"]
    assert bed.compile(source="two.cu") == ["without"]


def test_an_error_is_told_once(bed: Bed) -> None:
    bed.write(one_cu='#include "common.cuh"\nbad\n')
    done = bed.run("-x", "hip", "-c", "-o", "one.o", "one.cu")
    assert done.code == 1
    assert done.err == "error: bad\n"


def test_a_warning_is_told(bed: Bed) -> None:
    done = bed.run("-x", "hip", "-c", "-o", "one.o", "one.cu")
    assert (done.code, done.err) == (0, "warning: odd\n")


@pytest.mark.parametrize("words", [("-E", "-c"), ("-fsyntax-only",)])
def test_what_is_no_compilation_is_run_as_it_came(bed: Bed, words: tuple[str, ...]) -> None:
    assert bed.run(*words, "-x", "hip", "-o", "one.i", "one.cu").code == 0
    assert bed.calls() == ["without"]


def test_without_a_folder_nothing_is_kept(bed: Bed) -> None:
    assert bed.compile(HIP_HEADERS="") == ["without"]
    assert bed.compile(HIP_HEADER="") == ["without"]
    assert not (bed.folder / "kept").exists()


def test_two_that_want_it_at_once_have_it_made_once(bed: Bed) -> None:
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(bed.run, "-x", "hip", "-c", "-o", f"{at}.o", "one.cu") for at in range(4)]
    assert [one.result().code for one in asked] == [0] * 4
    assert sorted(bed.calls()) == ["header", *["with"] * 4]


def test_where_nothing_can_be_written_it_is_compiled_as_it_came(bed: Bed) -> None:
    (bed.folder / "kept").write_text("no folder")
    assert bed.compile() == ["without"]
