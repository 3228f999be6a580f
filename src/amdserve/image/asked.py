"""What a person asks to be built: the options that several tasks share, named once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from amdserve.image.models import Request
    from amdserve.image.project import Project

Body = Callable[..., None]


@dataclass(frozen=True)
class Asked:
    """What is to be built, as it was typed: the options that all tasks about building share."""

    image: str = ""
    gfx: str = ""
    each: bool = False
    provider: str = ""
    llama_source: str = ""
    base: str = "auto"
    repository: str = "amdserve"
    vllm_version: str = ""
    vllm_variant: str = ""
    vllm_index: str = ""
    vllm_python: str = ""
    vllm_requirement: str = ""
    vllm_source: str = ""

    def project(self, root: Path) -> Project:
        """Give a checkout with the sources asked for."""
        from amdserve.image.project import Project  # noqa: PLC0415 - `--list` does without
        from amdserve.image.vllm import Settings  # noqa: PLC0415

        vllm = (value for name, value in vars(self).items() if name.startswith("vllm_"))
        return Project(root, self.llama_source or None, Settings(*vllm))

    def request(self, jobs: int = 0) -> Request:
        """Give the request."""
        from amdserve.image.models import Request  # noqa: PLC0415

        return Request(
            images=(self.image,) if self.image else (),
            gfx=(self.gfx,) if self.gfx else (),
            each=self.each,
            provider=self.provider or None,
            base=self.base,  # type: ignore[arg-type]  # planning refuses another
            repository=self.repository,
            jobs=jobs,
        )


def asks(image: str = "") -> Callable[[Body], Body]:
    """Put the options of `Asked` before a task's own; `image` is what is meant where none is named."""

    def decorate(body: Body) -> Body:
        names = [field.name for field in fields(Asked)]

        @functools.wraps(body)
        def asking_body(context: Any, **options: Any) -> None:
            options = {"image": image, **options}
            asked = Asked(**{name: options.pop(name) for name in names if name in options})
            body(context, asked, **options)

        first, _, *own = inspect.signature(body).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        shared = [inspect.Parameter(field.name, keyword, default=field.default) for field in fields(Asked)]
        shared[0] = shared[0].replace(default=image)
        vars(asking_body)["__signature__"] = inspect.Signature([first, *shared, *own])
        return asking_body

    return decorate
