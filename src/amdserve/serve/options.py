"""The options of `amdserve serve`, as data: one row gives the flag, the variable, the YAML key and the help.

This module imports nothing heavy, so that `amdserve health`, which Docker starts every few seconds, and
`--help` need neither pydantic nor YAML. The model that validates the values is `amdserve.serve.request`; a
test holds the two to each other.
"""

from __future__ import annotations

from amdserve.values import dataclass

ENV_PREFIX = "AMDSERVE_"

# Variables of this prefix that are not options of `serve`.
OTHER_VARIABLES = frozenset({"SYSROOT", "IMAGE_JSON", "STATE_DIR", "CONFIG", "MODEL", "REFERENCE"})

DEFAULT_FOLDER = "/models"
BACKENDS = ("llama-server-vulkan", "llama-server-rocm", "llama-cpp-python", "vllm")
SERVER_TYPES = ("llm", "embedding", "rerank")


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `serve`.

    Attributes:
        name: the field's name, with underscores.
        kind: `str`, `int`, `float` or `bool`.
        help: one line for `--help`.
        choices: the values allowed, if they are few.
        group: `model` for the fields of `ModelLoadRequest`, `run` for how the supervisor behaves.
    """

    name: str
    kind: str
    help: str
    choices: tuple[str, ...] = ()
    group: str = "model"

    @property
    def flag(self) -> str:
        """The flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        """The environment variable."""
        return ENV_PREFIX + self.name.upper()


OPTIONS: tuple[Option, ...] = (
    Option("model_path", "str", "GGUF file, folder, or Hub name org/repo[:quant]"),
    Option("server_type", "str", "what to serve (default: what the model is for)", SERVER_TYPES),
    Option("host", "str", "address to listen on"),
    Option("port", "int", "port to listen on"),
    Option("n_ctx", "int", "context in tokens; 0 takes the model's own"),
    Option("n_batch", "int", "most tokens of one logical batch"),
    Option("n_ubatch", "int", "most tokens of one batch on the device"),
    Option("n_gpu_layers", "int", "layers on the GPU; -1 is all"),
    Option("flash_attn", "str", "flash attention", ("off", "on", "auto")),
    Option("fit_memory", "bool", "let the backend shrink what was not set until it fits"),
    Option("mlock", "bool", "keep the model in memory (needs a memlock limit that allows it)"),
    Option("cont_batching", "bool", "continuous batching"),
    Option("jinja", "bool", "use the model's own chat template"),
    Option("pooling", "str", "pooling of embeddings", ("none", "mean", "cls", "last", "rank")),
    Option(
        "reasoning_format",
        "str",
        "where thoughts go in an answer",
        ("none", "deepseek", "deepseek-legacy", "auto"),
    ),
    Option("threads", "int", "CPU threads (default: the backend's choice)"),
    Option("parallel", "int", "requests answered at once (default: the backend's choice)"),
    Option("mmproj", "str", "file of the projector for images and sound"),
    Option("alias", "str", "name of the model in the API"),
    Option("api_key_file", "str", "file with API keys, one a line"),
    Option("backend", "str", "which backend; auto tries each in order", ("auto", *BACKENDS)),
    Option("require_gpu", "bool", "end with 4 rather than serve from the CPU"),
    Option("vendor", "str", "look only for this vendor's GPUs", ("amd", "nvidia")),
    Option("gpu", "int", "index of the GPU, as `amdserve detect` numbers them"),
    Option("log_format", "str", "text for people, json for machines", ("text", "json"), "run"),
    Option("load_stall", "float", "seconds without any progress until loading counts as hung", (), "run"),
    Option("serve_stall", "float", "seconds without a batch done until serving counts as hung", (), "run"),
    Option("probe_timeout", "float", "seconds without an answer to /health until it is hung", (), "run"),
    Option("drain", "float", "seconds a stop waits for answers under way", (), "run"),
    Option("selftest", "bool", "check a backend's arithmetic before its first use here", (), "run"),
    Option("remember", "bool", "remember which backends failed, and start with what worked", (), "run"),
)

BY_NAME = {option.name: option for option in OPTIONS}
