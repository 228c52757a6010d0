"""The causes for which an export and the receipts can differ, and the differences that have them."""

from dataclasses import dataclass

from pointsman_lab.reconcile.exports.lines import Number, size
from pointsman_lab.reconcile.join import ChargeGroup

MISSING, SURPLUS = "missing requests", "surplus requests"
PRICE, NO_PRICE = "another price", "no price"
NOT_COUNTED = "a kind that was not counted"
DAY, TIER, MODEL, KEY = "another day boundary", "another service tier", "another model", "another key"
HEDGED, ESTIMATES, COUNTS = "hedged requests", "estimates", "other token counts"
CAUSES = (MISSING, SURPLUS, PRICE, NO_PRICE, NOT_COUNTED, DAY, TIER, MODEL, KEY, HEDGED, ESTIMATES, COUNTS)
"""The text of a cause begins with one of these, and may go on after a colon."""

MIN_PICODOLLARS = 10**6
"""Differences of so few picodollars (a millionth of a dollar) in one place come from rounding."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of a group for which the export and the receipts differ, in tokens (or requests) or in dollars."""

    group: ChargeGroup
    kind: str
    in_dollars: bool
    """Whether the numbers are picodollars."""
    exported: Number
    received: Number
    cause: str = ""

    @property
    def size(self) -> Number:
        return size(self.exported - self.received)
