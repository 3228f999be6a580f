"""What nothing names may change, and nothing is compiled; what code can depend on is compiled again."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

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


UNNAMED = [
    "int another(int, const struct thing * thing);",
    'int shown(void) __attribute__((visibility("default")));',
    "extern const float table[1 << 8];",
    "static const int numbers[2][2] = {{1, 2}, {3, 4}};",
    "static inline int twice(int size) { return size * 2; }",
    "struct more { int a; struct thing thing; };",
    'typedef struct { float d; } block;\nstatic_assert(sizeof(block) == 4, "block");',
    "typedef void (*callback)(int, void *);",
    "enum other { OTHER_A = 1 << 2, OTHER_B };",
    "union both { int a; float b; };",
]
UNNAMED_CPP = [
    "template <typename T, typename U = T> T larger(T a, U b) { return a > b ? a : b; }",
    "namespace more { inline int thrice(int size) { return size * 3; } static constexpr int COUNT = 3; }",
    "class base { public: virtual int size() { return 1; } virtual ~base() = default; };",
    "template <class T> struct box { T held; };\nusing int_box = box<int>;",
]


@both(UNNAMED, UNNAMED_CPP)
def test_a_declaration_that_nothing_names_compiles_nothing(bed: Bed, what: str) -> None:
    bed.write("#include <assert.h>\n" + HEADER)
    made, _ = bed.compile()
    bed.write(f"#include <assert.h>\n{HEADER}{what}\n")
    assert bed.compile() == (made, True)
    assert bed.compile_anew() == made


@both(["KIND_A, KIND_B, KIND_C, KIND_D, KIND_COUNT", "KIND_0, KIND_B = 1, KIND_A"])
def test_of_an_enumeration_only_the_named_values_count(bed: Bed, what: str) -> None:
    bed.write(HEADER)
    made, _ = bed.compile()
    bed.write(HEADER.replace("KIND_A, KIND_B, KIND_C", what))
    assert bed.compile() == (made, True)
    assert bed.compile_anew() == made


# A header and its source, in which the first text is put in the second's place; C++, if it is not C.
CHANGES = {
    "a value of an enumeration": ("", "KIND_A,", "KIND_A, KIND_0,", ""),
    "a value that is given": ("", "KIND_B,", "KIND_B = 7,", ""),
    "the sign of an enumeration": (
        "",
        "KIND_C }",
        "KIND_C, KIND_NONE = -1 }",
        "long two(enum kind kind) { return kind; }",
    ),
    "a member": (
        "",
        "int size; }",
        "int more; int size; }",
        "int two(struct thing * at) { return at->size; }",
    ),
    "a function in line": ("", "size / 2", "size / 3", ""),
    "a function that another one calls": (
        (
            "static inline int third(int size) { return size / 3; }\n"
            "static inline int sixth(int size) { return third(size) / 2; }"
        ),
        "size / 3",
        "size / 4",
        "int two(int size) { return sixth(size); }",
    ),
    "an attribute": (
        "int ending(void);",
        "int ending(void);",
        "int ending(void) __attribute__((noreturn));",
        "int two(void) { ending(); return 3; }",
    ),
    "a table": (
        "static const int table[2] = {1, 2};",
        "{1, 2}",
        "{1, 3}",
        "int two(int at) { return table[at]; }",
    ),
    "the second of two variables": (
        "static const int first = 1, second = 2;",
        "second = 2",
        "second = 3",
        "int two(void) { return second; }",
    ),
    "the second name of a type": (
        "typedef int first, second;",
        "typedef int",
        "typedef short",
        "second two(second at) { return at / 2; }",
    ),
    "a type within a type": (
        "struct outer { struct inner { int a; } held; };",
        "int a;",
        "int a; int b;",
        (
            "#ifdef __cplusplus\nusing inner = outer::inner;\n#else\ntypedef struct inner inner;\n#endif\n"
            "int two(inner * at) { return at[1].a; }"
        ),
    ),
    "what runs before main": (
        (
            "static void before(void) __attribute__((constructor));\n"
            "int count;\nstatic void before(void) { count = 1; }"
        ),
        "count = 1",
        "count = 2",
        "",
    ),
    "what has to stay": (
        "__attribute__((used)) static int stays(void) { return 1; }",
        "return 1",
        "return 2",
        "",
    ),
    "what is not static": ("int all(void) { return 1; }", "return 1", "return 2", ""),
    "a name for the linker": (
        'int far(void) __asm__("near");',
        '"near"',
        '"nearer"',
        "int two(void) { return far(); }",
    ),
    "how closely members lie": ("", "struct thing {", "#pragma pack(1)\nstruct thing { char first;", ""),
    "a text with lines": (
        '#define TEXT "a;{" "\\n"',
        '"\\n"',
        '"\\n\\n"',
        "const char * two(void) { return TEXT; }",
    ),
}
CHANGES_CPP = {
    "another overload": (
        "long wide(double);",
        "long wide(double);",
        "long wide(double);\nint wide(int);",
        "long two(int a) { return wide(a); }",
    ),
    "an operator": (
        "inline bool operator<(const thing & a, int b) { return a.size < b; }",
        "a.size < b",
        "a.size <= b",
        "bool two(const thing & a) { return a < 3; }",
    ),
    "an object that is made": (
        "struct maker { maker(int); };\nstatic maker made(7);",
        "made(7)",
        "made(8)",
        "",
    ),
    "an object that is made of a product": (
        "struct maker { maker(int); };\nextern int a;\nstatic int b = 2;\nstatic maker made(a * b);",
        "b = 2",
        "b = 3",
        "",
    ),
    "an instance of a template": (
        "template <typename T> T twice(T a) { return a + a; }\ntemplate int twice(int);",
        "template int twice(int);",
        "template long twice(long);",
        "",
    ),
    "a specialisation": (
        (
            "template <typename T> struct size { static int of() { return 1; } };\n"
            "template <> struct size<int> { static int of() { return 2; } };"
        ),
        "return 2",
        "return 3",
        "int two() { return size<int>::of(); }",
    ),
    "a template's default": (
        "template <typename T = int> struct box { T held; };\nusing one_box = box<>;",
        "T = int",
        "T = char",
        "int two(one_box * at) { return at[1].held; }",
    ),
    "what follows a template with a default": (
        (
            "template <typename T = int> T none(T a) { return a; }\n"
            "static inline int after(int a) { return a + 1; }"
        ),
        "a + 1",
        "a + 2",
        "int two(int a) { return after(a); }",
    ),
    "where a loop begins": (
        (
            "struct list { int held[4]; };\ninline int * begin(list & all) { return all.held; }\n"
            "inline int * end(list & all) { return all.held + 4; }"
        ),
        "return all.held;",
        "return all.held + 1;",
        "int two(list & all) { int sum = 0; for (int one : all) sum += one; return sum; }",
    ),
    "a namespace that is used": (
        "namespace a { int of(int); }\nnamespace b { int of(int); }\nusing namespace a;",
        "using namespace a",
        "using namespace b",
        "int two() { return of(1); }",
    ),
    "a static member in line": (
        "int next();\nstruct counted { static inline int first = next() + 1; };",
        "+ 1",
        "+ 2",
        "",
    ),
    "what a system's template asks for by name": (
        (
            "#include <utility>\nstruct held { int a; };\n"
            "inline void swap(held & a, held & b) { a.a = 1; b.a = 2; }"
        ),
        "a.a = 1",
        "a.a = 3",
        "void two(std::pair<held, int> & a, std::pair<held, int> & b) { a.swap(b); }",
    ),
    "the type that auto is": (
        "struct first { int size() { return 1; } };\nfirst make();",
        "return 1",
        "return 2",
        "int two() { auto made = make(); return made.size(); }",
    ),
}


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
