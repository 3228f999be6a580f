"""The report: whole, alone, and true to the result."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from amdserve.serve.bench import chart, page
from amdserve.serve.bench.chart import Bar, Group
from amdserve.serve.bench.result import Result, load
from bench.bed import CPU, ROCM, SMALL, VULKAN, Bed

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Reader(HTMLParser):
    """Holds tags to be closed in order, and keeps text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result with a failure in it."""
    bed = Bed(tmp_path_factory.mktemp("bench"))
    bed.stub(
        ROCM,
        faults=[{"when": {"depth": 128}, "how": "signal:SIGABRT", "log": ["ROCm error: <script>&"]}],
    )
    out = bed.folder / "out"
    assert bed.amdserve("bench", str(bed.model), *SMALL, "--out", str(out)).returncode == 0
    return out


@pytest.fixture
def result(folder: Path) -> Result:
    return load(folder)


def test_it_says_what_where_and_when(folder: Path, result: Result) -> None:
    text = " ".join(read((folder / "report.html").read_text("utf-8")).text)
    for wanted in (
        "model.gguf", "gfx1151", result.machine.kernel, result.image.hash, "0c1e57098", result.date[:10],
        "62.8 t/s", "What failed", "ROCm error: <script>&", "crash",
    ):  # fmt: skip
        assert wanted in text, wanted


def test_it_stands_alone(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    reader = read(text)
    assert not [
        one for one in reader.attributes if one[1] in ("src", "href", "srcset", "xlink:href", "action")
    ]
    assert not re.search(r"https?://|//[a-z]|url\(|@import|<script", text)
    assert "prefers-color-scheme: dark" in text
    assert ("meta", "charset", "utf-8") in reader.attributes


def test_every_measurement_is_in_it(folder: Path, result: Result) -> None:
    text = (folder / "report.html").read_text("utf-8")
    body = text[text.index("Every measurement") :]
    assert body.count("<tr>") == len(result.points) + 1


def test_a_backend_without_a_number_has_no_bar_but_a_word(folder: Path) -> None:
    text = (folder / "report.html").read_text("utf-8")
    assert text.count("failed: crash") == 3, "two prompts and a generation at depth 128"


def test_names_are_escaped(result: Result) -> None:
    evil = result.model_copy(update={"model": result.model.model_copy(update={"name": "<b>&\"'.gguf"})})
    assert '<b>&"' not in page.page(evil)
    read(page.page(evil))


def test_a_result_without_any_number_is_a_page_too(result: Result) -> None:
    empty = result.model_copy(update={"points": (), "chosen": (), "order": (), "interrupted": True})
    text = " ".join(read(page.page(empty)).text)
    assert "No backend could be compared" in text
    assert "Stopped before its end" in text


@pytest.mark.parametrize("most", [0.004, 0.9, 7.0, 62.8, 1234.5, 182084.7])
def test_bars_are_as_long_as_their_numbers_and_inside(most: float) -> None:
    bars = (Bar("a", 0, most), Bar("b", 1, most / 4, most / 40), Bar("c", 2, None, missing="not measured"))
    text = chart.draw([Group("g", bars)], "label")
    read(text)
    widths = [float(one) for one in re.findall(r'<rect[^>]*width="([\d.]+)"', text)]
    assert len(widths) == 2
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.02)
    assert chart.WIDTH / 3 < widths[0] <= chart.WIDTH - chart.NAMES - chart.VALUES
    assert "not measured" in text


def plotted(result: Result, kind: str) -> list[tuple[str, str, float, float]]:
    from amdserve.image.bench import plot

    return plot.series(json.loads(result.to_json()), kind)


def test_page_and_plot_show_the_same_bars(result: Result) -> None:
    text = page.page(result)
    for kind in ("prefill", "generation"):
        bars = plotted(result, kind)
        assert len(bars) == {"prefill": 4 * 2 + 2, "generation": 2 * 2 + 1}[kind]
        for _, _, rate, deviation in bars:
            assert f"{chart.number(rate)} ± {chart.number(deviation)}" in text


def test_the_plot_shows_the_chosen_settings() -> None:
    from amdserve.image.bench import plot

    point: dict[str, Any] = {"backend": VULKAN, "kind": "prefill", "tokens": 512, "depth": 0, "stddev": 1.0}
    found = {
        "backends": [{"backend": VULKAN}],
        "chosen": [{"backend": VULKAN, "flash_attn": "on", "n_ubatch": 2048}],
        "points": [
            {**point, "flash_attn": "off", "n_ubatch": 512, "rate": 99.0},
            {**point, "flash_attn": "on", "n_ubatch": 512, "rate": 50.0},
        ],
    }
    assert plot.series(found, "prefill") == [("prompt of 512, depth 0", VULKAN, 50.0, 1.0)]


def test_the_plot_is_a_picture(result: Result, tmp_path: Path) -> None:
    from amdserve.image.bench import plot

    file = tmp_path / "plot.png"
    plot.write(json.loads(result.to_json()), file)
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    assert width >= 1000
    assert height >= 600
    assert CPU in result.order
