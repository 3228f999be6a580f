"""What is asked for: `ModelLoadRequest`, and `RunOptions` for how the supervisor behaves."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

# Plugins are looked for in every package that is installed; here are none, and looking costs 10 ms.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from amdserve.errors import UsageError
from amdserve.serve.options import BY_NAME

# An IP address or a host name.
HOST = r"^[A-Za-z0-9._:\-]+$"
# For the schema alone: an empty one is none, and the name of a file need not be UTF-8.
Text = Annotated[str, Field(json_schema_extra={"minLength": 1})]
BackendName = Literal["auto", "llama-server-vulkan", "llama-server-rocm", "llama-cpp-python", "vllm"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelLoadRequest(_Frozen):
    """One model to serve, and how. Frozen; unknown fields are refused.

    Attributes:
        model_path: a GGUF file, a folder, or a name on the Hub (`org/repo`, `org/repo:quant`).
        server_type: `llm`, `embedding` or `rerank`; None takes what the model is for.
        host: address to listen on.
        port: TCP port, 1 to 65535.
        n_ctx: context in tokens; 0 takes the model's own.
        n_batch: most tokens of one logical batch.
        n_ubatch: most tokens of one batch on the device.
        n_gpu_layers: layers on the GPU; -1 is all of them.
        flash_attn: `off`, `on`, or `auto`.
        fit_memory: let the backend shrink what was not set until it fits.
        mlock: lock the model in memory.
        cont_batching: continuous batching.
        jinja: use the model's own chat template.
        pooling: pooling of embeddings; None takes the model's own.
        reasoning_format: where thoughts go in an answer.
        threads: CPU threads; None leaves it to the backend.
        parallel: requests answered at once; None leaves it to the backend.
        mmproj: file of the projector for images and sound.
        alias: the model's name in the API.
        api_key_file: file with API keys, one a line.
        extra_args: what goes to the backend unchanged.
        backend: which backend, or `auto`.
        require_gpu: never serve from the CPU.
        vendor: look only for this vendor's GPUs.
        gpu: index of the GPU to use; None takes the best one.
    """

    model_path: str = Field(min_length=1)
    server_type: Literal["llm", "embedding", "rerank"] | None = None
    host: str = Field(default="0.0.0.0", pattern=HOST)
    port: int = Field(default=8080, ge=1, le=65535)
    n_ctx: int = Field(default=8192, ge=0, le=1 << 26)
    n_batch: int = Field(default=2048, ge=1, le=1 << 20)
    n_ubatch: int = Field(default=2048, ge=1, le=1 << 20)
    n_gpu_layers: int = Field(default=-1, ge=-1, le=100_000)
    flash_attn: Literal["off", "on", "auto"] = "off"
    fit_memory: bool = False
    mlock: bool = True
    cont_batching: bool = True
    jinja: bool = True
    pooling: Literal["none", "mean", "cls", "last", "rank"] | None = None
    reasoning_format: Literal["none", "deepseek", "deepseek-legacy", "auto"] = "deepseek"
    threads: Annotated[int, Field(ge=1, le=4096)] | None = None
    parallel: Annotated[int, Field(ge=1, le=1024)] | None = None
    mmproj: Text | None = None
    alias: Text | None = None
    api_key_file: Text | None = None
    extra_args: tuple[str, ...] = ()
    backend: BackendName = "auto"
    require_gpu: bool = False
    vendor: Literal["amd", "nvidia"] | None = None
    gpu: Annotated[int, Field(ge=0)] | None = None

    @property
    def offloads(self) -> bool:
        """Whether layers shall be on a GPU: then the backend is asked to tell which are, and has to."""
        return self.n_gpu_layers != 0

    @field_validator("alias", "mmproj", "api_key_file")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        return value or None


class RunOptions(_Frozen):
    """How the supervisor behaves.

    Attributes:
        log_format: `text` or `json`.
        load_stall: seconds without progress (log, bytes read, memory) until loading counts as hung.
        serve_stall: seconds without a finished batch until serving counts as hung.
        probe_timeout: seconds without an answer to `/health` until the backend counts as hung.
        drain: seconds a stop waits for answers under way.
        selftest: check a backend's arithmetic before it first serves on a GPU, driver and image.
        remember: keep which backends failed, and start with what worked.
    """

    log_format: Literal["text", "json"] = "text"
    load_stall: float = Field(default=180.0, gt=0)
    serve_stall: float = Field(default=300.0, gt=0)
    probe_timeout: float = Field(default=30.0, gt=0)
    drain: float = Field(default=8.0, ge=0)
    selftest: bool = True
    remember: bool = True


def build(values: dict[str, Any], origins: dict[str, str]) -> tuple[ModelLoadRequest, RunOptions]:
    """Validate merged values.

    Args:
        values: field name to value, from every source; only what was given.
        origins: field name to where its value came from, as in "AMDSERVE_PORT".

    Raises:
        UsageError: a value is wrong; the text names the field, its source, the value and what is allowed.
    """
    run_names = RunOptions.model_fields.keys()
    try:
        options = RunOptions(**{name: value for name, value in values.items() if name in run_names})
        request = ModelLoadRequest(**{name: value for name, value in values.items() if name not in run_names})
    except ValidationError as wrong:
        raise explain(wrong, origins) from None
    return request, options


def explain(wrong: ValidationError, origins: dict[str, str]) -> UsageError:
    """Turn pydantic's first complaint into one that names field, source, value and what is allowed."""
    first = wrong.errors(include_url=False)[0]
    name = str(first["loc"][0]) if first["loc"] else "?"
    if first["type"] == "missing":
        return UsageError(
            f"{name} is missing: no model was named",
            fix="name one: `amdserve serve /models/FILE.gguf`, or set AMDSERVE_MODEL_PATH",
        )
    source = origins.get(name, name)
    option = BY_NAME.get(name)
    allowed = " or ".join(option.choices) if option and option.choices else _bounds(first)
    return UsageError(
        f"{source}: {name} cannot be {first.get('input')!r}",
        cause=f"allowed: {allowed}",
        fix=f"amdserve serve --help names {option.flag if option else name}",
    )


def _bounds(complaint: Any) -> str:
    if complaint["type"] == "string_pattern_mismatch":
        return "an IP address or a host name"
    return str(complaint["msg"]).removeprefix("Input should be ")
