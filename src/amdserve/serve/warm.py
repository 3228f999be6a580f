"""At image build: compiles the Python that a container runs, and no other; records what options allow.

Compiled copies of every module would be a tenth of the small image, and most are never imported. So what a
container does is done once, and what Python then has compiled is what stays. Run as
`python -m amdserve.serve.warm`.
"""

from __future__ import annotations

import http.client
import importlib
import importlib.util
import json
import os
import pkgutil
import py_compile
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import amdserve
from amdserve import process
from amdserve.serve import checked, cpu_server
from amdserve.serve.reference import FOLDER, MODEL

PROGRAM = "amdserve"
PORT = 8097
SECONDS = 120.0
QUESTION = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2, "stream": True}


def commands(model: Path) -> None:
    """Import every module of this package and run what a user types, whatever it finds on this machine."""
    for module in pkgutil.walk_packages(amdserve.__path__, f"{amdserve.__name__}."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    words = (["serve", str(model), "--dry-run"], ["detect"], ["status"], ["health"], ["doctor"], ["version"])
    with tempfile.TemporaryDirectory() as state:
        for arguments in words:
            process.run([PROGRAM, *arguments], env=os.environ | {"AMDSERVE_STATE_DIR": state}, check=False)


def cpu_backend(model: Path) -> None:
    """Serve one streamed answer with llama-cpp-python.

    Raises:
        TimeoutError: it does not start.
        OSError: it does not answer.
    """
    image = json.loads(Path("/etc/amdserve/image.json").read_text("utf-8"))
    folder = image["backends"]["llama-cpp-python"]["dir"]
    os.environ[cpu_server.LIBRARY_FOLDER] = folder
    cpu_server.load_variants(folder)
    options = cpu_server.parser().parse_args(["--model", str(model), "--n-ctx", "256", "--port", str(PORT)])
    uvicorn: Any = importlib.import_module("uvicorn")
    server = uvicorn.Server(uvicorn.Config(cpu_server.build(options), port=PORT, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until = time.monotonic() + SECONDS
        while not server.started:
            if time.monotonic() > until or not thread.is_alive():
                raise TimeoutError("llama-cpp-python's server does not start")
            time.sleep(0.05)
        asked = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
        asked.request(
            "POST", "/v1/chat/completions", json.dumps(QUESTION), {"Content-Type": "application/json"}
        )
        answer = asked.getresponse()
        if answer.status != http.client.OK or b"[DONE]" not in answer.read():
            raise OSError(f"llama-cpp-python's server answers with {answer.status}")
        asked.close()
    finally:
        server.should_exit = True
        thread.join()


def roots() -> list[Path]:
    """Give the folders that modules are imported from."""
    return sorted({Path(entry) for entry in sys.path if entry and Path(entry).is_dir()})


def keep_used(folders: list[Path]) -> int:
    """Compile again what is compiled under these folders, so that it is valid whatever time its source gets.

    Returns:
        How many modules.
    """
    compiled = {path for folder in folders for path in folder.rglob("*.pyc")}
    sources = sorted({Path(importlib.util.source_from_cache(str(path))) for path in compiled})
    for path in compiled:
        path.unlink()
    for source in sources:
        py_compile.compile(
            str(source), doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    return len(sources)


def main() -> int:
    """Run from the command line."""
    model = Path(FOLDER) / MODEL
    checked.record(checked.IMAGE_FILE)
    commands(model)
    cpu_backend(model)
    sys.dont_write_bytecode = True
    print(f"{keep_used(roots())} modules compiled", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
