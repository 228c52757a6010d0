"""A file that one process holds locked until it closes it, or ends, however it ends."""

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
from pointsman_gateway.request_log.redis_schema import WRITER_TTL_S
from pointsman_gateway.request_log.wal_records import (
    BatchMark,
    DecidedRecord,
    Record,
    UndecidedRecord,
    decided_record,
    from_line,
    to_line,
    undecided_record,
)


class LockedFile:
    """What is appended outlives the process at once, and the machine after `sync`. Each method may raise OSError."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self.size = os.fstat(descriptor).st_size
        self._torn = False
        """Whether half a line may stand at its end."""

    def append(self, line: bytes) -> None:
        """Where it raises, half of the line may be there, until something else is appended."""
        if self._torn:
            self.truncate(self.size)
        self._torn = True
        if os.write(self._descriptor, line) < len(line):
            raise OSError("the disk is full")
        self._torn = False
        self.size += len(line)

    def append_for_good(self, line: bytes) -> None:
        """The line is on disk then; where it raises, the file is as it was."""
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
    """None where another process holds it, or has just removed it."""
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
    """The last positions that are meant, of receipts with a decision and of those without; all before them too."""

    decided: int = 0
    undecided: int = 0

    def covers(self, other: "Offsets") -> bool:
        return other.decided <= self.decided and other.undecided <= self.undecided

    def and_decided(self, position: int) -> "Offsets":
        return Offsets(max(self.decided, position), self.undecided)

    def and_undecided(self, position: int) -> "Offsets":
        return Offsets(self.decided, max(self.undecided, position))


NO_OFFSETS = Offsets()


log = logging.getLogger(__name__)

MAX_RECEIPT_BYTES = 16 * 1024 * 1024
"""That one gateway keeps."""
SEGMENT_BYTES = 512 * 1024
"""From which on the other page is taken, if it is empty; the eighth part is worth to be emptied."""


class Segment:
    def __init__(self, file: LockedFile) -> None:
        self.file = file
        self.last = Offsets()
        """That stands on it."""


class Full(Exception):
    """As much waits as may."""


class WriteAheadLog:
    """Implements the recorder's `Book`. Never fails a request: what it cannot take, it counts."""

    def __init__(
        self, folder: Path, writer: str, metrics: RequestLogMetrics, most_bytes: int = MAX_RECEIPT_BYTES
    ) -> None:
        """`writer` is the name under which the batches are written. Raises OSError where the folder cannot be
        written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._page, self._other = _pages(folder, writer)
        self._metrics = metrics
        self._most = most_bytes
        self._page_bytes = min(SEGMENT_BYTES, most_bytes // 4)
        self._last = Offsets()
        self._settled = Offsets()
        self._refusing = False
        metrics.ahead_bytes.set_function(lambda: self._page.file.size + self._other.file.size)

    def decided(self, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt) -> int:
        """Its position; 0 where it could not be taken."""
        position = self._last.decided + 1
        if not self._take(decided_record(position, unix_seconds, request, decision, receipt)):
            return 0
        self._last = self._page.last = self._last.and_decided(position)
        return position

    def undecided(self, unix_seconds: float, receipt: UndecidedReceipt) -> int:
        """The same; these have positions of their own."""
        position = self._last.undecided + 1
        if not self._take(undecided_record(position, unix_seconds, receipt)):
            return 0
        self._last = self._page.last = self._last.and_undecided(position)
        return position

    def sends(self, number: int, upto: Offsets) -> None:
        """Before a batch is sent with which all up to there is done."""
        try:
            self._page.file.append(to_line(BatchMark(number, time.time(), *upto)))
        except OSError as error:
            # Without this line it could not be told later what Redis has: rather lose some than count some twice.
            log.warning("%s cannot be written (%s) and is begun anew", self._page.file.path, error)
            self._empty(self._other)
            self._empty(self._page)

    def written(self, upto: Offsets) -> None:
        """Redis has all up to there."""
        self._settled = upto
        if self._other.file.size and upto.covers(self._other.last):
            self._empty(self._other)
        worth_it = 8 * self._page.file.size >= self._page_bytes
        if worth_it and not self._other.file.size and upto.covers(self._page.last):
            self._empty(self._page)

    def close(self) -> None:
        """Leaves what Redis may not have to the next gateway."""
        done = self._settled.covers(self._last)
        for page in (self._other, self._page):
            if done:
                page.file.remove()
            else:
                page.file.close()

    def _take(self, counterfoil: Record) -> bool:
        try:
            line = to_line(counterfoil)
            self._room_for(len(line)).append(line)
        except Full as full:
            return self._refuse("full", full)
        except OSError as error:
            return self._refuse("disk", error)
        except (ValueError, TypeError, OverflowError) as error:  # a text that is no UTF-8, a number beyond 64 bits
            return self._refuse("unwritable", error)
        if self._refusing:
            self._refusing = False
            log.info("receipts are on disk again before their callers hear the end")
        return True

    def _room_for(self, length: int) -> LockedFile:
        if self._page.file.size >= self._page_bytes and not self._other.file.size:
            self._page, self._other = self._other, self._page
        if self._page.file.size + self._other.file.size + length > self._most:
            raise Full(f"{self._most} bytes wait for Redis already")
        return self._page.file

    def _refuse(self, reason: str, why: Exception) -> bool:
        self._metrics.not_ahead.labels(reason).inc()
        if not self._refusing:
            self._refusing = True
            log.warning("receipts are in memory alone until Redis has them: %s", why)
        return False

    def _empty(self, page: Segment) -> None:
        try:
            page.file.truncate(0)
        except OSError as error:
            log.warning("%s cannot be emptied: %s", page.file.path, error)


def _pages(folder: Path, writer: str) -> tuple[Segment, Segment]:
    """The first one stands for both: who holds it holds the book."""
    while True:
        name = f"receipts-{writer}-{secrets.token_hex(4)}"
        first = lock_file(folder / f"{name}.a.jsonl", os.O_CREAT | os.O_EXCL)
        second = first and lock_file(folder / f"{name}.b.jsonl", os.O_CREAT | os.O_EXCL)
        if first and second:
            return Segment(first), Segment(second)


MAX_RECORDS_PER_BATCH = 256
"""Of each sort."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What is written as one."""

    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    upto: Offsets

    @property
    def size(self) -> int:
        return len(self.decided) + len(self.undecided)


@dataclass(frozen=True, slots=True)
class Contents:
    decided: Sequence[DecidedRecord]
    undecided: Sequence[UndecidedRecord]
    """Both in the order in which they were noted."""
    sent: Sequence[BatchMark]

    @property
    def number(self) -> int:
        """Of the last batch that may have been sent."""
        return max((sending.number for sending in self.sent), default=0)

    def without(self, last: int | None) -> Iterator[Portion]:
        """What Redis has not got, where `last` is the last batch that it has; None where it knows of none."""
        since = time.time() - WRITER_TTL_S
        done = [s for s in self.sent if (s.unix_seconds < since if last is None else s.number <= last)]
        upto = Offsets(max((s.decided for s in done), default=0), max((s.undecided for s in done), default=0))
        decided = [one for one in self.decided if one.position > upto.decided]
        undecided = [one for one in self.undecided if one.position > upto.undecided]
        for begin in range(0, max(len(decided), len(undecided)), MAX_RECORDS_PER_BATCH):
            some, others = (
                decided[begin : begin + MAX_RECORDS_PER_BATCH],
                undecided[begin : begin + MAX_RECORDS_PER_BATCH],
            )
            upto = Offsets(
                some[-1].position if some else upto.decided, others[-1].position if others else upto.undecided
            )
            yield Portion(some, others, upto)


class OrphanedLog:
    """Held until it is removed or closed; whoever holds it goes on as its writer."""

    def __init__(self, writer: str, pages: Sequence[LockedFile]) -> None:
        self.writer = writer
        self._pages = pages

    def read(self) -> Contents:
        """Raises OSError."""
        lines = [line for page in self._pages for line in _lines(page)]
        return Contents(
            sorted((one for one in lines if isinstance(one, DecidedRecord)), key=lambda one: one.position),
            sorted((one for one in lines if isinstance(one, UndecidedRecord)), key=lambda one: one.position),
            [one for one in lines if isinstance(one, BatchMark)],
        )

    def sends(self, number: int, upto: Offsets) -> None:
        """As the book's own writer does; on a full disk it goes without."""
        with contextlib.suppress(OSError):
            self._pages[0].append(to_line(BatchMark(number, time.time(), *upto)))

    def remove(self) -> None:
        for page in reversed(self._pages):  # the first one stands for both
            page.remove()

    def close(self) -> None:
        """Leaves it to the next."""
        for page in self._pages:
            page.close()


def lock_orphaned_logs(folder: Path) -> list[OrphanedLog]:
    """All that nobody holds, which are held now. Raises OSError."""
    books = []
    for path in sorted(folder.glob("receipts-*.a.jsonl")):
        if first := lock_file(path):
            second = lock_file(path.with_name(path.name.replace(".a.jsonl", ".b.jsonl")))
            books.append(OrphanedLog(path.name.split("-")[1], [page for page in (first, second) if page]))
    return books


def _lines(page: LockedFile) -> Iterator[Record]:
    *lines, _torn = page.read().split(b"\n")  # of half a line nobody was told
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except ValueError as error:
            log.error("%s:%d is no counterfoil and is passed over: %s", page.path, number, error)
