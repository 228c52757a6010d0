"""Two answers to one request, and what it would have been worth to have chosen the other."""

from dataclasses import dataclass

from pointsman_gateway.domain import Answered, Receipt
from pointsman_gateway.request_log.evidence import EvidenceKey, evidence_key

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


def side_of(receipt: Receipt, answered: Answered | None) -> Side:
    text = answered.text if answered else ""
    quality = _quality(answered) if answered else None
    return Side(evidence_key(receipt), receipt.cost_usd, receipt.seconds["total"], text, quality)


def regret_of(pair: Pair, chosen: float, other: float) -> Regret:
    """`chosen` and `other` are their qualities. A cheaper answer that is worse would have spared nothing."""
    spared = pair.chosen.cost_usd - pair.other.cost_usd if other >= chosen else 0.0
    return Regret(max(0.0, spared), max(0.0, other - chosen))


def _quality(answered: Answered) -> float | None:
    rulings = {ruling for _, ruling, _ in answered.verdicts}
    if REFUSED in rulings:
        return 0.0
    return 1.0 if rulings == {ACCEPTED} else None
