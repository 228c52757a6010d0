"""Scores the two answers of a pair, computes the regret of the choice, and exports both as metrics."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_scoring.judge import PairScore
from prometheus_client import CollectorRegistry, Counter

from pointsman_gateway.config.tasks_file import ShadowConfig
from pointsman_gateway.domain import CompletedAnswer, Receipt
from pointsman_gateway.request_log.evidence import EvidenceKey, EvidenceStore, evidence_key

ACCEPTED, REFUSED = "accepted", "refused"

GOOD = 0.5
"""Scores from here on count as good when a judge is compared with people."""

BY_PAIR = ["task", "chosen", "path"]

ScoreFunction = Callable[[str, str], float]
"""Scores an answer by the right one, from 0 (bad) to 1 (good). Raises ValueError if the right one cannot be used."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers of a pair, with its cost and quality."""

    evidence_key: EvidenceKey
    """The evidence that its rating counts for."""
    cost_usd: float
    seconds: float
    text: str
    quality: float | None
    """1 if every validator accepted the answer, 0 if one refused it, None if there was no ruling."""

    @property
    def path(self) -> str:
        return self.evidence_key.path


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request: the caller's, and a shadow request's."""

    decision_id: str
    day: str
    """The day of the decision, for which ratings count."""
    task: str
    chosen: Side
    """The caller's answer."""
    other: Side
    """The shadow request's answer."""
    judged: tuple[float, float] | None = None
    """The judge's scores of both, from 0 to 1; None if no judge has scored them."""


@dataclass(frozen=True, slots=True)
class PairScores:
    """The scores of both answers to one request, from which `pointsman predict` learns."""

    decision_id: str
    scores: tuple[tuple[EvidenceKey, float], tuple[EvidenceKey, float]]


@dataclass(frozen=True, slots=True)
class Regret:
    """The dollars that the other path would have saved, and by how much its answer was better; each at least 0."""

    usd: float
    quality: float


def side_of(receipt: Receipt, answer: CompletedAnswer | None) -> Side:
    text = answer.text if answer else ""
    quality = _quality(answer) if answer else None
    usd = receipt.cost_usd or 0.0  # a task with a path of unknown price has no shadow
    return Side(evidence_key(receipt), usd, receipt.seconds["total"], text, quality)


def regret_of(pair: Pair, chosen: float, other: float) -> Regret:
    """Computes the regret of a choice; a cheaper answer saves nothing if its quality is lower."""
    saved = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, saved), max(0.0, other - chosen))


def _quality(answer: CompletedAnswer) -> float | None:
    rulings = {ruling for _, ruling, _ in answer.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None


def _verdict(score: float) -> str:
    return "good" if score >= GOOD else "bad"


class ShadowMetrics:
    """Counts shadow requests, which count in no other series; label values come from `shadow` sections only."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "pointsman_shadow_requests",
            "Requests sampled for shadowing, by outcome.",
            ["task", "path", "outcome"],
            registry=registry,
        )
        self._cost = Counter(
            "pointsman_shadow_cost_usd", "Cost, including that of failed requests.", ["task", "path"], registry=registry
        )
        self._pairs = Counter("pointsman_shadow_pairs", "Requests answered by both paths.", BY_PAIR, registry=registry)
        self._pair_cost = Counter(
            "pointsman_shadow_pair_cost_usd", "Cost of pairs, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._pair_seconds = Counter(
            "pointsman_shadow_pair_seconds", "Duration of pairs, by side.", [*BY_PAIR, "side"], registry=registry
        )
        self._scored = Counter(
            "pointsman_shadow_scored", "Pairs of which both qualities are known.", BY_PAIR, registry=registry
        )
        self._quality = Counter(
            "pointsman_shadow_quality", "Sum of the qualities of scored pairs.", [*BY_PAIR, "side"], registry=registry
        )
        self._regret_usd = Counter(
            "pointsman_regret_usd", "Dollars that a path of at least the same quality would save.", BY_PAIR,
            registry=registry,
        )  # fmt: skip
        self._regret_quality = Counter(
            "pointsman_regret_quality", "By how much the other path's answers were better.", BY_PAIR, registry=registry
        )

        self._verdicts = Counter(
            "pointsman_judge_verdicts", "Pairs for a judge, by outcome.", ["task", "outcome"], registry=registry
        )
        self._judge_cost = Counter("pointsman_judge_cost_usd", "Cost of judges.", ["task"], registry=registry)
        self._agreements = Counter(
            "pointsman_judge_agreements",
            "Judged answers that people have rated too, by whether each found them good.",
            ["task", "judge", "human"],
            registry=registry,
        )

    def count_verdict(self, task: str, outcome: str) -> None:
        """Counts a judge's outcome: "chosen", "shadow", "tie" or "disagreement" (a tie), or why there is none. Reasons
        are "unparsable", "no_text", "spent", "unsettled", "too_many", "stopped", or an error's code.
        """
        self._verdicts.labels(task, outcome).inc()

    def count_judge_cost(self, task: str, usd: float) -> None:
        self._judge_cost.labels(task).inc(usd)

    def count_agreement(self, task: str, judge: float, human: float) -> None:
        """Counts one answer with the judge's score and a person's."""
        self._agreements.labels(task, _verdict(judge), _verdict(human)).inc()

    def count_request(self, task: str, path: str, outcome: str, usd: float = 0.0) -> None:
        """Counts a shadow request; `outcome` is "ok", an error's code, or why it was not started or was cancelled. Such
        reasons are "crowded", "too_many", "spent", "unsettled" and "stopped".
        """
        self._requests.labels(task, path, outcome).inc()
        if usd:
            self._cost.labels(task, path).inc(usd)

    def count_pair(self, pair: Pair) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._pairs.labels(*labels).inc()
        for name, side in (("chosen", pair.chosen), ("shadow", pair.other)):
            self._pair_cost.labels(*labels, name).inc(side.cost_usd)
            self._pair_seconds.labels(*labels, name).inc(side.seconds)

    def count_scores(self, pair: Pair, chosen: float, other: float, regret: Regret) -> None:
        labels = (pair.task, pair.chosen.path, pair.other.path)
        self._scored.labels(*labels).inc()
        self._quality.labels(*labels, "chosen").inc(chosen)
        self._quality.labels(*labels, "shadow").inc(other)
        self._regret_usd.labels(*labels).inc(regret.usd)
        self._regret_quality.labels(*labels).inc(regret.quality)


class PairStore(Protocol):
    """Stores pairs until feedback brings the right answer, and the scores of both answers."""

    def keep(self, pair: Pair) -> None:
        """Stores a pair of answers until feedback on it comes; neither waits nor raises."""
        ...

    def keep_scores(self, scores: PairScores) -> None:
        """Stores the scores; neither waits nor raises."""
        ...


class PairScorer:
    """Scores pairs of answers, and adds them to the evidence on their paths."""

    def __init__(
        self,
        evidence: EvidenceStore,
        metrics: ShadowMetrics,
        pairs: PairStore | None,
        scores: Callable[[], Mapping[str, ScoreFunction]],
    ) -> None:
        """Takes `scores`, which returns the scoring functions by task; `pairs` is None without Redis."""
        self._evidence = evidence
        self._metrics = metrics
        self._pairs = pairs
        self._scores = scores

    def add(self, pair: Pair, receipt: Receipt, config: ShadowConfig) -> None:
        """Adds a complete pair; `receipt` is that of the shadow request. Neither waits nor raises."""
        self._evidence.count_answer(receipt)
        self._metrics.count_pair(pair)
        if config.rate_by == "validators":
            chosen, other = pair.chosen.quality, pair.other.quality
            if chosen is not None and other is not None:
                self._count(pair, chosen, other)
        elif config.rate_by == "judge":
            return  # the judge's score follows
        elif self._pairs is not None and pair.chosen.text and pair.other.text and pair.task in self._scores():
            self._pairs.keep(pair)

    def score(self, pair: Pair, right_answer: str, rated: bool) -> None:
        """Scores both answers by the right one; `rated` says that the caller's answer has a rating, which then counts.

        Raises ValueError if `right_answer` cannot be used.
        """
        score = self._scores().get(pair.task)
        if score is None:
            return  # the configuration has changed, and the task has another metric now
        chosen, other = score(pair.chosen.text, right_answer), score(pair.other.text, right_answer)
        self._count(pair, chosen, other, rated)

    def add_judgement(self, pair: Pair, score: PairScore) -> None:
        """Counts a judge's scores, and stores them until people's ratings can be compared with them."""
        self._count(pair, score.first, score.second)
        if self._pairs is not None:
            judged = replace(pair, judged=(score.first, score.second))
            self._pairs.keep(judged if pair.task in self._scores() else _without_text(judged))

    def compare(self, pair: Pair, rating: float | None, right_answer: str) -> None:
        """Compares a judge's scores with people's verdict, whose rating is of the caller's answer.

        Raises ValueError if `right_answer` cannot be used.
        """
        score = self._scores().get(pair.task) if right_answer and pair.chosen.text else None
        humans = [score(side.text, right_answer) if score else None for side in (pair.chosen, pair.other)]
        humans[0] = humans[0] if rating is None else rating
        for judge, human in zip(pair.judged or (), humans, strict=False):
            if human is not None:
                self._metrics.count_agreement(pair.task, judge, human)

    def _count(self, pair: Pair, chosen: float, other: float, rated: bool = False) -> None:
        """Counts the scores of a pair; `rated` says that the chosen answer has a rating already."""
        if not rated:
            self._evidence.count_rating(pair.chosen.evidence_key, pair.day, chosen)
        self._evidence.count_rating(pair.other.evidence_key, pair.day, other)
        if self._pairs is not None:
            scores = ((pair.chosen.evidence_key, chosen), (pair.other.evidence_key, other))
            self._pairs.keep_scores(PairScores(pair.decision_id, scores))
        self._metrics.count_scores(pair, chosen, other, regret_of(pair, chosen, other))


def _without_text(pair: Pair) -> Pair:
    return replace(pair, chosen=replace(pair.chosen, text=""), other=replace(pair.other, text=""))
