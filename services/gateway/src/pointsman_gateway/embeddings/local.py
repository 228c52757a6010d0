"""The gateway's own encoder as a model of OpenAI's API: in this process, beside the event loop."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.embeddings.stage import Embedded, Wanted

SLICE = 16
"""Texts that are embedded between two looks at whether anyone still waits; about 30 ms."""
LONGEST = 256
"""Tokens that the encoder reads; of a longer text it would leave out the end without a word."""
LONGEST_CHARACTERS = LONGEST * 32
"""No language's tokens are that long on average; what is longer is refused before it is counted."""

Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    def encode(self, sequence: str, /) -> Any:
        """What it returns has `ids`."""
        ...


class Encoder(Protocol):
    """Safe to share between threads."""

    @property
    def dimensions(self) -> int: ...

    @property
    def fingerprint(self) -> str: ...

    @property
    def tokenizer(self) -> Tokenizer: ...

    def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True, slots=True)
class _Part:
    """Some of the vectors, each as an object of OpenAI's, and the tokens that were read for them."""

    objects: list[bytes]
    tokens: int


class LocalModel:
    """Implements `Embedder`. One request's texts are embedded at a time, so that the classifier's thread has a core."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._turn = asyncio.Semaphore(1)

    async def embed(self, wanted: Wanted) -> Embedded:
        """Raises InvalidArgument."""
        self._check(wanted)
        objects: list[bytes] = []
        tokens = 0
        for first in range(0, len(wanted.texts), SLICE):
            # A turn is a slice: a request of one text does not wait for one of two thousand.
            async with self._turn:
                part = await asyncio.to_thread(self._slice, wanted, first)
            objects += part.objects
            tokens += part.tokens
        return Embedded((b'{"object":"list","data":[', b",".join(objects), b"],", self._tail(tokens)), tokens)

    def _check(self, wanted: Wanted) -> None:
        name, dimensions = self._encoder.fingerprint, self._encoder.dimensions
        if wanted.tokens:
            raise InvalidArgument(
                f"'input' holds tokens, which are another tokenizer's than {name}'s; send text "
                "(LangChain: check_embedding_ctx_length=False)",
                code="unsupported_input",
                param="input",
            )
        if wanted.dimensions not in (None, dimensions):
            raise InvalidArgument(
                f"'dimensions' is {wanted.dimensions}; {name} has {dimensions}",
                code="unsupported_dimensions",
                param="dimensions",
            )

    def _slice(self, wanted: Wanted, first: int) -> _Part:
        texts = wanted.texts[first : first + SLICE]
        tokens = sum(self._count(text, first + number) for number, text in enumerate(texts))
        vectors = self._encoder.embed(texts)
        write = _base64 if wanted.base64 else _numbers
        return _Part([_object(first + number, write(row)) for number, row in enumerate(vectors)], tokens)

    def _count(self, text: str, number: int) -> int:
        """In the encoder's tokens. Raises InvalidArgument where they are more than it reads."""
        count = len(self._encoder.tokenizer.encode(text).ids) if len(text) <= LONGEST_CHARACTERS else None
        if count is not None and count <= LONGEST:
            return count
        length = f"{count} tokens" if count else f"{len(text)} characters"
        raise InvalidArgument(
            f"input[{number}] has {length}; {self._encoder.fingerprint} reads {LONGEST} tokens",
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
