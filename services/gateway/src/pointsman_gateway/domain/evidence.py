"""Feedback on answers, and the statistics of paths: ratings, costs, latencies and scores of evaluations."""

from dataclasses import dataclass, replace

from pointsman_gateway.domain.path import Path


@dataclass(frozen=True, slots=True)
class Feedback:
    """Feedback on one answer: a rating, a correction, the right task, the right answer, or several of these."""

    decision_id: str
    """The id of the routing decision for the rated request, or of the answer, whose id ends with the decision's."""
    id: str = ""
    """Feedback with the same id counts once. If it is empty, an id is derived from the content."""
    rating: float | None = None
    """The rating, from 0 (bad) to 1 (good); None if there is none."""
    correction: str = ""
    """A description of what was wrong with the answer."""
    right_task: str = ""
    """The task that classification should have found, or `UNKNOWN` for no task; empty if the feedback names no task."""
    right_answer: str = ""
    tenant: str = ""
    """The sender's tenant; a sender without a tenant (empty) may rate the answers of all tenants."""


@dataclass(frozen=True, slots=True)
class PathEvidence:
    """How well, how fast and at what cost one path has answered one task so far, as numbers for the choice between
    paths.

    They come from users' ratings, from the receipts of requests, and from evaluations on data sets.
    """

    ratings: float = 0.0
    """The number of rated answers."""
    quality: float = 0.0
    """The mean of the users' ratings, 0 to 1; it has no meaning if `ratings` is 0."""
    answers: float = 0.0
    """The number of answers with a receipt."""
    p95_seconds: float = 0.0
    """95th percentile of the seconds from a request's arrival to its end."""
    mean_cost_usd: float = 0.0
    evaluated: float = 0.0
    """The number of rows of data sets on which evaluations (`pointsman eval`) have scored the path."""
    score: float = 0.0
    """The mean score of the `evaluated` rows, 0 to 1."""

    def with_evaluations(self, max_ratings: float) -> "PathEvidence":
        """Returns the statistics with results of evaluations counted as ratings.

        Each evaluated row, up to `max_ratings` rows, counts as one rating with the rows' mean score. `ratings` and
        `quality` of the result include these rows, and `evaluated` is the number of those that were counted.
        """
        if not self.evaluated:
            return self
        counted = min(self.evaluated, max_ratings)
        ratings = self.ratings + counted
        quality = (self.ratings * self.quality + counted * self.score) / (ratings or 1)
        return replace(self, ratings=ratings, quality=quality, evaluated=counted)


@dataclass(frozen=True, slots=True)
class PathScore:
    """The result of one evaluation for one path of a task: the mean score over the rows of a data set, and what
    answered.
    """

    task: str
    path: Path
    model: str
    """What answered: the name of the base model, or an adapter version."""
    rows: int
    score: float
    """The mean score over the rows of the data set, 0 to 1."""
