"""`status`, `health` and `version`: short answers for people, Docker and scripts."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from amdserve.errors import AmdserveError, NotRunningError
from amdserve.serve import state
from amdserve.serve.logs import stamp
from amdserve.serve.probe import ask

CONTRACT = ("state", "backend", "device", "port", "since", "history")
HEALTH_TIMEOUT = 4.0


def status(*, as_json: bool) -> int:
    """Print the status; give 0 if the server is ready, else 1.

    Raises:
        NotRunningError: no server was started in this container.
    """
    data = state.read(os.environ)
    if data is None:
        raise NotRunningError("no server has been started here", fix="amdserve serve MODEL")
    shown: dict[str, Any] = {name: data.get(name) for name in CONTRACT}
    since = data.get("since")
    shown["since"] = stamp(since) if isinstance(since, int | float) else None
    for name in ("phases", "measured", "error"):
        if data.get(name):
            shown[name] = data[name]
    if as_json:
        print(json.dumps(shown, indent=2))
    else:
        _print(shown, float(since) if isinstance(since, int | float) else time.time())
    return 0 if shown["state"] == "ready" else 1


def _print(shown: dict[str, Any], since: float) -> None:
    backend = f": {shown['backend']} on {shown['device']}" if shown["backend"] else ""
    print(f"{shown['state']} for {time.time() - since:.0f} s{backend}, port {shown['port']}")
    if phases := dict(shown.get("phases") or {}):
        ready = phases.pop("ready", None)
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in phases.items())
        print(f"  start: {parts}" + (f"; ready after {ready:.2f} s" if ready is not None else ""))
    if measured := shown.get("measured"):
        print(f"  order and settings as measured on {measured['date']} by `amdserve bench`")
    for entry in shown["history"] or ():
        print(
            f"  {entry['backend']} failed after {entry['seconds']:.1f} s: {entry['class']}: {entry['detail']}"
        )
    if shown.get("error"):
        print(f"  {shown['error']['what']}")


def health() -> int:
    """Give 0 only if the backend answers; it is for Docker's HEALTHCHECK, and says why where it does not."""
    data = state.read(os.environ)
    if data is None:
        # No folder for state could be written; the port may still be known.
        host, port = os.environ.get("AMDSERVE_HOST") or "0.0.0.0", os.environ.get("AMDSERVE_PORT") or "8080"
        data = {"state": "ready", "host": host, "port": int(port) if port.isdigit() else 8080}
    if data.get("stopping") or data.get("state") != "ready":
        print("stopping" if data.get("stopping") else data.get("state"), file=sys.stderr)
        return 1
    code, _ = ask(str(data["host"]), int(data["port"]), "/health", timeout=HEALTH_TIMEOUT)
    if code == 200:
        return 0
    print(f"no answer from the backend on port {data['port']} ({code or 'none'})", file=sys.stderr)
    return 1


def version(own: str, *, as_json: bool) -> int:
    """Print what is in this image."""
    from amdserve.serve import image  # noqa: PLC0415  (`health` has no need of it)

    try:
        data = dict(image.load().data)
    except AmdserveError:
        data = {}
    data.setdefault("amdserve", own)
    if as_json:
        print(json.dumps(data, indent=2))
        return 0
    print(f"amdserve {own}")
    llama, rocm = data.get("llama") or {}, data.get("rocm") or {}
    if data.get("image"):
        print(f"image {data['image']} {data.get('hash', '')}")
        print(
            f"llama.cpp {llama.get('commit', '?')} ({llama.get('package', '?')} {llama.get('version', '?')})"
        )
        if rocm:
            print(
                f"ROCm {rocm.get('version')} ({rocm.get('provider')}) for {', '.join(data.get('gfx') or ())}"
            )
        print(f"backends {', '.join(data.get('backends') or ())}")
    return 0
