"""What answering costs, and from which volume an adapter pays. The formulas are in docs/evaluation.md."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pointsman_cli.errors import UsageError
from pointsman_cli.eval.report import PathFigures

_SECONDS_PER_HOUR = 3600.0

TRAINING = "training"
"""The name of the training's price among the others, which are those of a receipt's parts."""


@dataclass(frozen=True, slots=True)
class CostTerms:
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
class PathCost:
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


def path_cost(path: PathFigures, terms: CostTerms, prices: Mapping[str, float] | None = None) -> PathCost:
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
    return PathCost(tokens + terms.wrong_answer * (1 - quality), tokens, training, month, quality)


def break_even(
    trained: PathFigures, untrained: PathFigures, terms: CostTerms, prices: Mapping[str, float] | None = None
) -> BreakEven:
    one, other = path_cost(trained, terms, prices), path_cost(untrained, terms, prices)
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


def _per_right_answer(path: PathCost) -> float:
    """Dollars; without end where no answer is right."""
    return path.tokens / path.quality if path.quality else float("inf")


def _volume(spent: float, saving: float) -> float | None:
    """How often `saving` must come until it is what was `spent`. Two paths that are never right save nothing."""
    if saving == float("inf"):
        return 0.0
    return spent / saving if saving > 0 else None


FACTORS = (0.5, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Sensitivity:
    price: str
    """ "prompt", "cached", "completion", "retrieval" or "training"."""
    requests: tuple[float | None, ...]
    """Until the training is earned back, at each of `FACTORS`; None: never."""


def sensitivities(trained: PathFigures, untrained: PathFigures, terms: CostTerms) -> tuple[Sensitivity, ...]:
    """One price at a time, for both paths alike."""
    prices = [*dict.fromkeys((*trained.usd_per_1000, *untrained.usd_per_1000)), TRAINING]
    return tuple(
        Sensitivity(price, tuple(break_even(trained, untrained, terms, {price: factor}).requests for factor in FACTORS))
        for price in prices
    )


def read_training_costs(files: Iterable[Path], hourly: float | None, given: Iterable[str]) -> dict[str, float]:
    """Dollars by adapter, from records of trainings (`training.json`) and from `NAME=USD`. Raises Misused."""
    found = {}
    for file in files:
        if hourly is None:
            raise UsageError(
                f"{file} holds seconds; give the price of an hour of that machine with --trainer-usd-per-hour"
            )
        name, seconds = _record(file)
        found[name] = seconds / _SECONDS_PER_HOUR * hourly
    for text in given:
        name, _, dollars = text.partition("=")
        found[name] = _dollars(name, dollars, text)
    return found


def training_cost_of(adapter: str, known: Mapping[str, float]) -> float:
    """Of the adapter behind an alias (`triage@prod`). Raises Misused: an unknown cost is never 0."""
    name = adapter.partition("@")[0]
    if name not in known:
        raise UsageError(
            f"the cost of training '{name}' is unknown; give --training FILE with --trainer-usd-per-hour USD, or "
            f"--training-cost {name}=USD"
        )
    return known[name]


def _record(file: Path) -> tuple[str, float]:
    try:
        data = json.loads(file.read_text("utf-8"))
        return str(data["name"]), float(data["seconds"])
    except OSError as error:
        raise UsageError(f"cannot read {file}: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{file} is not a training record (training.json): {error!r}") from error


def _dollars(name: str, dollars: str, text: str) -> float:
    try:
        cost = float(dollars)
    except ValueError:
        cost = -1.0
    if not name or not 0 <= cost < float("inf"):
        raise UsageError(f"--training-cost is {text!r}; it must be NAME=USD, such as triage=0.25")
    return cost
