"""Feedback with the right answer marks both answers of a pair."""

import logging
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.domain import Feedback
from pointsman_gateway.request_log.feedback import Stored, decision_id_of
from pointsman_gateway.shadow.pairs import Pair

log = logging.getLogger(__name__)


class Box(Protocol):
    """Takes what is said of answers."""

    async def take(self, feedback: Feedback) -> Stored: ...


class Pairs(Protocol):
    async def pair(self, decision_id: str) -> Pair | None:
        """To be marked, once. Raises Unavailable."""
        ...


class Marks(Protocol):
    def mark(self, pair: Pair, right_answer: str, rated: bool) -> None:
        """Raises ValueError."""
        ...


class Marking:
    """Implements the doors' `FeedbackBox` around another one. A pair is marked once, by the first right answer."""

    def __init__(self, box: Box, pairs: Pairs, marks: Marks) -> None:
        self._box = box
        self._pairs = pairs
        self._marks = marks

    async def take(self, feedback: Feedback) -> Stored:
        stored = await self._box.take(feedback)
        if feedback.right_answer:
            await self._mark(feedback)
        return stored

    async def _mark(self, feedback: Feedback) -> None:
        """What cannot be marked stays unmarked: the feedback itself is kept."""
        try:
            pair = await self._pairs.pair(decision_id_of(feedback))
            if pair is not None:
                self._marks.mark(pair, feedback.right_answer, rated=feedback.rating is not None)
        except Unavailable:
            pass
        except ValueError as error:
            log.info("the right answer of %s is no label: %s", feedback.decision_id, error)
