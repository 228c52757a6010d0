"""Feedback on answers, and the statistics of paths: ratings, costs, latencies and scores of evaluations."""

from dataclasses import dataclass, replace

from pointsman_gateway.domain.path import Path


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one answer, by its decision's id; at least one of the optional fields is set."""

    decision_id: str
    id: str = ""
    """Identifies this feedback: the same id sent twice counts once. If empty, it is derived from the content."""
    rating: float | None = None
    """0 (bad) to 1 (good)."""
    correction: str = ""
    """A description of what was wrong."""
    right_task: str = ""
    right_answer: str = ""
    tenant: str = ""
    """The tenant of whoever sent it; empty: no tenant, which may rate every answer."""


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """Statistics of a path on one task, from feedback, receipts and evaluations: ratings, costs and latencies."""

    ratings: float = 0.0
    """The number of rated answers."""
    quality: float = 0.0
    """Their mean rating, 0 to 1."""
    answers: float = 0.0
    """The number of answers with a receipt."""
    p95_seconds: float = 0.0
    """From arrival to end."""
    mean_cost_usd: float = 0.0
    evaluated: float = 0.0
    """The number of rows that evaluations have scored."""
    score: float = 0.0
    """Their mean score, 0 to 1."""

    def with_evaluations(self, max_ratings: float) -> "PathEvidence":
        """Returns the statistics with evaluated rows counted as ratings: each as one, with the rows' mean score.

        At most `max_ratings` of them count. In the result `ratings` and `quality` include them, and `evaluated` is how
        many they are.
        """
        if not self.evaluated:
            return self
        counted = min(self.evaluated, max_ratings)
        ratings = self.ratings + counted
        quality = (self.ratings * self.quality + counted * self.score) / (ratings or 1)
        return replace(self, ratings=ratings, quality=quality, evaluated=counted)


@dataclass(frozen=True, slots=True)
class PathScore:
    """The mean score of one path in an evaluation."""

    task: str
    path: Path
    model: str
    """What answered: the base model or an adapter version."""
    rows: int
    score: float
    """The mean over the rows, 0 to 1."""
