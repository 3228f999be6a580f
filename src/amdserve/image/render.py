"""A cell as files: its Dockerfile, what its build may see, and the bake file for `docker buildx bake`.

The same cell gives the same bytes on every machine: no time, no absolute path, no host name. What differs per
machine (the base image at hand, the certificate bundle) is given to `buildx bake` as `--set` when it runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jinja2

from amdserve import __version__
from amdserve.errors import ConfigError
from amdserve.image import vllm_context
from amdserve.image.catalog import Sources
from amdserve.image.inputs import write_context
from amdserve.image.models import Cell, LlamaSource

TEMPLATES = "templates"
DOCKERFILE = "Dockerfile.j2"
BAKE_FILE = "build/docker-bake.json"
# What an image without ROCm starts from; with ROCm its provider says.
DEFAULT_BASE = "debian"
BANNER = """\
# Rendered from templates/ and images/ by `invoke render`: change those, not this file.
# {title}"""

# Which templates the rendering that is under way has loaded, includes and imports too.
_used: ContextVar[set[str] | None] = ContextVar("_used", default=None)


class Environment(jinja2.Environment):
    """Jinja2 as used here: an undefined name is an error, and every template that goes in is noted."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        super().__init__(
            loader=jinja2.FunctionLoader(lambda name: _load(templates, name)),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
            auto_reload=False,
        )
        self.filters["json"] = to_json

    def get_template(
        self,
        name: Any,
        parent: str | None = None,
        globals: Any = None,  # noqa: A002 (jinja2's own name)
    ) -> jinja2.Template:
        """Note the name of the template, then give it as jinja2 does."""
        used = _used.get()
        if used is not None and isinstance(name, str):
            used.add(name)
        return super().get_template(name, parent, globals)


def to_json(value: object, *, indent: int | None = 2) -> str:
    """Give a value as JSON, the same bytes each time."""
    return json.dumps(value, indent=indent, ensure_ascii=False)


class Renderer:
    """The templates, read once; compiled when first used."""

    def __init__(self, templates: Mapping[str, str]) -> None:
        self.templates = dict(templates)
        self._environment = Environment(self.templates)

    @classmethod
    def load(cls, root: Path) -> Renderer:
        """Read every template under `root/templates`."""
        folder = root / TEMPLATES
        return cls({str(f.relative_to(folder)): f.read_text("utf-8") for f in sorted(folder.rglob("*.j2"))})

    def dockerfile(
        self, cell: Cell, sources: Sources, llama: LlamaSource, *, jobs: int, used: set[str] | None = None
    ) -> str:
        """Render the Dockerfile of a cell.

        Args:
            cell: what to build.
            sources: the pins.
            llama: the source of llama.cpp.
            jobs: compilers at a time.
            used: the names of the templates that went in are added here.

        Raises:
            ConfigError: a template is missing, is no Jinja2, or uses a name that nobody defines.
        """
        noted = _used.set(set() if used is None else used)
        try:
            return self._environment.get_template(DOCKERFILE).render(context(cell, sources, llama, jobs))
        except jinja2.TemplateNotFound as missing:
            raise ConfigError(
                f"{TEMPLATES}/{missing.name} is missing",
                cause=f"{cell.id} needs it",
                fix=f"git checkout -- {TEMPLATES}",
            ) from missing
        except jinja2.TemplateSyntaxError as fault:
            name = f"{TEMPLATES}/{fault.name or DOCKERFILE}"
            raise ConfigError(
                f"{name}, line {fault.lineno}: {fault.message}", fix=f"$EDITOR +{fault.lineno} {name}"
            ) from fault
        except jinja2.UndefinedError as fault:
            name, line = _where(fault)
            raise ConfigError(
                f"{name}, line {line}: {fault.message}", fix=f"$EDITOR +{line} {name}"
            ) from fault
        finally:
            _used.reset(noted)


def _load(templates: Mapping[str, str], name: str) -> tuple[str, str, Callable[[], bool]] | None:
    """Give jinja2 a template under its path in the tree, so that tracebacks name it."""
    return (templates[name], f"{TEMPLATES}/{name}", lambda: True) if name in templates else None


def _where(fault: BaseException) -> tuple[str, int]:
    """Find the innermost template of a traceback, which jinja2 has rewritten to the templates' own lines."""
    name, line, trace = f"{TEMPLATES}/{DOCKERFILE}", 1, fault.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith(f"{TEMPLATES}/"):
            name, line = trace.tb_frame.f_code.co_filename, trace.tb_lineno
        trace = trace.tb_next
    return name, line


def context(cell: Cell, sources: Sources, llama: LlamaSource, jobs: int) -> dict[str, Any]:
    """Give the names that a template may use."""
    provider = sources.rocm.providers[cell.provider] if cell.provider else None
    distribution = base_name(cell, sources)
    base = sources.base[distribution]
    rocm = None
    if provider:
        packages = {key: expand(getattr(provider, key), cell.gfx) for key in ("build", "run")}
        rocm = {**provider.model_dump(), "name": cell.provider, **packages}
    return {
        "cell": cell,
        "sources": sources,
        "base": {**base.model_dump(), "name": distribution, "reference": base.reference},
        "rocm": rocm,
        "vllm": vllm_context.template(cell.backends, cell.gfx, sources.vllm),
        "llama": llama,
        "jobs": jobs,
        "version": __version__,
        "icd": base.icd,
        "image_json": to_json(image_json(cell, sources, llama)),
        "banner": BANNER.format(title=f"amdserve {__version__}: {cell.id}"),
    }


def base_name(cell: Cell, sources: Sources) -> str:
    """Give the name in the pins of the distribution that a cell starts from."""
    return sources.rocm.providers[cell.provider].base if cell.provider else DEFAULT_BASE


def expand(packages: Iterable[str], gfx: Iterable[str]) -> list[str]:
    """Repeat each package whose name holds `{gfx}` for every target."""
    targets = tuple(gfx)
    return [
        name.replace("{gfx}", target)
        for name in packages
        for target in (targets if "{gfx}" in name else ("",))
    ]


def image_json(cell: Cell, sources: Sources, llama: LlamaSource) -> dict[str, object]:
    """Give what the image says of itself in `/etc/amdserve/image.json`."""
    provider = sources.rocm.providers[cell.provider] if cell.provider else None
    base = sources.base[base_name(cell, sources)]
    commands = {
        "llama-server-vulkan": (["/usr/local/bin/llama-server-vulkan"], "/opt/llama/vulkan"),
        "llama-server-rocm": (["/usr/local/bin/llama-server-rocm"], "/opt/llama/rocm"),
        "llama-cpp-python": (
            ["/opt/amdserve/bin/python", "-m", "amdserve.serve.cpu_server"],
            "/opt/llama/cpu",
        ),
        "vllm": vllm_context.COMMAND,
    }
    vllm = vllm_context.described(cell.backends, cell.gfx, sources.vllm, provider)
    return {
        "schema": 1,
        "amdserve": __version__,
        "image": cell.image,
        "cell": cell.id,
        "hash": cell.hash,
        "gfx": list(cell.gfx),
        "rocm": provider
        and {"provider": cell.provider, "version": provider.version, "prefix": provider.prefix},
        "llama": {
            "package": sources.llama.package,
            "version": llama.version,
            "commit": llama.commit,
            "source": llama.origin,
        },
        "vulkan": {"icd": base.icd},
        "backends": {
            name: {
                "argv": commands[name][0],
                "help": f"/etc/amdserve/help/{name}.txt",
                "dir": commands[name][1],
            }
            for name in cell.backends
        },
        **({"vllm": vllm} if vllm else {}),
    }


def bake(
    cells: Iterable[Cell], llama: LlamaSource, root: Path, sources: Sources | None = None
) -> dict[str, object]:
    """Give the bake file: one target per cell. Paths are relative to `root`, where `buildx bake` is run."""
    pin = sources.vllm if sources else None
    targets = {
        cell.id: {
            "context": f"build/{cell.id}/context",
            # As bake takes it: from the context on.
            "dockerfile": "../Dockerfile",
            "contexts": {
                "llama-cpp-python": _relative(llama.binding_dir, root),
                "llama-cpp": _relative(llama.llama_dir, root),
                **vllm_context.contexts(cell.backends, pin),
            },
            "tags": list(cell.tags),
            "labels": {key: _literal(value) for key, value in cell.labels.items()},
            "output": ["type=docker"],
        }
        for cell in cells
    }
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _relative(path: Path, root: Path) -> str:
    return str(path.relative_to(root)) if path.is_relative_to(root) else str(path)


def _literal(text: str) -> str:
    """Escape what `buildx bake` would take for an expression in a JSON string."""
    return text.replace("${", "$${").replace("%{", "%%{")


def write(
    cells: Iterable[Cell],
    renderer: Renderer,
    sources: Sources,
    llama: LlamaSource,
    files: Mapping[str, bytes],
    *,
    jobs: int,
    root: Path,
) -> tuple[Path, ...]:
    """Write `build/<cell>/Dockerfile`, `build/<cell>/context` and `build/docker-bake.json`; give their paths.

    Args:
        cells: what to build.
        renderer: the templates.
        sources: the pins.
        llama: the source of llama.cpp.
        files: the build context: path → content.
        jobs: compilers at a time.
        root: the checkout.
    """
    wanted = tuple(cells)
    written = []
    for cell in wanted:
        dockerfile = root / "build" / cell.id / "Dockerfile"
        dockerfile.parent.mkdir(parents=True, exist_ok=True)
        dockerfile.write_text(renderer.dockerfile(cell, sources, llama, jobs=jobs), encoding="utf-8")
        write_context(files, dockerfile.with_name("context"))
        written += [dockerfile, dockerfile.with_name("context")]
    bake_file = root / BAKE_FILE
    bake_file.write_text(to_json(bake(wanted, llama, root, sources)) + "\n", encoding="utf-8")
    return (*written, bake_file)
