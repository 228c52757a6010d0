"""Feedback on answers, and the statistics of paths: ratings, costs, latencies and scores of evaluations."""

from dataclasses import dataclass, replace

from pointsman_gateway.domain.path import Path


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one answer: a rating, a correction, the right task, the right answer, or several of these."""

    decision_id: str
    """The decision that led to the answer."""
    id: str = ""
    """Feedback with the same id counts once. If it is empty, an id is derived from the content."""
    rating: float | None = None
    """The rating, from 0 (bad) to 1 (good); None if there is none."""
    correction: str = ""
    """A description of what was wrong with the answer."""
    right_task: str = ""
    """The task that classification should have found, or `UNKNOWN` for none; empty if nothing is said about it."""
    right_answer: str = ""
    tenant: str = ""
    """The sender's tenant; a sender without a tenant (empty) may rate the answers of all tenants."""


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """Statistics of one path on one task: ratings, costs and latencies, from feedback, receipts and evaluations."""

    ratings: float = 0.0
    """The number of rated answers."""
    quality: float = 0.0
    """The mean rating, 0 to 1."""
    answers: float = 0.0
    """The number of answers with a receipt."""
    p95_seconds: float = 0.0
    """95th percentile of the seconds from a request's arrival to its end."""
    mean_cost_usd: float = 0.0
    evaluated: float = 0.0
    """The number of rows of data sets on which evaluations have scored the path."""
    score: float = 0.0
    """The mean score of these rows, 0 to 1."""

    def with_evaluations(self, max_ratings: float) -> "PathEvidence":
        """Returns the statistics in which each evaluated row counts as a rating with the mean score of the rows.

        At most `max_ratings` rows count. `ratings` and `quality` of the result include them; `evaluated` is their
        number.
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
    """What answered: the name of the base model, or an adapter version."""
    rows: int
    score: float
    """The mean over the rows, 0 to 1."""
