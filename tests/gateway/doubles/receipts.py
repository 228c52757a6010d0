"""Reads the receipts that a gateway has written to Redis, with and without a decision."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.domain import PICODOLLARS
from pointsman_gateway.request_log import redis_schema
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.request_logs import decisions_in, entries_of
from tests.gateway.doubles.waiting import found

Body = dict[str, Any]


@dataclass(frozen=True)
class Receipts:
    decided: Sequence[Body]
    undecided: Sequence[Body]

    @property
    def all(self) -> list[Body]:
        return [*self.decided, *self.undecided]

    def picodollars(self) -> Counter[str]:
        """Returns the sum of all costs by component, in whole picodollars (1e-12 dollars)."""
        sums: Counter[str] = Counter()
        for one in self.all:
            sums.update({name: round(usd * PICODOLLARS) for name, usd in one["cost_parts_usd"].items()})
        return sums


async def receipts_in(url: str) -> Receipts:
    async with open_client(url) as redis:
        undecided = [json.loads(fields["entry"]) for fields in await entries_of(redis.client, redis_schema.UNDECIDED)]
    return Receipts(await decisions_in(url), undecided)


async def receipts_once(url: str, there: Callable[[Receipts], object], within: float = 10) -> Receipts:
    """Waits until `there(receipts)` is true, and returns the receipts. Raises TimeoutError after `within` seconds."""

    async def look() -> Receipts | None:
        receipts = await receipts_in(url)
        return receipts if there(receipts) else None

    receipts = await found(look, within)
    assert receipts is not None
    return receipts
