"""What stands before llama-cpp-python's server: `/health`, API keys, and embeddings in OpenAI's shape.

A plain ASGI application around the binding's own: it needs no framework, and can be tested without one.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import math
import struct
from collections.abc import Awaitable, Callable
from typing import Any

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

EMBEDDINGS = frozenset({"/v1/embeddings", "/embeddings"})
MOST_BODY = 64 << 20


class Wrong(Exception):  # noqa: N818 - an answer, not a failure
    """A request that is answered with a status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Front:
    """The application that answers what the binding's cannot, and hands on the rest.

    Args:
        app: the binding's application.
        proxy: gives, as an asynchronous generator that holds the model's lock, what opens a model by name.
        keys: API keys; none lets everybody in.
        embedding: whether the model serves embeddings.
    """

    def __init__(
        self,
        app: App,
        proxy: Callable[[], Any],
        keys: frozenset[str] = frozenset(),
        *,
        embedding: bool = False,
    ) -> None:
        self.app = app
        self.proxy = contextlib.asynccontextmanager(proxy)
        self.keys = keys
        self.embedding = embedding

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path = scope["path"]
        if path in ("/health", "/v1/health"):
            await reply(send, 200, {"status": "ok"})
            return
        try:
            if scope["method"] != "OPTIONS":
                self.authenticate(scope)
            if path in EMBEDDINGS and scope["method"] == "POST":
                await reply(send, 200, await self.embed(receive))
                return
        except Wrong as wrong:
            error = {"message": str(wrong), "type": "invalid_request_error", "code": wrong.status}
            await reply(send, wrong.status, {"error": error})
            return
        await self.app(scope, receive, send)

    def authenticate(self, scope: Scope) -> None:
        """Let a request pass if it has one of the keys.

        Raises:
            Wrong: 401.
        """
        if not self.keys:
            return
        headers = dict(scope.get("headers") or ())
        given = headers.get(b"authorization", b"").decode("latin-1").removeprefix("Bearer ")
        given = given or headers.get(b"x-api-key", b"").decode("latin-1")
        if not any(hmac.compare_digest(given.encode(), key.encode()) for key in self.keys):
            raise Wrong(401, "Invalid API Key")

    async def embed(self, receive: Receive) -> dict[str, Any]:
        """Answer a request for embeddings.

        Raises:
            Wrong: it cannot be answered.
        """
        if not self.embedding:
            raise Wrong(501, "this model is served for text; start with --server-type embedding")
        body = await read_body(receive)
        async with self.proxy() as models:
            return await asyncio.to_thread(answer, models(body.get("model")), body)


async def read_body(receive: Receive) -> dict[str, Any]:
    """Read a request's JSON object.

    Raises:
        Wrong: 400, it is none; 413, it is too long.
    """
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BODY:
            raise Wrong(413, "the request is too long")
        more = bool(message.get("more_body"))
    try:
        data = json.loads(body)
    except ValueError as reason:
        raise Wrong(400, f"the request is no JSON: {reason}") from None
    if not isinstance(data, dict):
        raise Wrong(400, "the request is no JSON object")
    return data


async def reply(send: Send, status: int, data: dict[str, Any]) -> None:
    """Send one JSON answer."""
    body = json.dumps(data).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def texts(llama: Any, given: Any) -> list[str]:
    """Read `input`: a text, texts, tokens, or lists of tokens.

    Raises:
        Wrong: 400, it is none of these.
    """
    if isinstance(given, str):
        return [given]
    if isinstance(given, list) and given:
        if all(isinstance(part, str) for part in given):
            return given
        lists = [given] if all(isinstance(part, int) for part in given) else given
        if all(
            isinstance(part, list) and part and all(isinstance(token, int) for token in part)
            for part in lists
        ):
            return [llama.detokenize(part).decode("utf-8", "replace") for part in lists]
    raise Wrong(400, "input must be a text, a list of texts, or tokens")


def answer(llama: Any, body: dict[str, Any]) -> dict[str, Any]:
    """Compute the embeddings that a request asks for, each of length 1 as llama-server gives them.

    Raises:
        Wrong: 400, the request cannot be served.
    """
    encoding = body.get("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise Wrong(400, "encoding_format must be float or base64")
    inputs = texts(llama, body.get("input"))
    # A model with learnt positions has no more of them than it was trained with, and aborts beyond.
    most = min(llama.n_batch, llama.n_ctx(), llama._model.n_ctx_train())
    for text in inputs:
        count = len(llama.tokenize(text.encode()))
        if count > most:
            raise Wrong(400, f"input has {count} tokens, the model takes {most}")
    vectors, tokens = llama.embed(inputs, return_count=True)
    data = []
    for index, vector in enumerate(vectors):
        flat = flatten(vector)
        size = math.sqrt(sum(value * value for value in flat)) or 1.0
        unit = [value / size for value in flat]
        shown: Any = unit
        if encoding == "base64":
            shown = base64.b64encode(struct.pack(f"<{len(unit)}f", *unit)).decode()
        data.append({"object": "embedding", "index": index, "embedding": shown})
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": body.get("model") or "model", "usage": usage}


def flatten(vector: list[Any]) -> list[float]:
    """Give one vector: of a vector for every token, their mean."""
    if vector and isinstance(vector[0], list):
        return [sum(column) / len(vector) for column in zip(*vector, strict=True)]
    return vector
