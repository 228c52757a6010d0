"""Reads the request log from exported Parquet files; its entries have the same fields as those in Redis."""

import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from math import inf
from typing import Any

from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import Counts

from pointsman_lab.parquet.evidence import FEEDBACK, MAY_RATE, count_day
from pointsman_lab.parquet.files import RecordFiles
from pointsman_lab.request_log import RequestLog

_ENTRIES = """
SELECT id, entry FROM {table} WHERE epoch(time) >= ?
QUALIFY row_number() OVER (PARTITION BY id ORDER BY {preferred}) = 1 ORDER BY time, id
"""
_FEEDBACK = f"""
WITH f AS (
  SELECT *, json_extract_string(entry, '$.correction') AS correction,
    json_extract_string(entry, '$.right_answer') AS right_answer
  FROM {FEEDBACK} WHERE epoch(time) >= ?
)
SELECT d.id, epoch_ms(max(f.time)), arg_max(f.rating, f.time),
  arg_max(f.right_task, f.time) FILTER (f.right_task <> ''),
  arg_max(f.correction, f.time) FILTER (f.correction <> ''),
  arg_max(f.right_answer, f.time) FILTER (f.right_answer <> ''),
  any_value(d.evidence_key), arg_min(d.entry, d.text = 'lost')
FROM {{decisions}} d JOIN f ON d.id = f.decision AND {MAY_RATE}
GROUP BY d.id ORDER BY max(f.time)
"""
_SCORES = """
SELECT "of", list([task, path, fingerprint, version]), list(score) FROM (
  SELECT *, row_number() OVER (PARTITION BY id ORDER BY time DESC) AS nth FROM {scores} WHERE epoch(time) >= ?
) WHERE nth = 1 GROUP BY "of" ORDER BY max(time)
"""


class ParquetRequestLog(RequestLog):
    def __init__(self, files: RecordFiles) -> None:
        self.files = files

    async def count(self, seconds: float) -> int:
        """Returns the number of decisions in the last `seconds`; a decision that was exported twice counts twice."""
        sql = f"SELECT count(*) FROM {self.files.table('decisions')} WHERE epoch(time) >= ?"
        return next((int(number) for (number,) in self.files.query(sql, [_begin(seconds)])), 0)

    async def entries(self, stream: str, seconds: float = inf) -> AsyncIterator[tuple[str, dict[str, str]]]:
        read = {
            redis_schema.DECISIONS: self._decisions,
            redis_schema.UNDECIDED: self._undecided,
            redis_schema.FEEDBACK: self._feedback,
            redis_schema.PAIR_SCORES: self._scores,
        }[stream]
        for entry in read(_begin(seconds)):
            yield entry

    async def evidence(self, days: list[str]) -> dict[str, Counts]:
        return {day: count_day(self.files, f"{day[:4]}-{day[4:6]}-{day[6:]}") for day in days}

    async def complete_since(self, stream: str) -> float:
        """Returns the Unix seconds of the first exported record, since earlier entries of the log may be missing."""
        table = {redis_schema.DECISIONS: "decisions", redis_schema.UNDECIDED: "undecided"}[stream]
        for day in self.files.days(table)[:1]:
            for (first,) in self.files.query(f"SELECT epoch(min(time)) FROM {self.files.table(table, day)}"):
                return float(first)
        return 0.0

    def _decisions(self, begin: float) -> Iterator[tuple[str, dict[str, str]]]:
        for name, entry in self._by_day("decisions", begin, "text = 'lost'"):
            yield name, {"decision": name, "entry": entry}

    def _undecided(self, begin: float) -> Iterator[tuple[str, dict[str, str]]]:
        for name, entry in self._by_day("undecided", begin, "time"):
            yield name, {"entry": entry}

    def _by_day(self, table: str, begin: float, preferred: str) -> Iterator[tuple[Any, ...]]:
        """Yields id and entry of each record, oldest first. It reads one day after the other, which needs less
        memory.
        """
        first = time.strftime("%Y-%m-%d", time.gmtime(begin))
        for day in self.files.days(table):
            if day >= first:
                of_day = self.files.table(table, day)
                yield from self.files.query(_ENTRIES.format(table=of_day, preferred=preferred), [begin])

    def _feedback(self, begin: float) -> Iterator[tuple[str, dict[str, str]]]:
        tables = {name: self.files.table(name) for name in ("feedback", "decisions")}
        for name, unix_ms, rating, right_task, correction, right_answer, key, entry in self.files.query(
            _FEEDBACK.format(**tables), [begin]
        ):
            yield (
                name,
                {
                    "decision": name,
                    "unix_ms": str(unix_ms),
                    "rating": "" if rating is None else f"{rating:.6g}",
                    "right_task": right_task or "",
                    "correction": correction or "",
                    "right_answer": right_answer or "",
                    "evidence_key": key or "",
                    "entry": entry,
                },
            )

    def _scores(self, begin: float) -> Iterator[tuple[str, dict[str, str]]]:
        for name, keys, scores in self.files.query(_SCORES.format(scores=self.files.table("scores")), [begin]):
            yield name, {"decision": name, "scores": json.dumps(list(zip(keys, scores, strict=True)))}


@asynccontextmanager
async def open_parquet_log(location: str) -> AsyncIterator[ParquetRequestLog]:
    """Opens the exported records in the folder or URL `location`, and closes them after the block.

    Raises InvalidArgument if there are no records, and FailedPrecondition if the records cannot be read.
    """
    files = RecordFiles(location)
    try:
        yield ParquetRequestLog(files)
    finally:
        files.close()


def _begin(seconds: float) -> float:
    """Returns the Unix seconds `seconds` ago; 0 for infinity."""
    return 0.0 if seconds == inf else max(0.0, time.time() - seconds)
