"""The journal's queue: takes what happened in microseconds, and writes it in batches, away from the requests."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from pointsman_gateway.domain import CompletedAnswer, Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log.entry import (
    NOTHING_REDACTED,
    Entry,
    PendingEntry,
    empty_entry,
    keeps_answers_of,
    to_entry,
    to_training_sample,
    to_undecided_json,
)
from pointsman_gateway.request_log.evidence import Counts, EvidenceStore
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.store import Batch, RequestLogStore
from pointsman_gateway.request_log.wal import Offsets

log = logging.getLogger(__name__)

MOST_WAITING = 10_000
MOST_WAITING_BYTES = 64 * 1024 * 1024
MOST_IN_A_BATCH = 256
MOST_BYTES_IN_A_BATCH = 512 * 1024
"""A batch is written within Redis's deadline."""
ENCODED_AT_ONCE = 16
"""Decisions, some 10 to 50 µs each, or half of all that wait; then whoever else is waiting has a turn."""


class Book(Protocol):
    """Keeps receipts where they outlive the process, until Redis has them. Each gets a position, from 1 on; 0 where it
    could not be kept."""

    def decided(self, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt) -> int: ...

    def undecided(self, unix_seconds: float, receipt: UndecidedReceipt) -> int: ...

    def sends(self, number: int, upto: Offsets) -> None:
        """Before a batch is sent with which all up to there is done."""
        ...

    def written(self, upto: Offsets) -> None:
        """Redis has that batch."""
        ...


class Recorder:
    """Implements the pipeline's `Journal`. While Redis is away decisions wait, up to a cap; then the oldest go."""

    def __init__(
        self,
        store: RequestLogStore,
        board: EvidenceStore,
        metrics: RequestLogMetrics,
        book: Book,
        redaction: Redaction = NOTHING_REDACTED,
    ) -> None:
        self.store = store
        self._board = board
        self._metrics = metrics
        self._book = book
        self._redaction = redaction
        self._noted: deque[PendingEntry] = deque()
        self._encoding: asyncio.Handle | None = None
        """Set while some of them wait: they are encoded with the loop's next turns, as fast as they come, since a busy
        gateway has no better moment, and what a request was made of goes out of the processor's caches."""
        self._undecided: deque[tuple[float, UndecidedReceipt, int]] = deque()
        """With when they were noted, Unix seconds, and their positions in the book."""
        self._waiting: deque[Entry] = deque()
        """Encoded, so that no request is kept in memory for as long as Redis is away."""
        self._waiting_bytes = 0
        self._batch: Batch | None = None
        """Sent, and not yet known to be written."""
        self._number = 0
        self._upto = Offsets()
        """In the book: what no longer waits here, since it was sent, or dropped."""
        self._over = False
        """Whether the stream still holds more than its cap, which has been lowered."""
        self._writing = asyncio.Lock()

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return keeps_answers_of(self.store.learning, request, decision)

    def note(
        self,
        request: Request,
        decision: Decision,
        receipt: Receipt,
        answers: tuple[CompletedAnswer, ...] = (),
    ) -> None:
        if len(self._noted) >= MOST_WAITING:
            self._drop_oldest()
        now = time.time()
        position = self._book.decided(now, request, decision, receipt)
        noted = PendingEntry(now, request, decision, receipt, answers, position)
        self._noted.append(noted)
        if noted.tally is not None:
            self._board.noted(noted.tally)
        if self._encoding is None:
            self._encoding = asyncio.get_running_loop().call_soon(self._encode_some)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        if len(self._undecided) >= MOST_WAITING:
            self._upto = self._upto.and_undecided(self._undecided.popleft()[-1])
            self._metrics.dropped.labels("full").inc()
        now = time.time()
        self._undecided.append((now, receipt, self._book.undecided(now, receipt)))

    @property
    def waiting(self) -> int:
        """Receipts that are not known to be written."""
        sent = len(self._batch.entries) + len(self._batch.undecided) if self._batch else 0
        return len(self._noted) + len(self._undecided) + len(self._waiting) + sent

    @property
    def not_ahead(self) -> int:
        """Of those that wait, the ones that the book does not have."""
        positions = [one.position for one in self._noted] + [one.position for one in self._waiting]
        positions += [position for *_, position in self._undecided]
        return positions.count(0) + (self._batch.not_ahead if self._batch else 0)

    async def write(self) -> None:
        """Writes all that waits. Raises Unavailable, and then keeps what it could not write."""
        async with self._writing:
            try:
                for _ in range(0, len(self._noted), ENCODED_AT_ONCE):
                    self._encode(ENCODED_AT_ONCE)
                    await asyncio.sleep(0)
                while batch := self._batch or self._next_batch():
                    await self._write(batch)
                    if not (self._waiting or self._undecided or self._over):
                        break  # what has been counted since then goes with the next
            finally:
                self._metrics.waiting.set(self.waiting)

    async def read_evidence(self, day: str) -> None:
        """Puts on the board what all gateways have counted on that day. Raises Unavailable."""
        async with self._writing:
            if self._batch is None:  # else it cannot be said whether Redis has counted it
                self._board.read(day, await self.store.evidence(day))

    async def _write(self, batch: Batch) -> None:
        self._batch = batch
        length = await self.store.write(batch)
        self._batch = None
        self._book.written(batch.upto)
        self._over = length > self.store.config.most
        self._metrics.entries.inc(len(batch.entries) + len(batch.undecided))

    def _encode_some(self) -> None:
        self._encoding = None
        self._encode(max(ENCODED_AT_ONCE, len(self._noted) // 2))
        if self._noted:
            self._encoding = asyncio.get_running_loop().call_soon(self._encode_some)

    def _encode(self, most: int) -> None:
        keep_text = self.store.config.keep_text
        for _ in range(min(most, len(self._noted))):
            noted = self._noted.popleft()
            try:
                entry = self._entry(noted, keep_text)
            except Exception:  # one that cannot be written must not keep back the others
                log.exception("decision %s cannot be written", noted.decision.id)
                self._metrics.dropped.labels("unwritable").inc()
                entry = empty_entry(noted)
            self._wait_for(entry)

    def _entry(self, noted: PendingEntry, keep_text: bool) -> Entry:
        entry = to_entry(noted, keep_text, self._redaction)
        lesson = to_training_sample(noted, self._redaction)
        return replace(entry, tenant=noted.request.caller.tenant, lesson=lesson) if lesson else entry

    def _wait_for(self, entry: Entry) -> None:
        self._waiting.append(entry)
        self._waiting_bytes += entry.size
        while len(self._waiting) > MOST_WAITING or self._waiting_bytes > MOST_WAITING_BYTES:
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        if not self._waiting:
            self._encode(1)
        self._let_go([self._next_entry()])
        self._metrics.dropped.labels("full").inc()

    def _next_batch(self) -> Batch | None:
        entries: list[Entry] = []
        taken: list[Entry] = []
        bytes_taken = 0
        while self._waiting and len(entries) < MOST_IN_A_BATCH and bytes_taken < MOST_BYTES_IN_A_BATCH:
            entry = self._next_entry()
            taken.append(entry)
            if entry.json:
                entries.append(entry)
                bytes_taken += entry.size
        self._let_go(taken)
        undecided = [self._undecided.popleft() for _ in range(min(len(self._undecided), MOST_IN_A_BATCH))]
        for _, _, position in undecided:
            self._upto = self._upto.and_undecided(position)
        counts = self._board.hand_over()
        if not (entries or undecided or counts or self._over):
            return None
        return self._numbered(entries, undecided, counts)

    def _numbered(
        self, entries: list[Entry], undecided: list[tuple[float, UndecidedReceipt, int]], counts: Mapping[str, Counts]
    ) -> Batch:
        self._number += 1
        self._book.sends(self._number, self._upto)
        return Batch(
            self._number,
            entries,
            counts,
            [to_undecided_json(receipt, at) for at, receipt, _ in undecided],
            self._upto,
            sum(not entry.position for entry in entries) + sum(not position for *_, position in undecided),
        )

    def _next_entry(self) -> Entry:
        entry = self._waiting.popleft()
        self._waiting_bytes -= entry.size
        return entry

    def _let_go(self, oldest: Sequence[Entry]) -> None:
        """What they count for is told with the next batch, and that they are done with."""
        self._upto = self._upto.and_decided(max([one.position for one in oldest], default=0))
        self._board.let_go([tally for one in oldest if (tally := one.tally) is not None])


class NullRequestLog:
    """Implements the pipeline's `Journal`."""

    def __init__(self, board: EvidenceStore) -> None:
        self._board = board

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """There is nowhere to keep them."""
        return False

    def note(
        self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[CompletedAnswer, ...] = ()
    ) -> None:
        """Forgets it, but for what it says of the path."""
        self._board.answered(receipt)

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        """Forgets it; it has been counted."""
