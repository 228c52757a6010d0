"""A text's words, and the pieces by which a word that was never seen is like one that was."""

import re
import unicodedata
from collections.abc import Iterable

_WORD = re.compile(r"[^\W_]+|[^\w\s]|_")

PIECE_LENGTHS = (3, 4)

LONGEST_WORD = 40
"""Characters; what follows in a longer one is not looked at."""

EDGE = ""
"""Stands before the first word and after the last."""


def words_of(text: str) -> list[str]:
    """Lower-case words; each mark of punctuation is one of its own."""
    if not text.isascii():
        text = unicodedata.normalize("NFC", text)
    return _WORD.findall(text.lower())


def different(words: Iterable[str]) -> list[str]:
    """Each once, in the order of their first coming: said ten times, a word says no more."""
    return list(dict.fromkeys(words))


def pieces_of(word: str) -> list[str]:
    """The word itself, and its runs of three and four characters, its ends marked."""
    marked = f"<{word[:LONGEST_WORD]}>"
    runs = {marked[i : i + n] for n in PIECE_LENGTHS for i in range(len(marked) - n + 1)}
    return [word, *sorted(runs)]


def pairs_of(words: list[str]) -> list[tuple[str, str]]:
    """Each word with the one that follows it; each such pair once."""
    return list(dict.fromkeys(zip([EDGE, *words], [*words, EDGE], strict=True)))
