"""A result as a JSON document, schema 1: what was measured, where, and what follows from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from amdserve.errors import UsageError
from amdserve.serve.bench.grid import FlashAttention, Grid, Kind, Test

JSON_FILE, PAGE_FILE = "result.json", "report.html"
# A standard deviation above this share of the mean: something else was running.
NOISY = 0.2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Model(_Frozen):
    """The model; `fingerprint` is the same for the same bytes on any machine."""

    name: str
    fingerprint: str
    architecture: str | None = None
    quant: str | None = None
    purpose: str = "llm"
    bytes: int = 0


class Image(_Frozen):
    """The image: content hash of what it was built from, and the digest where whoever started it said so."""

    name: str = ""
    hash: str = ""
    digest: str = ""
    llama: str = ""
    amdserve: str = ""


class Machine(_Frozen):
    """Where it was measured.

    Attributes:
        gpu, gfx: the GPU, or None.
        kernel_driver: name and version of the kernel's driver for it.
        vulkan: the Vulkan driver in its own words.
        rocm: version of the ROCm in the image.
        kernel: release of Linux.
        cpu: the processor's name.
        cpus: logical processors that may be used.
        memory_bytes: memory that may be used.
        clocks: what sysfs says of the GPU's clocks, see `facts.clocks`.
    """

    gpu: str | None = None
    gfx: str | None = None
    kernel_driver: str | None = None
    vulkan: str | None = None
    rocm: str | None = None
    kernel: str = ""
    cpu: str = ""
    cpus: int = 0
    memory_bytes: int = 0
    clocks: dict[str, Any] = Field(default_factory=dict)


class Measurement(_Frozen):
    """One test's answer: tokens per second, mean and standard deviation over the repetitions."""

    backend: str
    kind: Kind
    tokens: int
    depth: int
    flash_attn: FlashAttention
    n_ubatch: int | None = None
    rate: float
    stddev: float = 0.0
    samples: tuple[float, ...] = ()

    @property
    def test(self) -> Test:
        """What was asked."""
        return Test(self.kind, self.tokens, self.depth, self.flash_attn, self.n_ubatch)


class Trouble(_Frozen):
    """A failure: its class and detail, the last words, and the tests that have no answer for it."""

    backend: str
    cls: str = Field(validation_alias=AliasChoices("class", "cls"), serialization_alias="class")
    detail: str
    exit: int | None = None
    seconds: float = 0.0
    words: tuple[str, ...] = ()
    tests: tuple[str, ...] = ()


class Left(_Frozen):
    """Tests that were not run, and why."""

    backend: str
    reason: str
    tests: tuple[str, ...]


class Backend(_Frozen):
    """One backend that could be measured: on which device, how long, with what end."""

    backend: str
    device: str
    state: Literal["measured", "failed", "left"]
    seconds: float = 0.0


class Choice(_Frozen):
    """The settings chosen for a backend, and the seconds of a typical request with them."""

    backend: str
    flash_attn: FlashAttention
    n_ubatch: int
    prompt: int
    generate: int | None
    depth: int
    prefill: float
    generation: float | None
    seconds: float


class Result(_Frozen):
    """All of it. `order` names the backends that work, the fastest first."""

    version: Literal[1] = Field(
        default=1, validation_alias=AliasChoices("schema", "version"), serialization_alias="schema"
    )
    date: str
    seconds: float
    model: Model
    image: Image
    machine: Machine
    grid: Grid
    backends: tuple[Backend, ...]
    skipped: dict[str, str] = Field(default_factory=dict)
    points: tuple[Measurement, ...] = ()
    failures: tuple[Trouble, ...] = ()
    left: tuple[Left, ...] = ()
    order: tuple[str, ...] = ()
    chosen: tuple[Choice, ...] = ()
    interrupted: bool = False
    saved: bool = False

    @property
    def noisy(self) -> int:
        """How many measurements spread so widely that little can be concluded from them."""
        return sum(one.stddev > NOISY * one.rate for one in self.points)

    def choice(self, backend: str) -> Choice | None:
        """Give what was chosen for a backend."""
        return next((one for one in self.chosen if one.backend == backend), None)

    def to_json(self) -> str:
        """Give the document."""
        return self.model_dump_json(by_alias=True, indent=2)


def load(path: Path) -> Result:
    """Read a result, or the one in a folder.

    Raises:
        UsageError: there is none, or it is of another form.
    """
    file = path / JSON_FILE if path.is_dir() else path
    try:
        return Result.model_validate_json(file.read_bytes())
    except OSError as reason:
        raise UsageError(
            f"{file} cannot be read",
            cause=str(reason.strerror),
            fix="name a result.json of `amdserve bench --out`",
        ) from None
    except ValidationError as wrong:
        first = wrong.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "the whole file"
        raise UsageError(
            f"{file} is no result of a bench",
            cause=f"{where}: {first['msg']}",
            fix="measure again: amdserve bench MODEL --out FOLDER",
        ) from None
