"""Shadows under way: few at once, within a day's dollars, and the first to go when there is much to do."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import Labels, Receipt, Request
from pointsman_gateway.shadow.aside import Aside, Told
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.purse import Purse

log = logging.getLogger(__name__)

MOST_AT_ONCE = 4
PERIOD = 0.05
"""Seconds between two looks at whether there is much to do."""


@dataclass(frozen=True, slots=True)
class Errand:
    """What is to be answered once more."""

    request: Request
    """By the path that was drawn."""
    labels: Labels
    path: str
    terms: ShadowConfig

    @property
    def task(self) -> str:
        return self.labels.task


class Runner:
    def __init__(self, aside: Aside, purse: Purse, crowded: Callable[[], bool], metrics: ShadowMetrics) -> None:
        """`crowded`: whether callers need what there is."""
        self._aside = aside
        self._purse = purse
        self._crowded = crowded
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        return len(self._running)

    def begin(self, errand: Errand, tell: Callable[[Told], None]) -> None:
        """Returns at once; `tell` hears how it ended, unless it is not begun."""
        why_not = self._why_not(errand)
        if why_not:
            self._metrics.ended(errand.task, errand.path, why_not)
            return
        task = asyncio.create_task(self._run(errand, tell), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _why_not(self, errand: Errand) -> str:
        if self.under_way >= MOST_AT_ONCE:
            return "too_many"
        if self._crowded():
            return "crowded"
        return self._purse.why_not(errand.task, errand.terms.dollars_per_day)

    async def _run(self, errand: Errand, tell: Callable[[Told], None]) -> None:
        outcome, receipt = "stopped", None

        def heard(told: Told) -> None:
            nonlocal receipt
            receipt = told.receipt
            tell(told)

        try:
            outcome = await self._answer(errand, heard)
        finally:
            usd = _usd(receipt)
            self._purse.spend(errand.task, usd)
            self._metrics.ended(errand.task, errand.path, outcome, usd)

    async def _answer(self, errand: Errand, tell: Callable[[Told], None]) -> str:
        """How it ended."""
        answering = asyncio.create_task(self._aside.answer(errand.request, errand.labels, tell), name="shadow's answer")
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=PERIOD)
                if self._crowded() and not answering.done():
                    return "crowded"
        finally:
            if not answering.done():
                answering.cancel()
                await asyncio.wait({answering})
        return _outcome(answering)


def _outcome(answering: "asyncio.Task[None]") -> str:
    error = answering.exception()
    if error is None:
        return "ok"
    if isinstance(error, PointsmanError):
        return error.code
    log.error("a shadow failed", exc_info=error)
    return "internal"


def _usd(receipt: Receipt | None) -> float:
    return receipt.cost_usd if receipt else 0.0
