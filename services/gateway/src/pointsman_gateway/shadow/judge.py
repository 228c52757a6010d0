"""Lets a language model, the judge, compare pairs of answers in the background, within a daily limit for each task."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_scoring.judge import MAX_TOKENS, PairScore, combine, pair_case, parse_pair
from pointsman_servicekit.errors import PointsmanError

from pointsman_gateway.domain import UNKNOWN, Labels, Message, Request, Sampling
from pointsman_gateway.shadow.budget import DailyBudget
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.pair import Pair
from pointsman_gateway.shadow.runner import LOAD_CHECK_INTERVAL_SECONDS, ShadowPipeline, ShadowResult

TIMEOUT_SECONDS = 120.0
"""Time limit for one call of the judge, a language model."""

MAX_WAITING = 64
"""Maximum number of pairs of answers that wait to be judged in one gateway; further pairs are not judged."""

_LABELS = Labels(UNKNOWN, 1.0, (), abstained=True, stage="judge")
"""The labels of a judge's requests. They have no task, so that no task's validators check the judge's replies."""


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """The language model that compares one task's pairs of answers: its prompt, its sampling, its dollars per day."""

    model: str
    """The language model: the name of a model, or "path:NAME" for a path."""
    instructions: str
    """The system message of each request to the judge."""
    usd_per_day: float
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class JudgeJob:
    pair: Pair
    messages: Sequence[Message]
    """The messages of the request that both answers are for."""
    settings: JudgeSettings


class PairJudge:
    """Asks a language model which of two answers to the same request is better, for one pair of answers at a time.

    Starts no comparison while regular requests need the gateway's capacity.
    """

    def __init__(
        self,
        pipeline: ShadowPipeline,
        budget: DailyBudget,
        is_crowded: Callable[[], bool],
        metrics: ShadowMetrics,
        report: Callable[[Pair, PairScore], None],
    ) -> None:
        """Takes `is_crowded`, which returns whether regular requests need the capacity, and `report`, which is called
        with each judged pair and its scores, and must not raise.
        """
        self._pipeline = pipeline
        self._budget = budget
        self._is_crowded = is_crowded
        self._metrics = metrics
        self._report = report
        self._waiting: deque[JudgeJob] = deque()
        self._worker: asyncio.Task[None] | None = None

    def start(self, job: JudgeJob) -> None:
        """Queues a pair of answers to be compared in the background.

        If an answer has no text, or `MAX_WAITING` pairs wait already, the pair is not compared, but counted in the
        metrics.
        """
        if not job.pair.chosen.text or not job.pair.other.text:
            self._metrics.count_verdict(job.pair.task, "no_text")
        elif len(self._waiting) >= MAX_WAITING:
            self._metrics.count_verdict(job.pair.task, "too_many")
        else:
            self._waiting.append(job)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work(), name="judge")

    async def stop(self) -> None:
        """Cancels the comparison in progress, and counts it and all waiting pairs as "stopped" in the metrics."""
        if self._worker is not None and not self._worker.done():
            self._worker.cancel()
            await asyncio.wait({self._worker})
        for job in self._waiting:
            self._metrics.count_verdict(job.pair.task, "stopped")

    async def _work(self) -> None:
        while self._waiting:
            if self._is_crowded():
                await asyncio.sleep(LOAD_CHECK_INTERVAL_SECONDS)
                continue
            job, outcome = self._waiting.popleft(), "stopped"
            try:
                outcome = await self._judge(job)
            finally:
                self._metrics.count_verdict(job.pair.task, outcome)

    async def _judge(self, job: JudgeJob) -> str:
        """Lets the model judge one pair in both orders, and reports the scores if both replies can be parsed.

        Returns the outcome for `ShadowMetrics.count_verdict`.
        """
        budget = budget_name(job.pair.task)
        if reason := self._budget.denial_reason(budget, job.settings.usd_per_day):
            return reason
        first, second = job.pair.chosen.text, job.pair.other.text
        try:
            in_order = parse_pair(await self._ask(job, first, second))
            swapped = parse_pair(await self._ask(job, second, first)) if in_order else None
        except PointsmanError as error:
            return error.code
        if in_order is None or swapped is None:
            return "unparsable"
        score = combine(in_order, swapped)
        self._report(job.pair, score)
        return {"first": "chosen", "second": "shadow"}.get(score.preference, score.preference)

    async def _ask(self, job: JudgeJob, first: str, second: str) -> str:
        """Returns the judge's reply to two answers in this order, empty if it is incomplete, and counts its cost.
        Raises the PointsmanError with which the request ends.
        """
        captured = ShadowResult(None)

        def capture(result: ShadowResult) -> None:
            nonlocal captured
            captured = result

        try:
            await self._pipeline.answer(_request(job, first, second), _LABELS, capture)
        finally:
            usd = (captured.receipt.cost_usd if captured.receipt else None) or 0.0
            self._budget.spend(budget_name(job.pair.task), usd)
            self._metrics.count_judge_cost(job.pair.task, usd)
        return captured.answer.text if captured.answer else ""


def budget_name(task: str) -> str:
    """Returns the name, in place of a task's, under which `DailyBudget` counts the cost of the task's judge.

    No task can have this name, since it contains a colon.
    """
    return f"judge:{task}"


def _request(job: JudgeJob, first: str, second: str) -> Request:
    case = pair_case([_as_json(message) for message in job.messages], first, second)
    return Request(
        job.settings.model,
        (Message("system", job.settings.instructions), Message("user", case)),
        sampling=job.settings.sampling,
        deadline=asyncio.get_running_loop().time() + TIMEOUT_SECONDS,
        cache="off",
        as_a_whole=True,
    )


def _as_json(message: Message) -> dict[str, Any]:
    return {"role": message.role, "content": message.content, **message.extra}


def judge_sampling(rejected: frozenset[str]) -> Sampling:
    """Returns the sampling parameters for a judge's requests: `MAX_TOKENS` tokens at most, and a temperature of 0.

    `rejected` are names of parameters that the judge's engines do not accept. If "temperature" is among them, no
    temperature is sent.
    """
    return Sampling(max_tokens=MAX_TOKENS, temperature=None if "temperature" in rejected else 0.0)
