"""Where values come from, what wrong ones say, and that options, model and help are one list."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from amdserve.errors import ConfigError, UsageError
from amdserve.serve import cli, start
from amdserve.serve.options import OPTIONS
from amdserve.serve.request import ModelLoadRequest, RunOptions, build
from amdserve.serve.sources import merge


def prepared(
    arguments: dict[str, Any] | None = None,
    environ: dict[str, str] | None = None,
    config: Path | None = None,
) -> tuple[ModelLoadRequest, RunOptions, Any]:
    asked = {"model_path": "m.gguf", **(arguments or {})}
    merged = start.sources(asked, environ or {}, str(config) if config else None, ())
    return *build(merged.values, merged.origins), merged


def test_the_options_are_the_fields() -> None:
    model = {option.name for option in OPTIONS if option.group == "model"}
    run = {option.name for option in OPTIONS if option.group == "run"}
    assert model == set(ModelLoadRequest.model_fields) - {"extra_args"}
    assert run == set(RunOptions.model_fields)


def test_the_defaults_are_those_of_the_contract() -> None:
    request = ModelLoadRequest(model_path="m")
    assert request.model_dump() == {
        "model_path": "m", "server_type": None, "host": "0.0.0.0", "port": 8080, "n_ctx": 8192,
        "n_batch": 2048, "n_ubatch": 2048, "n_gpu_layers": -1, "flash_attn": "off", "fit_memory": False,
        "mlock": True, "cont_batching": True, "jinja": True, "pooling": None, "reasoning_format": "deepseek",
        "threads": None, "parallel": None, "mmproj": None, "alias": None, "api_key_file": None,
        "extra_args": (), "backend": "auto", "require_gpu": False, "vendor": None, "gpu": None,
    }  # fmt: skip


def test_a_request_is_frozen_and_takes_no_unknown_field() -> None:
    request = ModelLoadRequest(model_path="m")
    with pytest.raises(ValidationError):
        request.port = 1
    with pytest.raises(ValidationError):
        ModelLoadRequest(model_path="m", colour="red")  # type: ignore[call-arg]


def test_each_source_gives_way_to_the_stronger(tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("n_ctx: 1\nport: 1\nthreads: 1\nextra_args: [--a, 1]\n", encoding="utf-8")
    environ = {"AMDSERVE_N_CTX": "2", "AMDSERVE_PORT": "2"}
    request, _, merged = prepared({"n_ctx": 3}, environ, config)
    assert (request.n_ctx, request.port, request.threads, request.n_batch) == (3, 2, 1, 2048)
    assert request.extra_args == ("--a", "1")
    assert merged.origins["n_ctx"] == "command line"
    assert merged.origins["port"] == "AMDSERVE_PORT"
    assert merged.origins["threads"] == f"{config}: threads"


def test_explain_names_every_source(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMDSERVE_MLOCK", "off")
    assert cli.main(["serve", "--explain", "--n-ctx", "5", "m.gguf", "--", "-x", "y"]) == 0
    lines = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines()}
    assert lines["n_ctx"] == ["5", "command", "line"]
    assert lines["mlock"] == ["False", "AMDSERVE_MLOCK"]
    assert lines["port"] == ["8080", "default"]
    assert lines["extra_args"] == ["-x", "y", "command", "line"]
    assert set(lines) == {option.name for option in OPTIONS} | {"extra_args"}


@pytest.mark.parametrize("text", ["true", "1", "YES", "on"])
def test_yes_in_the_environment(text: str) -> None:
    assert prepared(environ={"AMDSERVE_REQUIRE_GPU": text})[0].require_gpu is True


@pytest.mark.parametrize("text", ["false", "0", "No", "off"])
def test_no_in_the_environment(text: str) -> None:
    assert prepared(environ={"AMDSERVE_JINJA": text})[0].jinja is False


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AMDSERVE_JINJA": "perhaps"}, ["AMDSERVE_JINJA", "perhaps", "true or false"]),
        ({"AMDSERVE_PORT": "http"}, ["AMDSERVE_PORT", "http", "number"]),
        ({"AMDSERVE_PORT": "99999"}, ["AMDSERVE_PORT", "99999", "65535"]),
        ({"AMDSERVE_FLASH_ATTN": "yes"}, ["AMDSERVE_FLASH_ATTN", "yes", "off or on or auto"]),
        ({"AMDSERVE_BACKEND": "cuda"}, ["AMDSERVE_BACKEND", "cuda", "llama-server-vulkan"]),
        ({"AMDSERVE_GPU_LAYERS": "1"}, ["AMDSERVE_GPU_LAYERS", "did you mean AMDSERVE_N_GPU_LAYERS"]),
        ({"AMDSERVE_HOST": "two words"}, ["AMDSERVE_HOST", "host name"]),
        ({"AMDSERVE_DRAIN": "-1"}, ["AMDSERVE_DRAIN", "greater"]),
    ],
)
def test_wrong_variables(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        prepared(environ=environ)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("n_ctxx: 1", ["n_ctxx", "did you mean n_ctx"]),
        ("n_ctx: [1]", ["n_ctx", "[1]"]),
        ("port: x\n", ["c.yaml: port", "'x'"]),
        ("a: b: c", ["c.yaml:1"]),
        ("- 1", ["list"]),
        ("extra_args: --x", ["extra_args", "list"]),
        ("\x00", ["YAML"]),
    ],
)
def test_wrong_files(tmp_path: Path, text: str, words: list[str]) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        prepared(config=config)
    for word in words:
        assert word in str(caught.value)


def test_a_missing_file_and_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        prepared(config=tmp_path / "none.yaml")
    (tmp_path / "empty.yaml").touch()
    assert prepared(config=tmp_path / "empty.yaml")[0].port == 8080


def test_what_others_put_in_the_environment_is_left_alone() -> None:
    environ = {
        "AMDSERVE_SYSROOT": "/", "AMDSERVE_STATE_DIR": "/x", "AMDSERVE_ALIAS": "", "PATH": "/bin",
        "AMDSERVE_SERVICE_HOST": "10.0.0.1", "AMDSERVE_SERVICE_PORT_HTTP": "80", "AMDSERVE_PORT": "tcp://10.0.0.1:80",
        "AMDSERVE_PORT_8080_TCP_ADDR": "10.0.0.1",
    }  # fmt: skip
    request = prepared(environ=environ)[0]
    assert (request.port, request.alias) == (8080, None)


def test_short_and_joined_variables() -> None:
    merged = merge({}, {"AMDSERVE_MODEL": "m.gguf", "AMDSERVE_EXTRA_ARGS": "-a 'b c'"}, None)
    assert merged.values == {"model_path": "m.gguf", "extra_args": ("-a", "b c")}


def test_no_model_at_all_says_how_to_name_one() -> None:
    with pytest.raises(UsageError, match="AMDSERVE_MODEL_PATH"):
        build({}, {})


@given(st.dictionaries(st.sampled_from([option.variable for option in OPTIONS]), st.text(max_size=12)))
def test_no_environment_makes_it_raise_anything_else(environ: dict[str, str]) -> None:
    with contextlib.suppress(UsageError):
        prepared(environ=environ)


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["serve", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    assert all(option.flag in text for option in OPTIONS[1:])


@pytest.mark.parametrize(
    "words", [["nonsense"], [], ["serve", "--json", "m"], ["status", "--", "x"], ["bench"]]
)
def test_wrong_commands_end_with_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    assert "next:" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["serve"], ["serve", "m.gguf"], ["serve", ""], ["serve", "serve"]])
def test_a_start_without_options_is_read_as_the_parser_reads_it(words: list[str]) -> None:
    assert cli.plain(words) == cli.parse(words)


@pytest.mark.parametrize(
    "words", [[], ["serve", "-h"], ["serve", "a", "b"], ["status"], ["serve", "--port=1"]]
)
def test_any_other_command_line_is_the_parsers(words: list[str]) -> None:
    assert cli.plain(words) is None


@pytest.mark.parametrize("name", ["mmproj", "api_key_file", "alias"])
def test_a_file_may_have_any_name_and_an_empty_one_is_none(name: str) -> None:
    odd = os.fsdecode(b"caf\xe9")
    for value, wanted in ((odd, odd), ("", None)):
        assert getattr(build({"model_path": "m", name: value}, {})[0], name) == wanted
