"""The write-ahead log (WAL) of one gateway process: receipts and feedback on disk until Redis has them.

A receipt's record is written before its response ends, so it survives `kill -9`. It goes to the operating system's
page cache and is not synchronised: it survives the process, not the machine. A feedback record is synchronised to disk
before the call is acknowledged.

A log consists of three files, all locked by its process: two segments for receipts, written in turn and emptied once
Redis has all that they hold, and one file for feedback, which is synchronised and must not keep the segments from being
emptied. If the process dies, its locks are released, and another process on the same folder recovers the log.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pointsman_gateway.domain import Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.redis_schema import WRITER_TTL_SECONDS
from pointsman_gateway.request_log.wal_records import (
    BatchMark,
    DecidedRecord,
    FeedbackRecord,
    Record,
    UndecidedRecord,
    decided_record,
    from_line,
    to_line,
    undecided_record,
)

log = logging.getLogger(__name__)

MAX_RECEIPT_BYTES = 16 * 1024 * 1024
"""Bytes of receipts in one process's log."""
SEGMENT_BYTES = 512 * 1024
"""Size from which the other segment is used, once it is empty. A segment of an eighth of that is worth emptying."""
MAX_RECORDS_PER_BATCH = 256
"""Records of each kind that are recovered in one batch."""

SEGMENT_A, SEGMENT_B, FEEDBACK = ".a.jsonl", ".b.jsonl", ".feedback.jsonl"


class LockedFile:
    """An append-only file that one process locks until it closes the file or ends; each method may raise OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._torn = False
        """Whether the file may end with an incomplete line."""

    def append(self, line: bytes) -> None:
        """Appends a line that survives the process, not the machine; after an error, the next append cuts it off."""
        if self._torn:
            self.truncate(self.size)
        self._torn = True
        if os.write(self._descriptor, line) < len(line):
            raise OSError("the disk is full")
        self._torn = False
        self.size += len(line)

    def append_and_sync(self, line: bytes) -> None:
        """Appends a line that survives the machine; if it raises, the file is unchanged."""
        before = self.size
        try:
            self.append(line)
            self.sync()
        except OSError:
            self.truncate(before)
            raise

    def read(self) -> bytes:
        return self.path.read_bytes()

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)
        self.size = size
        self._torn = False

    def sync(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self.close()


def lock_file(path: Path, flags: int = 0) -> LockedFile | None:
    """Opens and locks a file; None if another process holds the lock, or has just removed the file."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o600)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(descriptor).st_ino == path.stat().st_ino:
            return LockedFile(path, descriptor)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


class Offsets(NamedTuple):
    """The numbers of the last record of each kind; all records up to them are included."""

    decided: int = 0
    undecided: int = 0

    def covers(self, other: "Offsets") -> bool:
        return other.decided <= self.decided and other.undecided <= self.undecided

    def and_decided(self, offset: int) -> "Offsets":
        return Offsets(max(self.decided, offset), self.undecided)

    def and_undecided(self, offset: int) -> "Offsets":
        return Offsets(self.decided, max(self.undecided, offset))


NO_OFFSETS = Offsets()


class Segment:
    def __init__(self, file: LockedFile) -> None:
        self.file = file
        self.last = NO_OFFSETS
        """Offsets of the last records in it."""


class LogFull(Exception):
    """The write-ahead log has reached its maximum size."""


class WriteAheadLog:
    """The log that this process writes; a receipt that cannot be written is counted, and its request does not fail."""

    def __init__(
        self, folder: Path, writer: str, metrics: RequestLogMetrics, max_bytes: int = MAX_RECEIPT_BYTES
    ) -> None:
        """Takes the name `writer` under which batches go to Redis; raises OSError if it cannot write to the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        segment_a, segment_b, self.feedback = _create(folder, writer)
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
        """Appends the receipt of a request without a decision; these have numbers of their own."""
        offset = self._last.undecided + 1
        if not self._append(undecided_record(offset, unix_seconds, receipt)):
            return 0
        self._last = self._active.last = self._last.and_undecided(offset)
        return offset

    def mark_batch(self, number: int, upto: Offsets) -> None:
        """Records that a batch is about to be sent that completes all records up to `upto`."""
        try:
            self._active.file.append(to_line(BatchMark(number, time.time(), *upto)))
        except OSError as error:
            # Without the mark a recovery could not tell what Redis has. Losing some receipts is better than counting
            # some twice.
            log.warning("%s is emptied, because it cannot be written: %s", self._active.file.path, error)
            self._empty(self._other)
            self._empty(self._active)

    def settle(self, upto: Offsets) -> None:
        """Records that Redis has all records up to `upto`; empties the segments that hold no others."""
        self._settled = upto
        if self._other.file.size and upto.covers(self._other.last):
            self._empty(self._other)
        worth_emptying = 8 * self._active.file.size >= self._segment_bytes
        if worth_emptying and not self._other.file.size and upto.covers(self._active.last):
            self._empty(self._active)

    def close(self) -> None:
        """Removes the log if Redis has all of it; otherwise another process will recover it."""
        if self._settled.covers(self._last) and not self.feedback.size:
            _remove((self._active.file, self._other.file, self.feedback))
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


def _create(folder: Path, writer: str) -> tuple[LockedFile, LockedFile, LockedFile]:
    """Creates the files of a log, all locked; the lock on the first segment stands for the whole log."""
    while True:
        name = f"wal-{writer}-{secrets.token_hex(4)}"
        segment_a = lock_file(folder / (name + SEGMENT_A), os.O_CREAT | os.O_EXCL)
        if segment_a is None:
            continue  # another process took it for an orphaned log before it was locked
        segment_b = lock_file(folder / (name + SEGMENT_B), os.O_CREAT | os.O_EXCL)
        feedback = lock_file(folder / (name + FEEDBACK), os.O_CREAT | os.O_EXCL)
        if segment_b and feedback:
            directory = os.open(folder, os.O_RDONLY)
            os.fsync(directory)  # otherwise the names could be lost although the feedback is on disk
            os.close(directory)
            return segment_a, segment_b, feedback


def _remove(files: Sequence[LockedFile]) -> None:
    for file in sorted(files, key=lambda file: file.path, reverse=True):  # the first segment last: it locks the log
        file.remove()


@dataclass(frozen=True, slots=True)
class RecoveryBatch:
    """Receipts of an orphaned log that are written to Redis together."""

    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    upto: Offsets

    @property
    def size(self) -> int:
        return len(self.decided) + len(self.undecided)


@dataclass(frozen=True, slots=True)
class LogContents:
    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    """Both in the order of their offsets."""
    marks: Sequence[BatchMark]

    @property
    def last_batch(self) -> int:
        """Returns the number of the last batch that may have been sent."""
        return max((mark.number for mark in self.marks), default=0)

    @property
    def last(self) -> Offsets:
        return Offsets(
            self.decided[-1].offset if self.decided else 0, self.undecided[-1].offset if self.undecided else 0
        )

    def missing(self, last_written: int | None) -> Iterator[RecoveryBatch]:
        """Yields the receipts that Redis does not have; `last_written` is the number of its last batch. It is None if
        Redis knows no batch, or has forgotten it after `WRITER_TTL_SECONDS`.
        """
        since = time.time() - WRITER_TTL_SECONDS
        done = [
            mark
            for mark in self.marks
            if (mark.unix_seconds < since if last_written is None else mark.number <= last_written)
        ]
        upto = Offsets(
            max((mark.decided for mark in done), default=0), max((mark.undecided for mark in done), default=0)
        )
        decided = [record for record in self.decided if record.offset > upto.decided]
        undecided = [record for record in self.undecided if record.offset > upto.undecided]
        for start in range(0, max(len(decided), len(undecided)), MAX_RECORDS_PER_BATCH):
            some = decided[start : start + MAX_RECORDS_PER_BATCH]
            others = undecided[start : start + MAX_RECORDS_PER_BATCH]
            upto = Offsets(some[-1].offset if some else upto.decided, others[-1].offset if others else upto.undecided)
            yield RecoveryBatch(some, others, upto)


class OrphanedLog:
    """The log of a process that has ended, locked by this one, which continues as its writer."""

    def __init__(self, writer: str, segments: Sequence[LockedFile], feedback: LockedFile | None) -> None:
        self.writer = writer
        self._segments = segments
        self.feedback = feedback

    def read(self) -> LogContents:
        """Returns the receipts in the log; raises OSError."""
        records = [record for segment in self._segments for record in _records(segment)]
        return LogContents(
            sorted((one for one in records if isinstance(one, DecidedRecord)), key=lambda one: one.offset),
            sorted((one for one in records if isinstance(one, UndecidedRecord)), key=lambda one: one.offset),
            [one for one in records if isinstance(one, BatchMark)],
        )

    def read_feedback(self) -> list[FeedbackRecord]:
        """Returns the feedback in the log; raises OSError."""
        records = _records(self.feedback) if self.feedback else ()
        return [record for record in records if isinstance(record, FeedbackRecord)]

    def mark_batch(self, number: int, upto: Offsets) -> None:
        """Records a batch that is about to be sent, as the log's own writer does, unless the disk is full."""
        with contextlib.suppress(OSError):
            self._segments[0].append(to_line(BatchMark(number, time.time(), *upto)))

    def clear_receipts(self, last_batch: int, upto: Offsets) -> None:
        """Empties the segments once Redis has all receipts in them, which `last_batch` completed; raises OSError.

        The mark stays in the first segment until that is emptied as the last one: a process that reads the log between
        the two steps must not take the receipts in it for missing.
        """
        if self.has_receipts:
            self.mark_batch(last_batch, upto)
            for segment in reversed(self._segments):
                segment.truncate(0)

    @property
    def has_receipts(self) -> bool:
        return any(segment.size for segment in self._segments)

    @property
    def feedback_bytes(self) -> int:
        return self.feedback.size if self.feedback else 0

    def close(self) -> None:
        """Removes the log if nothing is left in it; otherwise another process will recover it."""
        files = [*self._segments, *([self.feedback] if self.feedback else [])]
        if self.has_receipts or self.feedback_bytes:
            for file in files:
                file.close()
        else:
            _remove(files)


def lock_orphaned_logs(folder: Path) -> list[OrphanedLog]:
    """Locks all logs in the folder that no process holds; raises OSError."""
    logs = []
    for path in sorted(folder.glob(f"wal-*{SEGMENT_A}")):
        if first := lock_file(path):
            second, feedback = (
                lock_file(path.with_name(path.name.replace(SEGMENT_A, suffix))) for suffix in (SEGMENT_B, FEEDBACK)
            )
            logs.append(OrphanedLog(path.name.split("-")[1], [first, *([second] if second else [])], feedback))
    return logs


def _records(file: LockedFile) -> Iterator[Record]:
    """Yields the records in a file; skips an incomplete last line, which nobody was told is stored."""
    *lines, _incomplete = file.read().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except ValueError as error:
            log.error("%s:%d is not a record and is skipped: %s", file.path, number, error)
