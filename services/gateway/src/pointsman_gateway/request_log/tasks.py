"""What the journal does beside the requests: writes what waits, sends the spool on, reads the evidence."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.periodic import Schedule, running_periodically

from pointsman_gateway.request_log.entry import to_entry, to_undecided_json
from pointsman_gateway.request_log.evidence import EvidenceStore, sum_by_day
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.recorder import Recorder
from pointsman_gateway.request_log.redis_schema import last_days
from pointsman_gateway.request_log.spool import FeedbackQueue, FeedbackRecord
from pointsman_gateway.request_log.store import Batch, RequestLogStore
from pointsman_gateway.request_log.wal import OrphanedLog, Portion, lock_orphaned_logs

log = logging.getLogger(__name__)

WRITE_INTERVAL_S = 0.05
"""Seconds between two batches: each costs the gateway a millisecond or two, however few receipts are in it."""
FEEDBACK_INTERVAL_S = 0.3
"""Seconds between two looks at whether the spool can be sent on."""
EVIDENCE_INTERVAL_S = 2.0
"""Seconds between two looks at what all gateways have counted."""
ADOPTION_INTERVAL_S = 10.0
"""Seconds between two looks for what gateways that are gone have left behind."""
UNKNOWN_DECISION_RETRY_S = 15.0
"""Seconds that a decision may be unknown, once Redis is back, before what was said of it is given up: another gateway
may still have it in hand."""
LAST_WRITE_TIMEOUT_S = 1.0
"""Seconds that the last batch may take when the gateway stops."""


class BackgroundTasks:
    def __init__(
        self,
        store: RequestLogStore,
        recorder: Recorder,
        board: EvidenceStore,
        spool: FeedbackQueue,
        metrics: RequestLogMetrics,
        doubt: float = UNKNOWN_DECISION_RETRY_S,
    ) -> None:
        self._store = store
        self._recorder = recorder
        self._board = board
        self._spool = spool
        self._metrics = metrics
        self._doubt = doubt
        self._in_doubt: dict[str, float] = {}
        """Until when, by feedback."""
        self._unread = last_days(board.window)[::-1]
        """Days whose evidence is to be read, last one first."""
        self._turn = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block. At its begin the evidence is read, and at its end is written what still waits:
        both only where Redis answers in time."""
        with suppress(Unavailable):
            await self._read_evidence()
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._write_the_last)
            for interval, work, name in (
                (WRITE_INTERVAL_S, self._recorder.write, "write the request log"),
                (FEEDBACK_INTERVAL_S, self._send_spool_on, "send queued feedback"),
                (ADOPTION_INTERVAL_S, self._spool.adopt, "adopt feedback of gateways that are gone"),
                (EVIDENCE_INTERVAL_S, self._read_evidence, "read the evidence"),
            ):
                await stack.enter_async_context(running_periodically(work, Schedule(interval, run_at_start=True), name))
            yield

    async def _read_evidence(self) -> None:
        """Of all days at first; then of today and of one earlier day in turn, since late ratings change those."""
        while self._unread:
            await self._recorder.read_evidence(self._unread[-1])
            self._unread.pop()
        today, *earlier = last_days(self._board.window)
        self._turn += 1
        self._unread = [*earlier[self._turn % len(earlier) :][:1], today] if earlier else [today]

    async def _send_spool_on(self) -> None:
        if self._spool.waiting:
            await self._recorder.write()  # what is spoken of may be among what waits here
            await self._spool.send_on(self._send)

    async def _send(self, spooled: FeedbackRecord) -> bool:
        """Whether that is done with."""
        name, now = spooled.feedback.id, asyncio.get_running_loop().time()
        if await self._store.say(spooled.feedback, spooled.unix_ms, spooled.call) == "unknown":
            if now < self._in_doubt.setdefault(name, now + self._doubt):
                return False
            self._metrics.feedback_lost.inc()
            log.warning("feedback is dropped: no decision '%s' is in the journal", spooled.feedback.decision_id)
        self._in_doubt.pop(name, None)
        return True

    async def _write_the_last(self) -> None:
        try:
            async with asyncio.timeout(LAST_WRITE_TIMEOUT_S):
                await self._recorder.write()
        except (Unavailable, TimeoutError):
            waiting, lost = self._recorder.waiting, self._recorder.not_ahead
            self._metrics.dropped.labels("stopped").inc(lost)
            log.warning(
                "Redis is away: %d receipts wait on disk for the next gateway, and %d are lost", waiting - lost, lost
            )


RECOVERY_INTERVAL_S = 10.0
"""Seconds between two looks."""


class OrphanRecovery:
    """Goes on as the writer that is gone: its batches are numbered, so that one of them which arrives late, or is sent
    again by who takes over next, is not written twice."""

    def __init__(self, store: RequestLogStore, folder: Path, metrics: RequestLogMetrics) -> None:
        self._store = store
        self._folder = folder
        self._metrics = metrics
        self._held: list[OrphanedLog] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block."""
        try:
            async with running_periodically(
                self.recover,
                Schedule(RECOVERY_INTERVAL_S, run_at_start=True),
                "recover orphaned logs",
            ):
                yield
        finally:
            for book in self._held:
                book.close()

    async def recover(self) -> None:
        """All that is there now. Raises Unavailable, and then goes on the next time."""
        self._held += await asyncio.to_thread(lock_orphaned_logs, self._folder)
        while self._held:
            await self._recover(self._held[0])
            await asyncio.to_thread(self._held.pop(0).remove)

    async def _recover(self, book: OrphanedLog) -> None:
        while not await self._wrote_all(book):
            pass  # one of its own batches has just arrived

    async def _wrote_all(self, book: OrphanedLog) -> bool:
        """False where another one has written meanwhile, so that it is to be seen anew what is left."""
        known = await self._store.last_of(book.writer)
        contents = await asyncio.to_thread(book.read)
        last, number, found = known or 0, max(contents.number, known or 0), 0
        for portion in contents.without(known):
            number += 1
            book.sends(number, portion.upto)
            batch = await asyncio.to_thread(_batch, number, portion)
            if not await self._store.write_for(book.writer, last, batch):
                return False
            last, found = number, found + portion.size
            self._metrics.recovered.inc(portion.size)
        if found:
            log.warning("%d receipts of a gateway that is gone (%s) are recovered", found, book.writer)
        return True


def _batch(number: int, portion: Portion) -> Batch:
    noted = [counterfoil.noted() for counterfoil in portion.decided]
    entries = [to_entry(one, keep_text=False) for one in noted]
    return Batch(
        number,
        entries,
        sum_by_day(entry.tally for entry in entries if entry.tally),
        [to_undecided_json(one.receipt(), one.unix_seconds) for one in portion.undecided],
    )
