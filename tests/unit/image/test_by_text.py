"""What the same text came to with the same words is taken from the folder; what could differ is compiled."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from amdserve import process

TOOL = Path(__file__).resolve().parents[3] / "templates/ccache/by_text.py"
# Counts what it compiles, which preprocessing is not. It is GCC: what is asked of it is common to both.
COMPILER = """#!/bin/sh
case " $* " in *" -E "*) ;; *) echo "$@" >> {calls} ;; esac
exec {name} "$@"
"""

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="needs g++")


@dataclass(frozen=True)
class Bed:
    folder: Path

    def write(self, header: str, source: str = "int one() { return ONE; }\n") -> None:
        (self.folder / "one.h").write_text(header)
        (self.folder / "one.cpp").write_text(f'#include "one.h"\n{source}')

    def run(
        self, *words: str, compiler: str = "one", tool: Path = TOOL, name: str = "g++", **more: str
    ) -> process.Result:
        """Run it as ccache does."""
        kept = {"TEXT_CACHE": str(self.folder / "kept"), "TEXT_CACHE_ID": compiler} if compiler else {}
        env = {"PATH": os.environ["PATH"], **kept, **more}
        called = self.folder / name
        if not called.exists():
            real = name.partition("-")[0].replace("clang", "g")
            called.write_text(COMPILER.format(calls=self.folder / "calls", name=real))
            called.chmod(0o755)
        command = [sys.executable, str(tool), str(called), *words]
        return process.run(command, cwd=self.folder, env=env, check=False)

    def compile(self, *words: str, compiler: str = "one", tool: Path = TOOL) -> tuple[bytes, int]:
        """Compile; give the object, and how often the compiler was asked for it."""
        (self.folder / "one.o").unlink(missing_ok=True)
        asked = ("-MD", "-MF", "one.d", "-MT", "one.o", *words, "-c", "-o", "one.o", "one.cpp")
        done = self.run(*asked, compiler=compiler, tool=tool)
        assert done.code == 0, done.err
        return (self.folder / "one.o").read_bytes(), self.calls()

    def calls(self) -> int:
        """Give how often something was compiled since the last time."""
        file = self.folder / "calls"
        found = len(file.read_text().splitlines()) if file.is_file() else 0
        file.unlink(missing_ok=True)
        return found


@pytest.fixture
def bed(tmp_path: Path) -> Bed:
    return Bed(tmp_path)


def test_a_header_with_a_macro_more_compiles_nothing_and_is_listed(bed: Bed) -> None:
    bed.write("#define ONE 1\n")
    made, calls = bed.compile("-O2")
    assert calls == 1
    (bed.folder / "more.h").write_text("// nothing\n")
    (bed.folder / "one.d").unlink()
    bed.write('// a line\n#include "more.h"\n#define TWO 2\n#define ONE 1\n')
    assert bed.compile("-O2") == (made, 0)
    listed = (bed.folder / "one.d").read_text()
    assert listed.startswith("one.o:")
    assert "more.h" in listed


def test_other_code_other_words_and_another_compiler_are_compiled(bed: Bed) -> None:
    bed.write("#define ONE 1\n")
    one, _ = bed.compile()
    bed.write("#define ONE 2\n")
    two, calls = bed.compile()
    assert (calls, one != two) == (1, True)
    assert bed.compile("-O2")[1] == 1
    assert bed.compile("-O2", "-fno-inline")[1] == 1
    assert bed.compile("-O2", compiler="another")[1] == 1
    # All of them are kept, each for itself.
    assert bed.compile() == (two, 0)
    bed.write("#define ONE 1\n")
    assert bed.compile() == (one, 0)


@pytest.mark.parametrize(
    ("code", "calls"),
    [
        ("inline int line() { return __LINE__; }\n", 1),
        ("inline int line() { return __builtin_LINE(); }\n", 1),
        (
            "inline auto what() { return [] { return __PRETTY_FUNCTION__; }; }\n#define line() what()()[0]\n",
            1,
        ),
        ("inline int line() { return 7; }\n", 0),
        ('#pragma GCC diagnostic push\n#pragma GCC diagnostic ignored "-Wlong-long"\nint line();\n', 0),
        ("inline int line() {\n#pragma GCC unroll 4\nfor (int i = 0; i < 9; i++) {} return 7; }\n", 0),
    ],
)
def test_a_line_that_moves_is_compiled_where_the_code_tells_lines(bed: Bed, code: str, calls: int) -> None:
    bed.write("#define ONE line()\n" + code)
    bed.compile()
    bed.write("#define ONE line()\n#define TWO 2\n" + code)
    assert bed.compile()[1] == calls


@pytest.mark.parametrize("pragma", ["pack(COUNT)", "pack(push, COUNT)", "unroll COUNT"])
def test_another_value_of_a_macro_in_a_pragma_is_compiled(bed: Bed, pragma: str) -> None:
    """Whether or not a compiler's preprocessor puts the value in; clang's leaves the macro in some."""
    source = f"int one() {{\n#pragma {pragma}\nfor (int i = 0; i < 9; i++) {{}} return 1; }}\n"
    for count in (2, 4):
        bed.write(f"#define COUNT {count}\n", source)
        assert bed.compile("-w")[1] == 1


def test_a_macro_in_a_pragma_of_openmp_is_told_by_the_text(bed: Bed) -> None:
    source = (
        "void one(int * all) {\n#pragma omp parallel for num_threads(COUNT)\n"
        "for (int i = 0; i < 9; i++) all[i]++; }\n"
    )
    words = ("-O2", "-fopenmp")
    made = {}
    for count in (2, 4):
        bed.write(f"#define COUNT {count}\n", source)
        made[count], calls = bed.compile(*words)
        assert calls == 1
        assert bed.compile(*words, compiler="") == (made[count], 1)
    assert made[2] != made[4]
    bed.write("#define COUNT 2\nint other();\n", source)
    assert bed.compile(*words) == (made[2], 0)
    # Where they are not heeded the value is put in by nobody.
    for name in ("clang++", "g++"):
        asked = words if name == "clang++" else words[:1]
        for count in (2, 4):
            bed.write(f"#define COUNT {count}\n", source)
            done = bed.run(*asked, "-w", "-c", "-o", "one.o", "one.cpp", name=name)
            assert done.code == 0
            assert bed.calls() == 1


def test_an_error_is_the_compilers_and_nothing_is_kept(bed: Bed) -> None:
    for source in ("nonsense\n", '#include "absent.h"\n'):
        bed.write("", source)
        done = bed.run("-c", "-o", "one.o", "one.cpp")
        assert done.code != 0
        assert source.split('"')[-2 if '"' in source else 0].strip() in done.err
    assert not [one for one in (bed.folder / "kept").rglob("*") if one.is_file()]


def test_what_is_damaged_is_compiled_again(bed: Bed) -> None:
    bed.write("#define ONE 1\nint unnamed();\n")
    made, _ = bed.compile()
    # One for all its text, and the same for what its code can depend on.
    one, other = (one for one in (bed.folder / "kept").rglob("*") if one.is_file())
    assert one.samefile(other)
    one.write_bytes(one.read_bytes()[:20])
    assert bed.compile() == (made, 1)
    assert bed.compile() == (made, 0)


def test_a_folder_that_cannot_be_written_costs_the_cache_alone(bed: Bed) -> None:
    (bed.folder / "kept").write_text("no folder")
    bed.write("#define ONE 1\n")
    made, _ = bed.compile()
    assert bed.compile() == (made, 1)


def test_without_a_compilers_name_and_for_other_questions_it_is_run_as_it_came(bed: Bed) -> None:
    bed.write("#define ONE 1\n")
    bed.compile()
    assert bed.compile(compiler="")[1] == 1
    assert bed.run("--version").out.startswith("g++")
    assert "return 1" in bed.run("-E", "one.cpp").out


def test_sources_of_a_name_are_not_asked_for(bed: Bed) -> None:
    bed.write("#define ONE 1\n")
    words = ("-c", "-o", "one.o", "one.cpp")
    for without, kept in (("ne.c", False), ("two", True)):
        assert bed.run(*words, TEXT_CACHE_WITHOUT=without).code == 0
        assert any(one.is_file() for one in (bed.folder / "kept").rglob("*")) == kept


@pytest.mark.parametrize("word", ["-fkeep-inline-functions", "-fsanitize=undefined", "-g", "-march=native"])
def test_words_by_which_code_depends_on_more_than_text_are_not_looked_up(bed: Bed, word: str) -> None:
    bed.write("#define ONE 1\n")
    assert [bed.compile(word)[1] for _ in range(2)] == [1, 1]


def test_only_files_are_taken_and_only_of_one_text(bed: Bed) -> None:
    """Nothing is kept of what went nowhere, and no file that has its own text read by something else."""
    bed.write("#define ONE 1\n")
    (bed.folder / "words").write_text("-O2")
    (bed.folder / "one.ii").write_text("int one() { return 1; }\n")
    for words in (
        ("-c", "-o", "/dev/null", "one.cpp"),
        ("-c", "-o", "one.o", "@words", "one.cpp"),
        ("-c", "-o", "one.o", "one.ii"),
    ):
        assert bed.run(*words).code == 0
    assert not [one for one in (bed.folder / "kept").rglob("*") if one.is_file()]
    assert bed.compile()[1] > 0


def test_a_file_that_is_put_into_the_code_is_not_looked_up(bed: Bed) -> None:
    source = '__asm__(".section .rodata\\n.incbin \\"one.bin\\"\\n.text");\nint one() { return 1; }\n'
    made = []
    for content in (b"first", b"other"):
        (bed.folder / "one.bin").write_bytes(content)
        bed.write("", source)
        made.append(bed.compile()[0])
    assert made[0] != made[1]


def test_odd_text_is_compiled_as_it_is(bed: Bed) -> None:
    for odd in (
        "enum { A = 1 << 2000 };",
        "int f(int a[(1 << 2)], ...);",
        "enum { B = 077777777777777777777 };",
    ):
        bed.write(f"#define ONE 1\n{odd}\n")
        assert bed.compile("-w", "-fpermissive")[1] == 1


def with_reached(folder: Path, code: str) -> Path:
    """Give the tool with another way to find what counts of a text."""
    tools = shutil.copytree(TOOL.parent, folder / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    with (tools / "reached.py").open("a") as file:
        file.write(f"\n\ndef reached(text, **_): {code}\n")
    return tools / TOOL.name


def test_what_counts_of_a_text_is_not_looked_for_where_the_text_itself_is_kept(
    bed: Bed, tmp_path: Path
) -> None:
    bed.write("#define ONE 1\nint unnamed();\n")
    made, _ = bed.compile()
    tool = with_reached(tmp_path, "raise SystemExit('looked for')")
    assert bed.compile(tool=tool) == (made, 0)
    bed.write("#define ONE 1\nint other();\n")
    done = bed.run("-c", "-o", "one.o", "one.cpp", tool=tool)
    assert "looked for" in done.err


def test_what_counts_is_what_is_compiled(bed: Bed, tmp_path: Path) -> None:
    """What comes of a text hangs on what the text is known by, and not on the one that was compiled first."""
    bed.write("#define ONE 1\n")
    made, _ = bed.compile()
    shutil.rmtree(bed.folder / "kept")
    other, calls = bed.compile(tool=with_reached(tmp_path, "return text.replace('return 1', 'return 2')"))
    assert (calls, other != made) == (1, True)
    # The list of headers is that of the source.
    assert (bed.folder / "one.d").read_text().startswith("one.o:")


def test_where_what_counts_cannot_be_compiled_the_source_is(bed: Bed, tmp_path: Path) -> None:
    bed.write("#define ONE 1\n")
    made, _ = bed.compile()
    shutil.rmtree(bed.folder / "kept")
    tool = with_reached(tmp_path, "return 'int one() { return'")
    assert bed.compile(tool=tool) == (made, 2)
    assert bed.compile(tool=tool) == (made, 0)
    # It is known by its whole text, and nothing by what cannot be compiled.
    bed.write("#define ONE 2\n")
    other, calls = bed.compile(tool=tool)
    assert (calls, other != made) == (2, True)


@pytest.mark.parametrize(
    ("enumeration", "value"),
    [
        ("enum kind { A, ONE_, B };", "ONE_"),
        ("enum kind : unsigned char { A, ONE_ = 255 };", "ONE_"),
        ("enum class kind { A, ONE_ };", "(int) kind::ONE_"),
        ("enum struct kind : long { ONE_ = 1 << 3, B };", "(int) kind::ONE_"),
        ("typedef enum { A = -1, ONE_ = 0x7fffffff } kind;", "(int) sizeof(kind) + ONE_ + (kind(0) - 1 < 0)"),
        ("typedef enum kind_ { ONE_, B = 300 } kind;", "(int) sizeof(enum kind_) + (kind(0) - 1 < 0)"),
        ("namespace in { enum { A, ONE_ = A }; enum { C, D }; }", "in::ONE_ + in::D"),
        ("enum kind { A }; enum other { ONE_ = 1, B = 2 };", "sizeof(kind) + ONE_"),
    ],
)
def test_of_each_kind_of_enumeration_what_counts_can_be_compiled(
    bed: Bed, enumeration: str, value: str
) -> None:
    bed.write(f"{enumeration}\n", f"int one() {{ return {value}; }}\n")
    made, calls = bed.compile("-O2")
    # The source would be a second one.
    assert calls == 1
    assert bed.compile("-O2", compiler="") == (made, 1)


def test_what_a_systems_header_says_is_compiled_as_leniently_as_it_was(bed: Bed) -> None:
    """An array of a variable's length is an error in other code."""
    (bed.folder / "system").mkdir()
    (bed.folder / "system/lenient.h").write_text(
        "inline int size(int many) { int all[many]; return sizeof all; }\n"
    )
    bed.write("#include <lenient.h>\n#define ONE size(1)\n")
    words = ("-pedantic-errors", "-isystem", "system")
    made, calls = bed.compile(*words)
    assert calls == 1
    assert bed.compile(*words, compiler="") == (made, 1)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("int one() { char held[] = {300}; return held[0]; }", ()),
        ("int one() { int unused = 3; return 1; }", ("-Wall", "-Werror")),
        ("int one() { return (int) (long) absent(); }", ()),
        ('#pragma GCC diagnostic error "-Wreturn-type"\nint one() {}', ()),
        ("int one() { int n = 3; int all[n]; return sizeof all; }", ("-pedantic-errors",)),
    ],
)
def test_what_is_an_error_stays_one(bed: Bed, source: str, words: tuple[str, ...]) -> None:
    bed.write("", source + "\n")
    done = bed.run(*words, "-c", "-o", "one.o", "one.cpp")
    assert done.code != 0
    assert "error:" in done.err
    assert not [one for one in (bed.folder / "kept").rglob("*") if one.is_file()]


def test_a_target_that_code_asks_for_has_its_macros(bed: Bed) -> None:
    """Whether or not the preprocessor, asked alone, heeds it: C's does not, up to GCC 12."""
    (bed.folder / "one.c").write_text(
        '#include "one.h"\n#ifdef __AVX512VBMI__\nint one(void) { return N; }\n'
        "#else\nint one(void) { return 1; }\n#endif\n"
    )
    for number in (2, 3):
        (bed.folder / "one.h").write_text(f'#pragma GCC target("avx512vbmi")\n#define N {number}\n')
        made = []
        for compiler in ("one", ""):
            done = bed.run("-O1", "-c", "-o", "one.o", "one.c", compiler=compiler, name="gcc")
            assert done.code == 0
            made.append((bed.folder / "one.o").read_bytes())
        assert made[0] == made[1]


def test_targets_of_a_systems_header_are_known_by_their_text(bed: Bed) -> None:
    (bed.folder / "one.cpp").write_text("#include <immintrin.h>\nint one() { return 1; }\n")
    made, calls = bed.compile("-O1")
    assert calls == 1
    assert bed.compile("-O1") == (made, 0)


@pytest.mark.parametrize(
    ("name", "words"), [("g++-1", ("one.c",)), ("gcc", ("-DNAME=one.c", "one.cpp")), ("gcc", ("one.c",))]
)
def test_the_language_is_the_one_that_the_compiler_takes_it_for(
    bed: Bed, name: str, words: tuple[str, ...]
) -> None:
    (bed.folder / "one.c").write_text("int one(void) { return sizeof('a'); }\n")
    (bed.folder / "one.cpp").write_text("int one(void) { return sizeof('a'); }\n")
    made = []
    for compiler in ("one", ""):
        assert bed.run("-O1", "-c", "-o", "one.o", *words, compiler=compiler, name=name).code == 0
        made.append((bed.folder / "one.o").read_bytes())
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "words",
    [
        ("-MD",),
        ("-MMD", "-MF", "one.d"),
        ("-D", "ONE=3"),
        ("-Xpreprocessor", "-DTWO=2"),
        ("-xc++",),
        ("-finput-charset=ISO-8859-1",),
    ],
)
def test_with_words_that_the_text_may_not_tell_the_source_is_compiled(
    bed: Bed, words: tuple[str, ...]
) -> None:
    bed.write("#ifndef ONE\n#define ONE 1\n#endif\n")
    asked = (*words, "-O2", "-c", "-o", "one.o", "one.cpp")
    found = []
    for compiler in ("one", ""):
        assert bed.run(*asked, compiler=compiler).code == 0
        listed = bed.folder / "one.d"
        found.append(((bed.folder / "one.o").read_bytes(), listed.read_text() if listed.is_file() else ""))
        listed.unlink(missing_ok=True)
    assert found[0] == found[1]
    assert not [one for one in (bed.folder / "kept").rglob("*") if one.is_file()]


@pytest.mark.parametrize("name", ['o"n e.cpp', "ön€\\1.cpp", "on\udce4.cpp"])
def test_a_source_has_its_own_name_in_the_object(bed: Bed, name: str) -> None:
    (bed.folder / name).write_text("static int counted = 0;\nint one() { return ++counted; }\n")
    assert bed.run("-c", "-o", "one.o", name).code == 0
    assert bed.calls() == 1
    made = (bed.folder / "one.o").read_bytes()
    assert any(one.is_file() for one in (bed.folder / "kept").rglob("*"))
    assert bed.run("-c", "-o", "one.o", name, compiler="").code == 0
    assert (bed.folder / "one.o").read_bytes() == made


def test_what_takes_a_compilers_place_compiles_alone(bed: Bed) -> None:
    bed.write("#define ONE 1\n")
    prefix = bed.folder / "prefix"
    prefix.write_text(f'#!/bin/sh\necho "$@" >> {bed.folder}/prefixed\nexec "$@"\n')
    prefix.chmod(0o755)
    (bed.folder / "one.hip").write_text("int one() { return 1; }\n")
    for words in (("-E", "one.cpp"), ("-x", "hip", "-c", "-o", "one.o", "one.hip")):
        bed.run(*words, TEXT_CACHE_PREFIX=str(prefix))
    asked = (bed.folder / "prefixed").read_text()
    assert asked.count("\n") == 2
    assert asked.count(" -E ") == 1
