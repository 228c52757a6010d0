"""Reads administrative changes, such as of keys and aliases, from the exporter's Parquet files."""

import json
import time
from collections.abc import Sequence

from pointsman_lab.parquet.files import RecordFiles
from pointsman_lab.report import Report

_CHANGES = """
SELECT any_value(entry) FROM {audit}
WHERE epoch(time) >= ? AND (len(?) = 0 OR list_contains(?, kind))
GROUP BY id ORDER BY max(time) DESC, id LIMIT ?
"""


def read_audit(location: str, seconds: float, kinds: Sequence[str], limit: int) -> Report:
    """Reports the administrative changes of the last `seconds`, the newest first, from exported audit records.

    At most `limit` changes are returned; `kinds` are the kinds to report, empty: all. The report's facts have
    `changes`, the exported entries. Raises FailedPrecondition if the files cannot be read.
    """
    files = RecordFiles(location, "audit")
    try:
        values = [max(0.0, time.time() - seconds), list(kinds), list(kinds), limit]
        rows = files.query(_CHANGES.format(audit=files.table("audit")), values)
        return Report({"changes": [json.loads(entry) for (entry,) in rows]}, ())
    finally:
        files.close()
