"""A checkout of this project as an object: its data and templates read once, for every task that plans."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from amdserve.image import plan, render, show, source, vllm
from amdserve.image.catalog import Catalog, Sources, load_catalog, load_sources
from amdserve.image.inputs import context_files
from amdserve.image.models import LlamaSource, Plan, Request


@dataclass(frozen=True)
class Project:
    """The checkout at `root`; `llama_source` names the llama.cpp to build from, None the pinned one.

    `settings` is what a site sets for vLLM over the pins.
    """

    root: Path
    llama_source: str | None = None
    settings: vllm.Settings = vllm.PINNED

    @cached_property
    def catalog(self) -> Catalog:
        """The images."""
        return load_catalog(self.root)

    @cached_property
    def sources(self) -> Sources:
        """The pins."""
        found = load_sources(self.root)
        if found.vllm is None:
            return found
        return found.model_copy(update={"vllm": vllm.settle(found.vllm, self.settings)})

    @cached_property
    def renderer(self) -> render.Renderer:
        """The templates."""
        return render.Renderer.load(self.root)

    @cached_property
    def llama(self) -> LlamaSource:
        """The source of llama.cpp; a git URL is fetched to know it, the pinned one is not."""
        return source.locate(self.llama_source, self.sources, self.root)

    @cached_property
    def files(self) -> dict[str, bytes]:
        """The build context: what of this tree a build sees."""
        return context_files(self.root)

    def complete(self, request: Request) -> Request:
        """Fill in what a build needs and nobody said: this host's GPU, and how many compilers fit.

        Raises:
            UsageError: the request names an unknown image or provider.
            NoGPUError: an image for particular GPUs is wanted, none is named, and none is here.
        """
        from amdserve.image import host  # noqa: PLC0415 - detection is not needed by most

        images = plan.check_images(request.images, self.catalog)
        provider = plan.check_provider(request.provider, self.sources)
        gfx = request.gfx
        if not gfx and any(self.catalog.images[name].targeted for name in images):
            gfx = host.gfx_here(host.detect(), provider)
            show.say(f"found on this host: {', '.join(gfx)}")
        return replace(request, gfx=gfx, jobs=request.jobs or host.default_jobs())

    def matrix(self, request: Request) -> Request:
        """Fill in every gfx target, an image each, where a request names none.

        Raises:
            UsageError: the request names an unknown provider.
        """
        if request.gfx:
            return request
        provider = plan.check_provider(request.provider, self.sources)
        return replace(request, gfx=plan.every_gfx(provider), each=True, lenient=True)

    def plan(self, request: Request) -> Plan:
        """Plan a request; see `amdserve.image.plan.make` for its errors."""
        material = plan.Material(self.catalog, self.sources, self.renderer, self.llama, self.files)
        return plan.make(request, material)

    def render(self, cells: Plan, jobs: int) -> tuple[Path, ...]:
        """Write the Dockerfiles, contexts and bake file of a plan; give their paths."""
        return render.write(
            cells.cells, self.renderer, self.sources, self.llama, self.files, jobs=jobs, root=self.root
        )
