"""Compares a provider's export with the charges in the gateway's receipts, and finds the cause of each difference."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from pointsman_lab.reconcile.across_groups import day_boundary, swapped
from pointsman_lab.reconcile.causes import DAY, MIN_PICODOLLARS, Difference
from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.days import Days
from pointsman_lab.reconcile.exports.lines import REQUESTS, Export, Number
from pointsman_lab.reconcile.join import Joined, Names, join
from pointsman_lab.reconcile.within_group import GroupCauses


@dataclass(frozen=True, slots=True)
class Totals:
    """The sums of an export and of the receipts over all groups of charges, in tokens or in picodollars.

    A group has the charges of one model, day, key and service tier.
    """

    exported: Number
    """The sum in the export."""
    received: Number
    """The sum in the receipts."""
    estimated: Number
    """The part of `received` that is estimated."""
    differing: Number
    """The sum of the absolute differences of all groups of charges and kinds of tokens."""

    @property
    def share(self) -> Fraction:
        """Returns the sum of all differences, divided by the total of the export or of the receipts, whichever is
        larger.

        If neither total is above 0, as after refunds, the result is 1 with differences, and 0 without.
        """
        larger = max(self.exported, self.received)
        return Fraction(self.differing) / larger if larger > 0 else Fraction(bool(self.differing))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The result of comparing a provider's export of usage or costs with the gateway's receipts."""

    export: Export
    days: int
    """The number of days that were compared."""
    tokens: Totals | None
    """The numbers of tokens; None if the export has none."""
    dollars: Totals | None
    """The costs in picodollars; None if the export has no costs."""
    differences: Sequence[Difference]
    """All differences with their causes: first those in dollars, then those in tokens; of each, the largest first."""

    @property
    def share(self) -> Fraction:
        """Returns how far export and receipts differ, as a share of the larger total (0: not at all).

        The share is computed in tokens and in dollars, as far as the export has them; the larger share is returned.
        """
        return max((of.share for of in (self.tokens, self.dollars) if of is not None), default=Fraction(0))

    @property
    def first_cause(self) -> str:
        """Returns the cause of the first of `differences`; empty if there are no differences."""
        return self.differences[0].cause if self.differences else ""


def compare(
    export: Export, charges: Sequence[Charge], days: Days, names: Names, tolerance: Fraction = Fraction(0)
) -> Comparison:
    """Compares an export with charges, and finds the cause of each difference.

    `days` are the days to compare, and `names` translates the export's names of models and keys. In the search for
    causes, numbers that differ by up to the share `tolerance` count as equal.
    """
    joined = join(export, charges, days, names)
    found = list(_differences(joined))
    if found:
        boundary = day_boundary(joined, charges, lambda time_of, of: join(export, of, days, names, time_of))
        if boundary:
            found = [replace(one, cause=f"{DAY}: {boundary}") for one in found]
        else:
            found = _explained(joined, found, tolerance)
    found.sort(key=lambda one: (not one.in_dollars, -one.size, one.group, one.kind))
    return Comparison(export, len(days), _totals(joined, False), _totals(joined, True), found)


def _differences(joined: Joined) -> Iterator[Difference]:
    for group, kinds in joined.groups.items():
        for kind, of in kinds.items():
            if joined.export.has_counts and of.difference:
                yield Difference(group, kind, False, of.exported, of.received)
            if joined.export.has_dollars and of.size_usd > MIN_PICODOLLARS:
                yield Difference(group, kind, True, of.exported_usd, of.received_usd)


def _explained(joined: Joined, found: Sequence[Difference], tolerance: Fraction) -> list[Difference]:
    elsewhere = swapped(joined)
    causes = {one.group: GroupCauses(joined, one.group, tolerance) for one in found if one.group not in elsewhere}
    return [replace(one, cause=elsewhere.get(one.group) or causes[one.group].cause_of(one)) for one in found]


def _totals(joined: Joined, in_dollars: bool) -> Totals | None:
    """Returns the totals in dollars or in tokens; None if the export does not have these numbers."""
    if not (joined.export.has_dollars if in_dollars else joined.export.has_counts):
        return None
    sums: list[Number] = [0, 0, 0, 0]
    for kinds in joined.groups.values():
        for kind, of in kinds.items():
            if in_dollars:
                numbers = (of.exported_usd, of.received_usd, of.estimated_usd)
            elif kind != REQUESTS:
                numbers = (of.exported, of.received, of.estimated)
            else:
                continue
            differing = of.size_usd if in_dollars else of.size
            sums = [total + number for total, number in zip(sums, (*numbers, differing), strict=True)]
    return Totals(*sums)
