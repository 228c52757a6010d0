"""What answering costs, and from which volume an adapter pays. The formulas are in docs/evaluation.md."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pointsman_cli.eval.report import PathFigures

TRAINING = "training"
"""The name of the training's price among the others, which are those of a receipt's parts."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the figures of an evaluation do not tell."""

    training: Mapping[str, float] = field(default_factory=dict)
    """Dollars for one training, by adapter."""
    monthly: float | None = None
    """Requests a month; None: not known."""
    months: float = 12.0
    """Over which a training is written off."""
    trainings_a_month: float = 0.0
    """Further ones, since what the adapter knows goes out of date."""
    adapter_month: float = 0.0
    """Dollars a month for serving an adapter, beside its tokens."""
    wrong_answer: float = 0.0
    """Dollars that a wrong answer costs whoever asked."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one path; `fixed` parts are 0 where nothing was trained."""

    request: float
    """Dollars, what wrong answers cost included."""
    tokens: float
    """Dollars a request by the receipts alone."""
    training: float
    """Dollars, once."""
    month: float
    """Dollars a month whatever the volume: further trainings, serving the adapter."""
    quality: float

    def monthly(self, requests: float, months: float) -> float:
        """Dollars a month at so many requests, the training written off over so many months."""
        return requests * self.request + self.training / months + self.month


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From when a trained path pays against one that is not; None: never, at these prices."""

    trained: str
    untrained: str
    saving_per_1000: float
    """Dollars; negative where the trained path costs more a request."""
    requests: float | None
    """After which the training is earned back, where nothing is paid by the month."""
    right_answers: float | None
    """The same where each path is asked as often as it takes to get a right answer."""
    requests_a_month: float | None
    """From which the month's own costs and the training's share are covered."""


def cost(path: PathFigures, terms: Terms, prices: Mapping[str, float] | None = None) -> Cost:
    """`prices`: factors by name of a part, where they are to be other than they are. The path must have a score."""
    assert path.score is not None
    factors = prices or {}
    # A receipt's own share of the training is left out: the training is counted as a whole, beside the requests.
    of_requests = {part: usd for part, usd in path.usd_per_1000.items() if part != TRAINING}
    tokens = sum(usd * factors.get(part, 1.0) for part, usd in of_requests.items()) / 1000
    training, month = 0.0, 0.0
    if path.adapter:
        training = terms.training[path.adapter] * factors.get(TRAINING, 1.0)
        month = training * terms.trainings_a_month + terms.adapter_month
    quality = path.score.mean
    return Cost(tokens + terms.wrong_answer * (1 - quality), tokens, training, month, quality)


def break_even(
    trained: PathFigures, untrained: PathFigures, terms: Terms, prices: Mapping[str, float] | None = None
) -> BreakEven:
    one, other = cost(trained, terms, prices), cost(untrained, terms, prices)
    saving = other.request - one.request
    by_the_month = one.month + one.training / terms.months
    return BreakEven(
        trained=trained.path,
        untrained=untrained.path,
        saving_per_1000=1000 * saving,
        requests=_volume(one.training, saving),
        right_answers=_volume(one.training, _per_right_answer(other) - _per_right_answer(one)),
        requests_a_month=_volume(by_the_month, saving),
    )


def _per_right_answer(path: Cost) -> float:
    """Dollars; without end where no answer is right."""
    return path.tokens / path.quality if path.quality else float("inf")


def _volume(spent: float, saving: float) -> float | None:
    """How often `saving` must come until it is what was `spent`. Two paths that are never right save nothing."""
    if saving == float("inf"):
        return 0.0
    return spent / saving if saving > 0 else None
