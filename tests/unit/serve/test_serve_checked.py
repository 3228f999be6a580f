"""Simple values need no pydantic: what the recorded rules allow comes to what pydantic makes of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as some
from pydantic import BaseModel, Field
from serve_bed import CPU, Bed

from amdserve.errors import UsageError
from amdserve.serve import checked, request
from amdserve.serve.options import OPTIONS

ASKED: tuple[dict[str, Any], ...] = (
    {"model_path": "m"},
    {"model_path": "/models/ein Modell ü.gguf", "port": 9000, "n_gpu_layers": 0, "flash_attn": "on"},
    {"model_path": "m", "extra_args": ["--api-key", "secret"], "alias": "x", "threads": 3, "parallel": 2},
    {"model_path": "m", "load_stall": 3.0, "selftest": False, "log_format": "json", "server_type": "rerank"},
    {"model_path": "m", "backend": "vllm", "require_gpu": True, "vendor": "amd", "gpu": 1, "mlock": False},
    {"model_path": "m", "host": "::1", "mmproj": "/models/p.gguf", "api_key_file": "/run/keys", "drain": 0.0},
)
WITHOUT_PYDANTIC = """
import json, sys
from pathlib import Path
from amdserve.serve import checked
checked.IMAGE_FILE = Path(sys.argv[2])
made = checked.build(json.loads(sys.argv[1]), {})
print(json.dumps([[one.model_dump() for one in made], [name for name in sys.modules if "pydantic" in name]]))
"""
WORDS = ["m", "a b", "-1", "on", "none", "auto", "amd", "llm", "text", "::1"]
TEXTS = [*WORDS, "", "a\n", "\n", "\0", "ü", os.fsdecode(b"\xe9")]
NUMBERS = [-1, 0, 1, 2, 4096, 4097, 65535, 65536, 1 << 26, (1 << 26) + 1, 1 << 70]
VALUES: list[Any] = [*TEXTS, *NUMBERS, 0.0, 1.0, 0.5, -0.5, float("nan"), float("inf"), True, False, None, []]

DAMAGES = ("field", "rule", "rules", "type", "pattern", "version")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What an image's build writes down."""
    file = tmp_path_factory.mktemp("image") / "checked.json"
    checked.record(file)
    return file


@pytest.fixture(autouse=True)
def image(tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, for a test to damage."""
    file = tmp_path / "checked.json"
    file.write_bytes(recorded.read_bytes())
    monkeypatch.setattr(checked, "IMAGE_FILE", file)
    return file


def same(values: dict[str, Any]) -> None:
    """Hold what the rules make of values to what pydantic does."""
    made, wanted = checked.build(values, {}), request.build(dict(values), {})
    for one, other in zip(made, wanted, strict=True):
        assert isinstance(one, checked.Checked)
        assert one.model_dump() == other.model_dump()
        assert one.model_fields_set == other.model_fields_set
        for name, value in other.model_dump().items():
            assert getattr(one, name) == value
            assert type(getattr(one, name)) is type(value)
    assert made[0].offloads is wanted[0].offloads
    changed = [one[0].model_copy(update={"n_ctx": 5}) for one in (made, wanted)]
    assert changed[0].model_dump() == changed[1].model_dump()
    assert changed[0].model_fields_set == changed[1].model_fields_set


@pytest.mark.parametrize("values", ASKED)
def test_it_is_what_pydantic_makes_of_it(values: dict[str, Any]) -> None:
    same(values)


def test_it_is_frozen() -> None:
    made, _ = checked.build({"model_path": "m"}, {})
    assert isinstance(made, checked.Checked)
    with pytest.raises(AttributeError):
        made.port = 1
    with pytest.raises(AttributeError):
        _ = made.no_such_field


@pytest.mark.parametrize("name", [option.name for option in OPTIONS] + ["extra_args", "no_such_field"])
def test_no_value_is_taken_that_pydantic_refuses_or_changes(name: str) -> None:
    taken = []
    for value in VALUES:
        values = {"model_path": "m", name: value}
        try:
            request.build(dict(values), {})
        except (UsageError, TypeError):
            with pytest.raises((UsageError, TypeError)):
                checked.build(values, {})
            continue
        if isinstance(checked.build(values, {})[0], checked.Checked):
            same(values)
            taken.append(value)
    assert taken or name == "no_such_field", "some value of each option needs no pydantic"


@given(some.text(max_size=8) | some.integers() | some.floats() | some.booleans(), some.sampled_from(OPTIONS))
def test_nor_any_other_value(recorded: Path, value: object, option: Any) -> None:
    values = {"model_path": "m", option.name: value}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checked, "IMAGE_FILE", recorded)
        try:
            made = checked.build(values, {})
        except UsageError:
            with pytest.raises(UsageError):
                request.build(dict(values), {})
            return
        if isinstance(made[0], checked.Checked):
            same(values)


def test_pydantic_is_not_imported(image: Path) -> None:
    env = {**os.environ, "PYTHONPATH": str(Path(checked.__file__).parents[2])}
    found = []
    for values in (ASKED[1], {**ASKED[1], "port": "9000"}):
        argv = [sys.executable, "-c", WITHOUT_PYDANTIC, json.dumps(values), str(image)]
        found.append(json.loads(subprocess.run(argv, env=env, check=True, capture_output=True).stdout))
    assert not found[0][1]
    assert found[1][1], "the test would not see it"
    assert found[0][0] == found[1][0]


@pytest.mark.parametrize("values", [{}, {"model_path": ""}, {"model_path": "m", "port": 0}])
def test_what_is_wrong_is_told(values: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        checked.build(values, {})


@pytest.mark.parametrize("damage", ["", "[]", '{"request": 5}', *DAMAGES])
def test_without_what_the_image_recorded_pydantic_checks_all(image: Path, damage: str) -> None:
    known = json.loads(image.read_text())
    if damage == "field":
        del known["request"]["port"]
    elif damage == "rule":
        del known["rules"]["model_path"]
    elif damage == "rules":
        known["rules"] = None
    elif damage == "type":
        known["rules"]["model_path"]["type"] = "bytes"
    elif damage == "pattern":
        known["rules"]["model_path"]["pattern"] = "("
    elif damage == "version":
        known["version"] = "0"
    image.write_text(damage if damage in ("", "[]") or damage[0] == "{" else json.dumps(known))
    assert isinstance(checked.build({"model_path": "m"}, {})[0], request.ModelLoadRequest)


class Odd(BaseModel):
    """Fields whose rules are not simple."""

    two: int | str
    many: list[int]
    steps: int = Field(multiple_of=5)
    longest: str = Field(max_length=3)
    one: Literal[1, "a"]


@pytest.mark.parametrize("name", Odd.model_fields)
def test_a_rule_that_is_not_understood_stops_the_build(name: str) -> None:
    with pytest.raises(ValueError, match="no simple rule"):
        checked.rule(Odd.model_json_schema()["properties"][name])


def test_nothing_is_written_down_of_what_was_asked_for(tmp_path: Path) -> None:
    bed = Bed(tmp_path)
    record = bed.folder / "record"
    bed.image(llama_cpp_python=bed.backend(CPU, offload=None, record=str(record)))
    for _ in range(2):
        with bed.serve(str(bed.model), "--port", str(bed.port), "--host", "127.0.0.1") as run:
            run.until("ready", CPU)
            assert run.stop() == 0
    first, second = bed.starts(record)
    assert first["argv"] == second["argv"]
    assert not (bed.state / "checked.json").exists()
