#!/usr/bin/env python3
"""Compile HIP one target at a time: `each_target.py CLANG WORD...`, run by ccache for what it does not have.

ccache knows a compilation by all its words, so with a second target everything is compiled for the first
one again. Here each target's code is a compilation of its own, and the host's part another one, which is the
same for all targets; ccache is asked for each. Then the code is bundled, and the host's part assembled with
the bundle in it. clang takes the same steps, and the object holds the same code and data, but for what lies
unused between functions, and for the name that keeps one file's symbols apart from another's: clang makes it
of all words, so of all targets, and here it is made of the file's path alone.

Another line in a header that everything includes makes all of it other text, but seldom other code. So where
HIP_CODE_CACHE names a folder, a target's code is compiled in the two steps of `clang -save-temps`: to what
LLVM starts from, in a fifth of the time, and from there, unless the folder has what came of the very same.
The code is that of one step, byte for byte.

HIP_PARTS_PREFIX is what ccache runs a part's compilation with, where it does not have it.

Asked for the files that an object depends on, clang tells those of the host's part alone; here it is all
parts', so that ccache need not have the preprocessor look for them.

Whatever is no HIP with a target is run as it came.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

SOURCES = (".cu", ".hip", ".cpp", ".cc", ".cxx")
TARGET = "--offload-arch="
COMPRESS = "--offload-compress"
# clang's own: the host's entry comes first, a page for each part.
HOST, DEVICE = "host-x86_64-unknown-linux-gnu", "hipv4-amdgcn-amd-amdhsa--"
DEVICE_ONLY = ("--offload-device-only", "--no-gpu-bundle-output")
AMDGPU = "--target=amdgcn-amd-amdhsa"
BUNDLE = ("-type=o", "-bundle-align=4096", "-input=/dev/null")
# What the host's part registers with the run time; where it is not embedded, clang leaves it to be linked.
BUNDLED = re.compile(r"\b__hip_fatbin(?:_[0-9a-f]+)?\b")
# Between the names of files, some of which have blanks of their own.
BLANKS = re.compile(r"(?:(?<!\\)\s|\\\n)+")
# What asks for dependencies; and what is followed by a file.
DEPENDENCIES, DEPENDENCIES_OF = frozenset({"-MD", "-MMD", "-MP"}), frozenset({"-MF", "-MT", "-MQ"})
CACHE, PARTS = "HIP_CODE_CACHE", "HIP_PARTS_PREFIX"
UNOPTIMISED = ("-emit-llvm", "-Xclang", "-disable-llvm-passes")
# What clang adds for HIP; the device's libraries are in the code by then.
FROM_LLVM = ("-nogpulib", "-mllvm", "-amdgpu-internalize-symbols", "-Wno-unused-command-line-argument")
# Words about the text, which is read by then: those with a file or a name after them, and how others begin.
OF_TEXT = (
    frozenset({"-o", "-x", "-I", "-D", "-U", "-isystem", "-idirafter", "-iquote", "-include"})
    | DEPENDENCIES_OF
)
ABOUT_TEXT = ("-I", "-D", "-U", "-W", "-w", "-std=", "-isystem", "--offload-", "--rocm-path=", "-c")
ABOUT_CODE = ("-O", "-f")
OTHERWISE = ("-flto", "-fgpu-rdc", "-fprofile", "-fsave")


def main(words: Sequence[str]) -> int:
    """Compile; give the exit status."""
    targets = [word.removeprefix(TARGET) for word in words if word.startswith(TARGET)]
    sources = [word for word in words[1:] if word.endswith(SOURCES) and not word.startswith("-")]
    is_hip = "-c" in words and "-o" in words and ("-x", "hip") in pairwise(words)
    if not targets or not is_hip or len(sources) != 1:
        os.execvp(words[0], list(words))
    own = f"-cuid={hashlib.sha256(sources[0].encode()).hexdigest()[:16]}"
    with tempfile.TemporaryDirectory(prefix="each-target-") as name:
        work = Path(name)
        return next(filter(None, (run(step) for step in steps(words, targets, own, work))), 0)


def steps(words: Sequence[str], targets: Sequence[str], own: str, work: Path) -> Iterator[list[str]]:
    """Give the commands: each target's code, the bundle of them, the host's part, that with the bundle in it.

    Each is to be run before the next one is asked for.

    Args:
        words: clang and what it was asked.
        targets: those that it was asked for.
        own: the flag that names the file.
        work: a folder for what one command leaves to the next.
    """
    rest = [word for word in words if not word.startswith(TARGET)]
    made = rest[rest.index("-o") + 1]
    told = not DEPENDENCIES.isdisjoint(rest)
    parts = [work / target for target in targets]
    # Beside the object: a word that is another one each time would make each time another compilation.
    lists = [Path(f"{made}.{target}.d") for target in targets]
    folder, about_code = os.environ.get(CACHE), code_words(rest)
    for target, part, headers in zip(targets, parts, lists, strict=True):
        device = (*(listing(headers) if told else ()), own, "-c", f"{TARGET}{target}", *DEVICE_ONLY)
        if not folder or about_code is None:
            yield ["ccache", *common(rest, part), *device]
            continue
        start = part.with_suffix(".bc")
        yield ["ccache", *common(rest, start), *device, *UNOPTIMISED]
        command = [words[0], AMDGPU, f"-mcpu={target}", *about_code, *FROM_LLVM, "-x", "ir"]
        kept = place(Path(folder), command, start)
        if not take(kept, part):
            yield [*command, str(start), "-o", str(part)]
            keep(part, kept)
    bundle = work / "bundle.hipfb"
    yield [
        str(Path(words[0]).with_name("clang-offload-bundler")),
        *BUNDLE,
        *(f"-input={part}" for part in parts),
        f"-targets={','.join((HOST, *(DEVICE + target for target in targets)))}",
        f"-output={bundle}",
        *(("-compress",) if COMPRESS in words else ()),
    ]
    assembly = work / "host.s"
    depfile, name = dependencies(rest, made)
    asked = ("-MD", "-MF", str(depfile), "-MT", name)
    yield ["ccache", *common(rest, assembly), *(asked if told else ()), own, "-S", "--offload-host-only"]
    if told:
        merge(depfile, lists)
    with assembly.open("a", encoding="utf-8") as file:
        file.write(embedding(assembly.read_text("utf-8", "replace"), bundle))
    yield [words[0], "-c", "-x", "assembler", str(assembly), "-o", made]


def code_words(words: Sequence[str]) -> list[str] | None:
    """Give the words that say how code is made of LLVM's; None where there is one that this does not know."""
    found: list[str] = []
    following = iter(words[1:])
    for word in following:
        if word in OF_TEXT:
            next(following, None)
        elif word == "-mllvm":
            found += [word, next(following, "")]
        elif word.startswith(OTHERWISE):
            return None
        elif word.startswith(ABOUT_CODE):
            found.append(word)
        elif not word.startswith(ABOUT_TEXT) and word not in DEPENDENCIES and not word.endswith(SOURCES):
            return None
    return found


def place(folder: Path, command: Sequence[str], start: Path) -> Path:
    """Give where the code is kept that a command makes of LLVM's, in which the compiler tells its version."""
    key = hashlib.sha256("\0".join([*command, ""]).encode() + start.read_bytes()).hexdigest()
    return folder / key[:2] / key


def take(kept: Path, part: Path) -> bool:
    """Take what is kept, if it is, and note that it was of use."""
    try:
        shutil.copyfile(kept, part)
        kept.touch()
    except OSError:
        return False
    return part.stat().st_size > 0


def keep(part: Path, kept: Path) -> None:
    """Keep a part, if that is possible, and in full: another build may look at the same moment."""
    with contextlib.suppress(OSError):
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=kept.parent, prefix="new.", delete=False) as new:
            new.write(part.read_bytes())
            new.flush()
            os.fsync(new.fileno())
        Path(new.name).replace(kept)


def common(words: Sequence[str], out: Path) -> Iterator[str]:
    """Give the words for a part: another result, no dependencies, and nothing to compress yet."""
    following = iter(words)
    for word in following:
        if word in DEPENDENCIES_OF:
            next(following, None)
        elif word == "-o":
            next(following, None)
            yield from ("-o", str(out))
        elif word not in {"-c", COMPRESS} and word not in DEPENDENCIES:
            yield word


def dependencies(words: Sequence[str], made: str) -> tuple[Path, str]:
    """Give the file that tells what an object depends on, and the object's name in it."""
    told = dict(pairwise(words))
    file = told.get("-MF")
    return Path(file) if file else Path(made).with_suffix(".d"), told.get("-MT") or told.get("-MQ") or made


def listing(headers: Path) -> tuple[str, ...]:
    """Give the words for the headers of a target's code: ccache hears the first of them, clang the others."""
    file, name = str(headers), str(headers.with_suffix(""))
    asked = ("-dependency-file", file, "-MT", name, "-sys-header-deps")
    unheard = ("-MD", "-MF", file, "-Wno-unused-command-line-argument")
    return (*unheard, *(word for each in asked for word in ("-Xclang", each)))


def merge(depfile: Path, others: Sequence[Path]) -> None:
    """Have a list of dependencies tell those of others too, once each; the others go."""
    target, _, _ = depfile.read_text().partition(": ")
    files: dict[str, None] = {}
    for one in (depfile, *others):
        _, _, text = one.read_text().partition(": ")
        files |= dict.fromkeys(filter(None, BLANKS.split(text)))
    for one in others:
        one.unlink()
    depfile.write_text(f"{target}: " + " \\\n  ".join(files) + "\n")


def embedding(assembly: str, bundle: Path) -> str:
    """Give what is to follow the host's assembly: the bundle, where clang itself would have it.

    A file without a kernel registers none, and embeds none.
    """
    found = BUNDLED.search(assembly)
    if found is None:
        return ""
    return f"""
\t.section\t.hip_fatbin,"a",@progbits
\t.p2align\t12
\t.hidden\t{found[0]}
\t.globl\t{found[0]}
{found[0]}:
\t.incbin\t"{bundle}"
"""


def run(command: Sequence[str]) -> int:
    """Run a command with this one's own output; give its exit status."""
    # ccache would come back here for what it does not have; the words of one target say all of its code; and
    # ccache tells what it runs to do without it.
    own = ("CCACHE_PREFIX", "CCACHE_DISABLE")
    environment = {name: value for name, value in os.environ.items() if name not in own}
    if PARTS in environment:
        environment["CCACHE_PREFIX"] = environment[PARTS]
    return subprocess.run(command, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
