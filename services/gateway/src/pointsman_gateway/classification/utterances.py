"""Classifies messages of a user by how much they say without the messages before them, by lists of English words."""

import re
from collections.abc import Sequence
from enum import Enum
from itertools import filterfalse
from typing import NamedTuple

from pointsman_gateway.classification.reader import (
    COURTESIES,
    FOLLOW_UP_OPENINGS,
    LONG_CHARACTERS,
    NO_CONTENT,
    REFERENCES,
    THANKS,
)
from pointsman_gateway.classification.spoken_words import SpokenWords

MAX_FOLLOW_UP_WORDS = 8
"""A message that begins like a follow-up ("and by bicycle?") but has more words than this says enough by itself."""

MAX_SHORT_WORDS = 6
MAX_SHORT_CONTENT_WORDS = 2
"""A message is `Utterance.SHORT` if it has at most `MAX_SHORT_WORDS` words, of which at most this many have content."""

_WORDS = SpokenWords(digits=True)

_OPENS = re.compile(rf"\W*(?:{'|'.join(FOLLOW_UP_OPENINGS)})\b", re.IGNORECASE)


class Utterance(Enum):
    """How much a turn of a conversation says without the turns before it."""

    BARE = "bare"
    """An utterance that says nothing by itself, such as "yes please", "why?" or "👍"."""
    FOLLOW_UP = "follow_up"
    """An utterance that names something, while the question about it is in an earlier turn, such as "and by
    bicycle?"."""
    SHORT = "short"
    """A short utterance that may need the messages before it or not, such as "LM-38271" or "shorter, please"."""
    CLOSING = "closing"
    """An utterance that ends the conversation and is not about its subject, such as "ok, thanks a lot!"."""
    WHOLE = "whole"
    """An utterance that says enough without the messages before it."""


class Shape(NamedTuple):
    """What the words of a message show without the classifier: how much it says by itself, and whether it refers
    back.
    """

    kind: Utterance
    refers_back: bool
    """Whether it contains a word that stands for something named before ("it", "he", "the same")."""


def shape_of(turn: str) -> Shape:
    """Returns how much a message says by itself, and whether it refers back to something named before.

    A message of more than `LONG_CHARACTERS` is `WHOLE`; only that many characters of it are searched for words that
    refer back.
    """
    words = _WORDS.find(turn[:LONG_CHARACTERS].lower())
    return Shape(_kind_of(turn, words), not REFERENCES.isdisjoint(words))


def _kind_of(turn: str, words: Sequence[str]) -> Utterance:
    if len(turn) > LONG_CHARACTERS:
        return Utterance.WHOLE
    content = list(filterfalse(NO_CONTENT.__contains__, words))
    if not content:
        return Utterance.BARE
    if not THANKS.isdisjoint(words) and COURTESIES.issuperset(content):
        return Utterance.CLOSING
    if len(words) <= MAX_FOLLOW_UP_WORDS and _OPENS.match(turn):
        return Utterance.FOLLOW_UP
    if len(words) <= MAX_SHORT_WORDS and len(content) <= MAX_SHORT_CONTENT_WORDS:
        return Utterance.SHORT
    return Utterance.WHOLE


def is_question(turn: str) -> bool:
    return turn.rstrip().endswith(("?", "？"))
