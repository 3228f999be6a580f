"""`invoke bench`: the line, what it makes of a container's words and files, and the tables."""

from __future__ import annotations

import io
import json
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from amdserve.errors import BackendsFailedError, ModelError, UsageError
from amdserve.image.bench import command, launch, run, tables
from amdserve.image.bench.launch import OUT
from amdserve.image.local import Images
from bench.bed import MACHINES, SMALL, VULKAN, Bed

IMAGE = {
    "Id": "sha256:feed",
    "RepoTags": ["amdserve:llama-gfx1151"],
    "Labels": {
        "io.amdserve.image": "llama", "io.amdserve.gfx": "gfx1151", "io.amdserve.cell": "llama-gfx1151",
        "io.amdserve.backends": "llama-server-vulkan,llama-server-rocm,llama-cpp-python",
    },
    "Size": 5,
}  # fmt: skip


class PretendedContainer:
    """A container that has said and left something, and ends."""

    def __init__(self, said: bytes, code: int, files: dict[str, bytes] | None) -> None:
        self.said, self.code, self.files = said, code, files
        self.removed = False

    def start(self) -> None:
        pass

    def logs(self, **_: Any) -> Iterator[bytes]:
        # As the engine does, without regard for lines.
        return iter([self.said[at : at + 7] for at in range(0, len(self.said), 7)])

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.code}

    def get_archive(self, path: str) -> tuple[list[bytes], None]:
        from docker.errors import NotFound

        if self.files is None:
            raise NotFound(path)
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, content in self.files.items():
                member = tarfile.TarInfo(f"amdserve-bench/{name}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return [buffer.getvalue()], None

    def remove(self, force: bool) -> None:
        self.removed = force


class PretendedEngine:
    """As much of an engine and of the Docker SDK as is asked."""

    def __init__(self, container: PretendedContainer | None = None) -> None:
        self.api = self.containers = self
        self.container = container
        self.asked: dict[str, Any] = {}

    def client(self, timeout: float = 0) -> PretendedEngine:
        assert timeout >= 0
        return self

    def images(self, filters: dict[str, list[str]]) -> list[dict[str, Any]]:
        assert filters
        return [IMAGE]

    def inspect_image(self, reference: str) -> dict[str, Any]:
        assert reference in IMAGE["RepoTags"]  # type: ignore[operator]
        return {**IMAGE, "Config": {"Labels": IMAGE["Labels"]}}

    def create(self, **asked: Any) -> PretendedContainer | None:
        self.asked = asked
        return self.container


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch, bed: Bed) -> launch.Launch:
    monkeypatch.setenv("AMDSERVE_SYSROOT", str(MACHINES / "strix-halo"))
    monkeypatch.setenv("GGML_VK_VISIBLE_DEVICES", "0")
    engine: Any = PretendedEngine()
    more = {"prompts": "64,256", "generate": "", "save": "yes"}
    return launch.prepare(Images(engine), ("llama",), str(bed.model), image="llama", gfx=(), more=more)


def test_the_line_measures_with_this_hosts_devices(made: launch.Launch) -> None:
    line = shlex.join(made.argv())
    assert line.startswith("docker run --rm --device /dev/kfd --device /dev/dri ")
    assert "--publish" not in line
    assert "--env GGML_VK_VISIBLE_DEVICES=0 amdserve:llama-gfx1151 bench /models/model.gguf" in line
    assert line.endswith(f"--out {OUT} --image-digest sha256:feed --prompts 64,256 --save")


def test_the_engine_is_asked_for_the_same(made: launch.Launch) -> None:
    asked = made.arguments()
    assert asked["command"][:2] == ["bench", "/models/model.gguf"]
    assert asked["environment"] == {"GGML_VK_VISIBLE_DEVICES": "0"}
    assert "ports" not in asked
    assert any(bind["bind"] == "/var/lib/amdserve" for bind in asked["volumes"].values())


def test_the_files_come_to_this_host_and_the_container_goes(
    made: launch.Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    container = PretendedContainer(
        b"[1/2] one\n[2/2] two \xc2\xb1\n", 0, {"result.json": b"{}", "report.html": b"<p>"}
    )
    engine: Any = PretendedEngine(container)
    assert run.run(made, engine, tmp_path / "out") == 0
    assert (tmp_path / "out/result.json").read_bytes() == b"{}"
    assert (tmp_path / "out/report.html").read_bytes() == b"<p>"
    assert container.removed
    assert capsys.readouterr().err.splitlines()[1:] == ["[1/2] one", "[2/2] two ±"]


def test_a_bench_without_a_result_is_its_own_error(made: launch.Launch, tmp_path: Path) -> None:
    said = b"something\namdserve: error: /models/m is truncated\n  likely cause: a\n  next: fetch it again\n"
    container = PretendedContainer(said, 3, None)
    engine: Any = PretendedEngine(container)
    with pytest.raises(ModelError, match="truncated") as raised:
        run.run(made, engine, tmp_path / "out")
    assert (raised.value.cause, raised.value.fix) == ("a", "fetch it again")
    assert container.removed
    assert not (tmp_path / "out").exists()


def test_an_end_without_words_is_an_error_too() -> None:
    assert isinstance(run.failure(137, ["Killed"]), BackendsFailedError)


def test_dry_only_prints(made: launch.Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine: Any = PretendedEngine()
    assert run.run(made, engine, tmp_path / "out", dry=True) is None
    assert capsys.readouterr().err.startswith("docker run")
    assert engine.asked == {}


@pytest.mark.parametrize("model", ["", "/nothing/here.gguf"])
def test_a_model_that_is_not_there_is_refused_first(model: str) -> None:
    with pytest.raises(UsageError):
        launch.check(model)


@pytest.fixture
def measured(bed: Bed) -> Path:
    folder = bed.folder / "out"
    bed.stub(VULKAN, faults=[{"when": {"depth": 128}, "how": "signal:SIGSEGV"}])
    assert bed.amdserve("bench", str(bed.model), *SMALL, "--out", str(folder)).returncode == 0
    return folder


def shown(draw: Any, found: dict[str, Any]) -> str:
    console = Console(file=io.StringIO(), width=tables.WIDE, highlight=False, markup=False)
    draw(found, console)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_the_table_shows_every_measurement_and_every_failure(measured: Path) -> None:
    found = json.loads((measured / "result.json").read_text("utf-8"))
    text = shown(tables.result, found)
    rows = [line.split() for line in text.splitlines() if " prefill " in line or " generation " in line]
    assert len([row for row in rows if row[0].startswith("llama")]) == len(found["points"])
    assert "llama-server-vulkan failed: crash" in text
    assert "a typical request" in text


def test_result_files_are_written_where_they_are_named(
    measured: Path, made: launch.Launch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {file.name: file.read_bytes() for file in measured.iterdir()}
    engine: Any = PretendedEngine(PretendedContainer(b"", 0, files))
    assert command.measure(made, engine, tmp_path, "", as_json=True) == 0
    (folder,) = (tmp_path / "build/bench").iterdir()
    assert folder.name.startswith("model-gfx1151-2")
    assert {file.name for file in folder.iterdir()} == {"result.json", "report.html", "plot.png"}
    out, err = capsys.readouterr()
    assert json.loads(out) == json.loads(files["result.json"])
    assert f"build/bench/{folder.name}/report.html" in err


def test_two_results_are_compared(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.compare(f"{measured},{measured}/result.json", as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {one["ratio"] for one in found["points"]} == {1.0}
    assert "same GPU, drivers, kernel and image" in shown(tables.comparison, found)


@pytest.mark.parametrize("names", ["a", "a,b,c", ","])
def test_comparing_takes_two(names: str) -> None:
    with pytest.raises(UsageError, match="does not name two results"):
        command.compare(names, as_json=True)


def test_what_cannot_be_compared_is_the_commands_own_error(measured: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read") as raised:
        command.compare(f"{measured},/nothing", as_json=False)
    assert "/nothing" in raised.value.what
