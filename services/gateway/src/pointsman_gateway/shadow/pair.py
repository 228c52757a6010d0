"""Pairs of answers to one request, the caller's and a shadow request's by another path; and the regret of the choice,
which is by how much the other answer was better or cheaper.
"""

from dataclasses import dataclass

from pointsman_gateway.domain import CompletedAnswer, Receipt
from pointsman_gateway.request_log.evidence import EvidenceKey, evidence_key

ACCEPTED, REFUSED = "accepted", "refused"


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two answers of a pair, with its cost and quality."""

    evidence_key: EvidenceKey
    """The path statistics to which its rating is added."""
    cost_usd: float
    seconds: float
    """Seconds from the request's arrival to the answer's end."""
    text: str
    """The text of the answer; empty if the answer has no text or several texts."""
    quality: float | None
    """The quality by the validators: 1 if all accepted the answer, 0 if one rejected it; None if there is no validator,
    or one of them could not judge the answer."""

    @property
    def path(self) -> str:
        return self.evidence_key.path


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one request: the caller's, and a shadow request's."""

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
    """The scores of both answers to one request, from which `pointsman predict` learns."""

    decision_id: str
    scores: tuple[tuple[EvidenceKey, float], tuple[EvidenceKey, float]]
    """The statistics' key and the score from 0 to 1, of the caller's answer and then of the shadow request's."""


@dataclass(frozen=True, slots=True)
class Regret:
    """What the choice of a path cost compared with the other path: the dollars that the other path would have saved,
    and by how much the score of its answer was higher. Each is at least 0.
    """

    usd: float
    quality: float


def side_of(receipt: Receipt, answer: CompletedAnswer | None) -> Side:
    text = answer.text if answer else ""
    quality = _quality(answer) if answer else None
    usd = receipt.cost_usd or 0.0  # a task with a path of unknown price has no shadow
    return Side(evidence_key(receipt), usd, receipt.seconds["total"], text, quality)


def regret_of(pair: Pair, chosen: float, other: float) -> Regret:
    """Returns the regret of the choice, by the scores (0 to 1) of the chosen answer and of the other. A cheaper answer
    saves nothing if its score is lower.
    """
    saved = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, saved), max(0.0, other - chosen))


def _quality(answer: CompletedAnswer) -> float | None:
    rulings = {ruling for _, ruling, _ in answer.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None
