"""Finds causes of differences that concern several groups of charges at once.

A group has the charges of one model, day, key and service tier. The causes are another boundary between days, or
receipts that belong to another group in the export.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import partial
from math import floor

from pointsman_lab.reconcile.causes import KEY, MIN_PICODOLLARS, MODEL, TIER
from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.exports.lines import Number
from pointsman_lab.reconcile.join import Amounts, ChargeGroup, Joined

MAX_SHIFT_SECONDS = 14 * 60 * 60
"""How much earlier or later than the days in UTC an export's days may begin; receipts of this much more time are
read.
"""

_HALF_HOUR = 30 * 60
_MAX_LEFT = Fraction(1, 20)
"""A cause explains differences if at most this share of the differences remains."""

Rejoin = Callable[[Callable[[Charge], float], Sequence[Charge]], Joined]
"""A function that joins the export again with the charges in its second argument.

Its first argument is a function that returns the Unix seconds by which a charge belongs to a day.
"""


def day_boundary(joined: Joined, charges: Sequence[Charge], rejoin: Rejoin) -> str:
    """Returns a sentence that explains the differences by the provider's days, such as that they begin at 08:00 UTC.

    Tries other starts of the days, and also the time at which requests began. Returns '' if more than 5 % of the
    differences remain in each case. `charges` are those that `joined` has.
    """
    before = _size(joined.groups.values(), joined)
    if not before or len({group.day for group in joined.groups}) < 2:
        return ""

    def left(time_of: Callable[[Charge], float], of: Sequence[Charge]) -> Number:
        again = rejoin(time_of, of)
        return _size(again.groups.values(), again)

    if left(lambda charge: charge.began, charges) <= before * _MAX_LEFT:
        return "the export has requests on the day on which they began"
    summed = _by_half_hour(charges)
    best = (before, 0)
    for shift in range(-MAX_SHIFT_SECONDS, MAX_SHIFT_SECONDS + 1, _HALF_HOUR):
        remaining = left(partial(_shifted, shift), summed)
        best = min(best, (remaining, shift), key=lambda one: (one[0], abs(one[1])))
    if not best[1] or best[0] > before * _MAX_LEFT:
        return ""
    minutes = -best[1] // 60 % (24 * 60)
    return f"its days begin at {minutes // 60:02}:{minutes % 60:02} UTC"


def _shifted(seconds: int, charge: Charge) -> float:
    return charge.ended + seconds


def swapped(joined: Joined) -> dict[ChargeGroup, str]:
    """Finds groups of charges whose differences cancel each other, because the export has another tier, key or model.

    Returns a dict from each of these groups to the cause, as text.
    """
    found: dict[ChargeGroup, str] = {}
    without: Mapping[str, Callable[[ChargeGroup], ChargeGroup]] = {
        "tier": lambda group: group._replace(tier=""),
        "key": lambda group: group._replace(key=""),
        "model": lambda group: group._replace(model=""),
    }
    for (field, of), cause in zip(without.items(), (TIER, KEY, MODEL), strict=True):
        together: dict[ChargeGroup, list[ChargeGroup]] = defaultdict(list)
        for group, kinds in joined.groups.items():
            if group not in found and _size([kinds], joined):
                together[of(group)].append(group)
        for groups in together.values():
            of_groups = [joined.groups[group] for group in groups]
            if len(groups) > 1 and _size([_sum(of_groups)], joined) <= _size(of_groups, joined) * _MAX_LEFT:
                found |= dict.fromkeys(groups, f"{cause}: {_move(groups, joined, field)}")
    return found


def _move(groups: Sequence[ChargeGroup], joined: Joined, field: str) -> str:
    """Returns a text which says that one value of the field in the receipts is another value in the export."""

    def surplus(group: ChargeGroup) -> Number:
        return sum((of.received - of.exported for of in joined.groups[group].values()), 0)

    by_surplus = sorted(groups, key=surplus)
    receipts, export = (getattr(one, field) or "the standard one" for one in (by_surplus[-1], by_surplus[0]))
    return f"{receipts} in the receipts is {export} in the export"


def _size(groups: Iterable[Mapping[str, Amounts]], joined: Joined) -> Number:
    """Returns the sum of all differences of the groups: in tokens if the export has them, else in picodollars."""
    every = [of for kinds in groups for of in kinds.values()]
    if joined.export.has_counts:
        return sum((of.size for of in every), 0)
    return sum((of.size_usd for of in every if of.size_usd > MIN_PICODOLLARS), 0)


def _sum(groups: Iterable[Mapping[str, Amounts]]) -> dict[str, Amounts]:
    sums: dict[str, Amounts] = defaultdict(Amounts)
    for kinds in groups:
        for kind, of in kinds.items():
            sums[kind].exported += of.exported
            sums[kind].received += of.received
            sums[kind].exported_usd += of.exported_usd
            sums[kind].received_usd += of.received_usd
    return dict(sums)


def _by_half_hour(charges: Iterable[Charge]) -> list[Charge]:
    """Adds up the charges of each half-hour, so that many boundaries can be tried."""
    firsts: dict[tuple[object, ...], Charge] = {}
    sums: dict[tuple[object, ...], tuple[dict[str, int], dict[str, int]]] = {}
    requests: dict[tuple[object, ...], int] = defaultdict(int)
    for charge in charges:
        at = floor(charge.ended / _HALF_HOUR) * _HALF_HOUR
        key = (at, charge.engine, charge.model, charge.tier)
        firsts.setdefault(key, replace(charge, ended=at))
        requests[key] += charge.requests
        for sum_of, of in zip(sums.setdefault(key, ({}, {})), (charge.counts, charge.picodollars), strict=True):
            for kind, number in of.items():
                sum_of[kind] = sum_of.get(kind, 0) + number
    return [
        replace(first, counts=sums[key][0], picodollars=sums[key][1], requests=requests[key])
        for key, first in firsts.items()
    ]
