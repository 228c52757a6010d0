"""Hedging: if the first token is slow to come, a second engine gets the prompt too, and the first answer wins."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.engines.balancing import Candidates
from pointsman_gateway.engines.budget import RetryBudget
from pointsman_gateway.engines.engines import Target
from pointsman_gateway.engines.metrics import EngineMetrics
from pointsman_gateway.engines.request import CompletionRequest
from pointsman_gateway.engines.retrying import TargetOpener
from pointsman_gateway.pipeline.ports import OpenAnswer

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
