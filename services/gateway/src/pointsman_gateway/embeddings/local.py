"""The gateway's own encoder as an embedding model: it runs in a worker thread of this process.

A text that is longer than the encoder reads is rejected, truncated, or split into windows whose vectors are averaged.
"""

import asyncio
import base64
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray
from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.domain import Overflow
from pointsman_gateway.embeddings.stage import EmbeddingRequest, EmbeddingResult

BATCH_TEXTS = 16
"""Texts per batch, about 30 ms; cancellation takes effect between batches."""
MAX_TOKENS = 256
"""Tokens that the encoder reads; it would silently truncate a longer text."""
MAX_CHARACTERS = MAX_TOKENS * 32
"""A longer text is rejected without counting its tokens, because no language's tokens are that long on average."""

SPLIT_CHARACTERS = MAX_TOKENS * 8
"""Characters of a long text that are tokenized to find the end of one window: about twice its usual length."""

Vectors = NDArray[np.float32]


class Tokenizer(Protocol):
    def encode(self, sequence: str, /) -> Any:
        """Returns an object with `ids`, `special_tokens_mask`, `word_ids` and `offsets`, one of each per token."""
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


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
class _Window:
    """A text that fits the encoder: one of the request's texts, or a part of one."""

    number: int
    """The number of the request's text."""
    text: str
    tokens: int
    is_last: bool = True
    """Whether it is the last one of its text."""
    overflow: str = ""
    """What was done with its text: "truncate", "mean", or nothing."""


class LocalEmbedder:
    """Implements `Embedder`. Only one batch is embedded at a time, so that the classifier's thread has a core."""

    def __init__(self, encoder: Encoder, overflow: Overflow = "error", lock: asyncio.Semaphore | None = None) -> None:
        """`overflow` is for requests that name none."""
        self._encoder = encoder
        self._overflow = overflow
        self._lock = lock or asyncio.Semaphore(1)

    def with_overflow(self, overflow: Overflow) -> "LocalEmbedder":
        """The same embedder, with another treatment of long texts for requests that name none."""
        return LocalEmbedder(self._encoder, overflow, self._lock)

    async def embed(self, inputs: EmbeddingRequest) -> EmbeddingResult:
        """Raises InvalidArgument."""
        self._check(inputs)
        answer = _Answer(_base64 if inputs.base64 else _numbers)
        windows = self._windows(inputs)
        while True:
            # The lock is held for one batch: a request with one text does not wait for one with two thousand.
            async with self._lock:
                count = await asyncio.to_thread(self._embed_batch, windows, answer)
            if count < BATCH_TEXTS:
                break
        return EmbeddingResult(answer.pieces(self._encoder.fingerprint), answer.tokens)

    def _check(self, inputs: EmbeddingRequest) -> None:
        name, dimensions = self._encoder.fingerprint, self._encoder.dimensions
        if inputs.dimensions not in (None, dimensions):
            raise InvalidArgument(
                f"'dimensions' is {inputs.dimensions}; {name} has {dimensions}",
                code="unsupported_dimensions",
                param="dimensions",
            )

    def _embed_batch(self, windows: Iterator[_Window], answer: "_Answer") -> int:
        """Embeds the next windows, and returns their number. Tokenizing takes time too, so it belongs to the batch."""
        batch = list(islice(windows, BATCH_TEXTS))
        if batch:
            vectors = self._encoder.embed(tuple(window.text for window in batch))
            for window, vector in zip(batch, vectors, strict=True):
                answer.add(window, vector)
        return len(batch)

    def _windows(self, inputs: EmbeddingRequest) -> Iterator[_Window]:
        """The windows of all texts, in order. Raises InvalidArgument."""
        overflow = inputs.overflow or self._overflow
        for number, text in enumerate(inputs.texts):
            yield from self._windows_of(number, text, overflow)
        for number, ids in enumerate(inputs.tokens):
            yield from self._windows_of(number, self._decode(number, ids), overflow)

    def _windows_of(self, number: int, text: str, overflow: Overflow) -> Iterator[_Window]:
        count = len(self._encoder.tokenizer.encode(text).ids) if len(text) <= MAX_CHARACTERS else None
        if count is not None and count <= MAX_TOKENS:
            yield _Window(number, text, count)
        elif overflow == "truncate":  # the encoder reads the first MAX_TOKENS tokens
            text = text[:MAX_CHARACTERS]
            count = len(self._encoder.tokenizer.encode(text).ids)
            yield _Window(number, text, min(count, MAX_TOKENS), overflow=overflow)
        elif overflow == "mean":
            yield from _split(number, text, self._encoder.tokenizer)
        else:
            length = f"{count} tokens" if count else f"{len(text)} characters"
            raise InvalidArgument(
                f"input[{number}] has {length}; {self._encoder.fingerprint} reads {MAX_TOKENS} tokens. "
                '\'overflow\' may be "truncate" (reads the beginning) or "mean" (averages the parts)',
                code="context_length_exceeded",
                param="input",
            )

    def _decode(self, number: int, ids: tuple[int, ...]) -> str:
        """The text of token ids. Raises InvalidArgument if they are not exactly those of the model's own tokenizer.

        Ids of another tokenizer, such as OpenAI's, would be other words here, and their vectors meaningless.
        """
        tokenizer, name = self._encoder.tokenizer, self._encoder.fingerprint
        text = ""
        if [ids[0], ids[-1]] == tokenizer.encode("").ids:  # [CLS] and [SEP]
            text = tokenizer.decode(ids[1:-1], skip_special_tokens=False)  # keeps [UNK]
        if tuple(tokenizer.encode(text).ids) != ids:
            raise InvalidArgument(
                f"input[{number}] holds token ids, but not those of a text by {name}'s own tokenizer with its special "
                "tokens; send text (LangChain: check_embedding_ctx_length=False)",
                code="unsupported_input",
                param="input",
            )
        return text


class _Answer:
    """Collects the vectors of one request as OpenAI's JSON objects."""

    def __init__(self, write: Callable[[Vectors], bytes]) -> None:
        self.tokens = 0
        self._write = write
        self._objects: list[bytes] = []
        self._sum: Vectors | None = None
        """Of the vectors of the current text so far, weighted by their tokens."""
        self._tokens_of_text = self._windows_of_text = 0
        self._overflows: list[dict[str, Any]] = []

    def add(self, window: _Window, vector: Vectors) -> None:
        """Adds the next window; that of a whole text is written as it is."""
        self.tokens += window.tokens
        self._tokens_of_text += window.tokens
        self._windows_of_text += 1
        if window.overflow == "mean":
            weighted = vector * window.tokens
            self._sum = weighted if self._sum is None else self._sum + weighted
        if window.is_last:
            self._end_text(window, vector if self._sum is None else _normalized(self._sum))

    def pieces(self, model: str) -> tuple[bytes, ...]:
        """The response's body."""
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        end: dict[str, Any] = {"model": model, "usage": usage}
        if self._overflows:
            end["pointsman"] = {"overflow": self._overflows}
        return b'{"object":"list","data":[', b",".join(self._objects), b"],", msgspec.json.encode(end)[1:]

    def _end_text(self, window: _Window, vector: Vectors) -> None:
        self._objects.append(_object(window.number, self._write(vector)))
        if window.overflow:
            self._overflows.append(
                {
                    "index": window.number,
                    "applied": window.overflow,
                    "windows": self._windows_of_text,
                    "tokens_read": self._tokens_of_text,
                }
            )
        self._sum, self._tokens_of_text, self._windows_of_text = None, 0, 0


def _split(number: int, text: str, tokenizer: Tokenizer) -> Iterator[_Window]:
    """Splits a text that is too long into windows that fit, between words where possible."""
    start, pending = 0, None
    while start < len(text):
        piece = text[start : start + SPLIT_CHARACTERS]
        end, tokens = _end_of_window(tokenizer.encode(piece), len(piece), start + len(piece) == len(text))
        if tokens:  # otherwise it is white space
            if pending is not None:
                yield pending
            pending = _Window(number, piece[:end], tokens, False, "mean")
        start += end
    assert pending is not None  # an empty text is not too long
    yield replace(pending, is_last=True)


def _end_of_window(encoding: Any, length: int, is_rest: bool) -> tuple[int, int]:
    """The characters and tokens of the window at the start of a piece with `length` characters.

    `is_rest`: the piece ends where the text ends; otherwise its last word may be cut, and is left to the next window.
    """
    content = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
    specials = len(encoding.ids) - len(content)
    limit = MAX_TOKENS - specials
    if len(content) <= (limit if is_rest else 1):
        return length, len(encoding.ids) if content else 0
    limit = min(limit, len(content) - 1)
    words = encoding.word_ids
    cut = next((at for at in range(limit, 0, -1) if words[content[at]] != words[content[at - 1]]), limit)
    return max(1, encoding.offsets[content[cut]][0]), cut + specials


def _normalized(vector: Vectors) -> Vectors:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)


def _object(index: int, embedding: bytes) -> bytes:
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, embedding)


def _numbers(vector: Vectors) -> bytes:
    return msgspec.json.encode(vector.tolist())


def _base64(vector: Vectors) -> bytes:
    return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
