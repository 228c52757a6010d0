"""Pairs of answers to the same request, from the chosen path and from a shadow request, and the regret of the choice.

The regret is the amount by which the answer of the other path was better or cheaper.
"""

from dataclasses import dataclass

from pointsman_gateway.domain import CompletedAnswer, Receipt
from pointsman_gateway.request_log.evidence import EvidenceKey, evidence_key

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers of a pair: its text, cost, duration and quality."""

    evidence_key: EvidenceKey
    """The key of the path's statistics, to which a rating of the answer is added."""
    cost_usd: float
    seconds: float
    """Seconds from the request's arrival to the answer's end."""
    text: str
    """The text of the answer; empty if the answer has no text or several texts."""
    quality: float | None
    """The validators' result for the answer: 1 if all accepted it, 0 if one rejected it. None if there is no validator,
    or if one of them could not judge the answer."""

    @property
    def path(self) -> str:
        return self.evidence_key.path


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to the same request: the answer that the caller got, and the answer of a shadow request on another
    path.
    """

    decision_id: str
    day: str
    """The UTC day (YYYYMMDD) on which the caller's answer ended; ratings count for this day."""
    task: str
    chosen: Side
    """The caller's answer."""
    other: Side
    """The shadow request's answer."""
    judged: tuple[float, float] | None = None
    """The judge's scores of `chosen` and `other`, from 0 to 1; None if no judge has scored them."""


@dataclass(frozen=True, slots=True)
class PairScores:
    """The scores of two answers to the same request by two paths, from which `pointsman predict` learns."""

    decision_id: str
    scores: tuple[tuple[EvidenceKey, float], tuple[EvidenceKey, float]]
    """A (key of the path's statistics, score from 0 to 1) pair for each answer: the caller's first, the shadow
    request's second."""


@dataclass(frozen=True, slots=True)
class Regret:
    """The loss for one request because another path was not chosen.

    `usd` are the dollars that the other path would have saved. `quality` is the amount by which the score (0 to 1) of
    the other path's answer was higher. Each is at least 0.
    """

    usd: float
    quality: float


def side_of(receipt: Receipt, answer: CompletedAnswer | None) -> Side:
    text = answer.text if answer else ""
    quality = _quality(answer) if answer else None
    usd = receipt.cost_usd or 0.0  # a task with a path of unknown price has no shadow
    return Side(evidence_key(receipt), usd, receipt.seconds["total"], text, quality)


def regret_of(pair: Pair, chosen: float, other: float) -> Regret:
    """Returns the dollars and the quality that were lost because the pair's other path was not chosen.

    `chosen` and `other` are the scores (0 to 1) of the two answers. A cheaper answer with a lower score saves nothing.
    """
    saved = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, saved), max(0.0, other - chosen))


def _quality(answer: CompletedAnswer) -> float | None:
    rulings = {ruling for _, ruling, _ in answer.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None
