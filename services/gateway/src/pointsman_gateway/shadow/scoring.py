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
"""A function of an answer and the right answer that returns the score, from 0 (bad) to 1 (good). It raises ValueError
if the right answer cannot be used."""


class PairStore(Protocol):
    """Interface of a store for pairs of answers and for their scores; `ShadowStore` implements it."""

    def keep(self, pair: Pair) -> None:
        """Stores a pair until feedback on its decision scores it or, if a judge has scored it, can be compared with the
        judge's scores. Neither waits nor raises; a pair may be dropped.
        """
        ...

    def keep_scores(self, scores: PairScores) -> None:
        """Stores the scores of a pair. Neither waits nor raises; scores may be dropped."""
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
        """Takes `scores`, which returns the current scoring functions by task. Ratings are added to `evidence`; `pairs`
        is None without Redis.
        """
        self._evidence = evidence
        self._metrics = metrics
        self._pairs = pairs
        self._scores = scores

    def add(self, pair: Pair, receipt: Receipt, config: ShadowConfig) -> None:
        """Counts a pair of two complete answers, and scores or stores it by `config.rate_by`, the task's setting:
        * validators: scores the pair, unless they could not judge both answers;
        * right answers: stores the pair until feedback has the right answer;
        * a judge: does nothing, since `add_judgement` follows.

        `receipt` is that of the shadow request, and counts in the statistics of its path. Neither waits nor raises.
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
        """Scores both answers of a pair by the right answer, and counts the scores as ratings of their paths.

        `rated` says whether a person has rated the caller's answer; then that rating counts, and the score of this
        answer does not. Does nothing if the task has no scoring function now. Raises ValueError if `right_answer`
        cannot be used.
        """
        score = self._scores().get(pair.task)
        if score is None:
            return  # the configuration has changed, and the task has another metric now
        chosen, other = score(pair.chosen.text, right_answer), score(pair.other.text, right_answer)
        self._count(pair, chosen, other, rated)

    def add_judgement(self, pair: Pair, score: PairScore) -> None:
        """Counts a judge's scores of a pair as ratings of its paths; `score.first` is that of the caller's answer.

        Also stores the pair with the scores, to compare them later with the feedback of people. The texts of the
        answers are stored only if the task has a scoring function.
        """
        self._count(pair, score.first, score.second)
        if self._pairs is not None:
            judged = replace(pair, judged=(score.first, score.second))
            self._pairs.keep(judged if pair.task in self._scores() else _without_text(judged))

    def compare(self, pair: Pair, rating: float | None, right_answer: str) -> None:
        """Counts, for each answer of a pair that has a score from feedback, whether the judge's score agrees with it.

        The score of the caller's answer is `rating`, a person's rating from 0 to 1. If that is None, and for the other
        answer, it is computed from `right_answer`; if this is empty, there is no score. Raises ValueError if
        `right_answer` cannot be used.
        """
        score = self._scores().get(pair.task) if right_answer and pair.chosen.text else None
        humans = [score(side.text, right_answer) if score else None for side in (pair.chosen, pair.other)]
        humans[0] = humans[0] if rating is None else rating
        for judge, human in zip(pair.judged or (), humans, strict=False):
            if human is not None:
                self._metrics.count_agreement(pair.task, judge, human)

    def _count(self, pair: Pair, chosen: float, other: float, rated: bool = False) -> None:
        """Counts a pair's scores as ratings, and stores them for `pointsman predict`. With `rated`, the score of the
        chosen answer does not count as a rating, since it has one already.
        """
        if not rated:
            self._evidence.count_rating(pair.chosen.evidence_key, pair.day, chosen)
        self._evidence.count_rating(pair.other.evidence_key, pair.day, other)
        if self._pairs is not None:
            scores = ((pair.chosen.evidence_key, chosen), (pair.other.evidence_key, other))
            self._pairs.keep_scores(PairScores(pair.decision_id, scores))
        self._metrics.count_scores(pair, chosen, other, regret_of(pair, chosen, other))


def _without_text(pair: Pair) -> Pair:
    return replace(pair, chosen=replace(pair.chosen, text=""), other=replace(pair.other, text=""))
