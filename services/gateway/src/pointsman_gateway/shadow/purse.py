"""What shadows may still cost today: dollars a task and UTC day, over all gateways."""

import time
from typing import Protocol

from pointsman_gateway.request_log.redis_schema import today

PER_DOLLAR = 10**12
"""Dollars are counted in whole numbers, which add up to the same in any order."""

PERIOD = 1.0
"""Seconds between two looks at what all gateways have spent."""

STALE = 10.0
"""Seconds after which what was last heard of the others is too old to spend by."""

Spent = dict[str, int]
"""Trillionths of a dollar by task."""


class Till(Protocol):
    """Adds up what all gateways spend."""

    async def add(self, day: str, more: Spent) -> Spent:
        """What has been spent on that day, `more` included. Raises Unavailable; `more` may then count twice."""
        ...


class Purse:
    """Overspends a day's limit by at most what each gateway spends in `PERIOD`, and what is under way then.

    While the till is away nothing is spent. Without one the gateway stands alone, and counts for itself.
    """

    def __init__(self, till: Till | None) -> None:
        self._till = till
        self._day = today()
        self._told: Spent = {}
        self._untold: Spent = {}
        self._heard = float("-inf")

    def why_not(self, task: str, limit_usd: float) -> str:
        """Why nothing may be spent: "unsettled" (it is not known what the others did), "spent"; empty where it may."""
        self._turn_the_page()
        if self._till is not None and time.monotonic() - self._heard > STALE:
            return "unsettled"
        spent = self._told.get(task, 0) + self._untold.get(task, 0)
        return "spent" if spent >= limit_usd * PER_DOLLAR else ""

    def spend(self, task: str, usd: float) -> None:
        self._turn_the_page()
        self._untold[task] = self._untold.get(task, 0) + round(usd * PER_DOLLAR)

    async def settle(self) -> None:
        """Tells what was spent here, and hears what was spent elsewhere. Raises Unavailable."""
        self._turn_the_page()
        if self._till is None:
            return
        day, telling, self._untold = self._day, self._untold, {}
        try:
            told = await self._till.add(day, telling)
        except BaseException:
            if day == self._day:
                for task, amount in telling.items():
                    self._untold[task] = self._untold.get(task, 0) + amount
            raise
        if day == self._day:
            self._told, self._heard = told, time.monotonic()

    def _turn_the_page(self) -> None:
        if self._day != today():
            self._day, self._told, self._untold = today(), {}, {}
