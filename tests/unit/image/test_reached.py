"""What nothing names may change, and nothing is compiled; what code can depend on is compiled again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from code_changes import CHANGES, CHANGES_CPP, UNNAMED, UNNAMED_CPP

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/ccache/by_text.py"
# Tells that it compiled something, which preprocessing is not.
COMPILER = """#!/bin/sh
case " $* " in *" -E "*) ;; *) touch {calls} ;; esac
exec {name} "$@"
"""
WORDS = ("-O2", "-w", "-c", "-o", "one.o")

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")

# What each header of these tests goes on with, and what includes it.
HEADER = """
#include <stddef.h>
enum kind { KIND_A, KIND_B, KIND_C };
struct thing { enum kind kind; int size; };
static inline int half(int size) { return size / 2; }
int size_of(const struct thing * thing);
"""
SOURCE = """
#include "one.h"
int one(const struct thing * thing) {
    return thing->kind == KIND_B ? half(size_of(thing)) : (int) sizeof(size_t);
}
"""


@dataclass(frozen=True)
class Bed:
    folder: Path
    suffix: str

    def write(self, header: str, source: str = SOURCE) -> None:
        (self.folder / "one.h").write_text(header)
        (self.folder / f"one.{self.suffix}").write_text(source)

    def compile(self) -> tuple[bytes, bool]:
        """Compile by the tool; give the object, and whether it was taken."""
        calls = self.folder / "calls"
        calls.unlink(missing_ok=True)
        self._run(sys.executable, str(TOOL), str(self.folder / "compiler"), *WORDS, f"one.{self.suffix}")
        return (self.folder / "one.o").read_bytes(), not calls.exists()

    def compile_anew(self) -> bytes:
        self._run(str(self.folder / "compiler"), *WORDS, f"one.{self.suffix}")
        return (self.folder / "one.o").read_bytes()

    def _run(self, *command: str) -> None:
        (self.folder / "one.o").unlink(missing_ok=True)
        kept = {"TEXT_CACHE": str(self.folder / "kept"), "TEXT_CACHE_ID": "one"}
        done = process.run(command, cwd=self.folder, env={"PATH": os.environ["PATH"], **kept}, check=False)
        assert done.code == 0, done.err


@pytest.fixture
def bed(tmp_path: Path, suffix: str) -> Bed:
    compiler = tmp_path / "compiler"
    compiler.write_text(COMPILER.format(calls=tmp_path / "calls", name="gcc" if suffix == "c" else "g++"))
    compiler.chmod(0o755)
    return Bed(tmp_path, suffix)


def both(common: Iterable[str], cpp: Iterable[str] = ()) -> pytest.MarkDecorator:
    """Give each word to a test in C and C++, and some in C++ alone."""
    common = list(common)
    cases = [("c", one) for one in common] + [("cpp", one) for one in (*common, *cpp)]
    return pytest.mark.parametrize(("suffix", "what"), cases)


@both(UNNAMED, UNNAMED_CPP)
def test_a_declaration_that_nothing_names_compiles_nothing(bed: Bed, what: str) -> None:
    source = f"{SOURCE}int two(const struct tm * at) {{ return at->tm_year; }}\n"
    system = "#include <assert.h>\n#include <time.h>\n"
    bed.write(system + HEADER, source)
    made, _ = bed.compile()
    bed.write(f"{system}{HEADER}{what}\n", source)
    assert bed.compile() == (made, True)
    assert bed.compile_anew() == made


@both(["KIND_A, KIND_B, KIND_C, KIND_D, KIND_COUNT", "KIND_0, KIND_B = 1, KIND_A"])
def test_of_an_enumeration_only_the_named_values_count(bed: Bed, what: str) -> None:
    bed.write(HEADER)
    made, _ = bed.compile()
    bed.write(HEADER.replace("KIND_A, KIND_B, KIND_C", what))
    assert bed.compile() == (made, True)
    assert bed.compile_anew() == made


@both(CHANGES, CHANGES_CPP)
def test_what_code_can_depend_on_is_compiled_again(bed: Bed, what: str) -> None:
    more, old, new, source = (CHANGES | CHANGES_CPP)[what]
    header = f"{HEADER}{more}\n"
    assert old in header
    bed.write(header, SOURCE + source + "\n")
    before, _ = bed.compile()
    bed.write(header.replace(old, new), SOURCE + source + "\n")
    after, taken = bed.compile()
    assert not taken
    assert after == bed.compile_anew()
    assert after != before or what == "an attribute"


@pytest.mark.parametrize("suffix", ["c", "cpp"])
def test_a_macro_of_a_system_header_is_the_projects_text(bed: Bed) -> None:
    """`NULL` and `bool` are, for the preprocessor, as much the system's as what is in its headers."""
    header = HEADER + "#include <stdbool.h>\nstruct more { bool is; void * at; };\n#define AT NULL\n"
    source = SOURCE + "int two(struct more * more) { return more->at == AT && more[1].is; }\n"
    bed.write(header, source)
    before, _ = bed.compile()
    for old, new in (("void * at;", "void * at; bool was;"), ("AT NULL", "AT ((void *) 8)")):
        bed.write(header.replace(old, new), source)
        after, taken = bed.compile()
        assert (taken, after) == (False, bed.compile_anew())
        assert after != before
