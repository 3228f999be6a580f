"""Does the model fit? An estimate that is said before the start; the backend has the last word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amdserve.serve.described import Model
from amdserve.values import dataclass

if TYPE_CHECKING:
    from amdserve.serve.request import ModelLoadRequest

# What a driver, a context and small buffers take, whatever the model.
BASE_BYTES = 256 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Fit:
    """What a model is likely to need, against what is there.

    Attributes:
        weights: bytes of weights on the device.
        context: bytes of keys and values, 16 bits each, every layer counted (sliding windows need less).
        compute: bytes of working memory for one batch.
        usable: bytes there, or 0 where that is not known.
        where: what they are memory of.
        advice: what would fit, where this does not.
    """

    weights: int
    context: int
    compute: int
    usable: int
    where: str
    advice: str = ""

    @property
    def needed(self) -> int:
        """The sum."""
        return self.weights + self.context + self.compute

    @property
    def fits(self) -> bool | None:
        """Whether it fits; None where nothing is known of the model or of the memory."""
        if not self.usable or not self.weights:
            return None
        return self.needed <= self.usable

    def say(self) -> str:
        """Give one sentence."""
        if self.fits is None:
            return "whether it fits is not known before it is loaded"
        text = (
            f"needs about {self.needed / GIB:.1f} GiB (weights {self.weights / GIB:.1f}, "
            f"context {self.context / GIB:.1f}, work {self.compute / GIB:.1f}), "
            f"{self.where} has {self.usable / GIB:.1f}"
        )
        return text if self.fits else f"{text}: it may not fit. {self.advice}"

    def to_dict(self) -> dict[str, Any]:
        """Give the estimate as JSON."""
        return {
            "weights": self.weights,
            "context": self.context,
            "compute": self.compute,
            "needed": self.needed,
            "usable": self.usable,
            "where": self.where,
            "fits": self.fits,
            "say": self.say(),
        }


def estimate(request: ModelLoadRequest, model: Model, usable: int, where: str) -> Fit:
    """Estimate what a model needs.

    Args:
        request: context, batches and layers on the GPU.
        model: its size and dimensions.
        usable: bytes of memory there; 0 for not known.
        where: the name of what has them.
    """
    share = _share(request, model)
    n_ctx = request.n_ctx or model.context or 4096
    per_token = model.kv_bytes_per_token or 0
    weights = int(model.bytes * share)
    compute = BASE_BYTES + _work(request, model, n_ctx)
    context = int(per_token * n_ctx * share)
    needed = weights + context + compute
    advice = "" if not usable or needed <= usable else _advice(request, model, usable, per_token, compute)
    return Fit(weights, context, compute, usable, where, advice)


def _share(request: ModelLoadRequest, model: Model) -> float:
    if request.n_gpu_layers < 0 or not model.layers:
        return 1.0
    return min(1.0, request.n_gpu_layers / (model.layers + 1))


def _work(request: ModelLoadRequest, model: Model, n_ctx: int) -> int:
    tokens = min(request.n_ubatch, n_ctx)
    wide = (model.embedding or 4096) * 24 * tokens
    # Without flash attention the scores of every head, token and position are kept at once.
    scores = 0 if request.flash_attn == "on" else (model.heads or 32) * n_ctx * tokens * 4
    return wide + (scores if model.kv_bytes_per_token else 0)


def _advice(request: ModelLoadRequest, model: Model, usable: int, per_token: int, compute: int) -> str:
    """Name the first thing that would make it fit: less context, fewer layers, a smaller model."""
    room = usable - model.bytes
    if per_token and room > 0:
        small = min(512, request.n_ubatch)
        for n_ctx in (32768, 16384, 8192, 4096, 2048, 1024):
            smaller = request.model_copy(update={"n_ctx": n_ctx, "n_ubatch": small, "flash_attn": "on"})
            wanted = BASE_BYTES + _work(smaller, model, n_ctx) + n_ctx * per_token
            if n_ctx <= (request.n_ctx or n_ctx) and wanted <= room:
                return f"This would: --n-ctx {n_ctx} --n-ubatch {small} --flash-attn on"
    if model.layers and model.bytes:
        each = model.bytes / (model.layers + 1)
        layers = int((usable - compute) / each)
        if 0 < layers <= model.layers:
            return f"This would: --n-gpu-layers {layers} (the rest on the CPU), or a smaller quantisation"
    return "Take a smaller model or quantisation"
