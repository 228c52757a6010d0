"""Scores both answers of a pair (the caller's and a shadow request's): by validators, by the right answer, or by a
model.
"""

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
        """Stores a pair of answers until people's feedback arrives, which scores it or is compared with the judge's
        scores.

        Neither waits nor raises; a pair may be dropped.
        """
        ...

    def keep_scores(self, scores: PairScores) -> None:
        """Stores the scores of both answers of a pair for `pointsman predict`. Neither waits nor raises; scores may be
        dropped.
        """
        ...


class PairScorer:
    """Scores pairs of answers, and counts the scores as ratings of the paths that gave the answers."""

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
        """Counts a pair of complete answers, and scores or stores it according to the task's setting `config.rate_by`:
        * "validators": scores both answers, if validators could judge both;
        * "right_answers": stores the pair until feedback has the right answer;
        * "judge": does nothing more, since `add_judgement` follows.

        `receipt` is the receipt of the shadow request; its cost and duration are added to its path's statistics.
        Neither waits nor raises.
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
        """Scores both answers of a pair against the right answer, and counts the scores as ratings of their paths.

        With `rated`, a person has rated the caller's answer already, so only the other answer's score counts as a
        rating. Does nothing if the configuration has no scoring function for the task. Raises ValueError if
        `right_answer` cannot be used.
        """
        score = self._scores().get(pair.task)
        if score is None:
            return  # the configuration has changed, and the task has another metric now
        chosen, other = score(pair.chosen.text, right_answer), score(pair.other.text, right_answer)
        self._count(pair, chosen, other, rated)

    def add_judgement(self, pair: Pair, score: PairScore) -> None:
        """Counts the scores that a language model (the judge) gave to both answers of a pair as ratings of their paths.

        `score.first` is the score of the caller's answer. Also stores the pair, to compare the scores later with
        people's feedback; without the texts of the answers if the task has no scoring function.
        """
        self._count(pair, score.first, score.second)
        if self._pairs is not None:
            judged = replace(pair, judged=(score.first, score.second))
            self._pairs.keep(judged if pair.task in self._scores() else _without_text(judged))

    def compare(self, pair: Pair, rating: float | None, right_answer: str) -> None:
        """Counts, for each answer of a judged pair, whether the judge's score agrees with the score from people's
        feedback.

        `rating` is a person's rating (0 to 1) of the caller's answer; None if there is no rating. Without a rating,
        people's score of an answer is computed from `right_answer`; without a right answer too, the answer is not
        compared. Raises ValueError if `right_answer` cannot be used.
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
