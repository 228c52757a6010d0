"""Runs shadow requests in the background: few at once, within a daily budget, and only while the load is low."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import PointsmanError
from prometheus_client import CollectorRegistry

from pointsman_gateway.config.tasks_file import ShadowConfig
from pointsman_gateway.domain import CompletedAnswer, Decision, Labels, Receipt, Request, UndecidedReceipt
from pointsman_gateway.metering.aggregate import MetricsAggregator
from pointsman_gateway.metering.canary_outcomes import CanaryOutcomes
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Pipeline, Stages
from pointsman_gateway.shadow.budget import DailyBudget
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.tenancy.stage import OpenAccess

log = logging.getLogger(__name__)

MAX_CONCURRENT = 4
LOAD_CHECK_INTERVAL_SECONDS = 0.05
"""Seconds between two checks of the load while a shadow request runs."""


@dataclass(slots=True)
class _CapturedLog:
    """Keeps the receipt and the last answer of one request instead of logging them; implements `RequestLog`."""

    receipt: Receipt | None = None
    answer: CompletedAnswer | None = None

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return True

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        self.receipt, self.answer = receipt, answers[-1] if answers else None

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Does nothing: a request without a decision has cost nothing."""


@dataclass(frozen=True, slots=True)
class _FixedLabels:
    """A classifier that returns given labels for a request that was classified before; implements `Classifier`."""

    labels: Labels

    async def label(self, request: Request) -> Labels:
        return self.labels


@dataclass(frozen=True, slots=True)
class ShadowResult:
    receipt: Receipt | None
    """The receipt of the shadow request; None if it ended before a path was chosen."""
    answer: CompletedAnswer | None = None
    """The answer; None if it is incomplete, or is more than one text."""


class ShadowPipeline:
    """Answers shadow requests by the stages of regular requests, with a queue and a limit of concurrency of their own.

    Limits of callers, the request log and the metrics of regular requests do not apply.
    """

    def __init__(self, current: Callable[[], Stages], max_concurrent: int) -> None:
        """Takes `current`, which returns the stages of the current configuration; `max_concurrent` requests run at
        once, and further ones wait in the queue of the admission.
        """
        unused = CollectorRegistry()  # never exported: `ShadowMetrics` counts shadow requests
        self._current = current
        self._aggregator = MetricsAggregator(unused)
        self._admission = Admission(max_concurrent, self._aggregator.metrics.in_flight)

    async def answer(self, request: Request, labels: Labels, report: Callable[[ShadowResult], None]) -> None:
        """Answers a request without a client: the chunks of the answer are discarded, and only the result is reported.

        The task comes from `labels`; the classifier does not run. `report` is called once at the end with the receipt
        and the complete answer, even if the request fails or is cancelled. Raises the error with which the request
        fails.
        """
        line, captured = self._current(), _CapturedLog()
        metering = line.metering.with_counters(self._aggregator, CanaryOutcomes())
        stages = replace(line, classification=_FixedLabels(labels), metering=metering)
        answering = Pipeline(self._admission, OpenAccess(), lambda: stages, captured).answer(request)
        try:
            async for _ in answering:
                pass
        finally:
            await answering.aclose()
            report(ShadowResult(captured.receipt, captured.answer))


@dataclass(frozen=True, slots=True)
class ShadowJob:
    """A shadow request to run: a request that has been answered, to be answered again by another path."""

    request: Request
    """The request to send to the other path; its `model` names that path as "path:NAME"."""
    labels: Labels
    path: str
    config: ShadowConfig

    @property
    def task(self) -> str:
        return self.labels.task


class ShadowRunner:
    def __init__(
        self, pipeline: ShadowPipeline, budget: DailyBudget, is_crowded: Callable[[], bool], metrics: ShadowMetrics
    ) -> None:
        """Takes `is_crowded`, which returns whether regular requests need the capacity."""
        self._pipeline = pipeline
        self._budget = budget
        self._is_crowded = is_crowded
        self._metrics = metrics
        self._running: set[asyncio.Task[None]] = set()

    @property
    def running(self) -> int:
        return len(self._running)

    def start(self, job: ShadowJob, report: Callable[[ShadowResult], None]) -> None:
        """Starts a shadow request in the background, or only counts it if the daily budget or the load does not allow
        it.

        `report` is called with the result when the request has ended, even if it failed or was cancelled; it is not
        called for a request that was not started.
        """
        reason = self._denial_reason(job)
        if reason:
            self._metrics.count_request(job.task, job.path, reason)
            return
        task = asyncio.create_task(self._run(job, report), name="shadow")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def stop(self) -> None:
        for task in self._running:
            task.cancel()
        if self._running:
            await asyncio.wait(self._running)

    def _denial_reason(self, job: ShadowJob) -> str:
        """Returns why the job must not start, as an outcome of `ShadowMetrics.count_request`; empty if it may."""
        if self.running >= MAX_CONCURRENT:
            return "too_many"
        if self._is_crowded():
            return "crowded"
        return self._budget.denial_reason(job.task, job.config.usd_per_day)

    async def _run(self, job: ShadowJob, report: Callable[[ShadowResult], None]) -> None:
        outcome, receipt = "stopped", None

        def capture(result: ShadowResult) -> None:
            nonlocal receipt
            receipt = result.receipt
            report(result)

        try:
            outcome = await self._answer(job, capture)
        finally:
            usd = _usd(receipt)
            self._budget.spend(job.task, usd)
            self._metrics.count_request(job.task, job.path, outcome, usd)

    async def _answer(self, job: ShadowJob, report: Callable[[ShadowResult], None]) -> str:
        """Runs the request, and cancels it once regular requests need the capacity. Returns the outcome for
        `ShadowMetrics.count_request`.
        """
        answering = asyncio.create_task(self._pipeline.answer(job.request, job.labels, report), name="shadow answer")
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=LOAD_CHECK_INTERVAL_SECONDS)
                if self._is_crowded() and not answering.done():
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
    log.error("a shadow request failed", exc_info=error)
    return "internal"


def _usd(receipt: Receipt | None) -> float:
    cost = receipt.cost_usd if receipt else None
    return 0.0 if cost is None else cost
