"""The accounts of all own engines, and the metric that shows them."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping
from contextlib import asynccontextmanager

from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pointsman_gateway.metering.engine_account import EngineAccount, Visit
from pointsman_gateway.metering.prometheus import OTHER

NAME = "pointsman_engine_cost_usd"
PERIOD = 1.0
"""Seconds between two looks at which engines there are, and at what can be shared out; a scrape looks too."""

Prices = Callable[[], Mapping[str, float]]
"""Dollars an hour of the engines that there are now and that have a price, by name: members of groups come and go."""


class EngineAccounts(Collector):
    """Implements the backends' `Accounts`. Engines that have no price have no account."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[str, EngineAccount] = {}
        self._paths: frozenset[str] = frozenset()
        self._prices: Prices = dict

    def obey(self, prices: Prices, paths: Collection[str]) -> None:
        """The engines' prices from now on, and the paths that are told by their names."""
        self._prices, self._paths = prices, frozenset(paths)
        self._look(self._clock())

    def account(self, engine: str) -> EngineAccount:
        """Raises KeyError where it has none."""
        return self._accounts[engine]

    def begin(self, engine: str, path: str) -> Visit | None:
        account = self._accounts.get(engine)
        if account is None:
            return None
        return account.begin(path if path in self._paths else OTHER, self._clock())

    def end(self, stay: Visit, inference: float | None) -> None:
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
                self._accounts[name] = EngineAccount(price, now)
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
            await asyncio.sleep(PERIOD)
            self.share_out()

    def collect(self) -> Iterator[CounterMetricFamily]:
        self.share_out()
        told = "Dollars of own engines, by the path that used them."
        family = CounterMetricFamily(NAME, told, labels=["engine", "path"])
        for engine, account in self._accounts.items():
            for path, dollars in account.dollars.items():
                family.add_metric([engine, path], dollars)
        yield family

    def describe(self) -> Iterator[CounterMetricFamily]:
        """Nothing, so that registering it shares nothing out."""
        return iter(())
