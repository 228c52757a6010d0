"""Finds the first cause of the differences within one group of charges, by comparing its kinds of tokens.

A group has the charges of one model, day, key and service tier. A difference has a cause such as that requests are
missing in the export.
"""

from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction

from pointsman_gateway.domain import PICODOLLARS
from pointsman_gateway.domain.usage import PROMPT_KINDS

from pointsman_lab.reconcile.causes import (
    COUNTS,
    ESTIMATES,
    HEDGED,
    MISSING,
    NO_PRICE,
    NOT_COUNTED,
    PRICE,
    SURPLUS,
    Difference,
)
from pointsman_lab.reconcile.exports.lines import KINDS, REQUESTS, TOOLS
from pointsman_lab.reconcile.join import Amounts, ChargeGroup, Joined

_NO_AMOUNTS = Amounts()
_PRICED_TOKENS = 1_000_000
_CUT_OFF = f"{ESTIMATES}: answers that were cut off, whose tokens are estimated"
_NO_RECEIPTS = f"{MISSING}: there are no receipts of this model on this day"
_NOT_EXPORTED = f"{SURPLUS}: the export does not have this model on this day"


class GroupCauses:
    """Finds the causes of the differences within one group of charges, by comparing its kinds of tokens."""

    def __init__(self, joined: Joined, group: ChargeGroup, tolerance: Fraction) -> None:
        """Takes an export joined with charges, and one of its groups; numbers that differ by up to `tolerance` count as
        equal.

        `tolerance` is a share, 0 to 1.
        """
        self._kinds: Mapping[str, Amounts] = joined.groups[group]
        self._tokens = {kind: of for kind, of in self._kinds.items() if kind not in (REQUESTS, TOOLS)}
        self._hedged, self._unpriced = joined.hedged[group], joined.unpriced[group]
        self._has_counts = joined.export.has_counts
        self._tolerance = tolerance
        self._of_requests = self._number_of_requests() if self._has_counts else ""

    def cause_of(self, one: Difference) -> str:
        of = self._kinds[one.kind]
        if not one.in_dollars:
            return self._of_counts(one.kind, of)
        if self._unpriced and of.difference_usd > 0:
            return f"{NO_PRICE}: the cost of {self._unpriced} receipts is unknown"
        if not self._has_counts:
            return self._of_dollars(of)
        is_same = of.size <= self._tolerance * max(of.exported, of.received)
        return _price(of) if is_same else self._of_counts(one.kind, of)

    def _number_of_requests(self) -> str:
        """Returns the cause that a difference in the number of requests shows; empty if the numbers agree.

        If the export states no number of requests, requests are missing if all kinds differ in the same direction.
        """
        requests = self._kinds.get(REQUESTS)
        if requests is not None:
            difference = requests.difference
            if 0 < difference <= self._hedged:
                return f"{HEDGED}: the slower engine's prompts are in no receipt"
            if difference > 0:
                return f"{MISSING}: {difference} of {requests.exported} are in no receipt"
            return f"{SURPLUS}: the receipts have {-difference} more" if difference < 0 else ""
        directions = {of.difference > 0 for of in self._tokens.values() if of.difference}
        plain = [self._tokens.get(kind, _NO_AMOUNTS).difference for kind in ("prompt", "completion")]
        if len(directions) != 1 or not all(plain):
            return ""
        more = f"{MISSING}: the export has more tokens of all kinds"
        return more if True in directions else f"{SURPLUS}: the receipts have more tokens of all kinds"

    def _of_counts(self, kind: str, of: Amounts) -> str:
        if not any(one.received for one in self._tokens.values()):
            return _NO_RECEIPTS
        if not any(one.exported for one in self._kinds.values()):
            return _NOT_EXPORTED
        if self._of_requests:
            return self._of_requests
        uncounted = [name for name, one in self._tokens.items() if one.exported and not one.received]
        for name in uncounted:
            including = _including(name)
            if kind in (name, including):
                surplus = -self._tokens.get(including, _NO_AMOUNTS).difference
                counted = f", but as {including}" if surplus >= self._tokens[name].exported else ""
                return f"{NOT_COUNTED}: {name}{counted}"
        if of.size <= of.estimated:
            return _CUT_OFF
        return f"{COUNTS}: {'fewer' if of.difference > 0 else 'more'} in the receipts, for the same requests"

    def _of_dollars(self, of: Amounts) -> str:
        """Returns the cause of a difference if the export has only dollars and no tokens."""
        if not any(one.received_usd for one in self._kinds.values()):
            return _NO_RECEIPTS
        if not any(one.exported_usd for one in self._kinds.values()):
            return _NOT_EXPORTED
        if not of.received:
            return f"{NOT_COUNTED}: the receipts have none"
        if of.size_usd <= of.estimated_usd:
            return _CUT_OFF
        priced = [one for one in self._kinds.values() if one.exported_usd and one.received_usd]
        differ = [one.size_usd > self._tolerance * one.exported_usd for one in priced]
        ratios = [Fraction(one.exported_usd) / one.received_usd for one in priced]
        if len(priced) > 1 and all(differ) and max(ratios) - min(ratios) > self._tolerance:
            return f"{MISSING if of.difference_usd > 0 else SURPLUS}: all kinds differ, each by another share"
        return _price(replace(of, exported=of.received))


def _including(kind: str) -> str:
    """Returns the kind of token under which tokens of `kind` are counted if the two kinds are not distinguished."""
    if kind in PROMPT_KINDS or kind == "cached":
        return "prompt"
    return "completion" if kind in KINDS else kind


def _price(of: Amounts) -> str:
    if not of.exported or not of.received:
        return PRICE
    pairs = ((of.exported_usd, of.exported), (of.received_usd, of.received))
    export, receipts = (float(Fraction(usd) / tokens * _PRICED_TOKENS / PICODOLLARS) for usd, tokens in pairs)
    return f"{PRICE}: ${export:.6g} instead of ${receipts:.6g} per million"
