"""What people say of answers: checked, and put into the journal, or on disk while that is away."""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

from pointsman_gateway.domain import UNKNOWN, Feedback
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.entry import NOTHING_REDACTED
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import Recorder
from pointsman_gateway.request_log.spool import FeedbackQueue, FeedbackRecord
from pointsman_gateway.request_log.store import RequestLogStore

LONGEST = {"decision_id": 128, "id": 128, "correction": 4 * 1024, "right_task": 64, "right_answer": 64 * 1024}
"""Bytes."""

SECOND_LOOK = 0.3
"""Seconds after which a decision is looked for again: another gateway may have had it still in hand."""

ANSWERS = ("chatcmpl-", "cmpl-", "resp_")
"""Before a decision's id in an OpenAI answer's; whoever has only the latter may send that."""


@dataclass(frozen=True, slots=True)
class Stored:
    where: str
    """ "journal" or "spool"."""
    known_already: bool = False


class FeedbackService:
    """Implements the doors' `FeedbackBox`."""

    def __init__(
        self,
        store: RequestLogStore,
        recorder: Recorder,
        spool: FeedbackQueue,
        metrics: RequestLogMetrics,
        redaction: Redaction = NOTHING_REDACTED,
    ) -> None:
        self._redaction = redaction
        self._store = store
        self._recorder = recorder
        self._spool = spool
        self._metrics = metrics
        self.tasks: Collection[str] = ()
        """That the right one may be."""

    async def take(self, feedback: Feedback) -> Stored:
        """Raises InvalidArgument, NotFound ("unknown_decision"), or Unavailable where the spool takes no more."""
        check(feedback, self.tasks)
        spooled = FeedbackRecord(self._as_kept(_named(feedback)), round(time.time() * 1000), secrets.token_hex(6))
        try:
            stored = await self._put(spooled)
        except Unavailable:
            await self._spool.keep(spooled)
            stored = Stored("spool")
        self._metrics.feedback.labels("known" if stored.known_already else stored.where).inc()
        return stored

    def _as_kept(self, feedback: Feedback) -> Feedback:
        """What the redaction fails on is left out; the rest counts."""
        kept = self._redaction.or_nothing
        return replace(feedback, correction=kept(feedback.correction), right_answer=kept(feedback.right_answer))

    async def _put(self, spooled: FeedbackRecord) -> Stored:
        outcome = await self._say(spooled)
        if outcome == "unknown":
            await asyncio.sleep(SECOND_LOOK)
            outcome = await self._say(spooled)
        if outcome == "unknown":
            raise NotFound(
                f"no decision '{spooled.feedback.decision_id}' is in the journal, or no longer; "
                "its id is the answer's x-pointsman-decision-id",
                code="unknown_decision",
                param="decision_id",
            )
        return Stored("journal", known_already=outcome == "known")

    async def _say(self, spooled: FeedbackRecord) -> str:
        await self._recorder.write()  # the decision may be among what waits here
        return await self._store.say(spooled.feedback, spooled.unix_ms, spooled.call)


def check(feedback: Feedback, tasks: Collection[str]) -> None:
    """Raises InvalidArgument."""
    for param, most in LONGEST.items():
        _check_text(param, getattr(feedback, param), most)
    if not feedback.decision_id:
        raise InvalidArgument(
            "'decision_id' is empty; it is the answer's x-pointsman-decision-id",
            code="missing_decision_id",
            param="decision_id",
        )
    if feedback.rating is None and not (feedback.correction or feedback.right_task or feedback.right_answer):
        raise InvalidArgument(
            "nothing is said; send a rating, a correction, the right task or the right answer", code="empty_feedback"
        )
    if feedback.rating is not None and not 0 <= feedback.rating <= 1:
        raise InvalidArgument(
            f"'rating' is {feedback.rating:g}; 0 (bad) to 1 (good)", code="bad_parameter", param="rating"
        )
    if feedback.right_task and feedback.right_task not in (*tasks, UNKNOWN):
        known = ", ".join([*tasks, UNKNOWN])
        raise InvalidArgument(
            f"unknown task '{feedback.right_task}'; known: {known}", code="unknown_task", param="right_task"
        )


def _check_text(param: str, text: str, most: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"'{param}' holds half a character", code="bad_text", param=param) from error
    if size > most:
        raise InvalidArgument(f"'{param}' has {size} bytes; at most {most}", code="bad_parameter", param=param)


def decision_id_of(feedback: Feedback) -> str:
    """The decision's own id, where it was named by the answer's."""
    decision_id = feedback.decision_id
    for prefix in ANSWERS:
        decision_id = decision_id.removeprefix(prefix)
    return decision_id


def _named(feedback: Feedback) -> Feedback:
    """With the decision's own id, and a short name in one word: the digest of the one given, else of what is said."""
    decision_id = decision_id_of(feedback)
    said = (decision_id, feedback.rating, feedback.correction, feedback.right_task, feedback.right_answer)
    digest = hashlib.blake2b(repr(feedback.id or said).encode(), digest_size=12)
    return replace(feedback, decision_id=decision_id, id=digest.hexdigest())


class NullFeedback:
    """Implements the doors' `FeedbackBox`."""

    async def take(self, feedback: Feedback) -> Stored:
        """Raises FailedPrecondition."""
        raise FailedPrecondition(
            "this gateway keeps no journal, so no decision can be found; "
            "set POINTSMAN_GATEWAY_REDIS_URL (redis://HOST:PORT/0) and start it again",
            code="no_journal",
        )
