"""Ratings are also counted by adapter version."""

from typing import Any

import pytest
from pointsman_gateway.domain import Feedback
from pointsman_gateway.request_log.feedback import CanaryRatings
from pointsman_gateway.request_log.feedback_store import StoredFeedback
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_servicekit.errors import FailedPrecondition, NotFound, PointsmanError, Unavailable

RATING = Feedback(decision_id="dec_01", rating=1.0)


class Stored(RequestLogReader):
    """Implements a feedback service that stores all feedback, and a request log that cannot be read."""

    def __init__(self, error: PointsmanError) -> None:
        self._error = error

    async def take(self, feedback: Feedback) -> StoredFeedback:
        return StoredFeedback("redis", known_already=False)

    async def find(self, decision_id: str) -> Any:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        NotFound("gone", code="unknown_decision"),
        Unavailable("Redis is away", code="redis_unavailable"),
        FailedPrecondition("it is no JSON", code="unreadable_record"),
    ],
)
async def test_feedback_is_stored_even_if_its_decision_cannot_be_read_for_the_canary(error: PointsmanError) -> None:
    counted: list[Any] = []
    stored = Stored(error)
    ratings = CanaryRatings(stored, stored, lambda *rating: counted.append(rating))
    assert (await ratings.take(RATING)).where == "redis"
    assert counted == []
