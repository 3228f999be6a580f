"""The command line of `amdserve` in the container."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from amdserve.errors import UsageError
from amdserve.serve.options import OPTIONS

if TYPE_CHECKING:
    Commands = argparse._SubParsersAction["_Parser"]  # argparse has no other name for it


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are our errors."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, fix=f"{self.prog} --help")


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Give the command and its options; of `serve`, a field that was not given is not among them.

    Args:
        words: the command line up to `--`.

    Raises:
        UsageError: it is wrong.
    """
    top = _Parser(prog="amdserve", description="Serves LLMs on AMD GPUs, on the fastest backend that works.")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Parser)
    _serve(commands)
    # Somebody waits for a server, and the other commands have as many options.
    if list(words[:1]) != ["serve"]:
        _others(commands)
    return vars(top.parse_args(words))


def _serve(commands: Commands) -> None:
    serve = commands.add_parser(
        "serve",
        help="serve a model",
        epilog="Each option is also a variable (AMDSERVE_N_CTX) and a key of the file named by --config "
        "(n_ctx). The command line wins over the environment, that over the file. What follows -- goes to "
        "the backend unchanged.",
    )
    serve.add_argument(
        "model_path", nargs="?", default=argparse.SUPPRESS, metavar="MODEL", help=OPTIONS[0].help
    )
    for option in OPTIONS[1:]:
        _add(serve, option.flag, option.kind, option.help, option.choices)
    serve.add_argument("--config", metavar="FILE", help="YAML file with options")
    serve.add_argument("--dry-run", action="store_true", help="plan, start nothing")
    serve.add_argument("--json", action="store_true", help="with --dry-run: print the plan as JSON")
    serve.add_argument(
        "--explain", action="store_true", help="say where each value comes from, start nothing"
    )
    serve.add_argument("--forget", action="store_true", help="forget which backends failed before")


def _others(commands: Commands) -> None:
    from amdserve.serve.bench import options as bench_options  # noqa: PLC0415  (see parse)

    for name, help_text in (
        ("detect", "which GPU is here"),
        ("status", "what the server does"),
        ("selftest", "check each backend's arithmetic against the CPU's"),
        ("version", "what is in this image"),
    ):
        commands.add_parser(name, help=help_text).add_argument(
            "--json", action="store_true", help="print one JSON document"
        )
    commands.choices["detect"].add_argument("--vendor", choices=("amd", "nvidia"), help="only this vendor's")
    commands.choices["selftest"].add_argument(
        "--full", action="store_true", help="also run llama.cpp's own test-backend-ops, if it is here"
    )
    commands.add_parser("health", help="exit 0 only if the backend answers")
    commands.add_parser("doctor", help="what is wrong, and the fix", add_help=False)
    bench_options.add_to(commands.add_parser("bench", help="measure each backend with a model, and choose"))


def _add(to: argparse.ArgumentParser, flag: str, kind: str, help_text: str, choices: Sequence[str]) -> None:
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help_text}
    if kind == "bool":
        to.add_argument(flag, action=argparse.BooleanOptionalAction, **options)
        return
    options["type"] = {"int": int, "float": float}.get(kind, str)
    if choices:
        options["choices"] = choices
    else:
        options["metavar"] = {"int": "N", "float": "SECONDS"}.get(kind, "TEXT")
    to.add_argument(flag, **options)
