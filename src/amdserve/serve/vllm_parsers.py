"""Which of vLLM's parsers reads this model's thoughts and tool calls: told from its chat template.

A template spells out how the model writes a call, and that is what a parser must know; a model's name changes
with every fine-tune. Where nothing fits nothing is chosen: a wrong parser loses text.
"""

from __future__ import annotations

import json
from pathlib import Path

from amdserve.serve.described import Model
from amdserve.values import dataclass

MOST_TEMPLATE = 4 << 20


@dataclass(frozen=True, slots=True)
class Rule:
    """A parser, what the template must hold for it, how the architecture must begin, if at all."""

    parser: str
    words: tuple[str, ...]
    architectures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Parsers:
    """The parsers chosen, each None where none is, and what to tell about it."""

    tools: str | None = None
    reasoning: str | None = None
    note: str = ""


# The first that fits counts: several formats share a word, and the more particular one stands first.
TOOLS: tuple[Rule, ...] = (
    Rule("openai", ("<|channel|>", "<|start|>"), ("GptOss",)),
    Rule("deepseek_v3", ("<｜tool▁calls▁begin｜>", "```json")),
    Rule("deepseek_v31", ("<｜tool▁calls▁begin｜>", "<｜tool▁sep｜>")),
    Rule("kimi_k2", ("<|tool_calls_section_begin|>",)),
    Rule("minimax_m2", ("<minimax:tool_call>",)),
    Rule("seed_oss", ("<seed:tool_call>",)),
    Rule("mistral", ("[TOOL_CALLS]",)),
    Rule("internlm", ("<|action_start|>", "<|plugin|>")),
    Rule("functiongemma", ("<start_function_call>",)),
    Rule("lfm2", ("<|tool_call_start|>",)),
    Rule("olmo3", ("<function_calls>",), ("Olmo",)),
    Rule("glm47", ("<arg_key>", "<tool_call>"), ("Glm4MoeLite",)),
    Rule("glm45", ("<arg_key>", "<tool_call>")),
    Rule("qwen3_xml", ("<function=", "<parameter=")),
    Rule("phi4_mini_json", ("<|tool_call|>",), ("Phi",)),
    Rule("granite4", ("<tool_call>",), ("GraniteMoeHybrid",)),
    Rule("granite", ("<|tool_call|>",), ("Granite",)),
    Rule("hermes", ("<tool_call>",)),
    Rule("llama4_pythonic", ("python_tag",), ("Llama4",)),
    Rule("llama3_json", ("<|python_tag|>",)),
    Rule("llama3_json", ('{"name": function name, "parameters":',)),
)
REASONING: tuple[Rule, ...] = (
    Rule("openai_gptoss", ("<|channel|>", "analysis")),
    Rule("seed_oss", ("<seed:think>",)),
    Rule("mistral", ("[THINK]",)),
    Rule("minimax_m2_append_think", ("<minimax:tool_call>", "<think>")),
    Rule("kimi_k2", ("<think>", "<|tool_calls_section_begin|>")),
    Rule("glm45", ("<think>", "<arg_key>")),
    Rule("deepseek_v3", ("<think>", "thinking"), ("DeepseekV3", "Deepseek")),
    Rule("granite", ("Here is my thought process",)),
    Rule("qwen3", ("<think>", "enable_thinking"), ("Qwen3",)),
    Rule("deepseek_r1", ("<think>",)),
)


def choose(model: Model) -> Parsers:
    """Choose the parsers for a model.

    Args:
        model: a folder; of a name on the Hub nothing is known before vLLM has fetched it.
    """
    if model.hub:
        return Parsers(
            note="tool calls are left in the text: how this model writes them is known only once it is "
            "fetched. Name the parser: -- --enable-auto-tool-choice --tool-call-parser NAME"
        )
    text = template(Path(model.path))
    if not text:
        return Parsers()
    architecture = model.architecture or ""
    tools = _first(TOOLS, text, architecture)
    note = ""
    if tools is None and "tools" in text:
        note = (
            "the chat template knows tools, in no form that is known here: calls are left in the text. "
            "Name the parser: -- --enable-auto-tool-choice --tool-call-parser NAME"
        )
    return Parsers(tools, _first(REASONING, text, architecture), note)


def template(folder: Path) -> str:
    """Give a model's chat templates, all in one text; an empty one where it has none that can be read."""
    found = [_read(folder / "chat_template.jinja")]
    try:
        held = json.loads(_read(folder / "tokenizer_config.json") or "{}").get("chat_template")
    except (ValueError, AttributeError, RecursionError):
        held = None
    if isinstance(held, str):
        found.append(held)
    elif isinstance(held, list):
        found += [str(one.get("template") or "") for one in held if isinstance(one, dict)]
    return "\n".join(part for part in found if part)


def _first(rules: tuple[Rule, ...], text: str, architecture: str) -> str | None:
    for rule in rules:
        fits = not rule.architectures or architecture.startswith(rule.architectures)
        if fits and all(word in text for word in rule.words):
            return rule.parser
    return None


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8") if file.stat().st_size <= MOST_TEMPLATE else ""
    except (OSError, ValueError):
        return ""
