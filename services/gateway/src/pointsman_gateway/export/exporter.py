"""Exports segments (files of the gateways' export logs): reads them, stores their records in a target, and then
removes them.
"""

import logging
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from threading import Event

from pointsman_gateway.export.failures import cause_of
from pointsman_gateway.export.record_target import RecordTarget
from pointsman_gateway.export.rows import ExportedRecord, Partition, read_records, to_line
from pointsman_gateway.export.segments import REFUSED, UNREADABLE, ExportPlan, SegmentFolder

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
MIN_RETRY_SECONDS, MAX_RETRY_SECONDS = 1.0, 30.0
"""Pause after the first failure, and the longest pause. The pause doubles with each further failure."""
_VARIABLE = re.compile(r"0x[0-9a-f]+|\d+")
"""Matches the parts of an error's text that may differ although the cause is the same: addresses, durations, counts."""


class Exporter:
    def __init__(self, segments: SegmentFolder, target: RecordTarget, min_age_seconds: float) -> None:
        """Takes `min_age_seconds`, the age at which segments are exported: the higher it is, the fewer and larger are
        the files.
        """
        self._segments = segments
        self._target = target
        self._min_age_seconds = min_age_seconds
        self.exported = 0
        """The number of records that were exported."""

    def export_all(self) -> None:
        """Exports all segments that are old enough. Raises the errors of the disk and the target; the next call
        then continues.
        """
        self._segments.adopt()
        while plan := self._segments.next_plan(self._min_age_seconds):
            self._export(plan)

    def run(self, stop: Event) -> None:
        """Exports until `stop` is set, and then once more all segments that are left. After a failure it tries again,
        and logs each new cause once.
        """
        retry_seconds, began, logged = MIN_RETRY_SECONDS, 0.0, ""
        while not stop.is_set():
            try:
                self.export_all()
            except Exception as error:  # each store's library has errors of its own, and none may end the exporter
                began, cause = began or time.monotonic(), cause_of(error)
                if (kind := _VARIABLE.sub("", cause)) != logged:
                    logged = kind
                    log.warning("records wait on disk, because they cannot be exported: %s", cause)
                stop.wait(retry_seconds)
                retry_seconds = min(2 * retry_seconds, MAX_RETRY_SECONDS)
            else:
                if began:
                    log.info("records are exported again, after %.0f seconds", time.monotonic() - began)
                retry_seconds, began, logged = MIN_RETRY_SECONDS, 0.0, ""
                stop.wait(POLL_SECONDS)
        self._min_age_seconds = 0.0
        try:
            self.export_all()
        except Exception as error:  # as above
            log.warning("records stay on disk, because they cannot be exported: %s", cause_of(error))

    def _export(self, plan: ExportPlan) -> None:
        rows: defaultdict[Partition, list[ExportedRecord]] = defaultdict(list)
        unreadable: dict[str, Sequence[bytes]] = {}
        for segment, content in self._segments.read(plan):
            records = read_records(content)
            for partition, found in records.by_partition.items():
                rows[partition] += found
            unreadable[segment] = records.unreadable
        refused = self._target.store(plan.name, rows)
        for segment, lines in unreadable.items():
            self._segments.keep(segment + UNREADABLE, lines, f"are no records in {segment}")
        lines = [to_line(table, record) for (table, _, _), record in refused]
        self._segments.keep(plan.name + REFUSED, lines, "are refused by the target")
        self._segments.finish(plan)
        self.exported += sum(map(len, rows.values()))
