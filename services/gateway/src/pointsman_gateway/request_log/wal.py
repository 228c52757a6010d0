"""The write-ahead log (WAL) of one gateway process: receipts and feedback on disk until Redis has them.

A receipt's record is written before its response ends, so it survives `kill -9`. It goes to the operating system's
page cache and is not synchronised: it survives the process, not the machine. A feedback record is synchronised to disk
before the call is acknowledged.

A log consists of three files, all locked by its process: two segments for receipts, written in turn and emptied once
Redis has all that they hold, and one file for feedback, which is synchronised and must not keep the segments from being
emptied. If the process dies, its locks are released, and another process on the same folder recovers the log.
"""

import logging
import time
from pathlib import Path

from pointsman_gateway.domain import Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.wal_files import LockedFile, create_files, remove_files
from pointsman_gateway.request_log.wal_records import (
    NO_OFFSETS,
    BatchMark,
    Offsets,
    Record,
    decided_record,
    to_line,
    undecided_record,
)

log = logging.getLogger(__name__)

MAX_RECEIPT_BYTES = 16 * 1024 * 1024
"""Maximum number of bytes of receipts in one process's log."""
SEGMENT_BYTES = 512 * 1024
"""Size at which the process goes on in the other segment, if the other one is empty. The segment that is written at
present is only emptied if it has at least an eighth of this size."""


class Segment:
    def __init__(self, file: LockedFile) -> None:
        self.file = file
        self.last = NO_OFFSETS
        """The offsets of the last records in the segment."""


class LogFull(Exception):
    """Raised inside this module if a record would make the write-ahead log exceed its maximum size."""


class WriteAheadLog:
    """The write-ahead log of this process. A receipt that cannot be written is counted in the metrics and kept in
    memory only; no error is raised.
    """

    def __init__(
        self, folder: Path, writer: str, metrics: RequestLogMetrics, max_bytes: int = MAX_RECEIPT_BYTES
    ) -> None:
        """Creates the files in `folder`, and the folder if necessary; raises OSError if that fails.

        `writer` is the name under which the process writes batches to Redis, `max_bytes` the limit for both segments
        together.
        """
        folder.mkdir(parents=True, exist_ok=True)
        segment_a, segment_b, self.feedback = create_files(folder, writer)
        self._active, self._other = Segment(segment_a), Segment(segment_b)
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._segment_bytes = min(SEGMENT_BYTES, max_bytes // 4)
        self._last = NO_OFFSETS
        self._settled = NO_OFFSETS
        self._failing = False
        metrics.wal_bytes.set_function(lambda: self._active.file.size + self._other.file.size)

    def append_decided(self, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt) -> int:
        """Appends a receipt; returns the record's number, counted from 1, or 0 if it could not be written."""
        offset = self._last.decided + 1
        if not self._append(decided_record(offset, unix_seconds, request, decision, receipt)):
            return 0
        self._last = self._active.last = self._last.and_decided(offset)
        return offset

    def append_undecided(self, unix_seconds: float, receipt: UndecidedReceipt) -> int:
        """Appends a receipt without a decision; returns the record's number, counted from 1, or 0 if it could not be
        written. These records are numbered separately from those with a decision.
        """
        offset = self._last.undecided + 1
        if not self._append(undecided_record(offset, unix_seconds, receipt)):
            return 0
        self._last = self._active.last = self._last.and_undecided(offset)
        return offset

    def mark_batch(self, number: int, upto: Offsets) -> None:
        """Appends a line that says: if Redis has batch `number`, it has all records up to the position `upto`. Call
        it before the batch is sent.

        If the line cannot be written, both segments are emptied, because a later recovery could write their receipts
        twice.
        """
        try:
            self._active.file.append(to_line(BatchMark(number, time.time(), *upto)))
        except OSError as error:
            # Without the mark a recovery could not tell what Redis has. Losing some receipts is better than counting
            # some twice.
            log.warning("%s is emptied, because it cannot be written: %s", self._active.file.path, error)
            self._empty(self._other)
            self._empty(self._active)

    def settle(self, upto: Offsets) -> None:
        """Records that Redis has all records up to the position `upto`, and empties the segments (files) whose
        records it all has.

        The segment that is written at present is emptied only if it is large enough.
        """
        self._settled = upto
        if self._other.file.size and upto.covers(self._other.last):
            self._empty(self._other)
        worth_emptying = 8 * self._active.file.size >= self._segment_bytes
        if worth_emptying and not self._other.file.size and upto.covers(self._active.last):
            self._empty(self._active)

    def close(self) -> None:
        """Closes the log, and removes it if Redis has all of it; otherwise another process will recover it.

        Raises OSError if a file cannot be closed or removed.
        """
        if self._settled.covers(self._last) and not self.feedback.size:
            remove_files((self._active.file, self._other.file, self.feedback))
        else:
            for file in (self._active.file, self._other.file, self.feedback):
                file.close()

    def _append(self, record: Record) -> bool:
        try:
            line = to_line(record)
            self._segment_for(len(line)).append(line)
        except LogFull as full:
            return self._skip("full", full)
        except OSError as error:
            return self._skip("disk", error)
        except (ValueError, TypeError, OverflowError) as error:  # a text that is not UTF-8, a number beyond 64 bits
            return self._skip("unwritable", error)
        if self._failing:
            self._failing = False
            log.info("receipts are written to the write-ahead log again")
        return True

    def _segment_for(self, length: int) -> LockedFile:
        if self._active.file.size >= self._segment_bytes and not self._other.file.size:
            self._active, self._other = self._other, self._active
        if self._active.file.size + self._other.file.size + length > self._max_bytes:
            raise LogFull(f"{self._max_bytes} bytes wait for Redis already")
        return self._active.file

    def _skip(self, reason: str, error: Exception) -> bool:
        self._metrics.wal_skipped.labels(reason).inc()
        if not self._failing:
            self._failing = True
            log.warning("receipts are kept in memory only until Redis has them: %s", error)
        return False

    def _empty(self, segment: Segment) -> None:
        try:
            segment.file.truncate(0)
        except OSError as error:
            log.warning("%s cannot be emptied: %s", segment.file.path, error)
