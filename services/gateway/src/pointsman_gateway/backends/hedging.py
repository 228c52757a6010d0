"""Asks a second engine where the first token is long in coming, and takes whichever answers first."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.backends.balancing import Candidates
from pointsman_gateway.backends.budget import RetryBudget
from pointsman_gateway.backends.engines import Target
from pointsman_gateway.backends.metrics import EngineMetrics
from pointsman_gateway.backends.request import CompletionRequest
from pointsman_gateway.backends.retrying import Opening
from pointsman_gateway.pipeline.ports import OpenAnswer

TRIAL = 1.0
"""Seconds that a request waits for an engine which is on trial, where another could answer it."""

Race = dict["asyncio.Task[OpenAnswer]", Target]


class Hedging:
    """After `after` seconds for each request, or never; always for one that tries whether an engine works again."""

    def __init__(self, inner: Opening, after: float | None, budget: RetryBudget, metrics: EngineMetrics) -> None:
        self._inner = inner
        self._after = after
        self._budget = budget
        self._metrics = metrics

    async def open(self, target: Target, others: Candidates, asked: CompletionRequest) -> OpenAnswer:
        """Raises what the last of both raised."""
        on_trial = not target.cell.breaker.closed
        patience = self._after if not on_trial else min(TRIAL, self._after or TRIAL)
        if patience is None or not others.any_left:
            return await self._inner.open(target, others, asked)
        race: Race = {}
        try:
            # Who loses after so long, and was silent to everybody meanwhile, has failed.
            self._start(race, target, others, replace(asked, stall_seconds=patience))
            done, _ = await asyncio.wait(race, timeout=patience)
            if not done:
                self._start_second(race, target, others, asked)
            return await self._first_of(race, target)
        finally:
            await _stop(list(race))

    def _start(self, race: Race, target: Target, others: Candidates, asked: CompletionRequest) -> None:
        task = asyncio.create_task(self._inner.open(target, others, asked), name=f"ask {target.engine.name}")
        race[task] = target

    def _start_second(self, race: Race, slow: Target, others: Candidates, asked: CompletionRequest) -> None:
        if not others.any_left:
            return
        if not self._budget.spend():
            self._metrics.hedged(slow.engine.name, "refused")
            return
        second = others.take()
        if second is not None:
            self._start(race, second, others, asked)

    async def _first_of(self, race: Race, slow: Target) -> OpenAnswer:
        """The answer that begins first; those that fail leave the race."""
        hedged = len(race) > 1
        while True:
            done, _ = await asyncio.wait(race, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                target = race.pop(task)
                try:
                    opened = task.result()
                except PointsmanError:
                    if not race:
                        if hedged:
                            self._metrics.hedged(slow.engine.name, "failed")
                        raise
                else:
                    if hedged:
                        self._metrics.hedged(slow.engine.name, "lost" if target is slow else "won")
                    return replace(opened, hedged=len(race))


async def _stop(tasks: Sequence["asyncio.Task[OpenAnswer]"]) -> None:
    """Lets go of the losers, one that began at the last moment too."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, OpenAnswer):
            outcome.source.close()
