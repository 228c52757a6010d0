"""The two kinds of embedding models: models at an OpenAI-compatible endpoint, and the gateway's own encoder.

An endpoint's response is passed to the client unchanged. The encoder runs in worker threads of this process. A text
that is too long for the encoder is rejected, truncated, or split into windows whose vectors are averaged.
"""

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, Protocol

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.domain import Overflow, Vector
from pointsman_gateway.embeddings.stage import EmbeddingRequest, EncodedEmbeddings
from pointsman_gateway.embeddings.windows import (
    MAX_TOKEN_CHARACTERS,
    TextWindow,
    Tokenizer,
    WindowedAnswer,
    split_text,
)
from pointsman_gateway.extensions.http_poster import HttpPoster, HttpReply
from pointsman_gateway.model_calls.call import Charge
from pointsman_gateway.model_calls.endpoint import EndpointClient, ModelEndpoint, charge_tokens, shown_text

MAX_REPLY_BYTES = 128 * 1024 * 1024
"""Maximum length of an endpoint's response; 2048 vectors of 3072 numbers with all digits fit."""
MAX_HELD_BYTES = 2 * MAX_REPLY_BYTES
"""Maximum number of bytes of endpoints' responses that a gateway holds at a time for its clients."""
MAX_ADDED_TOKENS = 64
"""Maximum number of tokens that an endpoint may add to each text: special tokens, and a prompt that the model needs."""
USAGE_SEARCH_BYTES = 4096
"""Number of bytes at the start and at the end of a response that are searched for the field `usage`."""

BATCH_TEXTS = 16
"""Maximum number of texts that the encoder reads at once, which takes about 30 ms. A cancelled request ends after its
current batch."""


class RemoteEmbedder:
    """Gets vectors from a model at an OpenAI-compatible endpoint; implements `Embedder`."""

    def __init__(self, endpoint: ModelEndpoint, http: HttpPoster) -> None:
        self._endpoint = EndpointClient(endpoint, http)

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Sends the texts to the endpoint, and returns its response unchanged.

        Raises InvalidArgument if `inputs.overflow` is neither None nor "error" or the endpoint rejects the request,
        NotFound if the endpoint lacks the model, Unavailable if it fails, and the errors of `inputs.reserve`.
        """
        if inputs.overflow not in (None, "error"):
            raise InvalidArgument(
                f"'overflow' is for the gateway's own model; '{self._endpoint.endpoint.name}' is of another API, which "
                'has its own parameter if it can (vLLM: "truncate_prompt_tokens": -1)',
                code="unsupported_parameter",
                param="overflow",
            )
        reply = await self._endpoint.post(inputs.body, inputs.request.deadline, MAX_REPLY_BYTES, inputs.reserve)
        return EncodedEmbeddings(reply.pieces, self._charge(reply, inputs))

    def _charge(self, reply: HttpReply, inputs: EmbeddingRequest) -> Charge:
        """Returns the tokens that the response's usage reports, as a `Charge`.

        Only the start and the end of the response are searched, since it may have megabytes. Raises Unavailable if the
        response is no JSON object.
        """
        head, tail = _ends(reply.pieces)
        if not head.lstrip().startswith(b"{") or not tail.rstrip().endswith(b"}"):
            raise self._endpoint.failed(f"its answer is no JSON object: {shown_text(head, 100)!r}")
        most = inputs.max_tokens + MAX_ADDED_TOKENS * inputs.count
        return charge_tokens(_usage(tail) or _usage(head) or {}, inputs.estimate, most)


def _ends(pieces: tuple[bytes, ...]) -> tuple[bytes, bytes]:
    """Returns the start and the end of a response, up to USAGE_SEARCH_BYTES each; they overlap if it is short."""
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
    """Returns the usage object in a part of a response; None if there is none.

    The response has no text of the client, so "usage" can only be the key.
    """
    _, found, rest = end.rpartition(b'"usage"')
    if not found:
        return None
    try:
        usage, _ = json.JSONDecoder().raw_decode(rest.lstrip().removeprefix(b":").decode("utf-8", "replace").lstrip())
    except (ValueError, RecursionError):
        return None
    return usage if isinstance(usage, dict) else None


class EmbeddingModel(Protocol):
    """Interface of an embedding model that runs in this process; `Encoder` implements it. Thread-safe."""

    @property
    def dimensions(self) -> int: ...

    @property
    def max_tokens(self) -> int:
        """Returns how many tokens of a text the model can read, special tokens included."""
        ...

    @property
    def fingerprint(self) -> str:
        """Returns the name that identifies the exact model; responses have it in their field `model`."""
        ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str]) -> Vector:
        """Returns the vectors of the texts as a matrix with one row for each text: (texts, dimensions)."""
        ...


class LocalEmbedder:
    """Computes vectors with a model in this process; implements `Embedder`.

    Computes one batch at a time, so that a CPU core is left for the classifier.
    """

    def __init__(
        self, encoder: EmbeddingModel, overflow: Overflow = "error", lock: asyncio.Semaphore | None = None
    ) -> None:
        """Takes the default for requests without an `overflow` (how texts that are too long are handled), and the
        `lock` that embedders of the same model share.
        """
        self._encoder = encoder
        self._overflow = overflow
        self._lock = lock or asyncio.Semaphore(1)

    def with_overflow(self, overflow: Overflow) -> "LocalEmbedder":
        """Returns an embedder of the same model that handles texts that are too long by `overflow` by default.

        Both embedders share a lock, so that only one of them computes at a time.
        """
        return LocalEmbedder(self._encoder, overflow, self._lock)

    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        """Computes the vectors of the request's texts in threads, in batches of `BATCH_TEXTS`, and returns the
        response.

        Raises InvalidArgument if `inputs.dimensions` is not the model's, if a text is too long and the overflow is
        "error", or if token ids were made by another tokenizer than the model's own.
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
        return EncodedEmbeddings(answer.pieces(self._encoder.fingerprint), Charge(answer.tokens))

    def _check(self, inputs: EmbeddingRequest) -> None:
        name, dimensions = self._encoder.fingerprint, self._encoder.dimensions
        if inputs.dimensions not in (None, dimensions):
            raise InvalidArgument(
                f"'dimensions' is {inputs.dimensions}; {name} has {dimensions}",
                code="unsupported_dimensions",
                param="dimensions",
            )

    def _embed_batch(self, windows: Iterator[TextWindow], answer: "WindowedAnswer") -> int:
        """Embeds the next windows, at most `BATCH_TEXTS`, and adds their vectors to `answer`. Returns their number."""
        batch = list(islice(windows, BATCH_TEXTS))
        if batch:
            vectors = self._encoder.embed(tuple(window.text for window in batch))
            for window, vector in zip(batch, vectors, strict=True):
                answer.add(window, vector)
        return len(batch)

    def _windows(self, inputs: EmbeddingRequest) -> Iterator[TextWindow]:
        """Yields the windows of all texts, in order; raises InvalidArgument as `embed` does."""
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
        """Returns the text of token ids; raises InvalidArgument if the model's tokenizer makes other ids of that text.

        The ids of another tokenizer, such as OpenAI's, stand for other words here. `number` is the text's index.
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
