"""What one turn of a conversation looks like: whether it says something by itself, or leans on what was said before."""

import re
from collections.abc import Sequence
from enum import Enum
from itertools import filterfalse

from pointsman_gateway.classification import english
from pointsman_gateway.domain import Message

MOST_TURNS = 5
"""Of the user's, the last one among them; what lies further back has no say."""

LONG = 600
"""Characters: what is longer holds a letter, a listing, a page that somebody pasted."""

_LEAN = 8
"""Words; a turn that opens like a follow-up and has more than these stands by itself all the same."""

_SHORT = 6
"""Words; a turn with no more, and with no more than `_SPARSE` that say anything, leans on what was said before."""

_SPARSE = 2

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")

_OPENS = re.compile(rf"\W*(?:{'|'.join(english.OPENING_A_FOLLOW_UP)})\b", re.IGNORECASE)


class Shape(Enum):
    BARE = "bare"
    """ "yes please", "why?", "👍": says nothing by itself."""
    LEANING = "leaning"
    """ "and by bicycle?": names something, and leaves what about it to what was said before."""
    SHORT = "short"
    """ "LM-38271", "shorter, please": may stand by itself or not."""
    PARTING = "parting"
    """ "ok, thanks a lot!": ends the matter, so it is not about it."""
    WHOLE = "whole"


def shape_of(turn: str) -> Shape:
    if len(turn) > LONG:
        return Shape.WHOLE
    words = _WORD.findall(turn.lower())
    telling = list(filterfalse(english.SAY_NOTHING.__contains__, words))
    if not telling:
        return Shape.BARE
    if not english.THANKS.isdisjoint(words) and english.COURTESIES.issuperset(telling):
        return Shape.PARTING
    if len(words) <= _LEAN and _OPENS.match(turn):
        return Shape.LEANING
    if len(words) <= _SHORT and len(telling) <= _SPARSE:
        return Shape.SHORT
    return Shape.WHOLE


def user_turns(messages: Sequence[Message]) -> tuple[str, ...]:
    """What the user said last, oldest first; neither the system's words, nor the assistant's, nor a tool's."""
    return tuple(message.content for message in messages if message.role == "user")[-MOST_TURNS:]


def points_back(turn: str) -> bool:
    """Whether it names something only by a word for what was named before ("it", "he", "the same")."""
    return not english.POINTING_BACK.isdisjoint(_WORD.findall(turn[:LONG].lower()))
