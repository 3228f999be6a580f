"""What backends write when they fail: llama.cpp, ROCm, Vulkan, uvicorn and vLLM."""

from __future__ import annotations

import re
from functools import cache
from typing import Literal

from amdserve.serve import vllm_words

Class = Literal["usage", "model", "no-device", "oom", "crash", "hang", "wrong-output", "port"]

_WORDS: tuple[tuple[Class, tuple[str, ...]], ...] = (
    (
        "port",
        (
            r"couldn't bind HTTP server socket",
            r"address already in use",
            r"error while attempting to bind on address",
            r"Errno 98\b",
            r"EADDRINUSE",
        ),
    ),
    (
        "no-device",
        (
            r"invalid device:",
            r"no ROCm-capable device",
            r"no CUDA-capable device",
            r"hipErrorNoDevice",
            r"hipErrorInvalidDevice\b",
            r"No HIP GPUs are available",
            r"no usable GPU found",
            r"Failed to infer device type",
            r"ErrorIncompatibleDriver",
            r"No devices found",
        ),
    ),
    (
        "oom",
        (
            r"OutOfDeviceMemory",
            r"OutOfHostMemory",
            r"hipErrorOutOfMemory",
            r"out of memory",
            r"unable to allocate \S+ buffer",
            r"failed to allocate (buffer|compute|output|memory|graph|\S+ buffer of size)",
            r"std::bad_alloc",
            r"\bMemoryError\b",
            r"cudaMalloc failed",
            r"not enough memory",
            r"Requested buffer size exceeds",
            r"No available memory for the cache blocks",
            r"^(?!.*mlock).*Cannot allocate memory",  # a model that could not be locked is no end
        ),
    ),
    (
        "crash",
        (
            r"DeviceLost",
            r"device lost",
            r"ROCm error",
            r"HSA_STATUS_ERROR",
            r"Memory access fault by GPU",
            r"GPU Hang",
            r"rocBLAS error",
            r"TensileLibrary",
            r"hipErrorNoBinaryForGpu",
            r"invalid device function",
            r"GGML_ASSERT",
            r"GGML_ABORT",
        ),
    ),
    (
        "usage",
        (
            r"error: invalid argument",
            r"error while handling (argument|environment variable)",
            r"expected value for argument",
            r"the argument has been removed",
            r"unrecognized arguments",
            r"error: argument ",
            r"error: unknown value",
            r"the following arguments are required",
            r"error: failed to open file",
        ),
    ),
    (
        "model",
        (
            r"unknown (model architecture|pre-tokenizer|tokenizer)",
            r"invalid magic",
            r"failed to read (header|magic|key-value pairs|tensor info)",
            r"missing tensor",
            r"has wrong shape",
            r"error loading model (hyperparameters|vocabulary|architecture)",
            r"model is corrupted",
            r"not within the file bounds",
            r"failed to load model",
            r"failed to download model",
            r"failed to fetch model metadata",
            r"Model architectures .* are not supported",
            r"is not a valid model",
            r"does not recognize this architecture",
        ),
    ),
)


@cache
def patterns() -> tuple[tuple[Class, re.Pattern[str]], ...]:
    """Give the words of each class, in the order in which they are looked for: the first that matches wins.

    Memory stands before the model: llama.cpp reports a failed allocation as `error loading model: unable to
    allocate`. They are made only when something has failed: it takes as long as an interpreter's start.
    """
    return tuple(
        (cls, re.compile("|".join((*words, *vllm_words.patterns(cls))), re.IGNORECASE))
        for cls, words in _WORDS
    )
