"""A real vLLM, models of our own making, and a record of what held."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Generator, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from amdserve.image import support

from . import hf_model, place
from .server import Server

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "docs/evidence/ran-vllm-cpu.json"
WHAT = "vllm serve behind amdserve serve: chat, streaming, tool calls, embeddings, drain, a dead engine core"

Start = Callable[..., Server]
_held: dict[str, bool] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def environment() -> Path:
    return place.environment()


@pytest.fixture(scope="session")
def image(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return place.image(environment, tmp_path_factory.mktemp("image"))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return hf_model.write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def start(image: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Start servers; what is left of them goes when the module ends."""
    running: list[Server] = []

    def begin(*words: str, of: Path | None = None, more: tuple[str, ...] = (), **environ: str) -> Server:
        folder = tmp_path_factory.mktemp("run")
        running.append(Server(image, folder, of or model, words=words, more=more, environ=environ))
        return running[-1]

    yield begin
    for server in running:
        server.remove()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    name = item.name.removeprefix("test_").replace("_", " ")
    if call.when == "call" or report.failed:
        _held[name] = _held.get(name, True) and not report.failed
    return report


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Record what held, where all of these tests were run, and render the page that shows it."""
    here = Path(__file__).parent
    every = set(here.glob("test_*.py")) == {item.path for item in session.items if item.path.parent == here}
    if not every or session.config.option.keyword or len(_held) < len(session.items):
        return
    entry = {
        "what": WHAT,
        "hardware": f"{_processor()}, no GPU",
        "driver": "–",
        "by": "tests/vllm",
        "date": datetime.now(UTC).date().isoformat(),
        "versions": place.versions(place.environment()),
        "held": dict(_held),
    }
    RECORD.write_text(json.dumps([entry], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    support.write(ROOT)


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{len(names)} × {names[0]}" if names else platform.machine()
