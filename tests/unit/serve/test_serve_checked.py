"""What was checked is not checked again: the same values come to the same request, without pydantic."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from serve_bed import CPU, Bed

from amdserve.errors import UsageError
from amdserve.serve import checked, request

ASKED: tuple[dict[str, Any], ...] = (
    {"model_path": "m"},
    {"model_path": "/models/ein Modell ü.gguf", "port": 9000, "n_gpu_layers": 0, "flash_attn": "on"},
    {"model_path": "m", "extra_args": ["--api-key", "secret"], "alias": "x", "threads": 3, "parallel": 2},
    {"model_path": "m", "load_stall": 3.0, "selftest": False, "log_format": "json", "server_type": "rerank"},
    {"model_path": "m", "backend": "vllm", "require_gpu": True, "vendor": "amd", "gpu": 1, "mlock": False},
)
WITHOUT_PYDANTIC = """
import json, sys
from pathlib import Path
from amdserve.serve import checked
checked.IMAGE_FILE = Path(sys.argv[3])
made = checked.build(json.loads(sys.argv[1]), {}, Path(sys.argv[2]))
print(json.dumps([[one.model_dump() for one in made], [name for name in sys.modules if "pydantic" in name]]))
"""


@pytest.fixture(autouse=True)
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The defaults, as an image's build writes them down."""
    file = tmp_path / "image" / checked.FILE
    file.parent.mkdir()
    checked.record(file, *request.build({"model_path": "-"}, {}))
    monkeypatch.setattr(checked, "IMAGE_FILE", file)
    return file


@pytest.mark.parametrize("values", ASKED)
def test_read_back_it_is_what_pydantic_made_of_it(tmp_path: Path, values: dict[str, Any]) -> None:
    first, again = (checked.build(values, {}, tmp_path) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        assert isinstance(other, checked.Checked)
        assert other.model_dump() == one.model_dump()
        assert other.model_fields_set == one.model_fields_set
        for name, value in one.model_dump().items():
            assert getattr(other, name) == value
            assert type(getattr(other, name)) is type(value)
    assert again[0].offloads is first[0].offloads
    changed = [made[0].model_copy(update={"n_ctx": 5}) for made in (first, again)]
    assert changed[0].model_dump() == changed[1].model_dump()
    assert changed[0].model_fields_set == changed[1].model_fields_set
    with pytest.raises(AttributeError):
        again[0].port = 1
    with pytest.raises(AttributeError):
        _ = again[0].no_such_field  # type: ignore[attr-defined]


def test_pydantic_is_not_imported_again(tmp_path: Path, image: Path) -> None:
    argv = [sys.executable, "-c", WITHOUT_PYDANTIC, json.dumps(ASKED[1]), str(tmp_path), str(image)]
    env = {**os.environ, "PYTHONPATH": str(Path(checked.__file__).parents[2])}
    runs = [
        json.loads(subprocess.run(argv, env=env, check=True, capture_output=True).stdout) for _ in range(2)
    ]
    assert runs[0][1]
    assert not runs[1][1]
    assert runs[0][0] == runs[1][0]


def test_another_model_and_other_words_for_the_backend_are_no_other_question(tmp_path: Path) -> None:
    checked.build({"model_path": "a", "port": 9000}, {}, tmp_path)
    made, _ = checked.build({"model_path": "b", "port": 9000, "extra_args": ["-x"]}, {}, tmp_path)
    assert isinstance(made, checked.Checked)
    assert (made.model_path, made.extra_args, made.port) == ("b", ("-x",), 9000)
    assert made.model_fields_set == {"model_path", "extra_args", "port"}


def test_what_may_hold_a_secret_is_not_written_down(tmp_path: Path) -> None:
    checked.build(ASKED[2], {}, tmp_path)
    assert "secret" not in (tmp_path / checked.FILE).read_text()


@pytest.mark.parametrize("values", [{"alias": ""}, {"load_stall": 3}, {"port": "9000"}])
def test_what_checking_changes_is_checked_each_time(tmp_path: Path, values: dict[str, Any]) -> None:
    for _ in range(2):
        made, _options = checked.build({"model_path": "m", **values}, {}, tmp_path)
        assert isinstance(made, request.ModelLoadRequest)


def test_of_a_folder_for_all_nothing_is_believed_but_what_was_checked(tmp_path: Path) -> None:
    """Others may write there: what a request comes to is the user's own values over the image's defaults."""
    values = {"model_path": "m", "api_key_file": "/keys"}
    checked.build(values, {}, tmp_path)
    file = tmp_path / checked.FILE
    [key] = json.loads(file.read_text())["keys"]
    forged = {"request": {"api_key_file": None}, "options": {"port": 1}}
    file.write_text(json.dumps({"keys": [key], key: forged, **forged}))
    made, _ = checked.build(values, {}, tmp_path)
    assert isinstance(made, checked.Checked)
    assert (made.api_key_file, made.port) == ("/keys", 8080)


@pytest.mark.parametrize("values", [{}, {"model_path": ""}, {"model_path": "m", "port": 0}])
def test_what_is_wrong_is_told_each_time(tmp_path: Path, values: dict[str, Any]) -> None:
    checked.build({"model_path": "m"}, {}, tmp_path)
    for _ in range(2):
        with pytest.raises(UsageError):
            checked.build(values, {}, tmp_path)


def test_a_path_that_is_no_text_is_for_pydantic_to_judge(tmp_path: Path) -> None:
    checked.build({"model_path": "m"}, {}, tmp_path)
    with pytest.raises(UsageError):
        checked.build({"model_path": os.fsdecode(b"caf\xe9")}, {}, tmp_path)


@pytest.mark.parametrize("damage", ["", "[]", "{}", '{"keys": 5}', '{"keys": [5, null]}'])
def test_a_damaged_file_costs_only_time(tmp_path: Path, damage: str) -> None:
    values = {"model_path": "m", "port": 9}
    (tmp_path / checked.FILE).write_text(damage)
    assert isinstance(checked.build(values, {}, tmp_path)[0], request.ModelLoadRequest)
    assert isinstance(checked.build(values, {}, tmp_path)[0], checked.Checked)


@pytest.mark.parametrize("damage", ["", "[]", '{"request": 5, "options": {}}', "fields"])
def test_without_the_images_defaults_all_is_checked(tmp_path: Path, image: Path, damage: str) -> None:
    defaults = json.loads(image.read_text())
    del defaults["request"]["port"]
    image.write_text(json.dumps(defaults) if damage == "fields" else damage)
    for _ in range(2):
        assert isinstance(checked.build({"model_path": "m"}, {}, tmp_path)[0], request.ModelLoadRequest)


def test_other_rules_check_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked.build({"model_path": "m", "port": 9}, {}, tmp_path)
    rules = tmp_path / "request.py"
    rules.write_bytes(checked.RULES.read_bytes() + b"# another bound\n")
    monkeypatch.setattr(checked, "RULES", rules)
    made, _ = checked.build({"model_path": "m", "port": 9}, {}, tmp_path)
    assert isinstance(made, request.ModelLoadRequest)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    for port in range(1, checked.MOST + 6):
        checked.build({"model_path": "m", "port": port}, {}, tmp_path)
    assert len(json.loads((tmp_path / checked.FILE).read_text())["keys"]) == checked.MOST
    assert isinstance(checked.build({"model_path": "m", "port": 25}, {}, tmp_path)[0], checked.Checked)
    assert isinstance(
        checked.build({"model_path": "m", "port": 1}, {}, tmp_path)[0], request.ModelLoadRequest
    )


@pytest.mark.parametrize("words", [["--no-remember"], ["--forget"]])
def test_a_start_that_shall_not_remember_checks_itself(tmp_path: Path, words: list[str]) -> None:
    bed = Bed(tmp_path)
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None))
    with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1", *words) as run:
        run.until("ready", CPU)
        assert run.stop() == 0
    assert not (bed.state / checked.FILE).exists()


def test_a_second_start_serves_as_the_first(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    record = bed.folder / "record"
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None, record=str(record)))
    for _ in range(2):
        with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1") as run:
            run.until("ready", CPU)
            assert run.stop() == 0
    first, second = bed.starts(record)
    assert first["argv"] == second["argv"]
    assert (bed.state / checked.FILE).exists()
