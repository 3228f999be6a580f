"""From a request to each backend's own command line and environment.

The four backends differ only where they must. A flag goes on the line only if the backend's recorded `--help`
names it; one that it lacks is said in its older words, left out where it would change nothing, or refused
by name.
"""

from __future__ import annotations

from amdserve.serve.image import Backend
from amdserve.serve.line import MEMLOCK_FIX, Command, Job, Line, Refused

LLAMA_SERVER_FLAGS = frozenset(
    {
        "--alias", "--api-key-file", "--batch-size", "--cache-ram", "--cont-batching", "--ctx-size",
        "--device", "--embedding", "--fit", "--flash-attn", "--hf-repo", "--host", "--jinja",
        "--list-devices", "--load-mode", "--log-verbosity", "--mmproj", "--model", "--n-gpu-layers",
        "--no-cont-batching", "--no-jinja", "--parallel", "--pooling", "--port", "--reasoning-format",
        "--rerank", "--threads", "--ubatch-size",
    }
)  # fmt: skip
CPU_SERVER_FLAGS = frozenset(
    {
        "--alias", "--api-key-file", "--embedding", "--flash-attn", "--host", "--mlock", "--model",
        "--n-batch", "--n-ctx", "--n-ubatch", "--no-mlock", "--pooling", "--port", "--threads",
    }
)  # fmt: skip


def emittable_flags(backend: str) -> frozenset[str]:
    """Give every flag that is ever put on the command line of a backend of today.

    Args:
        backend: one of the four names.

    Raises:
        KeyError: there is no such backend.
    """
    from amdserve.serve import vllm  # noqa: PLC0415  (a start with a GGUF file needs none of it)

    return {
        "llama-server-vulkan": LLAMA_SERVER_FLAGS,
        "llama-server-rocm": LLAMA_SERVER_FLAGS,
        "llama-cpp-python": CPU_SERVER_FLAGS,
        "vllm": vllm.FLAGS,
    }[backend]


def llama_cpp_python(job: Job, backend: Backend) -> Command:
    """Make the command of the CPU's last resort: llama-cpp-python's server behind our own launcher.

    Raises:
        Refused: it cannot do what was asked for.
    """
    request, model = job.request, job.model
    if job.purpose == "rerank":
        raise Refused("it has no reranking")
    if model.hub:
        raise Refused("it fetches nothing from the Hub: name a file")
    for name in ("mmproj", "parallel"):
        if getattr(request, name) is not None:
            raise Refused(f"it has no {name}")
    command = Command(list(backend.argv))
    line = Line(command, backend, request)
    line.add("", "--model", model.path)
    line.add("", "--host", request.host)
    line.add("", "--port", request.port)
    line.add("n_ctx", "--n-ctx", request.n_ctx)
    line.add("n_batch", "--n-batch", request.n_batch)
    line.add("n_ubatch", "--n-ubatch", request.n_ubatch)
    if request.flash_attn == "on":
        line.add("flash_attn", "--flash-attn", "on")
    if request.mlock and not job.lockable:
        command.notes.append(f"the model is not locked in memory. Start the container with {MEMLOCK_FIX}")
    line.add("mlock", "--mlock" if request.mlock and job.lockable else "--no-mlock")
    if request.threads is not None:
        line.add("threads", "--threads", request.threads)
    if request.alias:
        line.add("alias", "--alias", request.alias)
    if request.api_key_file:
        line.add("api_key_file", "--api-key-file", request.api_key_file)
    if job.purpose == "embedding":
        line.add("", "--embedding")
        line.add("pooling", "--pooling", request.pooling or model.pooling or "mean")
    command.argv += request.extra_args
    if backend.folder:
        command.env["LLAMA_CPP_LIB_PATH"] = backend.folder
    return command
