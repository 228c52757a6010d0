"""The two kinds of embedding model: one of an OpenAI-compatible engine, and the gateway's own encoder.

An engine's response is relayed unchanged. The own encoder runs in a worker thread of this process. A text that is
longer than it reads is rejected, truncated, or split into windows whose vectors are averaged.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import msgspec
from pointsman_servicekit.errors import InvalidArgument, NotFound, PointsmanError, Unavailable

from pointsman_gateway.domain import Overflow, Vector
from pointsman_gateway.embeddings.stage import EmbeddingRequest, EncodedEmbeddings
from pointsman_gateway.embeddings.windows import (
    MAX_TOKEN_CHARACTERS,
    TextWindow,
    Tokenizer,
    WindowedAnswer,
    split_text,
)
from pointsman_gateway.extensions.http_poster import HttpPoster, HttpReply, HttpUnreachable
from pointsman_gateway.redaction import MAX_PARAM_CHARACTERS, shown_error

MAX_REPLY_BYTES = 128 * 1024 * 1024
"""Bytes: 2048 vectors of 3072 numbers in full."""
MAX_HELD_BYTES = 2 * MAX_REPLY_BYTES
"""Bytes of all responses of endpoints that a gateway holds at a time, until their clients have read them."""
MAX_ADDED_TOKENS = 64
"""Tokens that an engine may add to each text: special tokens and a prompt of the model's own."""
USAGE_SEARCH_BYTES = 4096
"""Bytes at the start and the end of a response that are searched for its usage."""

BATCH_TEXTS = 16
"""Texts per batch, about 30 ms; cancellation takes effect between batches."""


@dataclass(frozen=True, slots=True)
class EmbeddingEndpoint:
    """The URL, key and name of an embedding model at a remote endpoint."""

    name: str
    """The name in the configuration."""
    url: str
    model: str
    """The engine's name for it."""
    auth_header: str = ""
    """The header line with the API key; empty without a key."""


class RemoteEmbedder:
    """Sends texts to an OpenAI-compatible embedding endpoint for their vectors; implements `Embedder`."""

    def __init__(self, endpoint: EmbeddingEndpoint, http: HttpPoster) -> None:
        self._endpoint = endpoint
        self._http = http

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Sends the texts to the endpoint, and relays its response. Raises InvalidArgument if it rejects them or the
        request sets `overflow`, NotFound if it does not serve the model, Unavailable if it fails, or what
        `inputs.reserve` raises.
        """
        endpoint = self._endpoint
        if inputs.overflow not in (None, "error"):
            raise InvalidArgument(
                f"'overflow' is for the gateway's own model; '{endpoint.name}' is of another API, which has its own "
                'parameter if it can (vLLM: "truncate_prompt_tokens": -1)',
                code="unsupported_parameter",
                param="overflow",
            )
        body = msgspec.json.encode({**inputs.body, "model": endpoint.model})
        try:
            reply = await self._http.post(
                endpoint.url, endpoint.auth_header, body, inputs.request.deadline, MAX_REPLY_BYTES, inputs.reserve
            )
        except HttpUnreachable as error:
            raise self._failed(str(error)) from error
        if reply.status != 200:
            raise self._refused(reply)
        tokens, note = self._tokens(reply, inputs)
        return EncodedEmbeddings(reply.pieces, tokens, note=note)

    def _tokens(self, reply: HttpReply, inputs: EmbeddingRequest) -> tuple[int, str]:
        """Returns the tokens to charge, and a note if the engine's count is impossible (else empty).

        Only the ends of the response, which may have megabytes, are parsed. Raises Unavailable if it is no JSON object.
        """
        head, tail = _ends(reply.pieces)
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self._failed(f"its answer is no JSON object: {_text(head, 100)!r}")
        usage = _usage(tail) or _usage(head) or {}
        counted = usage.get("total_tokens") or usage.get("prompt_tokens")
        most = inputs.max_tokens + MAX_ADDED_TOKENS * inputs.count
        if counted is None:  # the estimate is charged
            return inputs.estimated_tokens, ""
        if type(counted) is int and 0 <= counted <= most:
            return counted, ""
        charged = most if type(counted) is int and counted > most else inputs.estimated_tokens
        reported = repr(counted)[:40]
        return charged, f"usage capped: the engine reported {reported} tokens, 0 to {most} are possible"

    def _refused(self, reply: HttpReply) -> PointsmanError:
        body = b"".join(reply.pieces)[:65536]
        message, param = _text(body, 500), None
        with suppress(
            ValueError, LookupError, TypeError, AttributeError, RecursionError
        ):  # not in OpenAI's error format
            error = json.loads(body)["error"]
            message, param = str(error["message"]), error.get("param")
        message = shown_error(message)  # it may quote the API key
        if reply.status in (400, 413, 422):
            param = shown_error(param, MAX_PARAM_CHARACTERS) if isinstance(param, str) else None
            return InvalidArgument(message, code="engine_refused", param=param)
        text = f"embedding model '{self._endpoint.name}': its engine answered {reply.status}: {message}"
        if reply.status == 404:
            missing = NotFound(text, code="model_not_served", param="model")
            missing.fault = "engine"
            return missing
        return Unavailable(
            text,
            code="engine_overloaded" if reply.status == 429 else "engine_error",
            retry_after=reply.retry_after or 1.0,
        )

    def _failed(self, reason: str) -> Unavailable:
        return Unavailable(
            f"embedding model '{self._endpoint.name}': its engine failed: {shown_error(reason)}",
            code="engine_unavailable",
            retry_after=1.0,
        )


def _text(start: bytes, max_characters: int) -> str:
    """Returns the start of a response, as clients may see it."""
    return shown_error(start.decode("utf-8", "replace"), max_characters)


def _ends(pieces: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Returns up to USAGE_SEARCH_BYTES of the start and of the end of a response; they overlap if it is short."""
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
    """Finds the usage object in a response, which holds no text of the client, so that "usage" can only be the key."""
    _, found, rest = end.rpartition(b'"usage"')
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(b":").decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return None
    return usage if isinstance(usage, dict) else None


class EmbeddingModel(Protocol):
    """An embedding model; thread-safe."""

    @property
    def dimensions(self) -> int: ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str]) -> Vector: ...


class LocalEmbedder:
    """Computes embeddings in this process, one batch at a time, so that the classifier's thread has a core."""

    def __init__(
        self, encoder: EmbeddingModel, overflow: Overflow = "error", lock: asyncio.Semaphore | None = None
    ) -> None:
        """Takes `overflow`: the treatment of texts that are too long, for requests that name none."""
        self._encoder = encoder
        self._overflow = overflow
        self._lock = lock or asyncio.Semaphore(1)

    def with_overflow(self, overflow: Overflow) -> "LocalEmbedder":
        """Returns the same embedder with another treatment of long texts for requests that name none."""
        return LocalEmbedder(self._encoder, overflow, self._lock)

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Embeds the texts of a request, in threads.

        Raises InvalidArgument for unsupported parameters, too long texts (overflow "error") or foreign token ids, and
        Unavailable if the encoder's endpoint fails.
        """
        self._check(inputs)
        answer = WindowedAnswer(inputs.base64)
        windows = self._windows(inputs)
        while True:
            # The lock is held for one batch: a request with one text does not wait for one with two thousand.
            async with self._lock:
                count = await asyncio.to_thread(self._embed_batch, windows, answer)
            if count < BATCH_TEXTS:
                break
        return EncodedEmbeddings(answer.pieces(self._encoder.fingerprint), answer.tokens)

    def _check(self, inputs: EmbeddingRequest) -> None:
        name, dimensions = self._encoder.fingerprint, self._encoder.dimensions
        if inputs.dimensions not in (None, dimensions):
            raise InvalidArgument(
                f"'dimensions' is {inputs.dimensions}; {name} has {dimensions}",
                code="unsupported_dimensions",
                param="dimensions",
            )

    def _embed_batch(self, windows: Iterator[TextWindow], answer: "WindowedAnswer") -> int:
        """Tokenizes and embeds the next windows, up to `BATCH_TEXTS`, adds them to the answer, returns their number."""
        batch = list(islice(windows, BATCH_TEXTS))
        if batch:
            vectors = self._encoder.embed(tuple(window.text for window in batch))
            for window, vector in zip(batch, vectors, strict=True):
                answer.add(window, vector)
        return len(batch)

    def _windows(self, inputs: EmbeddingRequest) -> Iterator[TextWindow]:
        """Yields the windows of all texts, in order; raises InvalidArgument."""
        overflow = inputs.overflow or self._overflow
        for number, text in enumerate(inputs.texts):
            yield from self._windows_of(number, text, overflow)
        if inputs.token_ids:
            for number in range(inputs.count):
                yield from self._windows_of(number, self._decode(number, inputs.token_ids.decode(number)), overflow)

    def _windows_of(self, number: int, text: str, overflow: Overflow) -> Iterator[TextWindow]:
        tokenizer, max_tokens = self._encoder.tokenizer, self._encoder.max_tokens
        max_characters = max_tokens * MAX_TOKEN_CHARACTERS
        count = len(tokenizer.encode(text).ids) if len(text) <= max_characters else None
        if count is not None and count <= max_tokens:
            yield TextWindow(number, text, count)
        elif overflow == "truncate":  # the encoder reads the first `max_tokens` tokens
            text = text[:max_characters]
            count = len(tokenizer.encode(text).ids)
            yield TextWindow(number, text, min(count, max_tokens), overflow=overflow)
        elif overflow == "mean":
            yield from split_text(number, text, tokenizer, max_tokens)
        else:
            length = f"{count} tokens" if count else f"{len(text)} characters"
            raise InvalidArgument(
                f"input[{number}] has {length}; {self._encoder.fingerprint} reads {max_tokens} tokens. "
                '\'overflow\' may be "truncate" (reads the beginning) or "mean" (averages the parts)',
                code="context_length_exceeded",
                param="input",
            )

    def _decode(self, number: int, ids: list[int]) -> str:
        """Returns the text of token ids; raises InvalidArgument if the model's own tokenizer did not make them.

        Ids of another tokenizer, such as OpenAI's, would be other words here, and their vectors meaningless.
        """
        tokenizer, name = self._encoder.tokenizer, self._encoder.fingerprint
        text = ""
        if [ids[0], ids[-1]] == tokenizer.encode("").ids:  # [CLS] and [SEP]
            text = tokenizer.decode(ids[1:-1], skip_special_tokens=False)  # keeps [UNK]
        if tokenizer.encode(text).ids != ids:
            raise InvalidArgument(
                f"input[{number}] holds token ids, but not those of a text by {name}'s own tokenizer with its special "
                "tokens; send text (LangChain: check_embedding_ctx_length=False)",
                code="unsupported_input",
                param="input",
            )
        return text
