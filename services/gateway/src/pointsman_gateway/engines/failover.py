"""Failover to another engine before an answer's first token: retries within a budget, and hedged requests.

`Retrying` wraps `Hedging`, which wraps the call to one engine; all three implement `TargetCaller`. The engines to try
come from a `TargetQueue`.
"""

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec.structs
from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.config.models_file import RetryConfig
from pointsman_gateway.engines import engine_client
from pointsman_gateway.engines.balancing import TargetQueue
from pointsman_gateway.engines.engine_client import CompletionRequest
from pointsman_gateway.engines.lookups import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.ports import AnswerStream

DECAY_SECONDS = 10.0
"""Time constant of the exponential decay of a retry budget's counts."""
MIN_DECAY_SECONDS = 0.001
"""Minimum time between two computations of the decay of a retry budget's counts."""

PROBE_SECONDS = 1.0
"""Maximum delay of the second, hedged call if the first engine's circuit breaker is not closed, so that the first call
is only a probe."""

Race = dict["asyncio.Task[AnswerStream]", Target]


class RetryBudget:
    """Limits retries and hedged requests to a fraction of the recent requests plus a fixed minimum.

    Without this limit, retries would multiply the load of engines that fail.
    """

    def __init__(self, ratio: float, min_retries: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Grants `ratio` retries per request, and about `min_retries` in each `DECAY_SECONDS` whatever the load."""
        self._ratio = ratio
        self._min_retries = min_retries
        self._clock = clock
        self._requests = 0.0
        self._spent = 0.0
        self._at = clock()

    def count_request(self) -> None:
        self._decay()
        self._requests += 1.0

    def spend(self) -> bool:
        """Takes one retry or hedged request from the budget; returns False, and takes nothing, if the budget is used
        up.
        """
        self._decay()
        if self._spent + 1.0 > self._ratio * self._requests + self._min_retries:
            return False
        self._spent += 1.0
        return True

    def _decay(self) -> None:
        now = self._clock()
        if now > self._at + MIN_DECAY_SECONDS:
            left = math.exp((self._at - now) / DECAY_SECONDS)
            self._requests *= left
            self._spent *= left
            self._at = now


class TargetCaller(Protocol):
    """Interface for getting an answer from engines; `EngineCaller`, `Hedging` and `Retrying` implement it."""

    async def call(self, target: Target, others: TargetQueue, request: CompletionRequest) -> AnswerStream:
        """Calls the engine `target` and, if it fails or is slow, engines from `others`; returns an answer once its
        first chunk has arrived.

        Raises Unavailable if no engine answers, DeadlineExceeded if the request's deadline passes, and
        InvalidArgument if an engine rejects the request.
        """
        ...


class Retrying:
    """Calls an engine, and after a failure the next one, with a random pause between; implements `TargetCaller`.

    If only one engine is available, calls it again after a `TransientFailure`. `config.max_retries` and the retry
    budget limit the retries. NotResident, and errors other than Unavailable, are raised at once.
    """

    def __init__(
        self,
        inner: TargetCaller,
        config: RetryConfig,
        budget: RetryBudget,
        metrics: EngineMetrics,
        clock: Callable[[], float],
    ) -> None:
        self._inner = inner
        self._config = config
        self._budget = budget
        self._metrics = metrics
        self._clock = clock

    async def call(self, target: Target, others: TargetQueue, request: CompletionRequest) -> AnswerStream:
        self._budget.count_request()
        retries, is_served = 0, False
        while True:
            try:
                return await self._inner.call(target, others, request)
            except engine_client.NotResident:
                raise  # no engine is at fault: `AdapterLoading` loads the adapter again
            except Unavailable as failure:
                following = await self._next(target, others, request.deadline, failure, retries)
                if following is None:
                    if is_served and isinstance(failure, engine_client.NotServed):
                        raise engine_client.retryable(failure) from failure
                    raise
                is_served = is_served or not isinstance(failure, engine_client.NotServed)
            target, retries = following, retries + 1

    async def _next(
        self, target: Target, others: TargetQueue, deadline: float, failure: Unavailable, retries: int
    ) -> Target | None:
        """Waits, and returns the engine for the next try after `target` has failed; None if there may be no other try,
        or no engine is available. Raises DeadlineExceeded as `_back_off` does.
        """
        if not self._may_retry(target, others, failure, retries):
            return None
        await self._back_off(retries, deadline, failure)
        if others.alone:
            others.put_back(target)
        return others.take()

    def _may_retry(self, target: Target, others: TargetQueue, failure: Unavailable, retries: int) -> bool:
        same_again = others.alone and isinstance(failure, engine_client.TransientFailure) and target.state.is_available
        if retries >= self._config.max_retries or not (same_again or others.any_left):
            return False
        granted = self._budget.spend()
        self._metrics.retried(target.engine.name, "sent" if granted else "refused")
        return granted

    async def _back_off(self, retries: int, deadline: float, failure: Unavailable) -> None:
        """Waits before a retry, with full jitter: a random time up to a bound that doubles each time. Raises
        DeadlineExceeded at once if the request's deadline would pass meanwhile.
        """
        pause = random.uniform(0.0, min(self._config.backoff_seconds * 2**retries, self._config.max_backoff_seconds))
        if self._clock() + pause >= deadline:
            raise engine_client.out_of_time() from failure
        await asyncio.sleep(pause)


class Hedging:
    """Sends a request also to a second engine if the first token is late; implements `TargetCaller`.

    Uses the answer that begins first, and cancels the other call.
    """

    def __init__(self, inner: TargetCaller, after: float | None, budget: RetryBudget, metrics: EngineMetrics) -> None:
        """Takes `after`, the seconds without a first token after which a request is sent to a second engine too.

        If the first engine's circuit breaker is not closed, this happens after `PROBE_SECONDS` at the latest. If
        `after` is None, only such requests are hedged.
        """
        self._inner = inner
        self._after = after
        self._budget = budget
        self._metrics = metrics

    async def call(self, target: Target, others: TargetQueue, request: CompletionRequest) -> AnswerStream:
        """Calls `target`; if it sends no chunk within the hedging delay, calls an engine from `others` too.

        The second call is made only if the retry budget allows it. Returns the answer that begins first; if all calls
        fail, raises the error of the call that failed last.
        """
        is_probe = not target.state.breaker.closed
        delay = self._after if not is_probe else min(PROBE_SECONDS, self._after or PROBE_SECONDS)
        if delay is None or not others.any_left:
            return await self._inner.call(target, others, request)
        race: Race = {}
        try:
            # An engine that loses after this delay, and was silent to all its requests meanwhile, has failed.
            self._start(race, target, others, msgspec.structs.replace(request, stall_seconds=delay))
            done, _ = await asyncio.wait(race, timeout=delay)
            if not done:
                self._start_second(race, target, others, request)
            return await self._first_of(race, target)
        finally:
            await _stop(list(race))

    def _start(self, race: Race, target: Target, others: TargetQueue, request: CompletionRequest) -> None:
        task = asyncio.create_task(self._inner.call(target, others, request), name=f"call {target.engine.name}")
        race[task] = target

    def _start_second(self, race: Race, slow: Target, others: TargetQueue, request: CompletionRequest) -> None:
        if not others.any_left:
            return
        if not self._budget.spend():
            self._metrics.hedged(slow.engine.name, "refused")
            return
        second = others.take()
        if second is not None:
            self._start(race, second, others, request)

    async def _first_of(self, race: Race, slow: Target) -> AnswerStream:
        """Returns the answer that begins first; raises the last error if every engine fails."""
        hedged = len(race) > 1
        while True:
            done, _ = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                target = race.pop(task)
                try:
                    answer = task.result()
                except PointsmanError:
                    if not race:
                        if hedged:
                            self._metrics.hedged(slow.engine.name, "failed")
                        raise
                else:
                    if hedged:
                        self._metrics.hedged(slow.engine.name, "lost" if target is slow else "won")
                    return answer


async def _stop(tasks: Sequence["asyncio.Task[AnswerStream]"]) -> None:
    """Cancels calls, and closes an answer that has begun in the meantime."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, AnswerStream):
            outcome.source.close()
