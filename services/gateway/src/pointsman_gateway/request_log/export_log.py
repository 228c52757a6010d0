"""The export log of one gateway process: files with its receipts, feedback and other records, until the exporter has
stored them elsewhere.

The export log is separate from the write-ahead log, so that neither Redis nor the exporter delays the other. A process
appends to its own file (segment), which it keeps locked. A finished segment gets another name, and the exporter removes
it once its records are stored. The exporter also takes the open segment of a process that has ended.
"""

import logging
import os
import time
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.wal_files import LockedFile, lock_file

log = logging.getLogger(__name__)

DECISIONS, UNDECIDED, FEEDBACK, SCORES, EVALUATIONS = "decisions", "undecided", "feedback", "scores", "evaluations"
AUDIT = "audit"
"""The name of the table of administrative changes; the names of the other tables are above."""
OPEN, FINISHED = ".open", ".jsonl"
"""The endings of file names: of segments that a process still writes, and of finished segments."""
SEGMENT_BYTES = 4 * 1024 * 1024
"""Size at which a segment is finished."""
SEGMENT_SECONDS = 10.0
"""Seconds after a segment's first record at which the segment is finished, even if it is small."""
MAX_UNWRITTEN_BYTES = 64 * 1024 * 1024
"""Maximum number of bytes of records that wait in memory while the disk takes none; if there are more, the oldest are
lost."""


class ExportSink(Protocol):
    """Interface that takes the records to be exported; `ExportLog` and `NullExportLog` implement it."""

    def append(self, table: str, records: Iterable[str]) -> None:
        """Appends records to the export log; `table` is the name of their table, such as "decisions" or "feedback".

        Each record is one line of JSON. In the line of a decision, the JSON is followed by a tab and the key under
        which ratings of the answer are counted.
        """
        ...


class NullExportLog:
    """The `ExportSink` of a gateway that exports nothing: it drops all records."""

    def append(self, table: str, records: Iterable[str]) -> None:
        """Drops the records."""


NO_EXPORT = NullExportLog()


class ExportLog:
    """Writes records to segments (files) in a folder that several gateway processes share.

    All segments together have at most `max_bytes`, as of the last call of `maintain`. Records beyond that are lost,
    and counted in the metrics.
    """

    def __init__(self, folder: Path, writer: str, metrics: RequestLogMetrics, max_bytes: int) -> None:
        """Creates the folder if necessary; raises OSError if that fails. `writer` is this process's own name."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._writer = writer
        self._metrics = metrics
        self._max_bytes = max_bytes
        self._segment: LockedFile | None = None
        self._number = 0
        self._finish_at = 0.0
        self._stored_bytes = 0
        """The bytes in the folder at the last `maintain`, and those that were appended since."""
        self._unwritten: deque[tuple[int, bytes]] = deque()
        """Number of records, and their lines, which the disk has not taken."""
        self._unwritten_bytes = 0
        self._reported: set[str] = set()
        """The problems that are in the log since records were written last."""

    def append(self, table: str, records: Iterable[str]) -> None:
        count, data = _to_lines(table, records)
        if not count:
            return
        if self._stored_bytes + self._unwritten_bytes + len(data) > self._max_bytes:
            self._drop("full", count, f"{self._max_bytes} bytes wait for the exporter already")
        else:
            self._append(count, data)

    def append_now(self, table: str, records: Iterable[str]) -> bool:
        """Appends records if the export log is less than half full and the disk takes them at once; returns whether
        it did.

        For records that are also stored elsewhere, so that the caller can try again later.
        """
        count, data = _to_lines(table, records)
        # The second half of the room is for records that would be lost.
        if self._unwritten or 2 * (self._stored_bytes + len(data)) > self._max_bytes:
            return False
        if count:
            self._append(count, data)
        return not self._unwritten

    def _append(self, count: int, data: bytes) -> None:
        self._unwritten.append((count, data))
        self._unwritten_bytes += len(data)
        self._write()

    def maintain(self) -> None:
        """Measures the folder's size, writes records that the disk did not take before, and finishes the segment if
        it is old enough.

        Call it about every second. Raises OSError if the folder cannot be read.
        """
        self._make_folder()
        self._stored_bytes = segment_bytes(self._folder)
        self._metrics.export_bytes.set(self._stored_bytes + self._unwritten_bytes)
        self._write()
        if self._segment is not None and time.monotonic() >= self._finish_at:
            self._finish(self._segment)

    def close(self) -> None:
        """Writes the waiting records and finishes the segment. Records that the disk still does not take are lost,
        and counted in the metrics.
        """
        self._write()
        if self._segment is not None:
            self._finish(self._segment)
        if self._unwritten:
            self._drop("stopped", sum(count for count, _ in self._unwritten), "the gateway stops")

    def _write(self) -> None:
        try:
            while self._unwritten:
                count, data = self._unwritten[0]
                segment = self._segment or self._create()
                segment.append(data)
                self._unwritten.popleft()
                self._unwritten_bytes -= len(data)
                self._stored_bytes += len(data)
                if self._reported:
                    self._reported.clear()
                    log.info("records are exported again")
                if segment.size >= SEGMENT_BYTES:
                    self._finish(segment)
        except OSError as error:
            self._report("exported records wait in memory", str(error))
            while self._unwritten_bytes > MAX_UNWRITTEN_BYTES:
                count, data = self._unwritten.popleft()
                self._unwritten_bytes -= len(data)
                self._drop("disk", count, str(error))

    def _create(self) -> LockedFile:
        """Creates and locks the next segment; raises OSError if that fails."""
        while True:
            self._number += 1
            self._make_folder()
            path = self._folder / f"{self._writer}-{self._number:08d}{OPEN}"
            segment = lock_file(path, os.O_CREAT | os.O_EXCL)
            if segment is not None:  # otherwise the exporter took it for one of a process that has ended
                self._segment, self._finish_at = segment, time.monotonic() + SEGMENT_SECONDS
                return segment

    def _make_folder(self) -> None:
        """Creates the folder again if somebody has removed it; raises OSError if that fails."""
        self._folder.mkdir(parents=True, exist_ok=True)

    def _finish(self, segment: LockedFile) -> None:
        self._segment = None
        try:
            segment.path.rename(segment.path.with_suffix(FINISHED))
        except OSError as error:  # once it is unlocked, the exporter takes it as it is
            log.warning("%s cannot be renamed: %s", segment.path, error)
        segment.close()

    def _drop(self, reason: str, count: int, why: str) -> None:
        self._metrics.export_dropped.labels(reason).inc(count)
        self._report("records are lost to the export", why)

    def _report(self, what: str, why: str) -> None:
        """Logs why records are not written, unless the same problem is in the log since records were written last."""
        if what not in self._reported:
            self._reported.add(what)
            log.warning("%s: %s", what, why)


def _to_lines(table: str, records: Iterable[str]) -> tuple[int, bytes]:
    """Returns the number of records, and their lines."""
    lines = [f"{table}\t{record}\n" for record in records]
    return len(lines), "".join(lines).encode()


def export_dir(wal_dir: Path) -> Path:
    """Returns the folder of the export log's segments, which is inside the folder of the write-ahead log."""
    return wal_dir / "export"


def segment_bytes(folder: Path) -> int:
    """Returns the size in bytes of all export segments in a folder; raises OSError if the folder cannot be read."""
    total = 0
    for entry in os.scandir(folder):
        if entry.name.endswith((OPEN, FINISHED)):
            try:
                total += entry.stat().st_size
            except FileNotFoundError:  # the exporter has just removed it
                continue
    return total
