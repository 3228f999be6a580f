"""Makes the reference model: a tiny language model of random weights, the same bytes every time.

It exists to be computed, not to speak. Its two layers hold the types of weights that people serve (Q4_K,
Q6_K, Q8_0, Q4_0, F16) in every kind of matrix, so that each kernel a real model would use runs once. Weights
are drawn as the quantised blocks themselves: nothing is quantised, and neither numpy nor the gguf package is
needed.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from pathlib import Path

SEED = 20261123
WIDTH, INNER, HEADS, HEADS_KV, LAYERS, CONTEXT = 256, 512, 4, 2, 2, 2048
KV_WIDTH = WIDTH // HEADS * HEADS_KV
SPECIALS = ("<unk>", "<s>", "</s>")
VOCABULARY = len(SPECIALS) + 256
ALIGNMENT = 32
# Attention that looks everywhere alike would not notice a wrong score: keys and queries are this much larger.
SHARP = 2.0
# Logits are spread by about this much, so that tokens differ and a small error stays a small one.
SPREAD = 3.0

F32, F16, Q4_0, Q8_0, Q4_K, Q6_K = 0, 1, 2, 8, 12, 14
LAYER_TYPES = (
    {"attn_q": Q4_K, "attn_k": Q4_K, "attn_v": Q6_K, "attn_output": Q4_K, "ffn_gate": Q4_K, "ffn_up": Q8_0,
     "ffn_down": Q6_K},
    {"attn_q": F16, "attn_k": F16, "attn_v": F16, "attn_output": Q8_0, "ffn_gate": Q4_0, "ffn_up": Q4_0,
     "ffn_down": F16},
)  # fmt: skip


def make(path: Path) -> None:
    """Write the model to a file, about 1.4 MB."""
    tensors = _tensors(random.Random(SEED))
    infos, blob = b"", bytearray()
    for name, kind, shape, data in tensors:
        infos += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        infos += struct.pack("<IQ", kind, len(blob))
        blob += data + bytes(-len(data) % ALIGNMENT)
    keys = _keys()
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    path.write_bytes(head + bytes(-len(head) % ALIGNMENT) + bytes(blob))


def _tensors(chance: random.Random) -> list[tuple[str, int, tuple[int, ...], bytes]]:
    made: list[tuple[str, int, tuple[int, ...], bytes]] = []

    def matrix(name: str, kind: int, columns: int, rows: int, scale: float = 1.0) -> None:
        deviation = scale / columns**0.5
        made.append((f"{name}.weight", kind, (columns, rows), DRAWN[kind](chance, columns * rows, deviation)))

    def ones(name: str) -> None:
        made.append((f"{name}.weight", F32, (WIDTH,), struct.pack("<f", 1.0) * WIDTH))

    matrix("token_embd", Q6_K, WIDTH, VOCABULARY, WIDTH**0.5)
    for number, types in enumerate(LAYER_TYPES):
        at = f"blk.{number}."
        ones(at + "attn_norm")
        matrix(at + "attn_q", types["attn_q"], WIDTH, WIDTH, SHARP)
        matrix(at + "attn_k", types["attn_k"], WIDTH, KV_WIDTH, SHARP)
        matrix(at + "attn_v", types["attn_v"], WIDTH, KV_WIDTH)
        matrix(at + "attn_output", types["attn_output"], WIDTH, WIDTH)
        ones(at + "ffn_norm")
        matrix(at + "ffn_gate", types["ffn_gate"], WIDTH, INNER)
        matrix(at + "ffn_up", types["ffn_up"], WIDTH, INNER)
        matrix(at + "ffn_down", types["ffn_down"], INNER, WIDTH, 2.0)
    ones("output_norm")
    matrix("output", Q8_0, WIDTH, VOCABULARY, SPREAD)
    return made


def _f16(chance: random.Random, count: int, deviation: float) -> bytes:
    return struct.pack(f"<{count}e", *(chance.gauss(0.0, deviation) for _ in range(count)))


def _q4_0(chance: random.Random, count: int, deviation: float) -> bytes:
    step = struct.pack("<e", deviation / 4.61)  # the deviation of -8 … 7
    return b"".join(step + chance.randbytes(16) for _ in range(count // 32))


def _q8_0(chance: random.Random, count: int, deviation: float) -> bytes:
    step = struct.pack("<e", deviation / 73.9)  # the deviation of -128 … 127
    return b"".join(step + chance.randbytes(32) for _ in range(count // 32))


def _q6_k(chance: random.Random, count: int, deviation: float) -> bytes:
    step = struct.pack("<e", deviation / 18.5 / 30)  # the deviation of -32 … 31, and the mean scale
    made = []
    for _ in range(count // 256):
        scales = bytes(chance.choice((1, -1)) * chance.randint(20, 40) & 0xFF for _ in range(16))
        made.append(chance.randbytes(192) + scales + step)
    return b"".join(made)


def _q4_k(chance: random.Random, count: int, deviation: float) -> bytes:
    step = deviation / 4.61 / 40
    # The least value of a block is taken off it: 7.5 steps make the mean nothing.
    head = struct.pack("<ee", step, step * 7.5)
    made = []
    for _ in range(count // 256):
        scales = [chance.randint(20, 60) for _ in range(8)]
        made.append(head + _six_bits(scales, scales) + chance.randbytes(128))
    return b"".join(made)


def _six_bits(scales: list[int], mins: list[int]) -> bytes:
    """Pack eight scales and eight minima of 6 bits each, as the K types hold them."""
    packed = bytearray(12)
    for at in range(4):
        packed[at] = scales[at] | (scales[at + 4] >> 4) << 6
        packed[at + 4] = mins[at] | (mins[at + 4] >> 4) << 6
        packed[at + 8] = scales[at + 4] & 15 | (mins[at + 4] & 15) << 4
    return bytes(packed)


DRAWN: dict[int, Callable[[random.Random, int, float], bytes]] = {
    F16: _f16,
    Q4_0: _q4_0,
    Q8_0: _q8_0,
    Q4_K: _q4_k,
    Q6_K: _q6_k,
}


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _keys() -> list[bytes]:
    tokens = [*SPECIALS, *(f"<0x{number:02X}>" for number in range(256))]
    kinds = [2, 3, 3, *(6 for _ in range(256))]  # unknown, control, control, bytes

    def text(key: str, value: str) -> bytes:
        return _text(key) + struct.pack("<I", 8) + _text(value)

    def number(key: str, value: int) -> bytes:
        return _text(key) + struct.pack("<II", 4, value)

    def real(key: str, value: float) -> bytes:
        return _text(key) + struct.pack("<If", 6, value)

    def array(key: str, kind: int, items: list[bytes]) -> bytes:
        return _text(key) + struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)

    return [
        text("general.architecture", "llama"),
        text("general.name", "amdserve reference"),
        number("general.file_type", 15),
        number("llama.block_count", LAYERS),
        number("llama.context_length", CONTEXT),
        number("llama.embedding_length", WIDTH),
        number("llama.feed_forward_length", INNER),
        number("llama.attention.head_count", HEADS),
        number("llama.attention.head_count_kv", HEADS_KV),
        number("llama.rope.dimension_count", WIDTH // HEADS),
        number("llama.vocab_size", VOCABULARY),
        real("llama.attention.layer_norm_rms_epsilon", 1e-5),
        text("tokenizer.ggml.model", "llama"),
        array("tokenizer.ggml.tokens", 8, [_text(token) for token in tokens]),
        array("tokenizer.ggml.scores", 6, [struct.pack("<f", 0.0) for _ in tokens]),
        array("tokenizer.ggml.token_type", 5, [struct.pack("<i", kind) for kind in kinds]),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        number("tokenizer.ggml.unknown_token_id", 0),
    ]
