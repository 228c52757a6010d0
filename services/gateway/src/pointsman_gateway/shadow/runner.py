"""The way of a shadow: the line that every request walks, past all that is the caller's."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import PointsmanError
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.schema import ShadowConfig
from pointsman_gateway.domain import CompletedAnswer, Decision, Labels, Receipt, Request, UndecidedReceipt
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary import CanaryOutcomes
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Line, Pipeline
from pointsman_gateway.shadow.budget import DailyBudget
from pointsman_gateway.shadow.scoring import ShadowMetrics
from pointsman_gateway.tenancy.stage import OpenAccess


@dataclass(slots=True)
class _CapturedLog:
    """Stands where the journal stands; holds what came of the one request."""

    receipt: Receipt | None = None
    answer: CompletedAnswer | None = None

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return True

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        self.receipt, self.answer = receipt, answers[-1] if answers else None

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """It has cost nothing."""


@dataclass(frozen=True, slots=True)
class _FixedLabels:
    """Stands where the classification stands: the request has its task already."""

    labels: Labels

    async def label(self, request: Request) -> Labels:
        return self.labels


@dataclass(frozen=True, slots=True)
class ShadowResult:
    """How a shadow ended, in whatever way."""

    receipt: Receipt | None
    """None where it ended before a path was decided."""
    answer: CompletedAnswer | None = None
    """None where it did not come to its end, or is more than one text."""


class ShadowPipeline:
    """Takes no place in the house, nothing of a caller's limits, and counts in no series of requests."""

    def __init__(self, current: Callable[[], Line], most: int) -> None:
        """`most` may be under way at once."""
        apart = CollectorRegistry()  # nobody reads it: what shadows do is counted by `ShadowMetrics`
        self._current = current
        self._counting = MetricsAggregator(apart)
        self._admission = Admission(most, self._counting.metrics.in_flight)

    async def answer(self, request: Request, labels: Labels, tell: Callable[[ShadowResult], None]) -> None:
        """`tell` hears how it ended, once, also where this is cancelled. Raises PointsmanError."""
        line, notebook = self._current(), _CapturedLog()
        metering = line.metering.apart(self._counting, CanaryOutcomes())
        walked = replace(line, classification=_FixedLabels(labels), metering=metering)
        answering = Pipeline(self._admission, OpenAccess(), lambda: walked, notebook).answer(request)
        try:
            async for _ in answering:
                pass
        finally:
            await answering.aclose()
            tell(ShadowResult(notebook.receipt, notebook.answer))


log = logging.getLogger(__name__)

MAX_CONCURRENT = 4
LOAD_CHECK_INTERVAL_S = 0.05
"""Seconds between two looks at whether there is much to do."""


@dataclass(frozen=True, slots=True)
class ShadowJob:
    """What is to be answered once more."""

    request: Request
    """By the path that was drawn."""
    labels: Labels
    path: str
    terms: ShadowConfig

    @property
    def task(self) -> str:
        return self.labels.task


class ShadowRunner:
    def __init__(
        self, aside: ShadowPipeline, purse: DailyBudget, crowded: Callable[[], bool], metrics: ShadowMetrics
    ) -> None:
        """`crowded`: whether callers need what there is."""
        self._aside = aside
        self._purse = purse
        self._crowded = crowded
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> int:
        return len(self._running)

    def begin(self, errand: ShadowJob, tell: Callable[[ShadowResult], None]) -> None:
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

    def _why_not(self, errand: ShadowJob) -> str:
        if self.under_way >= MAX_CONCURRENT:
            return "too_many"
        if self._crowded():
            return "crowded"
        return self._purse.why_not(errand.task, errand.terms.usd_per_day)

    async def _run(self, errand: ShadowJob, tell: Callable[[ShadowResult], None]) -> None:
        outcome, receipt = "stopped", None

        def heard(told: ShadowResult) -> None:
            nonlocal receipt
            receipt = told.receipt
            tell(told)

        try:
            outcome = await self._answer(errand, heard)
        finally:
            usd = _usd(receipt)
            self._purse.spend(errand.task, usd)
            self._metrics.ended(errand.task, errand.path, outcome, usd)

    async def _answer(self, errand: ShadowJob, tell: Callable[[ShadowResult], None]) -> str:
        """How it ended."""
        answering = asyncio.create_task(self._aside.answer(errand.request, errand.labels, tell), name="shadow's answer")
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=LOAD_CHECK_INTERVAL_S)
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
