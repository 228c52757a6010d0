"""Recovery of the write-ahead logs of processes that have ended: reads the receipts that Redis does not have, and
empties the logs once it has them.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_gateway.request_log.redis_schema import WRITER_TTL_SECONDS
from pointsman_gateway.request_log.wal_files import FEEDBACK, SEGMENT_A, SEGMENT_B, LockedFile, lock_file, remove_files
from pointsman_gateway.request_log.wal_records import (
    BatchMark,
    DecidedRecord,
    FeedbackRecord,
    Offsets,
    Record,
    UndecidedRecord,
    from_line,
    to_line,
)

log = logging.getLogger(__name__)


MAX_RECORDS_PER_BATCH = 256
"""Maximum number of receipts with a decision, and of receipts without one, that are recovered in one batch."""


@dataclass(frozen=True, slots=True)
class RecoveryBatch:
    """Receipts from the write-ahead log of an ended process that are written to Redis together."""

    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    upto: Offsets
    """The offsets of the last receipts that Redis has after the batch."""

    @property
    def size(self) -> int:
        return len(self.decided) + len(self.undecided)


@dataclass(frozen=True, slots=True)
class LogContents:
    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    """The receipts without a decision. Like `decided`, they are in the order of their offsets."""
    marks: Sequence[BatchMark]

    @property
    def last_batch(self) -> int:
        """Returns the number of the last batch that may have been sent; 0 if there is none."""
        return max((mark.number for mark in self.marks), default=0)

    @property
    def last(self) -> Offsets:
        return Offsets(
            self.decided[-1].offset if self.decided else 0, self.undecided[-1].offset if self.undecided else 0
        )

    def missing(self, last_written: int | None) -> Iterator[RecoveryBatch]:
        """Yields the receipts that Redis does not have yet, in batches.

        `last_written` is the number of the ended process's last batch in Redis. None means that Redis has no record of
        one: either there was no batch, or the last one was more than `WRITER_TTL_SECONDS` ago. Batches that were marked
        that long ago then count as written.
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
    """The write-ahead log of a process that has ended.

    This process holds its lock, and sends the receipts in it to Redis under the ended process's name (`writer`).
    """

    def __init__(self, writer: str, segments: Sequence[LockedFile], feedback: LockedFile | None) -> None:
        self.writer = writer
        self._segments = segments
        self.feedback = feedback

    def read(self) -> LogContents:
        """Returns the receipts and marks in the log, without invalid lines; raises OSError if it cannot be read."""
        records = [record for segment in self._segments for record in _records(segment)]
        return LogContents(
            sorted((one for one in records if isinstance(one, DecidedRecord)), key=lambda one: one.offset),
            sorted((one for one in records if isinstance(one, UndecidedRecord)), key=lambda one: one.offset),
            [one for one in records if isinstance(one, BatchMark)],
        )

    def read_feedback(self) -> list[FeedbackRecord]:
        """Returns the feedback in the log, without invalid lines; raises OSError if it cannot be read."""
        records = _records(self.feedback) if self.feedback else ()
        return [record for record in records if isinstance(record, FeedbackRecord)]

    def mark_batch(self, number: int, upto: Offsets) -> None:
        """Appends a line that says which batch is about to be sent to Redis, and which receipts are in it.

        `number` is the batch's number, and `upto` the position behind its last receipts. If the line cannot be written,
        such as on a full disk, the batch is sent without it.
        """
        with contextlib.suppress(OSError):
            self._segments[0].append(to_line(BatchMark(number, time.time(), *upto)))

    def clear_receipts(self, last_batch: int, upto: Offsets) -> None:
        """Empties the log's segments; call it once Redis has all their receipts. Raises OSError if that fails.

        First writes a mark that batch `last_batch` completed all receipts up to `upto`. The segment with the mark is
        emptied last, so that a process which reads the log in between does not send the receipts again.
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
        """Unlocks the log, and removes it if it is empty; otherwise a later recovery finds it.

        Raises OSError if a file cannot be closed or removed.
        """
        files = [*self._segments, *([self.feedback] if self.feedback else [])]
        if self.has_receipts or self.feedback_bytes:
            for file in files:
                file.close()
        else:
            remove_files(files)


def lock_orphaned_logs(folder: Path) -> list[OrphanedLog]:
    """Locks and returns all logs in the folder that no process holds; raises OSError if a file cannot be opened."""
    logs = []
    for path in sorted(folder.glob(f"wal-*{SEGMENT_A}")):
        if first := lock_file(path):
            second, feedback = (
                lock_file(path.with_name(path.name.replace(SEGMENT_A, suffix))) for suffix in (SEGMENT_B, FEEDBACK)
            )
            logs.append(OrphanedLog(path.name.split("-")[1], [first, *([second] if second else [])], feedback))
    return logs


def _records(file: LockedFile) -> Iterator[Record]:
    """Yields the records in a file; raises OSError if it cannot be read. Logs and skips invalid lines.

    Also skips an incomplete last line, which was not reported as stored.
    """
    *lines, _incomplete = file.read().split(b"\n")
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except ValueError as error:
            log.error("%s:%d is not a record and is skipped: %s", file.path, number, error)
