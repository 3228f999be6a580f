"""The CPU's last resort: llama-cpp-python's OpenAI server, with what it lacks.

The binding comes with none of the CPU code of its own here: it loads llama.cpp's libraries that were built
beside the servers, and somebody must load the variants for this CPU before the first model is opened. Its
server has no `/health`, gives embeddings token by token where a model names no pooling, cannot encode them
in base64 (which the `openai` client asks for by default), and takes only one API key. All that is added here.

Run as `python -m amdserve.serve.cpu_server --model FILE`.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import math
import os
import sys
from pathlib import Path
from typing import Any

from amdserve.serve.cpu_routes import Front

LIBRARY_FOLDER = "LLAMA_CPP_LIB_PATH"
POOLINGS = {"none": 0, "mean": 1, "cls": 2, "last": 3, "rank": 4}
MODEL_EXIT = 3


def parser() -> argparse.ArgumentParser:
    """Make the parser; it needs nothing of the binding, so that `--help` works anywhere."""
    made = argparse.ArgumentParser(
        prog="amdserve.serve.cpu_server", description="llama-cpp-python's OpenAI server on the CPU"
    )
    made.add_argument("--model", required=True, metavar="FILE", help="GGUF file")
    made.add_argument("--host", default="127.0.0.1", help="address to listen on")
    made.add_argument("--port", type=int, default=8080, help="port to listen on")
    made.add_argument("--n-ctx", type=int, default=8192, help="context in tokens; 0 takes the model's own")
    made.add_argument("--n-batch", type=int, default=2048, help="most tokens of one logical batch")
    made.add_argument("--n-ubatch", type=int, default=2048, help="most tokens of one batch")
    made.add_argument("--flash-attn", choices=("on", "off"), default="off", help="flash attention")
    made.add_argument(
        "--mlock", action=argparse.BooleanOptionalAction, default=False, help="keep the model in memory"
    )
    made.add_argument("--threads", type=int, default=None, help="CPU threads")
    made.add_argument("--alias", default=None, help="name of the model in the API")
    made.add_argument("--api-key-file", default=None, help="file with API keys, one a line")
    made.add_argument("--embedding", action="store_true", help="serve embeddings")
    made.add_argument("--pooling", choices=tuple(POOLINGS), default=None, help="pooling of embeddings")
    return made


def load_variants(folder: str | None) -> None:
    """Load ggml's CPU variants, of which it picks the best for this CPU.

    Args:
        folder: where the libraries lie; None leaves the binding to its own.

    Raises:
        OSError: the libraries are not there or cannot be loaded.
    """
    if not folder:
        return
    library = ctypes.CDLL(str(Path(folder) / "libggml.so"), mode=ctypes.RTLD_GLOBAL)
    load = library.ggml_backend_load_all_from_path
    load.argtypes, load.restype = [ctypes.c_char_p], None
    load(os.fsencode(folder))


def threads(asked: int | None) -> tuple[int, int]:
    """Give the threads for generating and for prompts: half of the CPUs, or the container's share of them."""
    cpus = len(os.sched_getaffinity(0))
    share = cpus
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="utf-8").split()
        share = min(cpus, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):
        pass
    few = share if share < cpus else max(1, cpus // 2)
    return asked or few, asked or share


def keys(file: str | None) -> frozenset[str]:
    """Read API keys, one a line; `#` begins a comment."""
    if not file:
        return frozenset()
    lines = Path(file).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip() for line in lines if line.strip() and not line.startswith("#"))


def build(options: argparse.Namespace) -> Any:
    """Load the model and make the application around it; this takes as long as the model takes to load."""
    import llama_cpp  # noqa: PLC0415  (only after the variants are loaded)

    if options.pooling is not None:
        _fix_pooling(llama_cpp, POOLINGS[options.pooling])
    from llama_cpp.server import app as server  # noqa: PLC0415
    from llama_cpp.server.settings import ModelSettings, ServerSettings  # noqa: PLC0415

    few, many = threads(options.threads)
    model = ModelSettings(
        model=options.model,
        model_alias=options.alias or Path(options.model).stem,
        n_ctx=options.n_ctx,
        n_batch=options.n_batch,
        n_ubatch=options.n_ubatch,
        n_threads=few,
        n_threads_batch=many,
        flash_attn=options.flash_attn == "on",
        use_mlock=options.mlock,
        use_mmap=True,
        embedding=options.embedding,
        # Keeping the logits of every token costs vocabulary × context × 4 bytes, and no route needs them.
        logits_all=False,
        verbose=False,
    )
    # A new request must not cut off the one under way.
    settings = ServerSettings(host=options.host, port=options.port, interrupt_requests=False)
    app = server.create_app(server_settings=settings, model_settings=[model])
    return Front(app, server.get_llama_proxy, keys(options.api_key_file), embedding=options.embedding)


def _fix_pooling(llama_cpp: Any, pooling: int) -> None:
    """Make every model open with this pooling: the binding's settings have no word for it."""
    original = llama_cpp.Llama

    class Pooled(original):  # type: ignore[misc,valid-type]
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "pooling_type": pooling})

    llama_cpp.Llama = Pooled


def _let_streams_end() -> None:
    """Have a stop wait for answers that are streamed too: the supervisor ends it if that takes too long."""
    try:
        streams = importlib.import_module("sse_starlette.sse")
        streams.AppStatus.disable_automatic_graceful_drain()
    except (ImportError, AttributeError):
        print("cpu_server: a stop will cut off what is streamed", file=sys.stderr)


def main(arguments: list[str] | None = None) -> int:
    """Serve until stopped; 2 for wrong arguments, 3 where the model cannot be loaded."""
    options = parser().parse_args(arguments)
    try:
        load_variants(os.environ.get(LIBRARY_FOLDER))
    except OSError as reason:
        print(f"cpu_server: llama.cpp's libraries cannot be loaded: {reason}", file=sys.stderr)
        return 1
    try:
        app = build(options)
    except (ValueError, RuntimeError) as reason:
        print(f"cpu_server: failed to load model: {reason}", file=sys.stderr)
        return MODEL_EXIT
    uvicorn = importlib.import_module("uvicorn")
    _let_streams_end()
    uvicorn.run(app, host=options.host, port=options.port, log_level="info", access_log=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
