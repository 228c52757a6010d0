"""Load balancing with prefix affinity: an engine with the prompt's prefix in its cache, within a bound on its load."""

import asyncio
import math
import random
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.config.schema import RetryConfig
from pointsman_gateway.domain import Message
from pointsman_gateway.engines import engine_client
from pointsman_gateway.engines.engine_client import CompletionRequest
from pointsman_gateway.engines.engines import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.pipeline.ports import OpenAnswer

PREFIX_CHARACTERS = 1024
"""Characters of a prompt that are hashed; an engine's prefix cache pays from about there."""

_SPREAD = 0x9E3779B97F4A7C15  # Fibonacci hashing: 2^64 over the golden ratio (Knuth, TAOCP 3, 6.4)
_LOW = 0xFFFFFFFFFFFFFFFF


def hash_prefix(messages: Sequence[Message]) -> int:
    """The same in every gateway.

    A long system prompt fills the prefix, so that its conversations share it; after a short one the first words of the
    conversation count too.
    """
    text = ""
    for message in messages:
        text += message.content[: PREFIX_CHARACTERS - len(text)]
        if len(text) >= PREFIX_CHARACTERS:
            break
    return zlib.crc32(text.encode("utf-8", "surrogatepass"))


class Candidates:
    """The engines that a request may be sent to. Each is taken once."""

    __slots__ = ("_bound", "_key", "_left", "alone")

    def __init__(self, targets: Sequence[Target], key: int, bound: float) -> None:
        """`key` is the prompt's hashed prefix. Affinity gives an engine at most `bound` times the mean load."""
        self._left = list(targets)
        self.alone = len(targets) == 1
        """Whether there was only one from the start."""
        self._key = key
        self._bound = bound

    def take(self) -> Target | None:
        """The best that may be asked now; None if there is none."""
        target = self._left[0] if len(self._left) == 1 else self._best()
        if target is None or not target.cell.may_be_asked:
            return None
        self._left.remove(target)
        return target

    def put_back(self, target: Target) -> None:
        """Lets `take` return it once more."""
        self._left.append(target)

    @property
    def any_left(self) -> bool:
        return any(target.cell.may_be_asked for target in self._left)

    def _best(self) -> Target | None:
        """An engine that is due for a probe; else rendezvous hashing with bounded loads (Mirrokni et al., 2016)."""
        able, total = [], 1
        for target in self._left:
            cell = target.cell
            if cell.may_be_asked:
                if not cell.breaker.closed:
                    return target
                able.append(target)
                total += cell.in_flight
        # Never all of them: their loads add up to less than `total`.
        most = self._bound * total / len(able) if able else 0.0
        best, highest = None, -1
        for target in able:
            cell = target.cell
            if cell.in_flight < most:
                weight = (self._key ^ cell.seed) * _SPREAD & _LOW
                if weight > highest:
                    best, highest = target, weight
        return best


DECAY_SECONDS = 10.0
"""Counts decay exponentially with this time constant."""
MIN_DECAY_SECONDS = 0.001
"""Shorter times are not worth a decay."""


class RetryBudget:
    """Grants retries for `share` of the recent requests, and about `floor` in ten seconds whatever the load."""

    def __init__(self, share: float, floor: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._share = share
        self._floor = floor
        self._clock = clock
        self._requests = 0.0
        self._spent = 0.0
        self._at = clock()

    def count_request(self) -> None:
        self._decay()
        self._requests += 1.0

    def spend(self) -> bool:
        """Whether a retry is granted; if so it is counted."""
        self._decay()
        if self._spent + 1.0 > self._share * self._requests + self._floor:
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
            except engine_client.NotResident:
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
        same_again = others.alone and isinstance(failure, engine_client.TransientFailure) and target.cell.may_be_asked
        if retries >= self._terms.max_retries or not (same_again or others.any_left):
            return False
        granted = self._budget.spend()
        self._metrics.retried(target.engine.name, "sent" if granted else "refused")
        return granted

    async def _back_off(self, retries: int, deadline: float, failure: Unavailable) -> None:
        """Full jitter: a random time up to a bound that doubles, so that requests that failed together spread out."""
        pause = random.uniform(0.0, min(self._terms.backoff_seconds * 2**retries, self._terms.max_backoff_seconds))
        if self._clock() + pause >= deadline:
            raise engine_client.out_of_time() from failure
        await asyncio.sleep(pause)


PROBE_SECONDS = 1.0
"""Seconds that a request waits for an engine whose breaker is half open, if another engine could answer it."""

Race = dict["asyncio.Task[OpenAnswer]", Target]


class Hedging:
    """Hedges a request after `after` seconds (None: never), and always one that probes an engine."""

    def __init__(self, inner: TargetOpener, after: float | None, budget: RetryBudget, metrics: EngineMetrics) -> None:
        self._inner = inner
        self._after = after
        self._budget = budget
        self._metrics = metrics

    async def open(self, target: Target, others: Candidates, wanted: CompletionRequest) -> OpenAnswer:
        """Raises what the last engine to fail raised."""
        is_probe = not target.cell.breaker.closed
        patience = self._after if not is_probe else min(PROBE_SECONDS, self._after or PROBE_SECONDS)
        if patience is None or not others.any_left:
            return await self._inner.open(target, others, wanted)
        race: Race = {}
        try:
            # An engine that loses after so long, and was silent to everybody meanwhile, has failed.
            self._start(race, target, others, replace(wanted, stall_seconds=patience))
            done, _ = await asyncio.wait(race, timeout=patience)
            if not done:
                self._start_second(race, target, others, wanted)
            return await self._first_of(race, target)
        finally:
            await _stop(list(race))

    def _start(self, race: Race, target: Target, others: Candidates, wanted: CompletionRequest) -> None:
        task = asyncio.create_task(self._inner.open(target, others, wanted), name=f"ask {target.engine.name}")
        race[task] = target

    def _start_second(self, race: Race, slow: Target, others: Candidates, wanted: CompletionRequest) -> None:
        if not others.any_left:
            return
        if not self._budget.spend():
            self._metrics.hedged(slow.engine.name, "refused")
            return
        second = others.take()
        if second is not None:
            self._start(race, second, others, wanted)

    async def _first_of(self, race: Race, slow: Target) -> OpenAnswer:
        """The answer that begins first; engines that fail leave the race."""
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
                    return replace(answer, hedged=len(race))


async def _stop(tasks: Sequence["asyncio.Task[OpenAnswer]"]) -> None:
    """Cancels the losers, and closes the answer of one that began at the last moment."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, OpenAnswer):
            outcome.source.close()
