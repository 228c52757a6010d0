"""Feedback on answers: checked, then stored in Redis or, while Redis is unavailable, in the write-ahead log."""

import asyncio
import hashlib
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import replace

from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable

from pointsman_gateway.domain import UNKNOWN, Feedback, PathScore
from pointsman_gateway.domain.decision import DECISION_ID_PREFIX
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.entry import NO_REDACTION
from pointsman_gateway.request_log.export_log import FEEDBACK, NO_EXPORT, ExportSink
from pointsman_gateway.request_log.exported_records import feedback_record
from pointsman_gateway.request_log.feedback_store import FeedbackStore, StoredFeedback
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import Recorder
from pointsman_gateway.request_log.store import RequestLogReader, RequestLogStore
from pointsman_gateway.request_log.wal_files import LockedFile
from pointsman_gateway.request_log.wal_records import FeedbackRecord, to_line
from pointsman_gateway.request_log.wal_recovery import OrphanedLog

MAX_BYTES = {"decision_id": 128, "id": 128, "correction": 4 * 1024, "right_task": 64, "right_answer": 64 * 1024}
"""Maximum number of bytes, in UTF-8, of each text field of feedback, by the field's name."""

MAX_QUEUE_BYTES = 16 * 1024 * 1024
"""Maximum number of bytes of feedback that waits for Redis in one process; the feedback is on disk and in memory."""

RETRY_DELAY_SECONDS = 0.3
"""Seconds after which an unknown decision is looked up again: another gateway may not have written it yet."""


class FeedbackQueue:
    """Feedback that waits on disk until Redis is available, in this process's write-ahead log and in orphaned logs (of
    processes that have ended). A record stays on disk until it has been sent.
    """

    def __init__(self, file: LockedFile, report_bytes: Callable[[int], None], max_bytes: int = MAX_QUEUE_BYTES) -> None:
        """Takes the log's feedback file. `report_bytes` is called with each new size of the queue in bytes."""
        self._file = file
        self._report_bytes = report_bytes
        self._max_bytes = max_bytes
        self._orphans: list[OrphanedLog] = []
        self._waiting: deque[FeedbackRecord] = deque()
        """The records in the files."""
        self._changing = asyncio.Lock()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def add(self, record: FeedbackRecord) -> None:
        """Adds a record; returns when it is synchronised to disk.

        Raises Unavailable ("wal_full") if the queue would exceed `max_bytes`, or ("wal_unwritable") if the disk fails.
        """
        await asyncio.shield(self._add(record))  # a write that has begun is finished even if the caller disconnects

    async def send_all(self, send: Callable[[FeedbackRecord], Awaitable[bool]]) -> None:
        """Passes each record to `send`, oldest first; those for which it returns False stay queued.

        An exception of `send` ends the pass and is raised; also raises OSError if the files cannot be emptied.
        """
        postponed: list[FeedbackRecord] = []
        try:
            while self._waiting:
                if not await send(self._waiting[0]):
                    postponed.append(self._waiting[0])
                self._waiting.popleft()
        finally:
            self._waiting.extendleft(reversed(postponed))
        async with self._changing:
            if not self._waiting and self._bytes:
                await asyncio.to_thread(self._clear)
                self._report_bytes(self._bytes)

    async def adopt(self, orphans: Iterable[OrphanedLog]) -> None:
        """Queues the feedback in the logs of processes that have ended. The caller must keep each log open until
        its `feedback_bytes` is 0.

        Raises OSError if a log cannot be read.
        """
        async with self._changing:
            for orphan in orphans:
                records = await asyncio.to_thread(orphan.read_feedback)
                if orphan.feedback_bytes:
                    self._orphans.append(orphan)
                self._waiting += records
            self._report_bytes(self._bytes)

    @property
    def _bytes(self) -> int:
        return self._file.size + sum(orphan.feedback_bytes for orphan in self._orphans)

    async def _add(self, record: FeedbackRecord) -> None:
        line = to_line(record)
        async with self._changing:
            if self._bytes + len(line) > self._max_bytes:
                raise Unavailable(
                    f"Redis is unavailable, and {self._bytes} of {self._max_bytes} bytes of feedback wait for it",
                    code="wal_full",
                    retry_after=10.0,
                )
            try:
                await asyncio.to_thread(self._file.append_and_sync, line)
            except OSError as error:
                raise Unavailable(
                    f"Redis is unavailable, and feedback cannot be written to disk: {error}",
                    code="wal_unwritable",
                    retry_after=10.0,
                ) from error
            self._waiting.append(record)
            self._report_bytes(self._bytes)

    def _clear(self) -> None:
        for file in [self._file, *(orphan.feedback for orphan in self._orphans if orphan.feedback)]:
            file.truncate(0)
            file.sync()
        self._orphans.clear()


class FeedbackService:
    """Accepts feedback from the APIs, and stores it in Redis or on disk; implements `FeedbackStore`."""

    def __init__(
        self,
        store: RequestLogStore,
        recorder: Recorder,
        queue: FeedbackQueue,
        metrics: RequestLogMetrics,
        redaction: Redaction = NO_REDACTION,
        export: ExportSink = NO_EXPORT,
    ) -> None:
        self._redaction = redaction
        self._export = export
        self._store = store
        self._recorder = recorder
        self._queue = queue
        self._metrics = metrics
        self.tasks: Collection[str] = ()
        """The names of the configured tasks; feedback may name one of them in `right_task`."""

    async def take(self, feedback: Feedback) -> StoredFeedback:
        """Stores feedback, with redacted texts, in Redis or, if Redis does not answer in time, on disk.

        Raises InvalidArgument if the feedback is invalid, NotFound ("unknown_decision") if Redis has no decision
        with its id that the tenant may rate, or Unavailable ("wal_full", "wal_unwritable") if it cannot be stored on
        disk either. Feedback on disk is not checked for its decision until Redis answers, and is dropped if that is
        unknown.
        """
        check(feedback, self.tasks)
        record = FeedbackRecord(
            self._redacted(_with_ids(feedback)), round(time.time() * 1000), call_id=secrets.token_hex(6)
        )
        try:
            stored = await self._store_or_retry(record)
        except Unavailable:
            await self._queue.add(record)
            stored = StoredFeedback("wal")
        self._export.append(FEEDBACK, [feedback_record(record)])  # a repetition has the same id
        self._metrics.feedback.labels("known" if stored.known_already else stored.where).inc()
        return stored

    def _redacted(self, feedback: Feedback) -> Feedback:
        """Returns the feedback with redacted texts; a text whose redaction fails is empty."""
        redact = self._redaction.or_nothing
        return replace(feedback, correction=redact(feedback.correction), right_answer=redact(feedback.right_answer))

    async def _store_or_retry(self, record: FeedbackRecord) -> StoredFeedback:
        outcome = await self._try_store(record)
        if outcome == "unknown":
            await asyncio.sleep(RETRY_DELAY_SECONDS)
            outcome = await self._try_store(record)
        if outcome == "unknown":
            raise NotFound(
                f"the request log has no decision '{record.feedback.decision_id}', or no longer; "
                "its id is in the answer's header x-pointsman-decision-id",
                code="unknown_decision",
                param="decision_id",
            )
        return StoredFeedback("request_log", known_already=outcome == "known")

    async def _try_store(self, record: FeedbackRecord) -> str:
        await self._recorder.write()  # the decision may wait in this process
        return await self._store.add_feedback(record.feedback, record.unix_ms, record.call_id)


def check(feedback: Feedback, tasks: Collection[str]) -> None:
    """Checks the fields of feedback; `tasks` are the names of the configured tasks.

    Raises InvalidArgument if a text is longer than `MAX_BYTES` or has an unpaired surrogate, the decision's id is
    missing, there is nothing but ids, the rating is not from 0 to 1, or `right_task` is neither in `tasks` nor
    `UNKNOWN`.
    """
    for param, max_bytes in MAX_BYTES.items():
        _check_text(param, getattr(feedback, param), max_bytes)
    if not feedback.decision_id:
        raise InvalidArgument(
            "'decision_id' is empty; it is in the answer's header x-pointsman-decision-id",
            code="missing_decision_id",
            param="decision_id",
        )
    if feedback.rating is None and not (feedback.correction or feedback.right_task or feedback.right_answer):
        raise InvalidArgument(
            "the feedback is empty; send a rating, a correction, the right task or the right answer",
            code="empty_feedback",
        )
    if feedback.rating is not None and not 0 <= feedback.rating <= 1:
        raise InvalidArgument(
            f"'rating' is {feedback.rating:g}; it must be from 0 (bad) to 1 (good)",
            code="bad_parameter",
            param="rating",
        )
    if feedback.right_task and feedback.right_task not in (*tasks, UNKNOWN):
        known = ", ".join([*tasks, UNKNOWN])
        raise InvalidArgument(
            f"unknown task '{feedback.right_task}'; known: {known}", code="unknown_task", param="right_task"
        )


def _check_text(param: str, text: str, max_bytes: int) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"'{param}' has an unpaired surrogate", code="bad_text", param=param) from error
    if size > max_bytes:
        raise InvalidArgument(
            f"'{param}' has {size} bytes; at most {max_bytes} are allowed", code="bad_parameter", param=param
        )


def decision_id_of(feedback: Feedback) -> str:
    """Returns the id of the decision that the feedback is on. The feedback may have the answer's id instead, which ends
    with the decision's id.
    """
    _, prefix, number = feedback.decision_id.rpartition(DECISION_ID_PREFIX)
    return prefix + number


def _with_ids(feedback: Feedback) -> Feedback:
    """Returns a copy with the decision's id as `decision_id`, and as `id` a hash of the feedback's own id, or of its
    content if it has none: feedback that is sent twice has the same hash.
    """
    decision_id = decision_id_of(feedback)
    content = (decision_id, feedback.rating, feedback.correction, feedback.right_task, feedback.right_answer)
    digest = hashlib.blake2b(repr(feedback.id or content).encode(), digest_size=12)
    return replace(feedback, decision_id=decision_id, id=digest.hexdigest())


class CanaryRatings:
    """A `FeedbackStore` that passes each rating on to another store, and counts it for the adapter version that gave
    the rated answer. The counts compare a canary (a new version on trial) with the stable version.
    """

    def __init__(
        self, inner: FeedbackStore, stored: RequestLogReader, count: Callable[[str, str, float], None]
    ) -> None:
        """Takes `count`, which is called with the path's name, the engine's name of the model (an adapter version or a
        base model) and the rating (0 to 1) of each answer whose rating was not known before.
        """
        self._inner = inner
        self._stored = stored
        self._count = count

    async def take(self, feedback: Feedback) -> StoredFeedback:
        stored = await self._inner.take(feedback)
        if feedback.rating is not None and not stored.known_already:
            found = await self._stored.find_readable(decision_id_of(feedback))
            if found is not None:  # otherwise the canary is judged by other ratings
                self._count(found.entry["path"], found.entry.get("model", ""), feedback.rating)
        return stored


class NullFeedback:
    """The `FeedbackStore` and `EvaluationStore` of a gateway without Redis: each call raises FailedPrecondition."""

    async def take(self, feedback: Feedback) -> StoredFeedback:
        """Always raises FailedPrecondition ("no_request_log")."""
        raise _no_request_log("no decision can be found")

    async def add_evaluation(self, evaluation_id: str, results: Sequence[PathScore]) -> None:
        """Always raises FailedPrecondition ("no_request_log")."""
        raise _no_request_log("results cannot be kept")


def _no_request_log(so: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"this gateway has no request log, so {so}; "
        "set POINTSMAN_GATEWAY_REDIS_URL (redis://HOST:PORT/0) and restart it",
        code="no_request_log",
    )
