"""Sends a request again, before its first token and only where that may help: to the next engine, in one deadline."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.backends import failures
from pointsman_gateway.backends.attempt import Asked
from pointsman_gateway.backends.balancing import Candidates
from pointsman_gateway.backends.budget import RetryBudget
from pointsman_gateway.backends.call import Opened
from pointsman_gateway.backends.engines import Target
from pointsman_gateway.backends.metrics import EngineMetrics
from pointsman_gateway.config.schema import RetryConfig


class Opening(Protocol):
    """Gets an answer to begin."""

    async def open(self, target: Target, others: Candidates, asked: Asked) -> Opened:
        """From `target`; `others` could be asked as well. Raises PointsmanError."""
        ...


class Retrying:
    """Asks the next engine where one fails; the same one again only where it is alone and may soon do better."""

    def __init__(
        self,
        inner: Opening,
        terms: RetryConfig,
        budget: RetryBudget,
        metrics: EngineMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._terms = terms
        self._budget = budget
        self._metrics = metrics
        self._clock = clock

    async def open(self, target: Target, others: Candidates, asked: Asked) -> Opened:
        self._budget.asked()
        try:
            return await self._inner.open(target, others, asked)
        except failures.NotResident:
            raise  # nothing has failed: who knows of adapters knows where to go
        except Unavailable as error:
            failed = error
        try:
            return await self.again(target, others, asked, failed)
        finally:
            del failed  # or it and this frame, which is in its traceback, hold each other

    async def again(self, target: Target, others: Candidates, asked: Asked, failed: Unavailable) -> Opened:
        """After `target` has been asked, and has failed."""
        asking: Target | None = target
        tried = 0
        try:
            while asking is not None and self._worth_it(asking, others, failed, tried):
                await self._pause(tried, asked.deadline, failed)
                if others.alone:
                    others.put_back(asking)
                asking, tried = others.take(), tried + 1
                if asking is not None:
                    try:
                        return await self._inner.open(asking, others, asked)
                    except failures.NotResident:
                        raise
                    except Unavailable as error:
                        failed = error
            raise failed
        finally:
            del failed  # or it and this frame, which is in its traceback, hold each other

    def _worth_it(self, target: Target, others: Candidates, failed: Unavailable, tried: int) -> bool:
        same_again = others.alone and isinstance(failed, failures.Passing) and target.cell.may_be_asked
        if tried >= self._terms.most or not (same_again or others.any_left):
            return False
        granted = self._budget.spend()
        self._metrics.retried(target.engine.name, "sent" if granted else "refused")
        return granted

    async def _pause(self, tried: int, deadline: float, failed: Unavailable) -> None:
        """Full jitter: anything from nothing to a bound that doubles, so that those who failed together come apart."""
        pause = random.uniform(0.0, min(self._terms.backoff * 2**tried, self._terms.longest_backoff))
        if self._clock() + pause >= deadline:
            raise failures.out_of_time() from failed
        await asyncio.sleep(pause)
