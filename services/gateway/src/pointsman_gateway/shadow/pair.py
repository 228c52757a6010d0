"""A pair: two answers to one request, with their scores and the regret of the choice."""

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
    """Computes the regret of a choice by both answers' scores; a cheaper answer saves nothing if its score is lower."""
    saved = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, saved), max(0.0, other - chosen))


def _quality(answer: CompletedAnswer) -> float | None:
    rulings = {ruling for _, ruling, _ in answer.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None
