"""Background tasks of the request log: write batches, send queued feedback, read evidence, and recover orphaned logs,
the write-ahead logs of processes that have ended.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pointsman_servicekit.process import Schedule, running_periodically

from pointsman_gateway.request_log.entry import to_entry, to_undecided_json
from pointsman_gateway.request_log.evidence import EvidenceStore, sum_by_day
from pointsman_gateway.request_log.export_log import DECISIONS, NO_EXPORT, UNDECIDED, ExportLog, ExportSink
from pointsman_gateway.request_log.feedback import FeedbackQueue
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import Recorder
from pointsman_gateway.request_log.redis_schema import day_of, last_days
from pointsman_gateway.request_log.spending import SpendingCounts, add_charges, charge_of_undecided
from pointsman_gateway.request_log.store import Batch, RequestLogStore
from pointsman_gateway.request_log.wal_records import FeedbackRecord
from pointsman_gateway.request_log.wal_recovery import OrphanedLog, RecoveryBatch, lock_orphaned_logs

log = logging.getLogger(__name__)

WRITE_INTERVAL_SECONDS = 0.05
"""Seconds between two batches; each costs the gateway 1 to 2 ms, regardless of its size."""
FEEDBACK_INTERVAL_SECONDS = 0.3
"""Seconds between two attempts to send queued feedback."""
EVIDENCE_INTERVAL_SECONDS = 2.0
"""Seconds between two reads from Redis of the ratings, costs and latencies that all gateways have counted."""
EXPORT_INTERVAL_SECONDS = 1.0
"""Seconds between two calls of `ExportLog.maintain`."""
RECOVERY_INTERVAL_SECONDS = 10.0
"""Seconds between two searches for orphaned logs."""
UNKNOWN_DECISION_RETRY_SECONDS = 15.0
"""Seconds for which feedback on an unknown decision is retried once Redis is available, before it is dropped: another
gateway may not have written the decision yet."""
LAST_WRITE_TIMEOUT_SECONDS = 1.0
"""Seconds that the last batch may take when the gateway stops."""


class RequestLogTasks:
    def __init__(
        self,
        store: RequestLogStore,
        recorder: Recorder,
        evidence: EvidenceStore,
        queue: FeedbackQueue,
        metrics: RequestLogMetrics,
        retry_seconds: float = UNKNOWN_DECISION_RETRY_SECONDS,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._evidence = evidence
        self._queue = queue
        self._metrics = metrics
        self._retry_seconds = retry_seconds
        self._retry_until: dict[str, float] = {}
        """By the feedback's id: the time on the event loop's clock until which its decision is looked up again."""
        self._unread_days = last_days(evidence.window)[::-1]
        """Days whose evidence is to be read, the next one last."""
        self._reads = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Runs the background tasks during the block. Reads the ratings, costs and latencies of paths before it,
        and writes the waiting receipts after it.

        While Redis is unavailable, the tasks are retried. Receipts that cannot be written within
        `LAST_WRITE_TIMEOUT_SECONDS` stay in the write-ahead log.
        """
        with suppress(Unavailable):
            await self._read_evidence()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._write_last_batch)
            for interval, work, name in (
                (WRITE_INTERVAL_SECONDS, self._recorder.write, "write the request log"),
                (FEEDBACK_INTERVAL_SECONDS, self._send_feedback, "send queued feedback"),
                (EVIDENCE_INTERVAL_SECONDS, self._read_evidence, "read the evidence"),
            ):
                await stack.enter_async_context(running_periodically(work, Schedule(interval, run_at_start=True), name))
            yield

    async def _read_evidence(self) -> None:
        """Reads the evidence of all days at first; later that of today and, in turn, of one earlier day, which late
        ratings may have changed.

        If it raises Unavailable, the next call continues.
        """
        while self._unread_days:
            await self._recorder.read_evidence(self._unread_days[-1])
            self._unread_days.pop()
        today, *earlier = last_days(self._evidence.window)
        self._reads += 1
        self._unread_days = [*earlier[self._reads % len(earlier) :][:1], today] if earlier else [today]

    async def _send_feedback(self) -> None:
        if self._queue.waiting:
            await self._recorder.write()  # the decisions may wait in this process
            await self._queue.send_all(self._send)

    async def _send(self, record: FeedbackRecord) -> bool:
        """Sends a feedback record to Redis; returns False if it has to be sent again, because its decision is unknown
        and may still arrive. After `retry_seconds` such a record is dropped.

        Raises Unavailable if Redis does not answer in time.
        """
        feedback_id, now = record.feedback.id, asyncio.get_running_loop().time()
        outcome = await self._store.add_feedback(record.feedback, record.unix_ms, record.call_id)
        if outcome == "unknown":
            if now < self._retry_until.setdefault(feedback_id, now + self._retry_seconds):
                return False
            self._metrics.feedback_lost.inc()
            log.warning("feedback is dropped: the request log has no decision '%s'", record.feedback.decision_id)
        self._retry_until.pop(feedback_id, None)
        return True

    async def _write_last_batch(self) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE_TIMEOUT_SECONDS):
                await self._recorder.write()
        except (Unavailable, TimeoutError):
            waiting, lost = self._recorder.waiting, self._recorder.not_in_wal
            self._metrics.dropped.labels("stopped").inc(lost)
            log.warning(
                "Redis is unavailable: %d receipts stay in the write-ahead log, and %d are lost", waiting - lost, lost
            )


@asynccontextmanager
async def maintaining(export: ExportLog) -> AsyncIterator[None]:
    """Calls `export.maintain` periodically during the block, and closes the export log afterwards."""

    async def maintain() -> None:
        export.maintain()

    try:
        async with running_periodically(maintain, Schedule(EXPORT_INTERVAL_SECONDS), "maintain the export log"):
            yield
    finally:
        export.close()


class OrphanRecovery:
    """Recovers orphaned logs, the write-ahead logs of processes that have ended: writes their receipts to Redis,
    each once, and queues their feedback.

    Batches continue the numbers of the ended process. So a batch of that process that arrives late, or is sent again
    by the next recovery, is not written twice.
    """

    def __init__(
        self,
        store: RequestLogStore,
        queue: FeedbackQueue,
        folder: Path,
        metrics: RequestLogMetrics,
        export: ExportSink = NO_EXPORT,
    ) -> None:
        self._store = store
        self._export = export
        self._queue = queue
        self._folder = folder
        self._metrics = metrics
        self._held: list[OrphanedLog] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Recovers the write-ahead logs of ended processes during the block; afterwards unlocks those that are not
        recovered yet.
        """
        schedule = Schedule(RECOVERY_INTERVAL_SECONDS, run_at_start=True)
        try:
            async with running_periodically(self.recover, schedule, "recover orphaned logs"):
                yield
        finally:
            for orphan in self._held:
                orphan.close()

    async def recover(self) -> None:
        """Recovers all orphaned logs (of processes that have ended). If it raises Unavailable (Redis) or OSError (a
        file), the next call continues.

        If the number of a log's last batch in Redis is unreadable, its receipts stay in the log.
        """
        found = await asyncio.to_thread(lock_orphaned_logs, self._folder)
        self._held += found
        await self._queue.adopt(found)
        for orphan in list(self._held):
            if orphan.has_receipts:
                try:
                    await self._recover_receipts(orphan)
                except FailedPrecondition as error:  # without the number of its last batch it could count twice
                    log.error("the receipts of %s stay in its write-ahead log: %s", orphan.writer, error)
                    continue
            if not orphan.feedback_bytes:  # otherwise it is held until its feedback has been sent
                self._held.remove(orphan)
                await asyncio.to_thread(orphan.close)

    async def _recover_receipts(self, orphan: OrphanedLog) -> None:
        while not await self._write_receipts(orphan):
            pass  # a batch of the process that has ended has just arrived

    async def _write_receipts(self, orphan: OrphanedLog) -> bool:
        """Writes the receipts of an orphaned log. Returns False if another batch of its writer has arrived meanwhile:
        then it has to be called again.

        Raises Unavailable or FailedPrecondition, as `RequestLogStore.last_batch_of` does, or OSError if a file fails.
        """
        known = await self._store.last_batch_of(orphan.writer)
        contents = await asyncio.to_thread(orphan.read)
        last, number, found = known or 0, max(contents.last_batch, known or 0), 0
        for missing in contents.missing(known):
            number += 1
            orphan.mark_batch(number, missing.upto)
            batch = await asyncio.to_thread(_to_batch, number, missing)
            # Before Redis has them: what is recovered twice has the same ids.
            self._export.append(DECISIONS, (entry.exported for entry in batch.entries))
            self._export.append(UNDECIDED, batch.undecided)
            if not await self._store.write_for(orphan.writer, last, batch):
                return False
            last, found = number, found + missing.size
            self._metrics.recovered.inc(missing.size)
        await asyncio.to_thread(orphan.clear_receipts, last, contents.last)
        if found:
            log.warning("%d receipts of a process that has ended (%s) are recovered", found, orphan.writer)
        return True


def _to_batch(number: int, missing: RecoveryBatch) -> Batch:
    entries = [to_entry(record.to_pending_entry(), store_messages=False) for record in missing.decided]
    receipts = [(record.receipt(), record.unix_seconds) for record in missing.undecided]
    spending: dict[str, SpendingCounts] = {}
    add_charges(spending, [entry.charge for entry in entries])
    add_charges(spending, [charge_of_undecided(receipt, day_of(unix_seconds)) for receipt, unix_seconds in receipts])
    return Batch(
        number,
        entries,
        sum_by_day(entry.counts for entry in entries if entry.counts),
        spending,
        [to_undecided_json(receipt, unix_seconds) for receipt, unix_seconds in receipts],
    )
