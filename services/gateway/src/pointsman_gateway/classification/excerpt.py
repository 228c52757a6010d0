"""Bounded excerpts of long texts, so that the time to classify a text does not depend on its length."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

CHARACTERS_PER_END = 4096
"""Number of characters that rules and the language detector read at each end of a long text.

The time of a regular expression may grow with the square of the length: a megabyte would take minutes.
"""

BINARY_SHARE = 0.1
"""A text with a larger share of control characters counts as binary. Binary data decoded as text has about a quarter,
real text almost none."""

MAX_UNCOUNTED_CHARACTERS = 256
"""A text of up to this length is read whole without counting its tokens."""

TOKENS_PER_END = 64
"""Number of tokens that the classifier reads at each end of a long text."""

CHARACTERS_TOKENIZED_PER_END = 1024
"""Number of characters that are tokenized at each end of a long text. `TOKENS_PER_END` tokens have about 300
characters, seldom over 1,024.
"""

_CONTROL = "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufff9-\uffff"

_BINARY = re.compile(f"[{_CONTROL}]")

_INVISIBLE = re.compile(f"[{_CONTROL}\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
"""Control characters, direction marks and characters of zero width."""


class SpanTokenizer(Protocol):
    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Returns the position of each token in the text: (start, end) in characters, the end exclusive."""
        ...


@dataclass(frozen=True, slots=True)
class CharacterExcerpt:
    """The part of a text that rules and the language detector read."""

    text: str
    notes: tuple[str, ...] = ()
    """A note that says how much of the text is read; empty if the whole text is read."""


@dataclass(frozen=True, slots=True)
class TokenExcerpt:
    """The part of a text that the classifier reads."""

    text: str
    notes: tuple[str, ...] = ()
    """A note that says how many tokens are read; empty if the whole text is read."""


def character_excerpt(text: str) -> CharacterExcerpt:
    """Returns the first and the last `CHARACTERS_PER_END` characters of a text on separate lines, with a note.

    A text of up to 2 * `CHARACTERS_PER_END` characters is returned whole, without a note.
    """
    if len(text) <= 2 * CHARACTERS_PER_END:
        return CharacterExcerpt(text)
    note = f"read the first and the last {CHARACTERS_PER_END} of {len(text)} characters"
    return CharacterExcerpt(f"{text[:CHARACTERS_PER_END]}\n{text[-CHARACTERS_PER_END:]}", (note,))


def visible(text: str) -> str:
    """Removes control characters, direction marks, characters of zero width and soft hyphens, so that they cannot
    change how a text is classified. Spaces, tabs, line feeds and carriage returns stay.
    """
    return text if text.isprintable() else _INVISIBLE.sub("", text)


def is_binary(text: str) -> bool:
    return not text.isprintable() and len(_BINARY.findall(text)) > BINARY_SHARE * len(text)


def token_excerpt(text: str, tokens: SpanTokenizer) -> TokenExcerpt:
    """Returns the first and the last `TOKENS_PER_END` tokens of a text, separated by a space, and a note.

    The note says how many of how many tokens are read. Texts of up to `MAX_UNCOUNTED_CHARACTERS` characters are
    returned whole and without a note. So are texts of up to 2 * `CHARACTERS_TOKENIZED_PER_END` characters if they have
    at most 2 * `TOKENS_PER_END` tokens. Of a text with more characters only the two ends are tokenized, and the note
    estimates the total. Lone surrogates become "?".
    """
    if len(text) <= MAX_UNCOUNTED_CHARACTERS:
        return TokenExcerpt(encodable(text))
    if len(text) <= 2 * CHARACTERS_TOKENIZED_PER_END:
        whole = encodable(text)
        spans = tokens.spans(whole)
        if len(spans) <= 2 * TOKENS_PER_END:
            return TokenExcerpt(whole)
        return _both_ends(whole, spans, whole, spans, str(len(spans)))
    head, tail = encodable(text[:CHARACTERS_TOKENIZED_PER_END]), encodable(text[-CHARACTERS_TOKENIZED_PER_END:])
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


def encodable(text: str) -> str:
    """Replaces lone surrogates by "?", since JSON can carry them but a tokenizer cannot read them."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
