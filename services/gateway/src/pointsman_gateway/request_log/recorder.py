"""Queues the receipts of finished requests in memory, and writes them to Redis in batches in the background."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pointsman_gateway.domain import CompletedAnswer, Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.entry import (
    NO_REDACTION,
    Entry,
    PendingEntry,
    empty_entry,
    stores_answers,
    to_entry,
    to_training_sample,
    to_undecided_json,
)
from pointsman_gateway.request_log.evidence import Counts, EvidenceStore
from pointsman_gateway.request_log.export_log import DECISIONS, NO_EXPORT, UNDECIDED, ExportSink
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.redis_schema import day_of
from pointsman_gateway.request_log.spending import SpendingCharge, SpendingCounts, add_charges, charge_of_undecided
from pointsman_gateway.request_log.store import Batch, RequestLogStore
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.request_log.wal_records import NO_OFFSETS

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
"""Maximum number of receipts that wait for Redis; it applies to receipts with a decision and to those without one,
each."""
MAX_WAITING_BYTES = 64 * 1024 * 1024
MAX_BATCH_ENTRIES = 256
MAX_BATCH_BYTES = 512 * 1024
"""Approximate maximum size of a batch's entries; Redis must write a batch within the time limit of one call."""
ENCODED_AT_ONCE = 16
"""Number of entries that are encoded in one turn of the event loop; if more than twice as many wait, half of the
waiting entries. Each takes 10 to 50 µs."""


class _Undecided(NamedTuple):
    """A receipt without a decision that waits for a batch."""

    json: str
    """The receipt's log entry as JSON; empty if it cannot be encoded."""
    wal_offset: int
    charge: SpendingCharge | None


class Recorder:
    """Queues receipts of finished requests and writes them to Redis in batches; implements the gateway's interface
    `RequestLog`.

    While Redis is unavailable, up to `MAX_WAITING` receipts with `MAX_WAITING_BYTES` wait in memory; beyond that the
    oldest are dropped.
    """

    def __init__(
        self,
        store: RequestLogStore,
        evidence: EvidenceStore,
        metrics: RequestLogMetrics,
        wal: WriteAheadLog,
        redaction: Redaction = NO_REDACTION,
        export: ExportSink = NO_EXPORT,
    ) -> None:
        self.store = store
        self._evidence = evidence
        self._metrics = metrics
        self._wal = wal
        self._redaction = redaction
        self._export = export
        self._pending: deque[PendingEntry] = deque()
        self._encoding: asyncio.Handle | None = None
        """The scheduled encoding, set while entries are pending. They are encoded in the next turns of the event loop,
        as long as their data is in the processor's caches; a busy gateway has no idle time in which to do it later."""
        self._undecided: deque[tuple[float, UndecidedReceipt, int]] = deque()
        """(Unix time of the end in seconds, receipt, offset in the write-ahead log)."""
        self._encoded_undecided: deque[_Undecided] = deque()
        self._encoded: deque[Entry] = deque()
        """Entries that wait for a batch, already encoded, so that their requests need not stay in memory."""
        self._encoded_bytes = 0
        self._spending: dict[str, SpendingCounts] = {}
        """By day, the spending of entries that have left the queue, which the next batch includes."""
        self._batch: Batch | None = None
        """The batch that was sent and is not known to be written."""
        self._number = 0
        self._upto = NO_OFFSETS
        """The offsets in the write-ahead log up to which no receipt waits here, because all were sent or dropped."""
        self._over_cap = False
        """Whether the stream of decisions is longer than `max_decisions` allows, for example because `max_decisions`
        was lowered."""
        self._writing = asyncio.Lock()

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return self.store.config.store_answers or stores_answers(self.store.learning, request, decision)

    def note(
        self,
        request: Request,
        decision: Decision,
        receipt: Receipt,
        answers: tuple[CompletedAnswer, ...] = (),
    ) -> None:
        """Records a finished request: appends its receipt to the write-ahead log, and queues it for Redis. Never
        raises.

        `answers` are the answers for a training sample. If too many receipts wait, the oldest is dropped.
        """
        if len(self._pending) >= MAX_WAITING:
            self._drop_oldest()
        now = time.time()
        offset = self._wal.append_decided(now, request, decision, receipt)
        pending = PendingEntry(now, request, decision, receipt, answers, offset)
        self._pending.append(pending)
        if pending.counts is not None:
            self._evidence.count_pending(pending.counts)
        if self._encoding is None:
            self._encoding = asyncio.get_running_loop().call_soon(self._encode_some)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Records a request for which no path was chosen (embeddings, reranking, or one that ended early): appends
        its receipt to the write-ahead log, and queues it for Redis. Never raises.
        """
        if len(self._undecided) >= MAX_WAITING:
            self._encode_undecided()
        now = time.time()
        self._undecided.append((now, receipt, self._wal.append_undecided(now, receipt)))

    @property
    def waiting(self) -> int:
        """Returns the number of receipts, queued or sent, of which it is not known that Redis has them."""
        sent = len(self._batch.entries) + len(self._batch.undecided) if self._batch else 0
        return len(self._pending) + self._undecided_waiting + len(self._encoded) + sent

    @property
    def not_in_wal(self) -> int:
        """Returns how many of the waiting receipts are in memory only, not in the write-ahead log; they are lost if
        the process ends.
        """
        offsets = [one.wal_offset for one in self._pending] + [one.wal_offset for one in self._encoded]
        offsets += [offset for *_, offset in self._undecided] + [one.wal_offset for one in self._encoded_undecided]
        return offsets.count(0) + (self._batch.not_in_wal if self._batch else 0)

    async def write(self) -> None:
        """Writes all waiting receipts and counts to Redis; logs and drops receipts that cannot be encoded. If it raises
        Unavailable, because Redis does not answer in time, the unwritten ones stay queued.
        """
        async with self._writing:
            try:
                for _ in range(0, len(self._pending), ENCODED_AT_ONCE):
                    self._encode(ENCODED_AT_ONCE)
                    await asyncio.sleep(0)
                self._encode_undecided()
                while batch := self._batch or self._next_batch():
                    await self._write(batch)
                    if not (self._encoded or self._undecided_waiting or self._over_cap):
                        break  # evidence that was counted in the meantime goes with the next batch
            finally:
                self._metrics.waiting.set(self.waiting)

    async def read_evidence(self, day: str) -> None:
        """Reads the ratings, costs and latencies that all gateways counted on `day` (YYYYMMDD, UTC) into the
        `EvidenceStore`.

        Does nothing while it is unknown whether Redis has the last batch. Raises Unavailable if Redis does not
        answer in time.
        """
        async with self._writing:
            if self._batch is None:  # otherwise it is unknown whether Redis has counted it
                self._evidence.read(day, await self.store.evidence(day))

    async def _write(self, batch: Batch) -> None:
        self._batch = batch
        length = await self.store.write(batch)
        self._batch = None
        self._wal.settle(batch.upto)
        self._over_cap = length > self.store.config.max_decisions
        self._metrics.entries.inc(len(batch.entries) + len(batch.undecided))

    def _encode_some(self) -> None:
        self._encoding = None
        self._encode(max(ENCODED_AT_ONCE, len(self._pending) // 2))
        if self._pending:
            self._encoding = asyncio.get_running_loop().call_soon(self._encode_some)

    def _encode(self, count: int) -> None:
        entries = []
        for _ in range(min(count, len(self._pending))):
            pending = self._pending.popleft()
            try:
                entry = self._entry(pending)
            except Exception:  # one bad entry must not hold up the others
                log.exception("decision %s cannot be written", pending.decision.id)
                self._metrics.dropped.labels("unwritable").inc()
                entry = empty_entry(pending)
            entries.append(entry)
        self._export.append(DECISIONS, (entry.exported for entry in entries if entry.json))
        for entry in entries:
            self._enqueue(entry)

    def _entry(self, pending: PendingEntry) -> Entry:
        config = self.store.config
        entry = to_entry(pending, config.store_messages, self._redaction, config.store_answers)
        is_sample = stores_answers(self.store.learning, pending.request, pending.decision)
        if is_sample and (sample := to_training_sample(pending, self._redaction)):
            entry.tenant, entry.sample = pending.request.caller.tenant, sample
        return entry

    def _enqueue(self, entry: Entry) -> None:
        self._encoded.append(entry)
        entry.size = size = len(entry.json) + len(entry.sample) + len(entry.evidence_key) + 64
        self._encoded_bytes += size
        while len(self._encoded) > MAX_WAITING or self._encoded_bytes > MAX_WAITING_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if not self._encoded:
            self._encode(1)
        self._release([self._next_entry()])
        self._metrics.dropped.labels("full").inc()

    def _next_batch(self) -> Batch | None:
        entries: list[Entry] = []
        taken: list[Entry] = []
        end = self._encoded_bytes - MAX_BATCH_BYTES
        while self._encoded and len(entries) < MAX_BATCH_ENTRIES and self._encoded_bytes > end:
            entry = self._next_entry()
            taken.append(entry)
            if entry.json:
                entries.append(entry)
        self._release(taken)
        undecided = self._take_undecided()
        counts = self._evidence.take_unsent()
        if not (entries or undecided or counts or self._spending or self._over_cap):
            return None
        return self._numbered(entries, undecided, counts)

    @property
    def _undecided_waiting(self) -> int:
        return len(self._undecided) + len(self._encoded_undecided)

    def _encode_undecided(self) -> None:
        """Encodes and exports the waiting receipts without a decision; logs and drops those that cannot be encoded."""
        entries = []
        while self._undecided:
            unix_seconds, receipt, offset = self._undecided.popleft()
            charge = charge_of_undecided(receipt, day_of(unix_seconds))
            try:
                entries.append(_Undecided(to_undecided_json(receipt, unix_seconds), offset, charge))
            except Exception:  # one bad receipt must not hold up the others
                self._release_undecided(_Undecided("", offset, charge))
                log.exception("the receipt of a request without a decision cannot be written")
                self._metrics.dropped.labels("unwritable").inc()
        self._export.append(UNDECIDED, (entry.json for entry in entries))
        self._encoded_undecided += entries
        while len(self._encoded_undecided) > MAX_WAITING:
            self._release_undecided(self._encoded_undecided.popleft())
            self._metrics.dropped.labels("full").inc()

    def _take_undecided(self) -> list[_Undecided]:
        """Removes up to `MAX_BATCH_ENTRIES` encoded receipts without a decision from the queue, and returns them."""
        self._encode_undecided()
        taken = [self._encoded_undecided.popleft() for _ in range(min(len(self._encoded_undecided), MAX_BATCH_ENTRIES))]
        self._release_undecided(*taken)
        return taken

    def _release_undecided(self, *oldest: _Undecided) -> None:
        """Does the same as `_release`, for receipts without a decision."""
        for one in oldest:
            self._upto = self._upto.and_undecided(one.wal_offset)
        add_charges(self._spending, [one.charge for one in oldest])

    def _numbered(self, entries: list[Entry], undecided: list[_Undecided], counts: Mapping[str, Counts]) -> Batch:
        self._number += 1
        spending, self._spending = self._spending, {}
        self._wal.mark_batch(self._number, self._upto)
        return Batch(
            self._number,
            entries,
            counts,
            spending,
            [one.json for one in undecided],
            self._upto,
            sum(not entry.wal_offset for entry in entries) + sum(not one.wal_offset for one in undecided),
        )

    def _next_entry(self) -> Entry:
        entry = self._encoded.popleft()
        self._encoded_bytes -= entry.size
        return entry

    def _release(self, oldest: Sequence[Entry]) -> None:
        """Makes evidence and spending of entries that leave the queue part of the next batch, and advances `_upto` past
        them.
        """
        self._upto = self._upto.and_decided(max([one.wal_offset for one in oldest], default=0))
        self._evidence.release([counts for one in oldest if (counts := one.counts) is not None])
        add_charges(self._spending, [one.charge for one in oldest])


class NullRequestLog:
    """The `RequestLog` of a gateway without Redis: counts ratings, costs and latencies of paths in memory, and logs
    no requests.
    """

    def __init__(self, evidence: EvidenceStore) -> None:
        self._evidence = evidence

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return False

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        self._evidence.count_answer(receipt)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Does nothing, because there is no log."""
