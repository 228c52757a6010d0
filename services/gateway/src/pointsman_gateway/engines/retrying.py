"""Retries before the first token: on another engine, within the request's deadline and the retry budget."""

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.schema import RetryConfig
from pointsman_gateway.engines import failures
from pointsman_gateway.engines.balancing import Candidates
from pointsman_gateway.engines.budget import RetryBudget
from pointsman_gateway.engines.engines import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.request import CompletionRequest
from pointsman_gateway.pipeline.ports import OpenAnswer


class TargetOpener(Protocol):
    """Opens an answer of a given engine."""

    async def open(self, target: Target, others: Candidates, wanted: CompletionRequest) -> OpenAnswer:
        """`others` are the engines that could be asked as well. Raises PointsmanError."""
        ...


class Retrying:
    """Asks the next engine if one fails; the same one again only if it is alone and its failure is transient."""

    def __init__(
        self,
        inner: TargetOpener,
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

    async def open(self, target: Target, others: Candidates, wanted: CompletionRequest) -> OpenAnswer:
        self._budget.count_request()
        retries = 0
        while True:
            try:
                return await self._inner.open(target, others, wanted)
            except failures.NotResident:
                raise  # no engine is at fault: the wrapper that loads adapters knows what to do
            except Unavailable as failure:
                following = await self._next(target, others, wanted.deadline, failure, retries)
                if following is None:
                    raise
            target, retries = following, retries + 1

    async def _next(
        self, target: Target, others: Candidates, deadline: float, failure: Unavailable, retries: int
    ) -> Target | None:
        """The engine to ask after `target` has failed; None if the failure is final."""
        if not self._may_retry(target, others, failure, retries):
            return None
        await self._back_off(retries, deadline, failure)
        if others.alone:
            others.put_back(target)
        return others.take()

    def _may_retry(self, target: Target, others: Candidates, failure: Unavailable, retries: int) -> bool:
        same_again = others.alone and isinstance(failure, failures.TransientFailure) and target.cell.may_be_asked
        if retries >= self._terms.max_retries or not (same_again or others.any_left):
            return False
        granted = self._budget.spend()
        self._metrics.retried(target.engine.name, "sent" if granted else "refused")
        return granted

    async def _back_off(self, retries: int, deadline: float, failure: Unavailable) -> None:
        """Full jitter: a random time up to a bound that doubles, so that requests that failed together spread out."""
        pause = random.uniform(0.0, min(self._terms.backoff_seconds * 2**retries, self._terms.max_backoff_seconds))
        if self._clock() + pause >= deadline:
            raise failures.out_of_time() from failure
        await asyncio.sleep(pause)
