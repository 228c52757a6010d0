"""Classifies the last turn of a conversation: alone if it is self-contained, else together with earlier turns."""

import re
from collections.abc import Sequence
from dataclasses import replace
from enum import Enum
from itertools import filterfalse

from pointsman_gateway.classification.reader import (
    COURTESIES,
    FOLLOW_UP_OPENINGS,
    LONG_CHARACTERS,
    NO_CONTENT,
    REFERENCES,
    THANKS,
    Reader,
    is_sure,
)
from pointsman_gateway.domain import Labels

# The thresholds below were chosen on tests/gateway/development_conversations.jsonl.

MAX_FOLLOW_UP_WORDS = 8
"""A turn that opens like a follow-up but has more words is self-contained."""

MAX_SHORT_WORDS = 6
MAX_SHORT_CONTENT_WORDS = 2
"""A turn within both limits is short: it may depend on earlier turns."""

SHORT_MIN_SCORE = 1.0
"""In-distribution score above the task's threshold that a short turn needs to be classified alone. A few words
resemble something easily."""

MAX_DISTANCE_BELOW_THRESHOLD = 0.8
"""A whole sentence that refers back and scores lower than this below the threshold belongs to no task, whatever came
before. A sentence that does not refer back belongs to none as soon as it is below the threshold."""

NOTE = "read with the turns before it"

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

_OPENS = re.compile(rf"\W*(?:{'|'.join(FOLLOW_UP_OPENINGS)})\b", re.IGNORECASE)


class Utterance(Enum):
    """How much a turn of a conversation says without the turns before it."""

    BARE = "bare"
    """ "yes please", "why?", "👍": it says nothing by itself."""
    FOLLOW_UP = "follow_up"
    """ "and by bicycle?": it names something, but the question about it is in an earlier turn."""
    SHORT = "short"
    """ "LM-38271", "shorter, please": it may be self-contained or not."""
    CLOSING = "closing"
    """ "ok, thanks a lot!": it ends the conversation and is not about its subject."""
    WHOLE = "whole"
    """It is self-contained."""


def utterance_type(turn: str) -> Utterance:
    if len(turn) > LONG_CHARACTERS:
        return Utterance.WHOLE
    words = _WORD.findall(turn.lower())
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


def refers_back(turn: str) -> bool:
    """Returns whether the turn contains a word that stands for something named before ("it", "he", "the same")."""
    return not REFERENCES.isdisjoint(_WORD.findall(turn[:LONG_CHARACTERS].lower()))


class Conversation:
    """Classifies the last message of a conversation; uses earlier messages if the last one is unclear alone."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def label(self, turns: Sequence[str]) -> Labels:
        """Classifies the last of `turns`, which are at least one, oldest first."""
        *before, last = turns
        if not before:
            return await self._reader.read(last)
        kind = utterance_type(last)
        if kind is Utterance.BARE:
            return _with_note(await self.label(before))
        alone = await self._reader.read(last)
        if _is_self_contained(alone, last, kind):
            return alone
        context = _context(before)
        thread = await self._reader.classify_once(context[0])
        if thread.abstained:
            return alone if alone.abstained or kind is Utterance.WHOLE else _with_note(thread)
        if alone.task == thread.task:
            return alone
        together = await self._reader.classify_once("\n".join([*context, last]))
        if together.task == alone.task and not alone.abstained and kind is not Utterance.FOLLOW_UP:
            return alone
        return _with_note(together if together.task == thread.task else thread)


def _is_self_contained(alone: Labels, turn: str, kind: Utterance) -> bool:
    """Returns whether the labels of the turn alone hold, without the turns before it."""
    if alone.stage == "language" or kind is Utterance.CLOSING:
        return True
    if kind is Utterance.WHOLE:
        return is_sure(alone) or alone.in_distribution_score < (
            -MAX_DISTANCE_BELOW_THRESHOLD if refers_back(turn) else 0
        )
    return kind is Utterance.SHORT and is_sure(alone) and alone.in_distribution_score >= SHORT_MIN_SCORE


def _context(before: Sequence[str]) -> list[str]:
    """Returns earlier turns to read: the last whole one and the last one with content; if there is none, the first."""
    with_content = [turn for turn in before if utterance_type(turn) is not Utterance.BARE]
    whole = [turn for turn in with_content if utterance_type(turn) is Utterance.WHOLE]
    return list(dict.fromkeys([*whole[-1:], *with_content[-1:]])) or [before[0]]


def _with_note(labels: Labels) -> Labels:
    if NOTE in labels.notes or labels.stage == "language":
        return labels
    return replace(labels, stage="conversation", notes=(NOTE, *labels.notes))
