"""The options of `amdserve bench`. Nothing heavy is imported: most commands make this parser."""

from __future__ import annotations

import argparse
from typing import Any

from amdserve.serve.options import BACKENDS

MEASURABLE = BACKENDS[:3]


def _numbers(text: str) -> tuple[int, ...]:
    """Read `512,2048`; `0` alone is none where none makes sense."""
    return tuple(dict.fromkeys(int(part) for part in text.split(",")))


def _words(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(part.strip() for part in text.split(",")))


# argparse names the type in its complaints.
_numbers.__name__ = "list of numbers"


def add_to(parser: argparse.ArgumentParser) -> None:
    """Add the options; one that was not given is not among the parsed."""
    lists: dict[str, Any] = {"type": _numbers, "metavar": "N,…", "default": argparse.SUPPRESS}
    parser.add_argument(
        "model_path", nargs="?", metavar="MODEL", help="GGUF file, folder, or Hub name org/repo:quant"
    )
    parser.add_argument("--prompts", **lists, help="lengths of the prompts in tokens (512,2048)")
    parser.add_argument("--generate", **lists, help="tokens to generate (128); 0: none")
    parser.add_argument("--depths", **lists, help="tokens of context before each test (0,4096)")
    parser.add_argument(
        "--flash-attn",
        type=_words,
        metavar="off,on",
        default=argparse.SUPPRESS,
        help="flash attention (off,on)",
    )
    parser.add_argument("--ubatch", dest="n_ubatch", **lists, help="micro-batches in tokens (512,2048)")
    parser.add_argument(
        "--repeat", type=int, metavar="N", default=argparse.SUPPRESS, help="times each test is run (3)"
    )
    parser.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        default=argparse.SUPPRESS,
        help="seconds for all of it (900)",
    )
    parser.add_argument(
        "--backend",
        type=_words,
        metavar="NAME,…",
        default=("auto",),
        help=f"only these of {', '.join(MEASURABLE)}",
    )
    parser.add_argument(
        "--gpu", type=int, metavar="N", help="index of the GPU, as `amdserve detect` numbers them"
    )
    parser.add_argument("--out", metavar="FOLDER", help="write result.json and report.html there")
    parser.add_argument("--save", action="store_true", help="serve this model so from now on")
    parser.add_argument(
        "--selftest",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="check each backend's arithmetic first",
    )
    parser.add_argument(
        "--image-digest", metavar="DIGEST", default="", help="for the record: the engine's name for it"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--compare", nargs=2, metavar=("A", "B"), help="measure nothing: compare two results, point by point"
    )
