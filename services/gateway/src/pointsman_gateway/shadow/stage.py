"""Starts shadow requests for a sample of the answered requests, and scores pairs of answers when feedback arrives.

It does so by wrapping the request log and the feedback store.
"""

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.tasks_file import ShadowConfig
from pointsman_gateway.domain import (
    ANONYMOUS,
    CompletedAnswer,
    Decision,
    Feedback,
    Labels,
    Receipt,
    Request,
    UndecidedReceipt,
)
from pointsman_gateway.extensions.policy import hash_to_unit_interval
from pointsman_gateway.ports import RequestLog
from pointsman_gateway.request_log.feedback import decision_id_of
from pointsman_gateway.request_log.feedback_store import FeedbackStore, StoredFeedback
from pointsman_gateway.request_log.redis_schema import today
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_gateway.shadow.judge import JudgeJob, JudgeSettings, PairJudge
from pointsman_gateway.shadow.pair import Pair, side_of
from pointsman_gateway.shadow.runner import ShadowJob, ShadowResult, ShadowRunner
from pointsman_gateway.shadow.scoring import PairScorer

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 120.0
"""Time limit for one shadow request."""


class ShadowSettings(Protocol):
    """Interface of the active configuration's settings for shadow requests; `ActiveShadowSettings` implements it."""

    @property
    def tasks(self) -> Mapping[str, ShadowConfig]: ...

    @property
    def judges(self) -> Mapping[str, JudgeSettings]:
        """Returns the judge's settings by task name, for the tasks whose pairs of answers a language model compares."""
        ...

    def is_allowed(self, request: Request, task: str, path: str) -> bool:
        """Returns whether the key of the request's caller may use the path for the task."""
        ...


class Shadowing:
    """A request log that also starts a shadow request on another path for a sample of the requests that it logs.

    Only chat requests without media are sampled, if an engine has answered completely, without an escalation to another
    path, and the caller's key may use the shadow request's path. Implements `RequestLog` around another one.
    """

    def __init__(
        self,
        log: RequestLog,
        runner: ShadowRunner,
        settings: ShadowSettings,
        scorer: PairScorer,
        judge: PairJudge,
    ) -> None:
        self._log = log
        self._runner = runner
        self._settings = settings
        self._scorer = scorer
        self._judge = judge

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return bool(self._sampled_path(decision)) or self._log.wants_answers(request, decision)

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        stored = answers if answers and self._log.wants_answers(request, decision) else ()
        self._log.note(request, decision, receipt, stored)
        if receipt.outcome != "ok" or receipt.cached or receipt.escalated_from:
            return
        path = self._sampled_path(receipt.decision)
        if (
            path
            and request.operation == "chat"
            and not request.media
            and self._settings.is_allowed(request, receipt.decision.task, path)
        ):
            self._start(request, receipt, answers[-1] if answers else None, path)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        self._log.note_undecided(receipt)

    def _sampled_path(self, decision: Decision) -> str:
        config = self._settings.tasks.get(decision.task)
        return sampled_path(config, decision) if config is not None else ""

    def _start(self, request: Request, receipt: Receipt, answer: CompletedAnswer | None, path: str) -> None:
        decision, day = receipt.decision, today()
        config = self._settings.tasks[decision.task]

        def report(result: ShadowResult) -> None:
            shadow = result.receipt
            if shadow is None or shadow.outcome != "ok":
                return
            pair = Pair(decision.id, day, decision.task, side_of(receipt, answer), side_of(shadow, result.answer))
            self._scorer.add(pair, shadow, config)
            if judge := self._settings.judges.get(pair.task):
                self._judge.start(JudgeJob(pair, request.messages, judge))

        self._runner.start(ShadowJob(_shadow_request(path, request), _labels(decision), path, config), report)


def _shadow_request(path: str, request: Request) -> Request:
    """Returns a copy of the request for the path named `path`: without a caller and without the cache; its deadline is
    `TIMEOUT_SECONDS` from now.
    """
    deadline = asyncio.get_running_loop().time() + TIMEOUT_SECONDS
    return replace(request, model=f"path:{path}", caller=ANONYMOUS, deadline=deadline, cache="off", arrived_at=0.0)


def _labels(decision: Decision) -> Labels:
    return Labels(
        decision.task,
        decision.confidence,
        decision.probabilities,
        abstained=False,
        stage="shadow",
        vector=decision.vector,
        margin=decision.margin,
        in_distribution_score=decision.in_distribution_score,
    )


def sampled_path(config: ShadowConfig | None, decision: Decision) -> str:
    """Returns the name of the path for a decision's shadow request; empty if the request is not sampled.

    The sample of requests, and the path for each, follow from a hash of the decision's id, so the same decision gives
    the same result everywhere. Nothing is sampled if `config` is None or has no path besides the decision's.
    """
    if config is None:
        return ""
    others = [path for path in config.paths if path != decision.path.name]
    position = hash_to_unit_interval(f"shadow {decision.id}")
    if not others or position >= config.share:
        return ""
    return others[int(position / config.share * len(others))]


class PairSource(Protocol):
    """Interface that reads stored pairs of answers; `ShadowStore` implements it."""

    async def pair(self, decision_id: str) -> Pair | None:
        """Removes and returns the decision's pair that waits for a right answer; None if there is none.

        Raises Unavailable if the store fails.
        """
        ...

    async def judged(self, decision_id: str) -> Pair | None:
        """Removes and returns the decision's pair that a judge has scored; None if there is none.

        Raises Unavailable if the store fails.
        """
        ...


class ScoringFeedback:
    """A feedback store that also scores the stored pair of answers of the decision that the feedback is about.

    The first feedback with a right answer scores both answers; it may arrive before or after the shadow request's
    answer. If a language model has scored the pair, its scores are compared with the first feedback that has a rating
    or a right answer. Implements `FeedbackStore` around another one.
    """

    def __init__(
        self,
        inner: FeedbackStore,
        pairs: PairSource,
        scorer: PairScorer,
        stored: RequestLogReader,
        settings: ShadowSettings,
    ) -> None:
        """Takes the feedback store `inner`, and `stored`, which reads all feedback on a decision."""
        self._inner = inner
        self._pairs = pairs
        self._scorer = scorer
        self._stored = stored
        self._settings = settings

    async def take(self, feedback: Feedback) -> StoredFeedback:
        stored = await self._inner.take(feedback)
        if feedback.right_answer or (self._settings.judges and feedback.rating is not None):
            await self.score_by_stored_feedback(decision_id_of(feedback))
        return stored

    async def score_by_stored_feedback(self, decision_id: str) -> None:
        """Scores the stored pair of answers of a decision with all feedback that the decision has so far.

        Does nothing if there is no pair, or if the feedback or the pair cannot be read or used.
        """
        found = await self._stored.find_readable(decision_id)
        if found is None:  # such as a decision that is not written yet
            return
        with _skipping(decision_id):
            rating = float(found.feedback["rating"]) if "rating" in found.feedback else None
            right_answer = found.feedback.get("right_answer", "")
            if right_answer:
                await self._score(decision_id, right_answer, rated=rating is not None)
            if self._settings.judges and (right_answer or rating is not None):
                await self._compare(decision_id, rating, right_answer)

    async def _compare(self, decision_id: str, rating: float | None, right_answer: str) -> None:
        with _skipping(decision_id):
            pair = await self._pairs.judged(decision_id)
            if pair is not None:
                self._scorer.compare(pair, rating, right_answer)

    async def _score(self, decision_id: str, right_answer: str, rated: bool) -> None:
        with _skipping(decision_id):
            pair = await self._pairs.pair(decision_id)
            if pair is not None:
                self._scorer.score(pair, right_answer, rated)


@contextmanager
def _skipping(decision_id: str) -> Iterator[None]:
    """Ignores Unavailable and ValueError in the block, so that a pair that cannot be scored is skipped."""
    try:
        yield
    except Unavailable:
        pass
    except ValueError as error:
        log.info("the feedback on %s cannot be used for scoring: %s", decision_id, error)
