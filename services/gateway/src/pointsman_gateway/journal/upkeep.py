"""What the journal does beside the requests: writes what waits, sends the spool on, reads the evidence."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

from pointsman_servicekit.errors import Unavailable

from pointsman_gateway.journal.evidence import EvidenceBoard
from pointsman_gateway.journal.keys import last_days
from pointsman_gateway.journal.metrics import JournalMetrics
from pointsman_gateway.journal.recorder import Recorder
from pointsman_gateway.journal.repeating import repeating
from pointsman_gateway.journal.spool import Spool, Spooled
from pointsman_gateway.journal.store import JournalStore

log = logging.getLogger(__name__)

PERIOD = 0.05
"""Seconds between two batches: each costs the gateway a millisecond or two, however few receipts are in it."""
SPOOL_PERIOD = 0.3
"""Seconds between two looks at whether the spool can be sent on."""
EVIDENCE_PERIOD = 2.0
"""Seconds between two looks at what all gateways have counted."""
ADOPTION_PERIOD = 10.0
"""Seconds between two looks for what gateways that are gone have left behind."""
DOUBT = 15.0
"""Seconds that a decision may be unknown, once Redis is back, before what was said of it is given up: another gateway
may still have it in hand."""
LAST_WRITE = 1.0
"""Seconds that the last batch may take when the gateway stops."""


class Upkeep:
    def __init__(
        self,
        store: JournalStore,
        recorder: Recorder,
        board: EvidenceBoard,
        spool: Spool,
        metrics: JournalMetrics,
        doubt: float = DOUBT,
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
            for period, work, name in (
                (PERIOD, self._recorder.write, "write the journal"),
                (SPOOL_PERIOD, self._send_spool_on, "send the spool on"),
                (ADOPTION_PERIOD, self._spool.adopt, "adopt spools"),
                (EVIDENCE_PERIOD, self._read_evidence, "read the evidence"),
            ):
                await stack.enter_async_context(repeating(period, work, name))
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

    async def _send(self, spooled: Spooled) -> bool:
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
            async with asyncio.timeout(LAST_WRITE):
                await self._recorder.write()
        except (Unavailable, TimeoutError):
            waiting, lost = self._recorder.waiting, self._recorder.not_ahead
            self._metrics.dropped.labels("stopped").inc(lost)
            log.warning(
                "Redis is away: %d receipts wait on disk for the next gateway, and %d are lost", waiting - lost, lost
            )
