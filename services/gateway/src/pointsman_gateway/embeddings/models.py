"""The two kinds of embedding model: one of an OpenAI-compatible engine, and the gateway's own encoder.

An engine's response is relayed unchanged. The own encoder runs in a worker thread of this process.
"""

import asyncio
import base64
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument, PointsmanError, Unavailable

from pointsman_gateway.embeddings.stage import EmbeddingRequest, EmbeddingResult
from pointsman_gateway.pipeline.ports import HttpPoster, HttpReply, HttpUnreachable

MAX_REPLY_BYTES = 128 * 1024 * 1024
"""Bytes: 2048 vectors of 3072 numbers in full."""
USAGE_SEARCH_BYTES = 4096
"""Bytes at the start and the end of a response that are searched for its usage."""


@dataclass(frozen=True, slots=True)
class EmbeddingEndpoint:
    """The address of a model."""

    name: str
    """The name in the configuration."""
    url: str
    model: str
    """The engine's name for it."""
    auth_header: str = ""
    """The header line with the API key; empty without a key."""


class RemoteEmbedder:
    """Implements `Embedder` with a remote endpoint."""

    def __init__(self, endpoint: EmbeddingEndpoint, http: HttpPoster) -> None:
        self._endpoint = endpoint
        self._http = http

    async def embed(self, inputs: EmbeddingRequest) -> EmbeddingResult:
        """Raises InvalidArgument if the engine rejects the request, and Unavailable."""
        endpoint = self._endpoint
        body = msgspec.json.encode({**inputs.body, "model": endpoint.model})
        try:
            reply = await self._http.post(
                f"{endpoint.url}/v1/embeddings", endpoint.auth_header, body, inputs.request.deadline, MAX_REPLY_BYTES
            )
        except HttpUnreachable as error:
            raise self._failed(str(error)) from error
        if reply.status != 200:
            raise self._refused(reply)
        return EmbeddingResult(reply.pieces, self._tokens(reply, inputs))

    def _tokens(self, reply: HttpReply, inputs: EmbeddingRequest) -> int:
        """The engine's count of tokens. Only the ends of the response are parsed, because it may have megabytes."""
        head, tail = _ends(reply.pieces)
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self._failed(f"its answer is no JSON object: {head[:100]!r}")
        usage = _usage(tail) or _usage(head) or {}
        counted = usage.get("total_tokens") or usage.get("prompt_tokens")
        # Without a count the estimate is charged.
        return counted if isinstance(counted, int) else inputs.estimated_tokens

    def _refused(self, reply: HttpReply) -> PointsmanError:
        body = b"".join(reply.pieces)[:65536]
        message, param = body[:500].decode("utf-8", "replace"), None
        with suppress(ValueError, LookupError, TypeError, AttributeError):  # not in OpenAI's error format
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        if reply.status in (400, 413, 422):
            return InvalidArgument(message, code="engine_refused", param=param if isinstance(param, str) else None)
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine answered {reply.status}: {message}",
            code="engine_overloaded" if reply.status == 429 else "engine_error",
            retry_after=reply.retry_after or 1.0,
        )

    def _failed(self, reason: str) -> Unavailable:
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine failed: {reason}",
            code="engine_unavailable",
            retry_after=1.0,
        )


def _ends(pieces: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Up to USAGE_SEARCH_BYTES of the start and of the end; they overlap in a short response."""
    head, tail = b"", b""
    for piece in pieces:
        if len(head) >= USAGE_SEARCH_BYTES:
            break
        head += piece[: USAGE_SEARCH_BYTES - len(head)]
    for piece in reversed(pieces):
        if len(tail) >= USAGE_SEARCH_BYTES:
            break
        tail = piece[-(USAGE_SEARCH_BYTES - len(tail)) :] + tail
    return head, tail


def _usage(end: bytes) -> Mapping[str, Any] | None:
    """Finds the usage object. The response contains no text of the client, so the word can only be the key."""
    _, found, rest = end.rpartition(b'"usage"')
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(b":").decode("utf-8", "replace").lstrip())
    except ValueError:
        return None
    return usage if isinstance(usage, dict) else None


BATCH_TEXTS = 16
"""Texts per batch, about 30 ms; cancellation takes effect between batches."""
MAX_TOKENS = 256
"""Tokens that the encoder reads; it would silently truncate a longer text."""
MAX_CHARACTERS = MAX_TOKENS * 32
"""A longer text is rejected without counting its tokens, because no language's tokens are that long on average."""

Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    def encode(self, sequence: str, /) -> Any:
        """Returns an object with `ids`."""
        ...


class Encoder(Protocol):
    """An embedding model; thread-safe."""

    @property
    def dimensions(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Some vectors as OpenAI's JSON objects, with the number of tokens read for them."""

    objects: list[bytes]
    tokens: int


class LocalEmbedder:
    """Implements `Embedder`. Only one batch is embedded at a time, so that the classifier's thread has a core."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._lock = asyncio.Semaphore(1)

    async def embed(self, inputs: EmbeddingRequest) -> EmbeddingResult:
        """Raises InvalidArgument."""
        self._check(inputs)
        objects: list[bytes] = []
        tokens = 0
        for first in range(0, len(inputs.texts), BATCH_TEXTS):
            # The lock is held for one batch: a request with one text does not wait for one with two thousand.
            async with self._lock:
                part = await asyncio.to_thread(self._embed_batch, inputs, first)
            objects += part.objects
            tokens += part.tokens
        return EmbeddingResult((b'{"object":"list","data":[', b",".join(objects), b"],", self._tail(tokens)), tokens)

    def _check(self, inputs: EmbeddingRequest) -> None:
        name, dimensions = self._encoder.fingerprint, self._encoder.dimensions
        if inputs.tokens:
            raise InvalidArgument(
                f"'input' holds tokens, which are another tokenizer's than {name}'s; send text "
                "(LangChain: check_embedding_ctx_length=False)",
                code="unsupported_input",
                param="input",
            )
        if inputs.dimensions not in (None, dimensions):
            raise InvalidArgument(
                f"'dimensions' is {inputs.dimensions}; {name} has {dimensions}",
                code="unsupported_dimensions",
                param="dimensions",
            )

    def _embed_batch(self, inputs: EmbeddingRequest, first: int) -> _Part:
        texts = inputs.texts[first : first + BATCH_TEXTS]
        tokens = sum(self._count(text, first + number) for number, text in enumerate(texts))
        vectors = self._encoder.embed(texts)
        write = _base64 if inputs.base64 else _numbers
        return _Part([_object(first + number, write(row)) for number, row in enumerate(vectors)], tokens)

    def _count(self, text: str, number: int) -> int:
        """Counts the text's tokens. Raises InvalidArgument if there are more than MAX_TOKENS."""
        count = len(self._encoder.tokenizer.encode(text).ids) if len(text) <= MAX_CHARACTERS else None
        if count is not None and count <= MAX_TOKENS:
            return count
        length = f"{count} tokens" if count else f"{len(text)} characters"
        raise InvalidArgument(
            f"input[{number}] has {length}; {self._encoder.fingerprint} reads {MAX_TOKENS} tokens",
            code="context_length_exceeded",
            param="input",
        )

    def _tail(self, tokens: int) -> bytes:
        name = msgspec.json.encode(self._encoder.fingerprint)
        return b'"model":%b,"usage":{"prompt_tokens":%d,"total_tokens":%d}}' % (name, tokens, tokens)


def _object(index: int, embedding: bytes) -> bytes:
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, embedding)


def _numbers(vector: Vectors) -> bytes:
    return msgspec.json.encode(vector.tolist())


def _base64(vector: Vectors) -> bytes:
    return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
