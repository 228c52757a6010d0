"""The gateway's own encoder as an embedding model: it runs in a worker thread of this process."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.embeddings.stage import EmbeddingRequest, EmbeddingResult

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
