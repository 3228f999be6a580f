"""What vLLM writes when it fails, and what that means, in one sentence with what would help.

vLLM puts process, level, date and source before each line, and says some of it over and over. The patterns by
which a failure is classified are these, so that what is recognised and what is told cannot drift apart.
"""

from __future__ import annotations

import re
from typing import Literal

from amdserve.values import dataclass

Kind = Literal["usage", "model", "no-device", "oom", "crash"]

PREFIX = re.compile(r"^(\(\S+ pid=\d+\) )?([A-Z]+ \d\d-\d\d \d\d:\d\d:\d\d \[\S+:\d+\] )?")


@dataclass(frozen=True, slots=True)
class Word:
    """A pattern, the class of the failure it means, and the sentence for it (empty: the line itself).

    It is compiled when something has failed, not at every start.
    """

    kind: Kind
    pattern: str
    sentence: str = ""


WORDS: tuple[Word, ...] = (
    Word(
        "no-device",
        r"Failed to infer device type|No platform detected",
        "vLLM found no platform: its amdsmi sees no AMD GPU (is /dev/kfd passed in, with its group?)",
    ),
    Word("no-device", r"No HIP GPUs are available|Torch not compiled with (CUDA|ROCm) enabled"),
    Word(
        "oom",
        r"max seq len \((?P<asked>\d+)\), \(?(?P<needs>[\d.]+) GiB KV cache is needed.*cache memory "
        r"\((?P<has>[\d.]+) GiB\)\.\s*Based on the available memory, the estimated maximum model length is "
        r"(?P<fits>\d+)",
        "the KV cache is too small: {asked} tokens need {needs} GiB, {has} GiB are left. "
        "This would fit: --n-ctx {fits}",
    ),
    Word(
        "oom",
        r"max seq len \((?P<asked>\d+)\), \(?(?P<needs>[\d.]+) GiB KV cache is needed.*cache memory "
        r"\((?P<has>[\d.]+) GiB\)",
        "the KV cache is too small: {asked} tokens need {needs} GiB, {has} GiB are left",
    ),
    Word(
        "oom",
        r"No available memory for the cache blocks",
        "no memory is left for the KV cache: weights and working memory take vLLM's whole share of the GPU",
    ),
    Word(
        "oom",
        r"Free memory on device \S* ?\((?P<free>[\d.]+)/(?P<all>[\d.]+) GiB\) on startup is less than",
        "only {free} of {all} GiB are free: something else uses the GPU, or ask for less with "
        "-- --gpu-memory-utilization",
    ),
    Word("oom", r"(HIP|CUDA) out of memory|torch\.OutOfMemoryError"),
    Word(
        "crash",
        r"HIP error: (invalid device function|no kernel image is available)|hipErrorNoBinaryForGpu"
        r"|hipErrorInvalidImage",
        "this build of vLLM holds no code for this GPU (HIP finds no kernel for its gfx)",
    ),
    Word(
        "crash",
        r"Failed to find C compiler|InvalidCxxCompiler|No working C(\+\+)? compiler found",
        "no C compiler is here, and vLLM compiles kernels when it starts: the image needs gcc and libc6-dev",
    ),
    Word(
        "crash",
        r"lib(cudart|cuda|cublas)\.so[.\d]*: cannot open shared object file",
        "this vLLM is a CUDA build: the image was not made by `invoke build --image full`",
    ),
    Word("crash", r"\bHIP error\b|HSA_STATUS_ERROR|Memory access fault by GPU"),
    Word("crash", r"Engine core process \S+ died unexpectedly", "vLLM's engine core died"),
    Word("crash", r"Worker proc \S+ died unexpectedly", "a worker of vLLM's engine died"),
    Word("crash", r"EngineDeadError", "vLLM's engine core died"),
    Word(
        "usage",
        r"max_model_len \((?P<asked>\d+)\) is greater than the derived max_model_len \([^)]*?(?P<own>\d+)",
        "the model's own context is {own} tokens, {asked} were asked for: --n-ctx {own}",
    ),
    Word("usage", r"invalid (tool call|reasoning) parser|Unknown attention backend"),
    Word("model", r"Model architectures .* are not supported"),
    Word("model", r"Unrecognized model in|not recognize this architecture|Cannot find any model weights"),
)  # fmt: skip


def patterns(kind: str) -> tuple[str, ...]:
    """Give the patterns of one class, as text."""
    # Joined with others, a group may have no name: it would be there twice.
    return tuple(re.sub(r"\(\?P<\w+>", "(", word.pattern) for word in WORDS if word.kind == kind)


def say(line: str) -> str:
    """Give a line of a log as a person reads it: vLLM's in one sentence, any other as it is."""
    plain = PREFIX.sub("", line.strip())
    for word in WORDS:
        match = re.search(word.pattern, plain, re.IGNORECASE)
        if match and word.sentence:
            return word.sentence.format(**match.groupdict())
    return plain if plain != line.strip() and plain else line.strip()
