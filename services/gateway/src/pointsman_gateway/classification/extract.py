"""What is read of a text: all of a short one, both ends of a long one, in bounded time whatever its length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

READ_WHOLE = 256
"""Characters; a text no longer than this is read whole without counting its tokens."""

TOKENS_AT_AN_END = 64

CHARACTERS_AT_AN_END = 1024
"""What is cut into tokens at each end; 64 tokens are 300 characters of prose, and 1,024 of almost anything."""


class Tokens(Protocol):
    def spans(self, text: str) -> Sequence[tuple[int, int]]:
        """Where each token begins and ends, in characters."""
        ...


@dataclass(frozen=True, slots=True)
class Extract:
    text: str
    notes: tuple[str, ...] = ()


def extract(text: str, tokens: Tokens) -> Extract:
    """The first and the last 64 tokens, with a note, unless the text has no more than both together."""
    if len(text) <= READ_WHOLE:
        return Extract(_encodable(text))
    if len(text) <= 2 * CHARACTERS_AT_AN_END:
        whole = _encodable(text)
        spans = tokens.spans(whole)
        if len(spans) <= 2 * TOKENS_AT_AN_END:
            return Extract(whole)
        return _both_ends(whole, spans, whole, spans, str(len(spans)))
    head, tail = _encodable(text[:CHARACTERS_AT_AN_END]), _encodable(text[-CHARACTERS_AT_AN_END:])
    first, last = tokens.spans(head), tokens.spans(tail)
    about = (len(first) + len(last)) * len(text) // (2 * CHARACTERS_AT_AN_END)
    return _both_ends(head, first, tail, last, f"about {about}")


def _both_ends(
    head: str, first: Sequence[tuple[int, int]], tail: str, last: Sequence[tuple[int, int]], total: str
) -> Extract:
    first, last = first[:TOKENS_AT_AN_END], last[-TOKENS_AT_AN_END:]
    begin = head[: first[-1][1]] if first else ""
    end = tail[last[0][0] :] if last else ""
    return Extract(f"{begin} {end}", (f"read {len(first) + len(last)} of {total} tokens",))


def _encodable(text: str) -> str:
    """JSON can carry a lone surrogate, which is no text to a tokenizer."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
