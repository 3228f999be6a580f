"""The command `amdserve` in the container: parses, calls, prints.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from typing import Any

from amdserve import __version__
from amdserve.errors import AmdserveError, UsageError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; give the exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return run(words)
    except AmdserveError as error:
        print(f"amdserve: error: {error}", file=sys.stderr)
        before = words[: words.index("--")] if "--" in words else words
        if "--json" in before:
            print(json.dumps(error.to_dict()))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read us has gone; what Python flushes at its end must not complain again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0


def run(words: list[str]) -> int:
    """Run the command.

    Raises:
        AmdserveError: it failed.
    """
    if words[:1] == ["doctor"]:
        return doctor(words[1:])
    if words == ["health"]:  # Docker asks every few seconds: not even a parser is made for it
        return health({}, ())
    extra: tuple[str, ...] = ()
    if "--" in words:
        at = words.index("--")
        words, extra = words[:at], tuple(words[at + 1 :])
    options = plain(words) or parse(words)
    command = options.pop("command")
    if extra and command != "serve":
        raise UsageError(f"{command} takes nothing after --", fix=f"amdserve {command} --help")
    return int(COMMANDS[command](options, extra))


def plain(words: Sequence[str]) -> dict[str, Any] | None:
    """Give what `parse` makes of a start without options, which somebody waits for; None for any other."""
    if not words or words[0] != "serve" or len(words) > 2 or any(word.startswith("-") for word in words):
        return None
    options = dict.fromkeys(("dry_run", "json", "explain", "forget"), False)
    model = {"model_path": words[1]} if words[1:] else {}
    return {"command": "serve", "config": None, **options, **model}


def parse(words: Sequence[str]) -> dict[str, Any]:
    """Give the command and its options.

    Raises:
        UsageError: the command line is wrong.
    """
    from amdserve.serve import arguments  # noqa: PLC0415

    return arguments.parse(words)


def serve(options: dict[str, Any], extra: tuple[str, ...]) -> int:
    """Serve a model."""
    from amdserve.serve import start  # noqa: PLC0415

    forget, as_json = options.pop("forget"), options.pop("json")
    config = options.pop("config") or os.environ.get("AMDSERVE_CONFIG") or None
    dry, origins = options.pop("dry_run"), options.pop("explain")
    if as_json and not dry:
        raise UsageError("--json goes with --dry-run", fix="amdserve serve --dry-run --json MODEL")
    if dry or origins:
        return start.look(options, config=config, extra=extra, as_json=as_json, origins=origins)
    return start.serve(options, config=config, extra=extra, forget=forget)


def detect(options: dict[str, Any], _: tuple[str, ...]) -> int:
    """Say which GPU is here; 0 if one is, 1 if none."""
    from amdserve.gpu.chain import UnifiedGPUDetector  # noqa: PLC0415

    result = UnifiedGPUDetector(vendor=options["vendor"]).detect()
    if options["json"]:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        for gpu in result.gpus:
            memory = gpu.vram_bytes + (gpu.gtt_bytes if gpu.integrated else 0)
            size = f", {memory / 2**30:.1f} GiB" if memory else ""
            print(f"{gpu.index}: {gpu.name} ({gpu.gfx or gpu.vendor}{size})")
        for attempt in result.attempts:
            print(f"   {attempt.detector}: {attempt.outcome}: {attempt.reason} ({attempt.ms:.0f} ms)")
    return 0


def status(options: dict[str, Any], _: tuple[str, ...]) -> int:
    """Say what the server does; 0 if it is ready."""
    from amdserve.serve import report  # noqa: PLC0415

    return report.status(as_json=options["json"])


def health(_: dict[str, Any], __: tuple[str, ...]) -> int:
    """Exit with 0 only if the backend answers."""
    from amdserve.serve import report  # noqa: PLC0415

    return report.health()


def version(options: dict[str, Any], _: tuple[str, ...]) -> int:
    """Say what is in this image."""
    from amdserve.serve import report  # noqa: PLC0415

    return report.version(__version__, as_json=options["json"])


def doctor(arguments: list[str]) -> int:
    """Hand over to the doctor."""
    import importlib  # noqa: PLC0415

    try:
        module = importlib.import_module("amdserve.doctor")
        entry = module.main
    except (ImportError, AttributeError):
        raise UsageError(
            "this build has no doctor yet", fix="amdserve detect says what was looked at"
        ) from None
    return int(entry(arguments) or 0)


def selftest(options: dict[str, Any], _: tuple[str, ...]) -> int:
    """Check each backend's arithmetic."""
    from amdserve.serve import selftest as module  # noqa: PLC0415

    return module.run(as_json=options["json"], full=options["full"])


def bench(options: dict[str, Any], _: tuple[str, ...]) -> int:
    """Measure each backend, or compare two measurements."""
    from amdserve.serve.bench import command  # noqa: PLC0415

    return command.run(options)


COMMANDS = {
    "serve": serve,
    "detect": detect,
    "status": status,
    "health": health,
    "version": version,
    "selftest": selftest,
    "bench": bench,
}

if __name__ == "__main__":
    sys.exit(main())
