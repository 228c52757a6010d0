"""The segments (files) of the gateways' export logs, and the plan that says which of them are exported next.

The plan is on disk before its first record is sent to a target. An exporter that was killed therefore writes the same
Parquet files again, under the same names, and no record is in two files; a collector gets the records of the plan
again. Once all records are stored, the plan is renamed, and then its segments are removed.
"""

import json
import logging
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate, groupby
from math import inf
from pathlib import Path

from pointsman_gateway.request_log.export_log import FINISHED, OPEN
from pointsman_gateway.request_log.wal_files import LockedFile, lock_file

log = logging.getLogger(__name__)

MAX_BATCH_BYTES = 32 * 1024 * 1024
"""Maximum size of the segments that are exported together; only a single segment may be larger."""
_LOCK, _PLAN, _EXPORTED_PLAN = "exporter.lock", "plan.json", "exported.json"
UNREADABLE, REFUSED = ".unreadable", ".refused"
"""Endings of the names of files with lines that are not exported: lines that are no records, and records that a target
rejected."""
MAX_KEPT_BYTES = 64 * 1024 * 1024
"""Maximum size of all files with lines that are not exported; the oldest files are removed to make room for new
ones."""


class FolderInUse(Exception):
    """Raised if another exporter process already works on the folder."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """The names of consecutive segments (files of records) of one gateway process that are exported together."""

    segments: tuple[str, ...]
    """The segments' file names, in the order in which the process wrote them."""

    @property
    def name(self) -> str:
        """Returns the plan's name WRITER-FIRST-LAST: the name of the gateway process, and the numbers of its first
        and last segment.
        """
        (writer, first), (_, last) = _parts(self.segments[0]), _parts(self.segments[-1])
        return f"{writer}-{first}-{last}"


class SegmentFolder:
    """A folder of segments (files of records) that only this process exports. Each method but `keep` raises OSError
    if the disk fails.
    """

    def __init__(self, folder: Path) -> None:
        """Creates the folder if necessary, and locks it; raises FolderInUse if another exporter has the lock."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        lock = lock_file(folder / _LOCK, os.O_CREAT)
        if lock is None:
            raise FolderInUse(f"another exporter works on {folder}: stop it, or use that one")
        self._lock: LockedFile = lock

    def close(self) -> None:
        self._lock.close()

    def adopt(self) -> None:
        """Marks the open segments of gateway processes that have ended as finished, so that they are exported."""
        for path in self.folder.glob(f"*{OPEN}"):
            if segment := lock_file(path):
                path.rename(path.with_suffix(FINISHED))
                segment.close()

    def next_plan(self, min_age_seconds: float) -> ExportPlan | None:
        """Returns the plan that an earlier exporter has not finished, or else makes and stores a new one; None if
        there is nothing to export.

        Segments are exported once the first one of their process is `min_age_seconds` old, or there are enough of
        them.
        """
        return self._unfinished_plan() or self._new_plan(min_age_seconds)

    def read(self, plan: ExportPlan) -> list[tuple[str, bytes]]:
        """Returns a pair (name, content) for each segment of the plan."""
        return [(name, (self.folder / name).read_bytes()) for name in plan.segments]

    def keep(self, name: str, lines: Sequence[bytes], why: str) -> None:
        """Stores lines that cannot be exported in the file `name` next to the segments, up to `MAX_KEPT_BYTES`;
        `why` is for the log.

        Raises nothing, so that the export goes on: lines that cannot be stored are logged as lost.
        """
        path, temporary = self.folder / name, self.folder / (name + ".tmp")
        kept = sum(size <= MAX_KEPT_BYTES for size in accumulate(len(line) + 1 for line in lines))
        try:
            if kept:
                content = b"\n".join(lines[:kept]) + b"\n"
                self._make_room(path, MAX_KEPT_BYTES - len(content))
                temporary.write_bytes(content)
                temporary.replace(path)
                log.error("%d lines %s: they are kept in %s", kept, why, path)
        except OSError as error:
            log.error("%d lines %s, and are lost, since they cannot be written to %s: %s", kept, why, path, error)
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        if lost := len(lines) - kept:
            log.error("%d lines %s, and are lost: %s has at most %d bytes", lost, why, path, MAX_KEPT_BYTES)

    def _make_room(self, new: Path, room: int) -> None:
        """Removes the oldest files with lines that are not exported, until all but the file `new` have at most `room`
        bytes.
        """
        kept = [one for one in self.folder.iterdir() if one.suffix in (UNREADABLE, REFUSED) and one != new]
        sizes = {one: one.stat().st_size for one in sorted(kept, key=lambda one: (one.stat().st_mtime, one.name))}
        total = sum(sizes.values())
        for oldest, size in sizes.items():
            if total <= room:
                return
            oldest.unlink()
            total -= size
            log.error("%s is removed: newer lines that are not exported need its %d bytes", oldest, size)

    def finish(self, plan: ExportPlan) -> None:
        """Removes the segments of a plan; call it when all their records are stored."""
        with suppress(FileNotFoundError):  # the disk was full when the plan was made
            (self.folder / _PLAN).replace(self.folder / _EXPORTED_PLAN)
        self._remove(plan)

    def _remove(self, plan: ExportPlan) -> None:
        for name in plan.segments:
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / _EXPORTED_PLAN).unlink(missing_ok=True)

    def _unfinished_plan(self) -> ExportPlan | None:
        if exported := self._stored_plan(_EXPORTED_PLAN):
            self._remove(exported)
        if not (plan := self._stored_plan(_PLAN)):
            return None
        left = tuple(name for name in plan.segments if (self.folder / name).exists())
        if left == plan.segments:
            return plan
        log.error(
            "%s were removed, but not by the exporter; the records of %d other segments may be exported twice",
            ", ".join(sorted(set(plan.segments) - set(left))), len(left),
        )  # fmt: skip
        if not left:
            (self.folder / _PLAN).unlink()
            return None
        # The files of one segment have another name: those of the old plan may have the removed records already.
        return self._store(ExportPlan(left[:1]))

    def _stored_plan(self, name: str) -> ExportPlan | None:
        path = self.folder / name
        try:
            return ExportPlan(tuple(json.loads(path.read_bytes())))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            kept = self.folder / (name + UNREADABLE)
            log.error("%s is no plan, and is now %s; records may be exported twice: %s", name, kept, error)
            path.replace(kept)
            return None

    def _new_plan(self, min_age_seconds: float) -> ExportPlan | None:
        names = sorted(path.name for path in self.folder.glob(f"*{FINISHED}"))
        for _, group in groupby(names, key=lambda name: _parts(name)[0]):
            chosen, size, changed = list[str](), 0, inf
            for name in group:
                about = (self.folder / name).stat()
                if chosen and size + about.st_size > MAX_BATCH_BYTES:
                    size = MAX_BATCH_BYTES
                    break
                size, changed = size + about.st_size, min(changed, about.st_mtime)
                chosen.append(name)
            age = time.time() - changed  # negative once the clock was set back
            if size >= MAX_BATCH_BYTES or not 0 <= age < min_age_seconds:
                return self._store(ExportPlan(tuple(chosen)))
        return None

    def _store(self, plan: ExportPlan) -> ExportPlan:
        """Returns the plan once it is on disk. If the disk is full, which only an export can end, returns one for the
        first segment alone: after a kill, its records may then be in two files.
        """
        temporary = self.folder / (_PLAN + ".tmp")
        try:
            with temporary.open("w") as file:
                json.dump(plan.segments, file)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            log.warning("a single segment is exported, since the plan cannot be written: %s", error)
            temporary.unlink(missing_ok=True)
            return ExportPlan(plan.segments[:1])
        temporary.replace(self.folder / _PLAN)
        return plan


def _parts(name: str) -> tuple[str, str]:
    """Returns the name of the process and the number of the segment; the number is empty if the name has none."""
    writer, _, number = name.partition(".")[0].partition("-")
    return writer, number
