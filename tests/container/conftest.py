"""A real engine, the images that the toolkit built in it, and containers that are gone after the test."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from docker.errors import ImageNotFound
from fixtures import models

from amdserve.image import build as building
from amdserve.image import engine as engines
from amdserve.image import show
from amdserve.image.engine import Engine
from amdserve.image.models import Cell, Request
from amdserve.image.project import Project

from .gpus import LAVAPIPE_STAGE, LAYER, Broken, Lavapipe
from .images import Layer, exported, layered
from .server import Serve, Server

ROOT = Path(__file__).resolve().parents[2]
GFX = os.environ.get("AMDSERVE_TEST_GFX", "gfx1151")

# What no production image has: an AMD GPU that is simulated below the real driver.
SHIM = """
RUN apt-get update && apt-get install -y --no-install-recommends mesa-drm-shim
"""


def pytest_configure() -> None:
    """Let whoever ends this run (a time limit) still have the containers taken away."""

    def end(number: int, _: object) -> NoReturn:
        pytest.exit(f"ended by signal {number}", returncode=128 + number)

    signal.signal(signal.SIGTERM, end)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "container" in item.path.parts:
            item.add_marker(pytest.mark.container)


@pytest.fixture(scope="session")
def engine() -> Engine:
    return engines.ensure(say=show.say)


@pytest.fixture(scope="session")
def client(engine: Engine) -> Any:
    return engine.client(timeout=600)


@pytest.fixture(scope="session")
def project() -> Project:
    return Project(ROOT)


@pytest.fixture(scope="session")
def cells(project: Project) -> dict[str, Cell]:
    """The images that can be built here, through the toolkit unless the engine has exactly them."""
    request = project.complete(Request(images=("vulkan", "llama"), gfx=(GFX,)))
    outcomes = building.build(project, request, building.Options())
    return {outcome.cell.image: outcome.cell for outcome in outcomes}


@pytest.fixture(scope="session")
def llama(cells: dict[str, Cell]) -> str:
    """The reference of the image with Vulkan, ROCm and the CPU."""
    return cells["llama"].immutable


@pytest.fixture(scope="session")
def vulkan(cells: dict[str, Cell]) -> str:
    """The reference of the image for any GPU."""
    return cells["vulkan"].immutable


@pytest.fixture(scope="session")
def layer(engine: Engine, client: Any) -> Iterator[Layer]:
    """Build images on other images; their tags are gone afterwards, the build cache is not."""
    made: list[str] = []

    def build(base: str, text: str, context: Path | None = None) -> str:
        made.append(layered(engine, base, text, context))
        return made[-1]

    yield build
    for tag in made:
        # Another run of the same tests, in another checkout, may have taken it away.
        with contextlib.suppress(ImageNotFound):
            client.images.remove(tag, force=True)


@pytest.fixture(scope="session")
def shimmed(layer: Layer, llama: str) -> str:
    """The product with the shim installed, and nothing else changed."""
    return layer(llama, SHIM)


@pytest.fixture(scope="session")
def faulty(layer: Layer, llama: str) -> str:
    """The product with a simulated AMD GPU that fails on command."""
    return layer(llama, LAYER, Path(__file__).with_name("fault"))


@pytest.fixture
def broken_gpu(tmp_path: Path) -> Broken:
    """The simulated GPU of one test."""
    return Broken(tmp_path)


@pytest.fixture(scope="session")
def lavapipe(tmp_path_factory: pytest.TempPathFactory, engine: Engine, vulkan: str) -> Lavapipe:
    """A Vulkan device that computes; what it has compiled is kept from run to run, whatever the checkout."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "amdserve-test" / "shaders"
    cache.mkdir(parents=True, exist_ok=True)
    cache.chmod(0o1777)
    driver = tmp_path_factory.mktemp("lavapipe")
    exported(engine, vulkan, LAVAPIPE_STAGE, driver)
    driver.chmod(0o755)
    return Lavapipe(driver, cache)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad model files, readable by any user of a container."""
    folder = tmp_path_factory.mktemp("models")
    models.write_llama(folder / "llama.gguf")
    models.write_bert(folder / "bert.gguf")
    models.write_f64(folder / "f64.gguf")
    models.write_truncated(folder / "truncated.gguf")
    models.write_empty(folder / "empty.gguf")
    models.write_wrong_magic(folder / "page.gguf")
    models.write_unknown_architecture(folder / "abacus.gguf")
    models.write_future_version(folder / "future.gguf")
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.chmod(0o644)
    return folder


@pytest.fixture
def serve(client: Any, model_folder: Path) -> Iterator[Serve]:
    """Start containers that serve; what they said is shown if the test fails, and none outlives it."""
    started: list[Server] = []

    def start(image: str, *command: str, **options: Any) -> Server:
        server = Server.start(client, image, command, model_folder, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        print(f"--- {server.name}\n{server.logs()}")
        server.remove()


@pytest.fixture(scope="module")
def serve_module(client: Any, model_folder: Path) -> Iterator[Serve]:
    """Like `serve`, for containers that several tests ask."""
    started: list[Server] = []

    def start(image: str, *command: str, **options: Any) -> Server:
        server = Server.start(client, image, command, model_folder, **options)
        started.append(server)
        return server

    yield start
    for server in started:
        server.remove()


@pytest.fixture(scope="session")
def run(client: Any, model_folder: Path) -> Callable[..., tuple[int, str]]:
    """Run a container to its end; give its exit code and all that it said.

    What it said on stderr comes first: its log has the lines of both streams in the order in which the engine
    happened to read them, and a document on stdout would have the words of the other between its lines.
    """

    def run_to_end(image: str, *command: str, **options: Any) -> tuple[int, str]:
        server = Server.start(client, image, command, model_folder, **options)
        try:
            return server.end(), server.logs(stdout=False) + server.logs(stderr=False)
        finally:
            server.remove()

    return run_to_end
