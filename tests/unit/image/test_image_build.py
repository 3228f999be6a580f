"""Building, with a buildx and an engine that only pretend: what is skipped, tagged and cleaned up."""

import base64
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from image_tree import checkout, edit

from amdserve import errors
from amdserve.image import base as basis
from amdserve.image import index, source, verify
from amdserve.image.build import Build, Options
from amdserve.image.engine import Engine
from amdserve.image.local import Images, LocalImage
from amdserve.image.models import Cell, Request
from amdserve.image.progress import Progress
from amdserve.image.project import Project
from amdserve.image.report import Outcome
from amdserve.image.show import Line
from amdserve.image.trouble import explain

# Stands in for buildx: notes its arguments, prints what it is told to, and ends as it is told to.
BUILDX = """\
import json, os, sys
here = os.path.dirname(os.path.abspath(__file__))
with open(os.path.join(here, "calls"), "a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
print(open(os.path.join(here, "says")).read())
sys.exit(int(open(os.path.join(here, "ends")).read()))
"""


class PretendedImages(Images):
    """An engine's images as a mapping; a build puts the candidate there."""

    def __init__(self, root: Path) -> None:
        super().__init__(None)
        self.root = root
        self.has: dict[str, LocalImage] = {}
        self.cache = 0

    def find(self, reference: str) -> LocalImage | None:
        return self.has.get(reference)

    def tag(self, reference: str, tags: tuple[str, ...]) -> None:
        for name in tags:
            self.has[name] = self.has[reference]

    def remove(self, reference: str) -> None:
        self.has.pop(reference, None)

    def data_root(self) -> str:
        return str(self.root)

    def cache_bytes(self) -> int:
        return self.cache


@dataclass
class Bench:
    """A checkout, an engine that pretends, and what happened there."""

    root: Path
    tools: Path
    images: PretendedImages
    verdict: Callable[[str], bool] = lambda _ref: True
    verified: list[str] = field(default_factory=list)
    buildx: str = "0.29.1"

    def says(self, text: str, ends: int = 0) -> None:
        (self.tools / "says").write_text(text)
        (self.tools / "ends").write_text(str(ends))

    @property
    def calls(self) -> list[list[str]]:
        path = self.tools / "calls"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def build(self, request: Request | None = None, **options: Any) -> list[Outcome]:
        request = request or Request(gfx=("gfx1151",), jobs=2)
        buildx = (sys.executable, str(self.tools / "buildx.py"))
        engine = Engine("unix:///nowhere.sock", None, buildx, False, "28.0", self.buildx)
        project = Project(self.root)
        made = Build(project, request, Options(**options), engine, self.images)
        return made.cells(project.plan(request))

    def verify(self, ref: str, *, engine: Engine, expect: Cell, catalog: object) -> SimpleNamespace:
        self.verified.append(ref)
        ok = self.verdict(ref)
        check = SimpleNamespace(name="icd", ok=ok, detail="no such file")
        assert engine
        assert expect.hash
        assert catalog
        return SimpleNamespace(ok=ok, checks=(check,))


def room(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=free))


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "buildx.py").write_text(BUILDX)
    root = checkout(tmp_path / "checkout")
    bench = Bench(root, tools, PretendedImages(tmp_path))
    # Whatever disk these tests run on.
    room(monkeypatch, 100 * 10**9)
    bench.says("")
    monkeypatch.setattr(verify, "verify", bench.verify)
    monkeypatch.setattr(basis, "ensure", lambda *_args, **_options: "amdserve-base:debian-forky")
    monkeypatch.setattr(source, "obtain", lambda *_args: None)
    bake = Build.bake

    def baked(self: Build, cell: Cell, command: list[str]) -> None:
        bake(self, cell, command)
        tag = next(word.partition("=")[2] for word in command if word.startswith(f"{cell.id}.tags="))
        bench.images.has[tag] = LocalImage(f"sha256:{cell.hash[-12:]}", (tag,), cell.labels, 1_500_000_000)

    monkeypatch.setattr(Build, "bake", baked)
    return bench


def event(**content: object) -> str:
    return json.dumps(content) + "\n"


def step(digest: str, name: str, **more: object) -> str:
    return event(vertexes=[{"digest": digest, "name": name, "started": "2026-01-01T00:00:00.5Z", **more}])


def words(digest: str, text: str) -> str:
    return event(logs=[{"vertex": digest, "data": base64.b64encode(text.encode()).decode()}])


def failed(last: str) -> str:
    return (
        step("a", "[llama-rocm 2/2] RUN --mount=type=cache cmake")
        + words("a", "[1/9] Building CXX\n")
        + words("a", f"{last}\n")
        + step("b", "[ui 1/1] RUN npm", completed="2026-01-01T00:00:09Z", error="context canceled")
        + step("a", "", completed="2026-01-01T00:00:09Z", error="exit code: 1")
        + 'ERROR: failed to solve: process "/bin/bash -c cmake -S /src" did not complete: exit code: 1\n'
    )


# The way of a build


def test_image_is_built_proven_and_tagged(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (outcome,) = bench.build()
    cell = outcome.cell
    assert (outcome.state, outcome.size, outcome.checks) == ("built", 1_500_000_000, 1)
    assert set(bench.images.has) == set(cell.tags)
    assert len(bench.verified) == 1
    assert "candidate" in bench.verified[0]
    (call,) = bench.calls
    assert call[:3] == ["bake", "--file", "build/docker-bake.json"]
    assert f"{cell.id}.tags={bench.verified[0]}" in call
    assert f"{cell.id}.args.BASE_IMAGE=amdserve-base:debian-forky" in call
    assert call[-1] == cell.id
    assert (bench.root / "build" / cell.id / "Dockerfile").is_file()
    assert capsys.readouterr().out == ""


def test_repeat_does_nothing_and_says_so(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (first,) = bench.build()
    (second,) = bench.build()
    assert second.state == "unchanged"
    assert len(bench.calls) == 1
    assert f"nothing changed since {first.cell.immutable}" in capsys.readouterr().err


def test_changed_template_is_built_again_and_named(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (before,) = bench.build()
    edit(bench.root / "templates/stages/runtime.j2", "EXPOSE 8080", "EXPOSE 8081")
    (after,) = bench.build()
    assert after.state == "built"
    assert "llama-gfx1151: templates/stages/runtime.j2 changed\n" in capsys.readouterr().err
    # The tag moved on; what never moves is still there.
    assert bench.images.has[after.cell.tag].hash == after.cell.hash
    assert bench.images.has[before.cell.immutable].hash == before.cell.hash


def test_change_that_is_taken_back_needs_no_build(bench: Bench) -> None:
    (before,) = bench.build()
    path = bench.root / "templates/stages/runtime.j2"
    edit(path, "EXPOSE 8080", "EXPOSE 8081")
    bench.build()
    edit(path, "EXPOSE 8081", "EXPOSE 8080")
    (back,) = bench.build()
    assert back.state == "tagged"
    assert len(bench.calls) == 2
    assert bench.images.has[back.cell.tag].hash == before.cell.hash


def test_force_builds_what_has_not_changed(bench: Bench) -> None:
    bench.build()
    (again,) = bench.build(force=True)
    assert again.state == "built"
    assert len(bench.calls) == 2


def test_foreign_image_under_our_tag_is_not_taken_for_ours(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.images.has["amdserve:llama-gfx1151"] = LocalImage("sha256:1", ("amdserve:llama-gfx1151",), {}, 1)
    (outcome,) = bench.build()
    assert outcome.state == "built"
    assert "does not say what it was built from" in capsys.readouterr().err


def test_dry_run_prints_commands_and_does_nothing(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    (outcome,) = bench.build(dry=True)
    told = capsys.readouterr().err
    assert outcome.state == "planned"
    assert not bench.calls
    assert not bench.verified
    assert not bench.images.has
    assert "+ docker tag" in told
    assert " bake --file build/docker-bake.json" in told


def test_named_builder_is_used(bench: Bench) -> None:
    bench.build(builder="far")
    (call,) = bench.calls
    assert call[call.index("--builder") + 1] == "far"


def test_certificates_reach_the_build_as_a_secret(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in index.CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    bench.build()
    bundle = tmp_path / "ca.crt"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    bench.build(force=True)
    without, with_bundle = bench.calls
    assert not [word for word in without if "secret" in word]
    assert f"llama-gfx1151.secrets=id=ca,src={bundle}" in with_bundle
    # buildx refuses to read outside the checkout unless it is allowed by name.
    assert f"--allow=fs.read={bundle}" in with_bundle
    # No path of this machine is in what is rendered.
    assert str(bundle) not in (bench.root / "build/docker-bake.json").read_text()


def test_older_buildx_is_told_nothing_it_does_not_know(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "ca.crt").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    bench.buildx = "0.12.1"
    bench.build()
    (call,) = bench.calls
    assert call[call.index("--progress") + 1] == "plain"
    assert not [word for word in call if word.startswith("--allow")]


# What goes wrong


def test_image_that_does_not_hold_gets_no_tag(bench: Bench) -> None:
    bench.verdict = lambda _ref: False
    with pytest.raises(errors.VerifyError) as caught:
        bench.build()
    assert "icd: no such file" in caught.value.what
    assert bench.images.has == {}


def test_failure_keeps_the_tag_of_what_worked(bench: Bench) -> None:
    (good,) = bench.build()
    edit(bench.root / "templates/stages/runtime.j2", "EXPOSE 8080", "EXPOSE 8081")
    bench.says("", ends=1)
    with pytest.raises(errors.BuildError):
        bench.build()
    assert set(bench.images.has) == set(good.cell.tags)


def test_failed_step_is_named_with_its_last_words(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.says(failed("error: expected expression"), ends=1)
    with pytest.raises(errors.BuildError) as caught:
        bench.build()
    assert "it failed in [llama-rocm 2/2]" in caught.value.what
    assert caught.value.cause == "ERROR: failed to solve: the command did not complete: exit code: 1"
    assert caught.value.fix == "read build/llama-gfx1151/build.log"
    assert "  | error: expected expression" in capsys.readouterr().err
    log = (bench.root / "build/llama-gfx1151/build.log").read_text()
    assert "#1 [1/9] Building CXX" in log
    assert log.startswith("$ ")


def test_failure_of_an_older_buildx_is_told_in_its_words(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.buildx = "0.12.1"
    bench.says("#5 [x 1/2] RUN y\n#5 1.2 write: no space left on device\nERROR: failed to solve\n", ends=1)
    with pytest.raises(errors.BuildError) as caught:
        bench.build()
    assert "disk of the engine is full" in caught.value.cause
    assert "  | #5 1.2 write: no space" in capsys.readouterr().err


def test_a_second_build_waits_and_finds_it_done(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    begun, go = threading.Event(), threading.Event()

    def slowly(_ref: str) -> bool:
        begun.set()
        return go.wait(60)

    bench.verdict = slowly
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(bench.build)
        assert begun.wait(60)
        second = pool.submit(bench.build)
        seen = ""
        while f"another build runs in this checkout (process {os.getpid()})" not in seen:
            assert not second.done()
            seen += capsys.readouterr().err
            time.sleep(0.01)
        go.set()
        states = [future.result(60)[0].state for future in (first, second)]
    assert states == ["built", "unchanged"]
    assert len(bench.calls) == 1


def test_interrupted_build_leaves_no_candidate(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(ref: str, **_more: object) -> None:
        assert ref in bench.images.has
        raise KeyboardInterrupt

    monkeypatch.setattr(verify, "verify", interrupted)
    with pytest.raises(KeyboardInterrupt):
        bench.build()
    assert bench.images.has == {}


def test_full_disk_is_refused_before_anything_is_done(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 3 * 10**9)
    with pytest.raises(errors.BuildError) as caught:
        bench.build()
    assert "not enough disk to build llama-gfx1151: 3.0 GB are free" in caught.value.what
    assert str(bench.images.root) in caught.value.what
    assert not bench.calls
    assert not (bench.root / "build").exists()


def test_filled_build_cache_counts_as_room(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    room(monkeypatch, 3 * 10**9)
    bench.images.cache = 60 * 10**9
    assert bench.build()[0].state == "built"


@pytest.mark.parametrize(
    ("line", "cause", "fix"),
    [
        ("write /x: no space left on device", "disk of the engine is full", "docker buildx prune"),
        ("THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE", "not what its index", "again"),
        ("E: Failed to fetch … Hash Sum mismatch", "not what its index", "again"),
        (
            "SSL: CERTIFICATE_VERIFY_FAILED certificate verify failed",
            "certificate authority",
            "SSL_CERT_FILE",
        ),
        ("c++: fatal error: Killed signal terminated program cc1plus", "out of memory", "--jobs 1"),
        ("x: failed to resolve source metadata for docker.io/x: no such host", "pulled", "--base bootstrap"),
        ("Temporary failure resolving 'deb.debian.org'", "no network", "network"),
        ("npm error code EAI_AGAIN", "no network", "network"),
        ("E: Unable to locate package libamdhip64-7", "moved on", "snapshot"),
    ],
)
def test_known_trouble_is_explained(line: str, cause: str, fix: str) -> None:
    told = explain(["Building", line, "exit code: 1"])
    assert cause in told[0]
    assert fix in told[1]


def test_unknown_trouble_is_not_guessed_at() -> None:
    assert explain(["error: expected expression", "exit code: 1"]) == ("", "")


# Progress


def test_progress_tells_steps_and_keeps_all_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (tmp_path / "log").open("w") as log:
        progress = Progress(log, Line())
        for line in (
            step("a", "[x 1/1] RUN long")
            + words("a", "[1/2] one\n[2/2] two\n")
            + step("a", "[x 1/1] RUN long", completed="2026-01-01T00:02:05.25Z")
            + step("b", "[y 1/1] RUN short", completed="2026-01-01T00:00:01Z")
            + step("c", "[z 1/1] COPY", completed="2026-01-01T00:00:01Z", cached=True)
        ).splitlines():
            progress.feed(line)
    told = capsys.readouterr().err
    assert "2 min 05 s  [x 1/1] RUN long" in told
    assert "[y 1/1]" not in told
    assert progress.cached == 1
    assert progress.failed is None
    assert (tmp_path / "log").read_text().splitlines()[:4] == [
        "#1 [x 1/1] RUN long",
        "#1 [1/2] one",
        "#1 [2/2] two",
        "#1 DONE 124.8s",
    ]


@pytest.mark.parametrize("line", ["", "null", "[]", '{"logs": null}', '{"logs": [{"data": "!"}]}', "plain"])
def test_progress_takes_any_line(tmp_path: Path, line: str) -> None:
    with (tmp_path / "log").open("w") as log:
        Progress(log, Line()).feed(line)
