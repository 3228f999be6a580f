"""What the modules of this room hand to each other: a request, the source of llama.cpp, a cell, a plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

BaseMode = Literal["auto", "pull", "bootstrap"]
BASE_MODES: tuple[BaseMode, ...] = ("auto", "pull", "bootstrap")
REPOSITORY = "amdserve"


@dataclass(frozen=True, slots=True)
class LlamaSource:
    """Where llama.cpp and its Python binding come from, and what tells this state of them from another.

    `binding_dir` is the tree of llama-cpp-python, `llama_dir` that of llama.cpp; `version` is the binding's.
    `commit` is llama.cpp's, as short as it was given; `digest` is `sha256:…` over the content. `origin` is
    what a reader is told: `sdist`, or the URL and ref. `pinned` is set where the binding, or all of it, comes
    from the pinned source distribution, which may still have to be fetched.
    """

    kind: Literal["sdist", "git", "folder"]
    binding_dir: Path
    llama_dir: Path
    version: str
    commit: str
    digest: str
    origin: str
    pinned: bool = True


@dataclass(frozen=True, slots=True)
class Request:
    """What somebody asks to be built.

    `images` and `gfx` are names as typed; `each` makes one image per gfx where otherwise one image
    holds the code for all of them. `repository` is the part of a reference before the colon.
    `jobs` is the number of compilers at a time (0: as many as fit); it changes no result. `lenient` leaves
    out, with a note, a gfx that an image cannot be built for, where otherwise it is refused.
    """

    images: tuple[str, ...] = ()
    gfx: tuple[str, ...] = ()
    each: bool = False
    provider: str | None = None
    base: BaseMode = "auto"
    repository: str = REPOSITORY
    jobs: int = 0
    lenient: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One image to build: one square of image × gfx × ROCm provider.

    `tags` are full references, the moving one first, the one that never moves last. `aliases` are all that
    move once it is published. `inputs` maps the name of everything the image is made from to its sha256,
    `hash` is the sum of them.
    """

    id: str
    image: str
    gfx: tuple[str, ...]
    backends: tuple[str, ...]
    provider: str | None
    tags: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    hash: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()

    @property
    def tag(self) -> str:
        """The reference that moves on with every build."""
        return self.tags[0]

    @property
    def immutable(self) -> str:
        """The reference that never names anything else."""
        return self.tags[-1]

    def to_dict(self) -> dict[str, object]:
        """Give the cell as in the contract of `invoke plan --json`."""
        return {
            "id": self.id,
            "image": self.image,
            "gfx": list(self.gfx),
            "backends": list(self.backends),
            "provider": self.provider,
            "tags": list(self.tags),
            "aliases": list(self.aliases),
            "labels": dict(self.labels),
            "hash": self.hash,
        }


@dataclass(frozen=True, slots=True)
class Plan:
    """The cells that a request comes to, and what its reader should know (a gfx that was left out)."""

    cells: tuple[Cell, ...]
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """Give the plan as in the contract of `invoke plan --json`."""
        return {"cells": [cell.to_dict() for cell in self.cells], "notes": list(self.notes)}
