"""Tells the lora-servers, about every second, what came of requests to aliases that have a canary."""

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Protocol

from pointsman_gateway.domain import CanaryMetrics
from pointsman_gateway.engines.engines import Engines
from pointsman_gateway.engines.metrics import EngineMetrics

EVERY = 1.0
"""Seconds."""


class Trials(Protocol):
    """Where outcomes are counted."""

    def take(self) -> Sequence[CanaryMetrics]:
        """All that has not been handed over."""
        ...

    def give_back(self, outcomes: Sequence[CanaryMetrics]) -> None:
        """They could not be told."""
        ...


class Reporter:
    """Each count is told at most once: what may have arrived is not sent again, so that a batch can be lost.

    That is what a second has brought, and only where a lora-server goes away, or answers too late, in the middle of a
    call. What has certainly not arrived waits for the next time.
    """

    def __init__(self, trials: Trials, engines: Callable[[], Engines], metrics: EngineMetrics) -> None:
        """`engines` are those of the generation that serves."""
        self._trials = trials
        self._engines = engines
        self._metrics = metrics

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(EVERY)
            await self.report()

    async def report(self) -> None:
        """To one lora-server of each model, whichever can be reached; they all count into one registry."""
        outcomes = sorted(self._trials.take(), key=lambda one: one.model)
        for model, of_model in groupby(outcomes, key=lambda one: one.model):
            await self._report(model, list(of_model))

    async def _report(self, model: str, outcomes: list[CanaryMetrics]) -> None:
        for cell in self._engines().cells:
            if cell.engine.model != model or cell.lora_server is None:
                continue
            became = await cell.lora_server.report(outcomes)
            if became != "kept":
                self._metrics.told(sum(one.requests for one in outcomes), became)
                return
        self._trials.give_back(outcomes)
