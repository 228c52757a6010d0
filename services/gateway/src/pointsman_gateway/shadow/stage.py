"""The stage beside the line: stands around the journal, and sends a share of what is noted there down another path."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.config.schema import ShadowConfig
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
from pointsman_gateway.pipeline.ports import Journal
from pointsman_gateway.request_log.feedback import Stored, decision_id_of
from pointsman_gateway.request_log.redis_schema import today
from pointsman_gateway.shadow.runner import ShadowJob, ShadowResult, ShadowRunner
from pointsman_gateway.shadow.scoring import Pair, side_of

TIMEOUT_S = 120.0
"""That a shadow may take."""


class PairTaker(Protocol):
    """What becomes of a pair."""

    def take(self, pair: Pair, receipt: Receipt, terms: ShadowConfig) -> None:
        """`receipt` is the shadow's. Never waits, never fails."""
        ...


class Shadowing:
    """Implements the pipeline's `Journal` around another one. What is not drawn costs one look into a dictionary."""

    def __init__(
        self,
        journal: Journal,
        runner: ShadowRunner,
        tasks: Callable[[], Mapping[str, ShadowConfig]],
        may: Callable[[Request, str, str], bool],
        takes: PairTaker,
    ) -> None:
        """`tasks`: the terms by task, of the configuration that serves. `may`: whether the request's caller may
        have the task answered by that path."""
        self._journal = journal
        self._runner = runner
        self._tasks = tasks
        self._may = may
        self._takes = takes

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return bool(self._drawn(decision)) or self._journal.wants_answers(request, decision)

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        wanted = answers if answers and self._journal.wants_answers(request, decision) else ()
        self._journal.note(request, decision, receipt, wanted)
        if receipt.outcome != "ok" or receipt.cached or receipt.escalated_from:
            return
        path = self._drawn(receipt.decision)
        if path and request.operation == "chat" and self._may(request, receipt.decision.task, path):
            self._begin(request, receipt, answers[-1] if answers else None, path)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        self._journal.note_undecided(receipt)

    def _drawn(self, decision: Decision) -> str:
        return sampled_path(self._tasks().get(decision.task), decision)

    def _begin(self, request: Request, receipt: Receipt, answered: CompletedAnswer | None, path: str) -> None:
        decision, day = receipt.decision, today()
        terms = self._tasks()[decision.task]

        def tell(told: ShadowResult) -> None:
            shadow = told.receipt
            if shadow is None or shadow.outcome != "ok":
                return
            pair = Pair(decision.id, day, decision.task, side_of(receipt, answered), side_of(shadow, told.answer))
            self._takes.take(pair, shadow, terms)

        self._runner.begin(ShadowJob(_by(path, request), _labels(decision), path, terms), tell)


def _by(path: str, request: Request) -> Request:
    """The request as the shadow asks it: nobody's, nobody waits for it, and no answer out of the cache will do."""
    deadline = asyncio.get_running_loop().time() + TIMEOUT_S
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
        familiarity=decision.familiarity,
    )


def sampled_path(terms: ShadowConfig | None, decision: Decision) -> str:
    """The path that answers as well, drawn by the decision's id; empty where none does."""
    if terms is None:
        return ""
    others = [path for path in terms.paths if path != decision.path.name]
    where = hash_to_unit_interval(f"shadow {decision.id}")
    if not others or where >= terms.share:
        return ""
    return others[int(where / terms.share * len(others))]


log = logging.getLogger(__name__)


class FeedbackTaker(Protocol):
    """Takes what is said of answers."""

    async def take(self, feedback: Feedback) -> Stored: ...


class PairSource(Protocol):
    async def pair(self, decision_id: str) -> Pair | None:
        """To be marked, once. Raises Unavailable."""
        ...


class AnswerScorer(Protocol):
    def mark(self, pair: Pair, right_answer: str, rated: bool) -> None:
        """Raises ValueError."""
        ...


class ScoringFeedback:
    """Implements `FeedbackStore` around another one. A pair is marked once, by the first right answer."""

    def __init__(self, box: FeedbackTaker, pairs: PairSource, marks: AnswerScorer) -> None:
        self._box = box
        self._pairs = pairs
        self._marks = marks

    async def take(self, feedback: Feedback) -> Stored:
        stored = await self._box.take(feedback)
        if feedback.right_answer:
            await self._mark(feedback)
        return stored

    async def _mark(self, feedback: Feedback) -> None:
        """What cannot be marked stays unmarked: the feedback itself is kept."""
        try:
            pair = await self._pairs.pair(decision_id_of(feedback))
            if pair is not None:
                self._marks.mark(pair, feedback.right_answer, rated=feedback.rating is not None)
        except Unavailable:
            pass
        except ValueError as error:
            log.info("the right answer of %s is no label: %s", feedback.decision_id, error)
