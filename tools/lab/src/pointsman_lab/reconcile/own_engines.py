"""The cost of the user's own engines: hours of their nodes, utilization, and dollars per million tokens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pointsman_lab.reconcile.charges import Charge
from pointsman_lab.reconcile.exports.lines import REQUESTS, TOOLS

SECONDS_PER_HOUR = 3600
_PRICED_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class EngineHours:
    """The hours, tokens and dollars of one engine that the user operates, in one period."""

    engine: str
    members: int
    """The number of engines with this name in the configuration (members of a group) that answered; at least 1."""
    hours: float
    """The length of the period in hours, times `members`."""
    busy_hours: float
    """The hours in which a member answered at least one request, summed over the members."""
    tokens: int
    """The number of tokens of all answered requests."""
    usd_per_hour: float
    """The price of one member in the configuration, in dollars an hour."""
    paid_usd: float | None = None
    """The dollars that the user paid for the period; None if the user did not state them."""

    @property
    def usd(self) -> float:
        """Returns the dollars for `hours` hours at the price in the configuration."""
        return self.hours * self.usd_per_hour

    @property
    def utilization(self) -> float:
        return self.busy_hours / self.hours if self.hours else 0.0

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Returns the dollars for a million tokens, from `paid_usd` if it is known, or else from `usd`; None without
        tokens.
        """
        paid = self.usd if self.paid_usd is None else self.paid_usd
        return paid / self.tokens * _PRICED_TOKENS if self.tokens else None

    @property
    def share(self) -> float:
        """Returns the difference between `paid_usd` and `usd` as a share of the larger one; 0 if `paid_usd` is None."""
        if self.paid_usd is None:
            return 0.0
        return abs(self.paid_usd - self.usd) / max(self.paid_usd, self.usd, 1e-12)

    @property
    def cause(self) -> str:
        """Returns a text that explains the difference between `paid_usd` and `usd`; empty if they agree."""
        if self.paid_usd is None or self.share < 1e-9:
            return ""
        paid_hours = self.paid_usd / self.usd_per_hour
        price = self.paid_usd / self.hours if self.hours else 0.0
        return f"paid for {paid_hours:.1f} h at this price, or ${price:.6g} an hour for these hours"


def engine_hours(
    charges: Iterable[Charge],
    usd_per_hour: Mapping[str, float],
    period: tuple[float, float],
    paid_usd: Mapping[str, float],
) -> list[EngineHours]:
    """Returns hours, tokens and costs of each engine in `usd_per_hour`, the prices in dollars an hour by engine.

    `period` is (begin, end) in Unix seconds; charges that ended outside are left out. `paid_usd` are the dollars that
    were paid for the period, by engine, as far as they are known.
    """
    begin, end = period
    intervals: dict[str, dict[str, list[tuple[float, float]]]] = {name: {} for name in usd_per_hour}
    tokens = dict.fromkeys(usd_per_hour, 0)
    for charge in charges:
        if charge.engine in intervals and begin <= charge.ended < end:
            busy = (max(begin, charge.busy[0]), charge.busy[1])
            intervals[charge.engine].setdefault(charge.member, []).append(busy)
            tokens[charge.engine] += sum(of for kind, of in charge.counts.items() if kind not in (REQUESTS, TOOLS))
    return [
        EngineHours(
            name,
            max(1, len(intervals[name])),
            max(1, len(intervals[name])) * (end - begin) / SECONDS_PER_HOUR,
            sum(_union_seconds(of) for of in intervals[name].values()) / SECONDS_PER_HOUR,
            tokens[name],
            price,
            paid_usd.get(name),
        )
        for name, price in usd_per_hour.items()
    ]


def _union_seconds(intervals: Sequence[tuple[float, float]]) -> float:
    """Returns the seconds that are in at least one of the intervals."""
    total, reached = 0.0, float("-inf")
    for begin, end in sorted(intervals):
        total += max(0.0, end - max(begin, reached))
        reached = max(reached, end)
    return total
