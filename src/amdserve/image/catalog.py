"""What is built, and from what: `images/catalog.yaml` and `images/sources.yaml` as frozen models."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from amdserve.image.document import Document

CATALOG = "images/catalog.yaml"
SOURCES = "images/sources.yaml"

Backend = Literal["llama-server-vulkan", "llama-server-rocm", "llama-cpp-python", "vllm"]
ROCM_BACKENDS = frozenset({"llama-server-rocm", "vllm"})

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.-]*$")]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Names = tuple[Annotated[str, Field(min_length=1)], ...]


class Strict(BaseModel):
    """A model that cannot be changed and refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class Image(Strict):
    """One image: its backends in order of preference, and the limits it must keep.

    `gfx` is `none` where one image serves every GPU, `targets` where it is built for the gfx asked for.
    Sizes are of the uncompressed image in MB (10^6 bytes), `build_disk_gb` in GB (10^9 bytes).
    """

    summary: str
    backends: Annotated[tuple[Backend, ...], Field(min_length=1)]
    gfx: Literal["none", "targets"]
    budget_mb: Annotated[int, Field(gt=0)]
    budget_per_extra_gfx_mb: Annotated[int, Field(ge=0)] = 0
    build_disk_gb: Annotated[int, Field(gt=0)] = 10

    @property
    def targeted(self) -> bool:
        """Whether the image holds code for particular GPUs."""
        return self.gfx == "targets"

    def budget(self, targets: int) -> int:
        """Give the size in MB that an image for this many gfx targets may have."""
        return self.budget_mb + max(0, targets - 1) * self.budget_per_extra_gfx_mb


class Catalog(Strict):
    """`images/catalog.yaml`."""

    version: Annotated[Literal[1], Field(alias="schema")]
    default: str
    images: Annotated[dict[Name, Image], Field(min_length=1)]


class Base(Strict):
    """The distribution an image starts from."""

    suite: Name
    image: str
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")] | None = None
    mirror: str | None = None
    snapshot: Annotated[str, Field(pattern=r"^\d{8}T\d{6}Z$")] | None = None
    icd: Annotated[str, Field(pattern=r"^/.+\.json$")] = "/usr/share/vulkan/icd.d/radeon_icd.json"

    @property
    def reference(self) -> str:
        """Give what FROM names: with its digest where one is pinned."""
        return f"{self.image}@{self.digest}" if self.digest else self.image


class LlamaPin(Strict):
    """The source distribution that holds llama.cpp and the Python binding for it."""

    package: Name
    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)+$")]
    sha256: Sha256
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
    date: str


class Provider(Strict):
    """Where ROCm comes from. `{gfx}` in a package's name is repeated for each target."""

    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)+$")]
    base: str
    prefix: Annotated[str, Field(pattern=r"^/")]
    build: Annotated[Names, Field(min_length=1)]
    run: Annotated[Names, Field(min_length=1)]
    suite: Name | None = None
    llvm: int | None = None
    pins: Names = ()
    repository: str | None = None
    key: str | None = None


class Rocm(Strict):
    """The ROCm providers and which of them is taken where none is named."""

    default: str
    providers: Annotated[dict[Name, Provider], Field(min_length=1)]


class VllmPin(Strict):
    """Which vLLM, from where, and what it is built with where it is built from source.

    `folder` and `listing` are set where an index is a folder of this host: its path, and a digest of what is
    in it.
    """

    version: Annotated[str, Field(pattern=r"^\d+(\.\d+)+$")]
    variant: Annotated[str, Field(pattern=r"^rocm\d+$")]
    python: Annotated[str, Field(pattern=r"^\d+\.\d+$")]
    python_source: str = "uv"
    indexes: Names
    uv: Annotated[str, Field(pattern=r"^\d+(\.\d+)+$")]
    uv_sha256: Sha256
    run: Names
    sha256: Sha256
    rocm: str
    torch: str
    torchvision: str
    source_gfx: tuple[Name, ...] = ()
    source: Literal["wheel", "build"] = "wheel"
    requirement: str = ""
    folder: str | None = None
    listing: str = ""


class Sources(Strict):
    """`images/sources.yaml`."""

    version: Annotated[Literal[1], Field(alias="schema")]
    base: Annotated[dict[Name, Base], Field(min_length=1)]
    llama: LlamaPin
    rocm: Rocm
    vllm: VllmPin | None = None


def load_catalog(root: Path) -> Catalog:
    """Read `images/catalog.yaml` under `root`.

    Raises:
        ConfigError: it is missing, is no YAML, or does not hold; with file, line and key.
    """
    document = Document.read(root, CATALOG)
    catalog = document.validate(Catalog)
    document.known(("default",), catalog.default, catalog.images)
    for name, image in catalog.images.items():
        rocm = ROCM_BACKENDS.intersection(image.backends)
        if rocm and not image.targeted:
            document.refuse(("images", name, "gfx"), f"{min(rocm)} is built for gfx targets: write `targets`")
        if image.targeted and not rocm:
            document.refuse(
                ("images", name, "gfx"), "no backend of it is built for gfx targets: write `none`"
            )
        if len(set(image.backends)) != len(image.backends):
            document.refuse(("images", name, "backends"), "a backend is named twice")
    return catalog


def load_sources(root: Path) -> Sources:
    """Read `images/sources.yaml` under `root`.

    Raises:
        ConfigError: it is missing, is no YAML, or does not hold; with file, line and key.
    """
    document = Document.read(root, SOURCES)
    sources = document.validate(Sources)
    document.known(("rocm", "default"), sources.rocm.default, sources.rocm.providers)
    for name, provider in sources.rocm.providers.items():
        document.known(("rocm", "providers", name, "base"), provider.base, sources.base)
    return sources
