"""Splits texts that are too long for the gateway's own encoder into windows, and averages the windows' vectors."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import msgspec

from pointsman_gateway.domain import Vector

MAX_TOKEN_CHARACTERS = 32
"""Maximum mean length of a token, in characters, for which tokens are counted; in no language are tokens longer on
average. A text with more characters, for the number of tokens that the encoder reads, is too long without counting."""

SPLIT_CHARACTERS = 8
"""Number of characters that are tokenized for each token of a window, to find the window's end. A window has about half
as many characters."""


class Tokenizer(Protocol):
    """Interface of a tokenizer: those methods of `tokenizers.Tokenizer` that are used here."""

    def encode(self, sequence: str, /) -> Any:
        """Returns the tokens of a text, as an object with the lists `ids`, `special_tokens_mask`, `word_ids` and
        `offsets`.

        Each list has one item for each token; an offset is the (start, end) of a token in the text.
        """
        ...

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str: ...


@dataclass(frozen=True, slots=True)
class TextWindow:
    """A text that the encoder can read as a whole: one of the request's texts, or a part of one."""

    number: int
    """The index, in the request, of the text to which the window belongs."""
    text: str
    tokens: int
    """The number of the window's tokens that the encoder reads, special ones included."""
    is_last: bool = True
    """Whether this is the last window of the request's text."""
    overflow: str = ""
    """How a long text was handled: "truncate" if it is cut, "mean" if this is one of its windows; empty if the text
    fits as a whole."""


class WindowedAnswer:
    """Collects the vectors of one request's texts, and encodes the response as JSON in OpenAI's format."""

    def __init__(self, in_base64: bool) -> None:
        """Writes vectors as base64 of little-endian 32-bit floats if `in_base64` is set, else as lists of numbers."""
        self.tokens = 0
        self._write = _base64 if in_base64 else _numbers
        self._objects: list[bytes] = []
        self._sum: Vector | None = None
        """The sum of the vectors of the current text so far, weighted by their tokens."""
        self._tokens_of_text = self._windows_of_text = 0
        self._overflows: list[dict[str, Any]] = []

    def add(self, window: TextWindow, vector: Vector) -> None:
        """Adds the vector of the next window: of a whole text, or of a part of a text that is too long.

        Windows are added in the order of the texts. If the window's `overflow` is "mean", the text's vector is the
        mean of its windows' vectors, weighted by their tokens and normalized; otherwise it is this vector.
        """
        self.tokens += window.tokens
        self._tokens_of_text += window.tokens
        self._windows_of_text += 1
        if window.overflow == "mean":
            weighted = vector * window.tokens
            self._sum = weighted if self._sum is None else self._sum + weighted
        if window.is_last:
            self._end_text(window, vector if self._sum is None else _normalized(self._sum))

    def pieces(self, model: str) -> tuple[bytes, ...]:
        """Returns the JSON of the response in pieces, to be joined or written one after another.

        `model` is the name of the model, for the response's field of this name.
        """
        usage = {"prompt_tokens": self.tokens, "total_tokens": self.tokens}
        end: dict[str, Any] = {"model": model, "usage": usage}
        if self._overflows:
            end["pointsman"] = {"overflow": self._overflows}
        return b'{"object":"list","data":[', b",".join(self._objects), b"],", msgspec.json.encode(end)[1:]

    def _end_text(self, window: TextWindow, vector: Vector) -> None:
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


def split_text(number: int, text: str, tokenizer: Tokenizer, max_tokens: int) -> Iterator[TextWindow]:
    """Splits a text that is too long for the encoder; yields windows of at most `max_tokens`, special tokens
    included.

    `number` is the index of the text in the request. The text is split between words; only a word that is too long
    itself is split.
    """
    start, pending = 0, None
    while start < len(text):
        piece = text[start : start + max_tokens * SPLIT_CHARACTERS]
        is_rest = start + len(piece) == len(text)
        end, tokens = _end_of_window(tokenizer.encode(piece), len(piece), is_rest, max_tokens)
        if tokens:  # otherwise it is white space
            if pending is not None:
                yield pending
            pending = TextWindow(number, piece[:end], tokens, False, "mean")
        start += end
    assert pending is not None  # an empty text is not too long
    yield replace(pending, is_last=True)


def _end_of_window(encoding: Any, length: int, is_rest: bool, max_tokens: int) -> tuple[int, int]:
    """Returns the numbers of characters and tokens of the window at the start of a piece with `length` characters.

    `is_rest` says that the piece ends where the text ends; otherwise its last word may be cut off, and belongs to the
    next window. The number of tokens is 0 if the window is only white space.
    """
    content = [index for index, special in enumerate(encoding.special_tokens_mask) if not special]
    specials = len(encoding.ids) - len(content)
    limit = max_tokens - specials
    if len(content) <= (limit if is_rest else 1):
        return length, len(encoding.ids) if content else 0
    limit = min(limit, len(content) - 1)
    words = encoding.word_ids
    cut = next((at for at in range(limit, 0, -1) if words[content[at]] != words[content[at - 1]]), limit)
    return max(1, encoding.offsets[content[cut]][0]), cut + specials


def _normalized(vector: Vector) -> Vector:
    normalized: Vector = vector / max(float(vector @ vector) ** 0.5, 1e-12)
    return normalized


def _object(index: int, embedding: bytes) -> bytes:
    return b'{"object":"embedding","index":%d,"embedding":%b}' % (index, embedding)


def _numbers(vector: Vector) -> bytes:
    return msgspec.json.encode(vector.tolist())


def _base64(vector: Vector) -> bytes:
    return b'"%b"' % base64.b64encode(vector.astype("<f4").tobytes())
