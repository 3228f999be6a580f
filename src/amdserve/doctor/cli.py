"""The command: gather this machine's facts, examine them, print."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from amdserve.doctor import probes
from amdserve.doctor.examine import examine
from amdserve.doctor.facts import IMAGE_JSON, Facts, Seen
from amdserve.doctor.report import Place
from amdserve.errors import AmdserveError, ModelError
from amdserve.gpu.chain import UnifiedGPUDetector
from amdserve.gpu.sysroot import Sysroot

_SHARD = re.compile(r"-\d{5}-of-(?=\d{5}\.gguf$)")


def gather(
    place: Place | None = None, environ: Mapping[str, str] | None = None, model_bytes: int | None = None
) -> Facts:
    """Collect the facts of this machine.

    A machine laid out as a folder (AMDSERVE_SYSROOT) has files only: nothing is asked of the real one.

    Args:
        place: host or container; None finds out by whether an image's description is there.
        environ: the environment; None is this process's.
        model_bytes: size of the model to be served, or None.
    """
    environ = dict(os.environ) if environ is None else environ
    sysroot = Sysroot.from_environ(environ)
    detection = UnifiedGPUDetector(sysroot=sysroot, environ=environ).detect()
    here = sysroot.exists(environ.get("AMDSERVE_IMAGE_JSON") or IMAGE_JSON)
    place = place or ("container" if here else "host")
    facts = Facts(place, sysroot, environ, detection, model_bytes)
    if not sysroot.real:
        return facts
    asked: dict[str, Any] = {"disk": probes.free_bytes}
    if place == "host":
        asked |= {"engine": probes.engine(environ), "firmware": probes.firmware()}
    backends = facts.image.get("backends")
    backends = backends if isinstance(backends, dict) else {}
    for key, backend in (("vulkan", "llama-server-vulkan"), ("rocm", "llama-server-rocm")):
        one = backends.get(backend)
        argv = one.get("argv") if isinstance(one, dict) else None
        if isinstance(argv, list) and argv:
            asked[key] = _asking(str(argv[0]))
    folders = tuple(str(one["dir"]) for one in backends.values() if isinstance(one, dict) and one.get("dir"))
    if folders:
        asked["libraries"] = lambda: probes.missing_libraries(folders)
    return Facts(place, sysroot, environ, detection, model_bytes, **asked)


def _asking(binary: str) -> Any:
    def ask() -> Seen:
        return probes.list_devices(binary)

    return ask


def main(argv: Sequence[str]) -> int:
    """Run the command.

    Args:
        argv: `--json`, `--place host|container`, `--model PATH`.

    Returns:
        0 where no check fails, 1 where one does; 2 and 3 for wrong usage and a missing model.
    """
    parser = argparse.ArgumentParser(
        prog="amdserve doctor", description="What is wrong here, and the exact fix."
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--place", choices=("host", "container"), help="where this runs; found out by itself")
    parser.add_argument("--model", metavar="PATH", help="judge memory and limits against this model's size")
    try:
        options = parser.parse_args(list(argv))
    except SystemExit as leave:
        return int(leave.code or 0)
    try:
        size = _model_bytes(options.model) if options.model else None
    except AmdserveError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    report = examine(gather(options.place, model_bytes=size))
    if options.json:
        print(json.dumps(report.to_dict(), ensure_ascii=False))
    else:
        text = "\n".join(report.lines())
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, errors="replace").decode(encoding))
    return 0 if report.ok else 1


def _model_bytes(name: str) -> int:
    """Give a model's size: of a file, of all shards where it is the first of several, or of a whole folder.

    Raises:
        ModelError: there is no such file or folder.
    """
    path = Path(name)
    try:
        if path.is_dir():
            return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        shards = _SHARD.sub("-*-of-", path.name)
        return sum(file.stat().st_size for file in path.parent.glob(shards)) or path.stat().st_size
    except OSError as reason:
        raise ModelError(
            f"the model {name} cannot be read", cause=str(reason), fix="check the path"
        ) from reason
