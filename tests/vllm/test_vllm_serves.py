"""A model that a real vLLM serves behind `amdserve serve`, through the real client."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from openai import AuthenticationError

from .conftest import Start
from .server import ANSWER, Server

KEY = "a-key-of-this-test"
MESSAGES: Any = [{"role": "user", "content": "Which way?"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "turn",
        "description": "Turn left or right.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"way": {"type": "string", "enum": ["left", "right"]}},
            "required": ["way"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def server(start: Start, tmp_path_factory: pytest.TempPathFactory) -> Server:
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"{KEY}\n", encoding="utf-8")
    words = ["--alias", "tiny", "--n-ctx", "1024", "--api-key-file", str(keys), "--drain", "120"]
    return start(*words, VLLM_ATTENTION_BACKEND="CPU_ATTN").wait()


def chat(server: Server, **more: Any) -> Any:
    asked = {"model": "tiny", "messages": MESSAGES, "max_tokens": 8, "temperature": 0, **more}
    if "tools" not in asked:
        asked["extra_body"] = {"min_tokens": asked["max_tokens"]}
    return server.openai(KEY).chat.completions.create(**asked)


def test_chat(server: Server) -> None:
    first, again = chat(server), chat(server)
    assert first.choices[0].message.content == again.choices[0].message.content
    assert first.usage.completion_tokens == 8
    assert first.model == "tiny"


def test_streaming(server: Server) -> None:
    parts = [part.choices[0].delta.content or "" for part in chat(server, stream=True) if part.choices]
    assert len([part for part in parts if part]) > 1
    assert "".join(parts) == chat(server).choices[0].message.content


@pytest.mark.parametrize(
    "choice", [{"type": "function", "function": {"name": "turn"}}, "required"], ids=["named", "required"]
)
def test_tool_call(server: Server, choice: Any) -> None:
    answer = chat(server, tools=[TOOL], tool_choice=choice, max_tokens=120)
    (call,) = answer.choices[0].message.tool_calls[:1]
    assert call.type == "function"
    assert call.function.name == "turn"
    assert json.loads(call.function.arguments)["way"] in ("left", "right")


def test_tools_may_be_offered_without_being_asked_for(server: Server) -> None:
    """`auto` needs a parser: the server would refuse the request without the one the template named."""
    assert chat(server, tools=[TOOL], tool_choice="auto").choices[0].finish_reason in ("length", "stop")


def test_status_and_health(server: Server) -> None:
    status = server.status()
    assert (status["state"], status["backend"], status["port"]) == ("ready", "vllm", server.port)
    assert status["history"] == []
    assert server.ask("health").code == 0


def test_the_key_is_asked_for_and_on_no_command_line(server: Server) -> None:
    with pytest.raises(AuthenticationError):
        server.openai("another").chat.completions.create(model="tiny", messages=MESSAGES)
    lines = "\n".join(server.children().values())
    assert "--tool-call-parser hermes" in lines
    assert KEY not in lines
    assert KEY not in server.log


def test_an_old_variable_is_said_in_todays_words(server: Server) -> None:
    assert "VLLM_ATTENTION_BACKEND is gone from vLLM: said as --attention-backend CPU_ATTN" in server.log


def test_what_it_compiles_stays_with_its_state(server: Server) -> None:
    pids = [pid for pid, line in server.children().items() if "--tool-call-parser" in line]
    environ = Path(f"/proc/{pids[0]}/environ").read_text().split("\0")
    place = server.folder / "state/cache"
    assert f"VLLM_CACHE_ROOT={place}/vllm" in environ
    assert f"TRITON_CACHE_DIR={place}/triton" in environ
    assert "VLLM_NO_USAGE_STATS=1" in environ


def test_z_a_stop_lets_it_finish_what_it_answers(server: Server) -> None:
    """The last of this module: SIGTERM reaches vLLM, which goes on with the answer under way."""
    begun = threading.Event()
    parts: list[str | None] = []
    ends: list[str] = []

    def read() -> None:
        for part in chat(server, stream=True, max_tokens=400):
            parts.extend(choice.delta.content for choice in part.choices)
            ends.extend(choice.finish_reason for choice in part.choices if choice.finish_reason)
            begun.set()

    reader = threading.Thread(target=read)
    reader.start()
    assert begun.wait(ANSWER)
    server.stop()
    reader.join(ANSWER)
    assert not reader.is_alive()
    assert ends == ["length"], f"cut off after {len(parts)} parts"
    assert server.end(ANSWER) == 0, server.log
    assert server.children() == {}
