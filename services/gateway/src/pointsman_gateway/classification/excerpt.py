"""Bounded excerpts of long texts, so that the time to classify a text does not depend on its length."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

CHARACTERS_PER_END = 4096
"""The time of a pattern may grow with the square of the text: for a megabyte it would be minutes."""

BINARY_SHARE = 0.1
"""Share of control characters from which a text counts as binary. Bytes decoded as text have a quarter, text has
next to none."""

MAX_UNCOUNTED_CHARACTERS = 256
"""A text of up to this length is read whole without counting its tokens."""

TOKENS_PER_END = 64

CHARACTERS_TOKENIZED_PER_END = 1024
"""Characters that are tokenized at each end of a long text: 64 tokens are about 300, seldom over 1,024."""

_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufff9-\uffff"

_BINARY = re.compile(f"[{_CONTROL}]")

_INVISIBLE = re.compile(f"[{_CONTROL}\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""Control characters, direction marks and characters of zero width."""


class SpanTokenizer(Protocol):
    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Returns the start and the end of each token, in characters."""
        ...


@dataclass(frozen=True, slots=True)
class CharacterExcerpt:
    """The part of a text that rules and the language detector read."""

    text: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenExcerpt:
    """The part of a text that the classifier reads."""

    text: str
    notes: tuple[str, ...] = ()


def character_excerpt(text: str) -> CharacterExcerpt:
    """Returns the first and the last 4,096 characters on separate lines, with a note; a shorter text is returned
    whole."""
    if len(text) <= 2 * CHARACTERS_PER_END:
        return CharacterExcerpt(text)
    note = f"read the first and the last {CHARACTERS_PER_END} of {len(text)} characters"
    return CharacterExcerpt(f"{text[:CHARACTERS_PER_END]}\n{text[-CHARACTERS_PER_END:]}", (note,))


def visible(text: str) -> str:
    """Removes invisible characters, so that they cannot change how a text is classified."""
    return text if text.isprintable() else _INVISIBLE.sub("", text)


def is_binary(text: str) -> bool:
    return not text.isprintable() and len(_BINARY.findall(text)) > BINARY_SHARE * len(text)


def token_excerpt(text: str, tokens: SpanTokenizer) -> TokenExcerpt:
    """Returns the first and the last 64 tokens of a text, with a note of how many of how many are read.

    Texts of up to 256 characters are returned whole, as are those of up to 2,048 characters with up to 128 tokens. Of a
    longer text only the first and the last 1,024 characters are split into tokens, and the note estimates the total.
    """
    if len(text) <= MAX_UNCOUNTED_CHARACTERS:
        return TokenExcerpt(_encodable(text))
    if len(text) <= 2 * CHARACTERS_TOKENIZED_PER_END:
        whole = _encodable(text)
        spans = tokens.spans(whole)
        if len(spans) <= 2 * TOKENS_PER_END:
            return TokenExcerpt(whole)
        return _both_ends(whole, spans, whole, spans, str(len(spans)))
    head, tail = _encodable(text[:CHARACTERS_TOKENIZED_PER_END]), _encodable(text[-CHARACTERS_TOKENIZED_PER_END:])
    first, last = tokens.spans(head), tokens.spans(tail)
    estimate = (len(first) + len(last)) * len(text) // (2 * CHARACTERS_TOKENIZED_PER_END)
    return _both_ends(head, first, tail, last, f"about {estimate}")


def _both_ends(
    head: str, first: Sequence[tuple[int, int]], tail: str, last: Sequence[tuple[int, int]], total: str
) -> TokenExcerpt:
    first, last = first[:TOKENS_PER_END], last[-TOKENS_PER_END:]
    begin = head[: first[-1][1]] if first else ""
    end = tail[last[0][0] :] if last else ""
    return TokenExcerpt(f"{begin} {end}", (f"read {len(first) + len(last)} of {total} tokens",))


def _encodable(text: str) -> str:
    """Replaces lone surrogates, which JSON can carry but a tokenizer cannot read."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
