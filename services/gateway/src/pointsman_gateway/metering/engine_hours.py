"""An own engine's dollars, shared out among the paths that used it; what nobody used is idle.

At each moment the engine's price is shared evenly by the answers that it works on, as processor sharing does it: over
a time in which n(t) answers are at work, each owes the integral of dt / n(t). That integral, from a fixed beginning, is
one number for all of them (the virtual time of A. K. Parekh and R. G. Gallager, A generalized processor sharing
approach to flow control, IEEE/ACM Transactions on Networking 1 (1993)). So an answer's share is the difference between
its value at the answer's end and at its begin, and all shares and the idle time add up to the time that has passed.

When an answer was at work is known once it has ended: the engine tells how long it worked (its queue is not in that),
up to the moment at which the last of it came. So time is shared out behind the oldest answer that is still awaited, and
at most `LAG` behind the present; who is awaited for longer counts as at work meanwhile.
"""

import asyncio
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager
from heapq import heappop, heappush

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.metering.prometheus import OTHER

IDLE = "idle"
MAX_LAG_S = 30.0
"""Seconds."""


class BusyInterval:
    """One answer's stay at the engine."""

    __slots__ = ("account", "path", "since")

    def __init__(self, account: "EngineCostAllocator", path: str, since: float) -> None:
        self.account = account
        self.path = path
        self.since = since


class EngineCostAllocator:
    """All times are in seconds on one clock, which does not go back."""

    def __init__(self, dollars_per_hour: float, opened: float, lag: float = MAX_LAG_S) -> None:
        self.dollars: dict[str, float] = {IDLE: 0.0}
        """By path, of all the time that is shared out."""
        self.opened = self.shared_until = opened
        self.dollars_per_hour = dollars_per_hour
        self._lag = lag
        self._visits: dict[BusyInterval, None] = {}
        """Those whose end is not known; the oldest first."""
        self._known: list[tuple[float, float, str]] = []
        """From when to when somebody was at work, and along which path; not shared out yet."""
        self._at_work: list[tuple[float, str, float]] = []
        """A heap: until when, and along which path, somebody is at work, and up to which virtual time it has paid."""
        self._virtual = 0.0

    def begin(self, path: str, now: float) -> BusyInterval:
        visit = BusyInterval(self, path, now)
        self._visits[visit] = None
        return visit

    def end(self, visit: BusyInterval, now: float, inference: float | None = None) -> None:
        """`inference`: the seconds that the engine says it worked on it; None: all of its stay, for all we know."""
        del self._visits[visit]
        begun = visit.since
        if inference is not None and now - inference > begun:
            begun = now - inference
        if now > begun:
            self._known.append((begun, now, visit.path))

    def share_out(self, now: float) -> None:
        """As far as it is known who was at work."""
        latest = now - self._lag
        for visit in self._visits:
            if visit.since >= latest:
                break
            self._known.append((visit.since, latest, visit.path))
            visit.since = latest
        oldest = next(iter(self._visits), None)
        self._sweep(now if oldest is None else oldest.since)

    def at_price(self, dollars_per_hour: float, now: float) -> None:
        """Another price from now on."""
        self._lag, lag = 0.0, self._lag
        self.share_out(now)
        self._lag, self.dollars_per_hour = lag, dollars_per_hour

    def _sweep(self, until: float) -> None:
        known = self._known
        known.sort()
        due = bisect_left(known, (until,))
        for begun, ended, path in known[:due]:
            self._pass(begun)
            heappush(self._at_work, (ended, path, self._virtual))
        del known[:due]
        self._pass(until)
        for _, path, paid in self._at_work:
            self._owe(path, self._virtual - paid)
        self._at_work = [(ended, path, self._virtual) for ended, path, _ in self._at_work]

    def _pass(self, until: float) -> None:
        """Time goes on to `until`: whose work ends before then goes."""
        at_work = self._at_work
        while at_work and at_work[0][0] <= until:
            self._elapse(at_work[0][0])
            _, path, paid = heappop(at_work)
            self._owe(path, self._virtual - paid)
        self._elapse(until)

    def _elapse(self, until: float) -> None:
        seconds = until - self.shared_until
        if seconds <= 0:
            return
        if self._at_work:
            self._virtual += seconds / len(self._at_work)
        else:
            self._owe(IDLE, seconds)
        self.shared_until = until

    def _owe(self, path: str, seconds: float) -> None:
        self.dollars[path] = self.dollars.get(path, 0.0) + seconds * self.dollars_per_hour / 3600


ENGINE_COST_METRIC = "pointsman_engine_cost_usd"
ALLOCATION_INTERVAL_S = 1.0
"""Seconds between two looks at which engines there are, and at what can be shared out; a scrape looks too."""

Prices = Callable[[], Mapping[str, float]]
"""Dollars an hour of the engines that there are now and that have a price, by name: members of groups come and go."""


class EngineCosts(Collector):
    """Implements the backends' `Accounts`. Engines that have no price have no account."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, EngineCostAllocator] = {}
        self._paths: frozenset[str] = frozenset()
        self._prices: Prices = dict

    def obey(self, prices: Prices, paths: Collection[str]) -> None:
        """The engines' prices from now on, and the paths that are told by their names."""
        self._prices, self._paths = prices, frozenset(paths)
        self._look(self._clock())

    def account(self, engine: str) -> EngineCostAllocator:
        """Raises KeyError where it has none."""
        return self._accounts[engine]

    def begin(self, engine: str, path: str) -> BusyInterval | None:
        account = self._accounts.get(engine)
        if account is None:
            return None
        return account.begin(path if path in self._paths else OTHER, self._clock())

    def end(self, stay: BusyInterval, inference: float | None) -> None:
        stay.account.end(stay, self._clock(), inference)

    def share_out(self) -> None:
        now = self._clock()
        self._look(now)
        for account in self._accounts.values():
            account.share_out(now)

    def _look(self, now: float) -> None:
        """Who has come is paid from now on. Who has gone costs nothing any more, and what it has cost stays told."""
        prices = self._prices()
        for name in self._accounts.keys() | prices.keys():
            price, account = prices.get(name, 0.0), self._accounts.get(name)
            if account is None:
                self._accounts[name] = EngineCostAllocator(price, now)
            elif account.dollars_per_hour != price:
                account.at_price(price, now)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block time is shared out, whether somebody looks or not."""
        sharing = asyncio.create_task(self._keep_sharing_out(), name="share engines' dollars out")
        try:
            yield
        finally:
            sharing.cancel()
            await asyncio.wait([sharing])

    async def _keep_sharing_out(self) -> None:
        while True:
            await asyncio.sleep(ALLOCATION_INTERVAL_S)
            self.share_out()

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.share_out()
        told = "Dollars of own engines, by the path that used them."
        family = CounterMetricFamily(ENGINE_COST_METRIC, told, labels=["engine", "path"])
        for engine, account in self._accounts.items():
            for path, dollars in account.dollars.items():
                family.add_metric([engine, path], dollars)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Nothing, so that registering it shares nothing out."""
        return iter(())
