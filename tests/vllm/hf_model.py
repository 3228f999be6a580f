"""Tiny Hugging Face models with random weights, written by hand, without torch.

The tokenizer knows every byte, so any text can be asked and any grammar can be forced. One element of the
hidden state is the same at every token, and by it some tokens are liked or not whatever the text is: the end
best of all, what cannot be seen least. A forced form is filled in as briefly as it allows, and a free answer
ends at once unless the request names a least length.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

END = "<|end|>"
SPECIAL = ("<|begin|>", END, "<|pad|>")
WIDTH, HEADS, INNER = 128, 4, 256
VOCABULARY = 320
# The element that no layer changes, and how much it weighs against all the others.
FIXED, LIKING = 0, 1000.0

# With tools it tells them, and what a call looks like: by these words a server knows how to read calls.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}{{ 'tools: ' }}{% for tool in tools %}{{ tool | tojson }}{% endfor %}"
    '{{ \'\\nanswer with <tool_call>{"name": …, "arguments": …}</tool_call>\\n\' }}{% endif %}'
    "{% for message in messages %}{{ message['role'] + ': ' + (message['content'] or '') }}\n{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)


def write(folder: Path, *, layers: int = 2, kv_heads: int = 2, context: int = 1024, seed: int = 7) -> Path:
    """Write a random Llama, by default of some 0.4 M parameters; give its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    _json(
        folder / "config.json",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": WIDTH,
            "intermediate_size": INNER,
            "num_hidden_layers": layers,
            "num_attention_heads": HEADS,
            "num_key_value_heads": kv_heads,
            "head_dim": WIDTH // HEADS,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": context,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "bos_token_id": 256,
            "eos_token_id": 257,
            "pad_token_id": 258,
            "torch_dtype": "float32",
        },
    )
    _json(folder / "tokenizer.json", _tokenizer())
    _json(
        folder / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[0],
            "eos_token": SPECIAL[1],
            "pad_token": SPECIAL[2],
            "model_max_length": context,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _safetensors(folder / "model.safetensors", _tensors(np.random.default_rng(seed), layers, kv_heads))
    return folder


def _tensors(random: np.random.Generator, layers: int, kv_heads: int) -> dict[str, Array]:
    def matrix(rows: int, columns: int) -> Array:
        made: Array = (random.standard_normal((rows, columns)) / np.sqrt(columns)).astype(np.float32)
        return made

    ones = np.ones(WIDTH, np.float32)

    def unchanged(rows: int, columns: int) -> Array:
        made = matrix(rows, columns)
        made[FIXED] = 0
        return made

    head = WIDTH // HEADS
    tokens, out = matrix(VOCABULARY, WIDTH), matrix(VOCABULARY, WIDTH)
    tokens[:, FIXED] = 1
    seen = [byte for byte in range(256) if 32 < byte < 127]
    out[[token for token in range(VOCABULARY) if token not in seen]] = 0
    out[:, FIXED] = -LIKING
    out[seen, FIXED] = 0
    out[256 + SPECIAL.index(END), FIXED] = LIKING
    found = {"model.embed_tokens.weight": tokens, "model.norm.weight": ones, "lm_head.weight": out}
    for layer in range(layers):
        at = f"model.layers.{layer}"
        found |= {
            f"{at}.input_layernorm.weight": ones,
            f"{at}.post_attention_layernorm.weight": ones,
            f"{at}.self_attn.q_proj.weight": matrix(HEADS * head, WIDTH),
            f"{at}.self_attn.k_proj.weight": matrix(kv_heads * head, WIDTH),
            f"{at}.self_attn.v_proj.weight": matrix(kv_heads * head, WIDTH),
            f"{at}.self_attn.o_proj.weight": unchanged(WIDTH, HEADS * head),
            f"{at}.mlp.gate_proj.weight": matrix(INNER, WIDTH),
            f"{at}.mlp.up_proj.weight": matrix(INNER, WIDTH),
            f"{at}.mlp.down_proj.weight": unchanged(WIDTH, INNER),
        }
    return found


def _tokenizer() -> dict[str, Any]:
    """Make a tokenizer of single bytes: token N is byte N, the special ones follow."""
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": 256 + number,
                "content": text,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": True,
            }
            for number, text in enumerate(SPECIAL)
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "post_processor": None,
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": False,
            "use_regex": False,
        },
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {letter: byte for byte, letter in _letters().items()},
            "merges": [],
        },
    }


def _letters() -> dict[int, str]:
    """Give the letter that byte-level tokenizers write for each byte: itself where it can be seen."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {byte: chr(byte) for byte in seen}
    hidden = [byte for byte in range(256) if byte not in letters]
    return letters | {byte: chr(256 + number) for number, byte in enumerate(hidden)}


def _safetensors(path: Path, tensors: dict[str, Array]) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for tensor in tensors.values():
            file.write(np.ascontiguousarray(tensor).tobytes())


def _json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
