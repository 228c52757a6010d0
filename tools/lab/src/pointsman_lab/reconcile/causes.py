"""The possible causes of differences between a provider's export and the gateway's receipts, and the class
Difference.
"""

from dataclasses import dataclass

from pointsman_lab.reconcile.exports.lines import Number, size
from pointsman_lab.reconcile.join import ChargeGroup

MISSING, SURPLUS = "missing requests", "surplus requests"
PRICE, NO_PRICE = "another price", "no price"
NOT_COUNTED = "a kind that was not counted"
DAY, TIER, MODEL, KEY = "another day boundary", "another service tier", "another model", "another key"
HEDGED, ESTIMATES, COUNTS = "hedged requests", "estimates", "other token counts"
CAUSES = (MISSING, SURPLUS, PRICE, NO_PRICE, NOT_COUNTED, DAY, TIER, MODEL, KEY, HEDGED, ESTIMATES, COUNTS)
"""The kinds of causes. The text of a cause is one of these, perhaps followed by a colon and an explanation."""

MIN_PICODOLLARS = 10**6
"""A difference in cost of up to this many picodollars (a millionth of a dollar) counts as rounding."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between export and receipts within one group of charges: in one kind of token, or in its cost."""

    group: ChargeGroup
    kind: str
    """The kind of token, such as "prompt"; or "requests", "tool" (the provider's tools) or "all"."""
    in_dollars: bool
    """Whether `exported` and `received` are picodollars, instead of numbers of tokens or requests."""
    exported: Number
    """The number or cost in the provider's export."""
    received: Number
    """The number or cost in the gateway's receipts."""
    cause: str = ""
    """The reason why `exported` and `received` differ (see CAUSES); empty until a cause is found."""

    @property
    def size(self) -> Number:
        return size(self.exported - self.received)
