"""The protocols of what stores feedback and evaluations; HTTP and gRPC servers depend on these alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.domain import Feedback, PathScore


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    where: str
    """ "request_log" or "wal"."""
    known_already: bool = False
    """Whether the same feedback had been stored before."""


class FeedbackStore(Protocol):
    async def take(self, feedback: Feedback) -> StoredFeedback:
        """Stores feedback; returns once it is on disk or in Redis. Raises PointsmanError."""
        ...


class EvaluationStore(Protocol):
    async def add_evaluation(self, evaluation_id: str, results: Sequence[PathScore]) -> None:
        """Counts the results as evidence; those of an earlier call with the same id are replaced.

        Raises PointsmanError.
        """
        ...
