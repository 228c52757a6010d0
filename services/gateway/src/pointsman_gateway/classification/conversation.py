"""Reads the last turn of a conversation: by itself where it says enough, else with what was said before.

Nothing is kept between requests: the messages hold the conversation, so every gateway and every replay reads it alike.
"""

from collections.abc import Sequence
from dataclasses import replace

from pointsman_gateway.classification.reading import Reader, is_sure
from pointsman_gateway.classification.turns import Shape, points_back, shape_of
from pointsman_gateway.domain import Labels

MOST_CLASSIFICATIONS = 5
"""Three of the last turn where it is long, one of a turn before it, one of both together."""

FAMILIARITY_OF_SHORT = 1.0
"""Above the task's threshold, for a turn of a few words to count against the conversation: few words are easily like
something."""

STRANGENESS = 0.8
"""Below the task's threshold: a whole sentence that points back and is further off than this belongs to no task,
whatever came before; one that does not point back, as soon as it is below."""

# These and `reading.MARGIN` were chosen on tests/gateway/development_conversations.jsonl.

NOTE = "read with the turns before it"


class Conversation:
    """The user's turns in, Labels out."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    async def label(self, turns: Sequence[str]) -> Labels:
        """Of the last of `turns` (one or more, oldest first)."""
        *before, last = turns
        if not before:
            return await self._reader.read(last)
        shape = shape_of(last)
        if shape is Shape.BARE:
            return _kept(await self.label(before))
        alone = await self._reader.read(last)
        if _stands(alone, last, shape):
            return alone
        context = _context(before)
        thread = await self._reader.glance(context[0])
        if thread.abstained:
            return alone if alone.abstained or shape is Shape.WHOLE else _kept(thread)
        if alone.task == thread.task:
            return alone
        together = await self._reader.glance("\n".join([*context, last]))
        if together.task == alone.task and not alone.abstained and shape is not Shape.LEANING:
            return alone
        return _kept(together if together.task == thread.task else thread)


def _stands(alone: Labels, turn: str, shape: Shape) -> bool:
    """Whether the turn needs nothing that was said before it."""
    if alone.stage == "language" or shape is Shape.PARTING:
        return True
    if shape is Shape.WHOLE:
        return is_sure(alone) or alone.familiarity < (-STRANGENESS if points_back(turn) else 0)
    return shape is Shape.SHORT and is_sure(alone) and alone.familiarity >= FAMILIARITY_OF_SHORT


def _context(before: Sequence[str]) -> list[str]:
    """The last whole turn, and the last one after it that says something; if there is neither, the first."""
    telling = [turn for turn in before if shape_of(turn) is not Shape.BARE]
    whole = [turn for turn in telling if shape_of(turn) is Shape.WHOLE]
    return list(dict.fromkeys([*whole[-1:], *telling[-1:]])) or [before[0]]


def _kept(labels: Labels) -> Labels:
    if NOTE in labels.notes or labels.stage == "language":
        return labels
    return replace(labels, stage="conversation", notes=(NOTE, *labels.notes))
