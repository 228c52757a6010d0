"""Two answers to one request, and what it would have been worth to have chosen the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import CompletedAnswer, Receipt
from pointsman_gateway.request_log.evidence import EvidenceKey, EvidenceStore, evidence_key

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True, slots=True)
class Side:
    """One of them."""

    cell: EvidenceKey
    """What a rating of it counts for."""
    cost_usd: float
    seconds: float
    text: str
    quality: float | None
    """1 where every validator accepted it, 0 where one refused it; None where nobody judged."""

    @property
    def path(self) -> str:
        return self.cell.path


@dataclass(frozen=True, slots=True)
class Pair:
    decision_id: str
    day: str
    """That the decision counts for."""
    task: str
    chosen: Side
    """The caller's."""
    other: Side
    """The shadow's."""


@dataclass(frozen=True, slots=True)
class Regret:
    """What the other path would have spared, and what it would have been better by; at least 0 each."""

    usd: float
    quality: float


def side_of(receipt: Receipt, answered: CompletedAnswer | None) -> Side:
    text = answered.text if answered else ""
    quality = _quality(answered) if answered else None
    return Side(evidence_key(receipt), receipt.cost_usd, receipt.seconds["total"], text, quality)


def regret_of(pair: Pair, chosen: float, other: float) -> Regret:
    """`chosen` and `other` are their qualities. A cheaper answer that is worse would have spared nothing."""
    spared = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, spared), max(0.0, other - chosen))


def _quality(answered: CompletedAnswer) -> float | None:
    rulings = {ruling for _, ruling, _ in answered.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None


BY_PAIR = ["task", "chosen", "path"]


class ShadowMetrics:
    """Labels are of the configuration's `shadow` sections only: nothing else is ever drawn."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._shadows = Counter(
            "pointsman_shadow_requests",
            "Requests that were drawn to be answered by another path as well, by what came of it.",
            ["task", "path", "outcome"],
            registry=registry,
        )
        self._spent = Counter(
            "pointsman_shadow_cost_usd", "Dollars, unfinished answers included.", ["task", "path"], registry=registry
        )
        self._pairs = Counter("pointsman_shadow_pairs", "Requests answered by both.", BY_PAIR, registry=registry)
        self._cost = Counter(
            "pointsman_shadow_pair_cost_usd", "Dollars of those, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._seconds = Counter(
            "pointsman_shadow_pair_seconds", "Seconds of those, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._scored = Counter(
            "pointsman_shadow_scored", "Pairs of which it is known how good both are.", BY_PAIR, registry=registry
        )
        self._quality = Counter(
            "pointsman_shadow_quality", "Their qualities, summed up.", [*BY_PAIR, "side"], registry=registry
        )
        self._regret_usd = Counter(
            "pointsman_regret_usd", "Dollars that a path no worse would have spared.", BY_PAIR, registry=registry
        )
        self._regret_quality = Counter(
            "pointsman_regret_quality", "By how much it would have been better.", BY_PAIR, registry=registry
        )

    def ended(self, task: str, path: str, outcome: str, usd: float = 0.0) -> None:
        """`outcome` is "ok"; or why it was not begun, or broken off: "crowded", "too_many", "spent", "unsettled",
        "stopped", or an error's code."""
        self._shadows.labels(task, path, outcome).inc()
        if usd:
            self._spent.labels(task, path).inc(usd)

    def paired(self, pair: Pair) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._pairs.labels(*labels).inc()
        for name, side in (("chosen", pair.chosen), ("shadow", pair.other)):
            self._cost.labels(*labels, name).inc(side.cost_usd)
            self._seconds.labels(*labels, name).inc(side.seconds)

    def scored(self, pair: Pair, chosen: float, other: float, regret: Regret) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._scored.labels(*labels).inc()
        self._quality.labels(*labels, "chosen").inc(chosen)
        self._quality.labels(*labels, "shadow").inc(other)
        self._regret_usd.labels(*labels).inc(regret.usd)
        self._regret_quality.labels(*labels).inc(regret.quality)


ScoreFunction = Callable[[str, str], float]
"""From an answer and the right one to 0 (bad) to 1 (good). Raises ValueError where the right one is none."""


class PairStore(Protocol):
    """Holds pairs until somebody says what the right answer was."""

    def keep(self, pair: Pair) -> None:
        """Never waits, never fails."""
        ...


class PairScorer:
    """Implements the stage's `Takes`: what a pair shows goes to the evidence of its paths, and is counted."""

    def __init__(
        self,
        board: EvidenceStore,
        metrics: ShadowMetrics,
        pairs: PairStore | None,
        scores: Callable[[], Mapping[str, ScoreFunction]],
    ) -> None:
        """`scores` by task, of the configuration that serves; `pairs`: None where no text is kept."""
        self._board = board
        self._metrics = metrics
        self._pairs = pairs
        self._scores = scores

    def take(self, pair: Pair, receipt: Receipt, terms: ShadowConfig) -> None:
        self._board.count_answer(receipt)
        self._metrics.paired(pair)
        if terms.rate_by == "validators":
            self._by_validators(pair)
        elif self._pairs is not None and pair.chosen.text and pair.other.text and pair.task in self._scores():
            self._pairs.keep(pair)

    def mark(self, pair: Pair, right_answer: str, rated: bool) -> None:
        """`rated`: the caller's answer has a rating of its own, which stands. Raises ValueError."""
        score = self._scores().get(pair.task)
        if score is None:
            return  # the task has another metric by now
        chosen, other = score(pair.chosen.text, right_answer), score(pair.other.text, right_answer)
        if not rated:
            self._board.count_rating(pair.chosen.cell, pair.day, chosen)
        self._board.count_rating(pair.other.cell, pair.day, other)
        self._metrics.scored(pair, chosen, other, regret_of(pair, chosen, other))

    def _by_validators(self, pair: Pair) -> None:
        chosen, other = pair.chosen.quality, pair.other.quality
        if chosen is None or other is None:
            return
        self._board.count_rating(pair.chosen.cell, pair.day, chosen)
        self._board.count_rating(pair.other.cell, pair.day, other)
        self._metrics.scored(pair, chosen, other, regret_of(pair, chosen, other))
