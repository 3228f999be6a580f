"""Damages GGUF files and has the reader read them: no exception but `ModelError`, and little memory.

Run it from a checkout: `python benchmarks/gguf_fuzz.py [--seconds S] [--seed N]`. The process is held to
`LIMIT` bytes of address space beyond what it has once its imports are done: a reader that trusts a length in
a file runs out of memory at once. It exits with 1 at the first file that does anything else than it should,
and keeps that file.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests/unit/serve")]

from fixtures import models  # noqa: E402

from amdserve.errors import ModelError  # noqa: E402
from amdserve.serve import model, refmodel  # noqa: E402

LIMIT = 64 << 20
# Numbers at which readers break.
EDGES = (
    0,
    1,
    2,
    7,
    8,
    9,
    63,
    64,
    65,
    255,
    1 << 16,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 40,
    1 << 63,
    (1 << 64) - 1,
)
HEADER = 1 << 16


def flip(chance: random.Random, data: bytearray) -> None:
    for _ in range(chance.choice((1, 1, 2, 8, 64))):
        data[chance.randrange(min(len(data), HEADER))] ^= 1 << chance.randrange(8)


def number(chance: random.Random, data: bytearray) -> None:
    """Put a number in, where many are: at a multiple of a byte, as 4 or 8 bytes."""
    kind = chance.choice("IQ")
    value = chance.choice(EDGES) & (0xFFFFFFFF if kind == "I" else 0xFFFFFFFFFFFFFFFF)
    packed = struct.pack("<" + kind, value)
    at = chance.randrange(min(len(data), HEADER))
    data[at : at + len(packed)] = packed


def counts(chance: random.Random, data: bytearray) -> None:
    """Claim other numbers of tensors and keys."""
    if len(data) < 24:
        return
    struct.pack_into("<QQ", data, 8, *(chance.choice((*EDGES, chance.randrange(200))) for _ in range(2)))


def cut(chance: random.Random, data: bytearray) -> None:
    del data[chance.randrange(min(len(data), 2 * HEADER)) :]


def repeat(chance: random.Random, data: bytearray) -> None:
    at, length = chance.randrange(min(len(data), HEADER)), chance.randrange(4096)
    data[at:at] = data[at : at + length] * chance.choice((1, 2, 30))


def move(chance: random.Random, data: bytearray) -> None:
    one, two, length = (chance.randrange(min(len(data), HEADER)) for _ in range(3))
    length %= 512
    data[one : one + length] = data[two : two + length]


WAYS: tuple[Callable[[random.Random, bytearray], None], ...] = (
    flip,
    number,
    number,
    counts,
    cut,
    repeat,
    move,
)


def seeds(folder: Path) -> list[bytes]:
    """Give whole files to start from."""
    models.write_llama(folder / "llama.gguf")
    models.write_bert(folder / "bert.gguf")
    refmodel.make(folder / "reference.gguf")
    return [path.read_bytes() for path in sorted(folder.glob("*.gguf"))]


def held() -> int:
    """Give the bytes of address space that this process has."""
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0])
    return pages * resource.getpagesize()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=120.0, help="how long (120)")
    parser.add_argument("--seed", type=int, default=1, help="where to begin (1)")
    options = parser.parse_args()
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as place:
        originals = seeds(Path(place))
        path = Path(place) / "damaged.gguf"
        biggest = max(len(one) for one in originals)
        room = bytearray(6 * biggest)  # what this benchmark itself needs to make a file
        resource.setrlimit(resource.RLIMIT_AS, (held() + LIMIT, resource.RLIM_INFINITY))
        del room
        end, seed = time.monotonic() + options.seconds, options.seed
        while time.monotonic() < end:
            chance = random.Random(seed)
            data = bytearray(chance.choice(originals))
            for _ in range(chance.choice((1, 1, 2, 4))):
                chance.choice(WAYS)(chance, data)
                data = data or bytearray(1)
            # What lies behind the header is never read: a hole in the file does.
            path.write_bytes(data[: 2 * HEADER])
            os.truncate(path, len(data))
            wrong = ""
            try:
                model.inspect(str(path))
                outcomes["read as a model"] += 1
            except ModelError as reason:
                outcomes[reason.what.replace(str(path), "it")[:60].split("'")[0]] += 1
                # The reader's last net gives no cause: it caught what should never come.
                wrong = "" if reason.cause else reason.what
            except BaseException as reason:
                wrong = f"{type(reason).__name__}: {reason}"
            if wrong:
                kept = Path(tempfile.gettempdir()) / f"gguf-{seed}.bin"
                kept.write_bytes(data)
                print(f"seed {seed}: {wrong}; the file is {kept}")
                return 1
            seed += 1
    done = seed - options.seed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{done} files in {options.seconds:.0f} s, none with anything but a model or a ModelError;")
    print(f"within {LIMIT >> 20} MiB of address space beyond the imports, {peak:.0f} MiB resident in all")
    for what, count in outcomes.most_common(12):
        print(f"{count:>8}  {what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
