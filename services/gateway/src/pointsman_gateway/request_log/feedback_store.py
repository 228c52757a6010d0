"""The interfaces to store feedback and evaluations, on which the HTTP and gRPC servers depend."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.domain import Feedback, PathScore


@dataclass(frozen=True, slots=True)
class StoredFeedback:
    where: str
    """Where the feedback was stored: "request_log" (in Redis) or "wal" (on disk, until Redis is available)."""
    known_already: bool = False
    """Whether the same feedback had been stored before."""


class FeedbackStore(Protocol):
    """Interface to store users' feedback on answers; `FeedbackService` and its wrappers implement it."""

    async def take(self, feedback: Feedback) -> StoredFeedback:
        """Stores feedback; returns once it is in Redis or on disk.

        Raises InvalidArgument if it is invalid, NotFound if there is no such decision, Unavailable if it can be stored
        nowhere now, and FailedPrecondition ("no_request_log") in a gateway without Redis.
        """
        ...


class EvaluationStore(Protocol):
    """Interface to store evaluations; `RequestLogStore` and `NullFeedback` implement it."""

    async def add_evaluation(self, evaluation_id: str, results: Sequence[PathScore]) -> None:
        """Adds the scores of an evaluation to the ratings of the paths in `results`.

        A second call with the same `evaluation_id` replaces the scores of the first. Raises Unavailable if Redis
        does not answer in time, and FailedPrecondition ("no_request_log") in a gateway without Redis.
        """
        ...
