"""Scores the two answers of a pair: by validators, by a metric and the right answer, or by the judge."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from pointsman_scoring.judge import PairScore

from pointsman_gateway.config.tasks_file import ShadowConfig
from pointsman_gateway.domain import Receipt
from pointsman_gateway.request_log.evidence import EvidenceStore
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.pair import Pair, PairScores, regret_of

ScoreFunction = Callable[[str, str], float]
"""Returns the score of an answer by the right answer, from 0 (bad) to 1 (good); ValueError if that cannot be used."""


class PairStore(Protocol):
    """Stores pairs until feedback brings the right answer, and the scores of both answers."""

    def keep(self, pair: Pair) -> None:
        """Stores a pair of answers until feedback on it comes; neither waits nor raises."""
        ...

    def keep_scores(self, scores: PairScores) -> None:
        """Stores the scores; neither waits nor raises."""
        ...


class PairScorer:
    """Scores pairs of answers, and adds the scores to the statistics of their paths."""

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
        """Counts a complete pair, and scores it by the validators, or stores it until there is a right answer.

        `receipt` is that of the shadow request. Neither waits nor raises.
        """
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
        """Scores both answers by the right one, and counts the scores as ratings.

        With `rated`, the caller's answer has a rating of a person, which counts instead. Raises ValueError if
        `right_answer` cannot be used.
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
        """Counts whether a judge's scores agree with people's: a rating of the caller's answer (None without one), or a
        right answer (empty without one). Raises ValueError if `right_answer` cannot be used.
        """
        score = self._scores().get(pair.task) if right_answer and pair.chosen.text else None
        humans = [score(side.text, right_answer) if score else None for side in (pair.chosen, pair.other)]
        humans[0] = humans[0] if rating is None else rating
        for judge, human in zip(pair.judged or (), humans, strict=False):
            if human is not None:
                self._metrics.count_agreement(pair.task, judge, human)

    def _count(self, pair: Pair, chosen: float, other: float, rated: bool = False) -> None:
        """Counts a pair's scores as ratings; with `rated`, not that of the chosen answer, which has one already."""
        if not rated:
            self._evidence.count_rating(pair.chosen.evidence_key, pair.day, chosen)
        self._evidence.count_rating(pair.other.evidence_key, pair.day, other)
        if self._pairs is not None:
            scores = ((pair.chosen.evidence_key, chosen), (pair.other.evidence_key, other))
            self._pairs.keep_scores(PairScores(pair.decision_id, scores))
        self._metrics.count_scores(pair, chosen, other, regret_of(pair, chosen, other))


def _without_text(pair: Pair) -> Pair:
    return replace(pair, chosen=replace(pair.chosen, text=""), other=replace(pair.other, text=""))
