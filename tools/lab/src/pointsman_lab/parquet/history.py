"""Searches exported decisions for the gateway's console: `python -m pointsman_lab.parquet.history`, its child process.

Standard input is a JSON object that describes the search. Standard output is one JSON object for each line; the last
one is `{"end": true}`, or `{"error": TEXT, "code": CODE}`. The gateway stops the process once it has read enough lines.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

from pointsman_gateway.console.decisions import to_row
from pointsman_gateway.console.search import DecisionQuery, Ending
from pointsman_gateway.request_log.store import LogEntry
from pointsman_servicekit.errors import PointsmanError

from pointsman_lab.parquet.evidence import FEEDBACK, MAY_RATE
from pointsman_lab.parquet.files import RecordFiles

MEMORY_LIMIT = "384MB"
"""The memory that DuckDB may use in this process."""
MAX_DATA_BYTES = 640 * 2**20
"""The memory that this process may use.

Without this limit, the process could exceed the memory of the container, and the container would end with its gateway.
"""
MAX_SECONDS = 60
"""Seconds after which this process ends itself, even if its gateway was killed and cannot stop it."""
NICENESS = 10
ROWS_AT_ONCE = 500
FOUND_AT_ONCE = 10

_OLDER = """
SELECT epoch_ms(time), id, entry FROM {decisions}
WHERE time <= epoch_ms(?)::TIMESTAMPTZ AND (epoch_ms(time), id) < (?, ?)
ORDER BY time DESC, id DESC, text = 'lost' LIMIT ?
"""
_ONE = "SELECT entry, tenant FROM {decisions} WHERE id = ? ORDER BY text = 'lost' LIMIT 1"
_TEXTS = ("correction", "right_task", "right_answer")
_RATED = f"""
SELECT arg_max(f.rating, f.time), {", ".join(f"arg_max(nullif(f.entry->>'$.{one}', ''), f.time)" for one in _TEXTS)}
FROM {FEEDBACK} f, (SELECT ? AS tenant) d WHERE {MAY_RATE}
"""

Place = tuple[int, str]
"""The position of a decision in the order of time: (Unix milliseconds, id). The newest decision has the largest
place.
"""


def older_decisions(files: RecordFiles, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the exported decisions that match a search of the console, newest first, each id once.

    `question` has `query` (the fields of a DecisionQuery), `before` ([Unix milliseconds, id]: only older decisions are
    returned) and `tenant` (only files of this tenant are read; empty: of all). Each yielded object has `found`, at most
    `FOUND_AT_ONCE` decisions as [Unix milliseconds, id, JSON], and `at`, the [Unix milliseconds, id] of the oldest
    decision that has been examined so far.
    """
    wanted = dict(question["query"])
    query = DecisionQuery(**{**wanted, "ending": Ending(wanted["ending"]) if wanted["ending"] else None})
    at: Place = (int(question["before"][0]), str(question["before"][1]))
    found = list[tuple[int, str, str]]()
    for rows in _pages(files, at, question["tenant"]):
        for unix_ms, name, entry in rows:
            if (unix_ms, name) == at:
                continue  # a duplicate
            at = (unix_ms, name)
            logged = LogEntry("", entry)
            row = to_row(logged)
            if row is not None and query.matches(row, logged):
                found.append((unix_ms, name, entry))
            if len(found) == FOUND_AT_ONCE:
                yield {"found": found, "at": at}
                found = []
        yield {"found": found, "at": at}
        found = []


def _pages(files: RecordFiles, before: Place, tenant: str) -> Iterator[list[tuple[int, str, str]]]:
    newest = time.strftime("%Y-%m-%d", time.gmtime(before[0] / 1000))
    for day in reversed(files.listed_days("decisions")):
        if day > newest:
            continue
        sql = _OLDER.format(decisions=files.table("decisions", day, tenant))
        at, more = before, True
        while more:
            rows = [
                (int(ms), str(name), str(entry)) for ms, name, entry in files.query(sql, [at[0], *at, ROWS_AT_ONCE])
            ]
            if rows:  # a caller may stop after each page, and must come further with it
                yield rows
                at = rows[-1][:2]
            more = len(rows) == ROWS_AT_ONCE


def one_decision(files: RecordFiles, question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields one object on the decision whose id is `question["id"]`; yields nothing if it is not found.

    The object has the decision's `entry` (JSON) and the `feedback` on it by field. Only the UTC days in
    `question["days"]` are searched, and only files of the tenant `question["tenant"]`; if it is empty, files of all
    tenants.
    """
    for day in question["days"]:
        table = files.table("decisions", day, question["tenant"])
        for entry, tenant in files.query(_ONE.format(decisions=table), [question["id"]]):
            yield {"entry": entry, "feedback": _feedback(files, question["id"], str(tenant), day)}
            return


def _feedback(files: RecordFiles, name: str, tenant: str, since: str) -> dict[str, str]:
    on_it = f"(SELECT * FROM {files.table('feedback')} WHERE decision = ? AND day >= ?::DATE)"
    ((rating, *texts),) = files.query(_RATED.format(feedback=on_it), [name, since, tenant])
    fields = {"rating": None if rating is None else f"{rating:.6g}", **dict(zip(_TEXTS, texts, strict=True))}
    return {field: value for field, value in fields.items() if value}


def answer(question: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    read = {"decisions": older_decisions, "decision": one_decision}[question["wanted"]]
    try:
        files = RecordFiles(question["location"], memory_limit=MEMORY_LIMIT, checked=())
        try:
            yield from read(files, question)
        finally:
            files.close()
    except PointsmanError as error:
        yield {"error": error.message, "code": error.code}
    except MemoryError:
        yield {"error": f"the search needs more than {MAX_DATA_BYTES // 2**20} MiB", "code": "unreadable_records"}
    else:
        yield {"end": True}


def main() -> None:
    os.nice(NICENESS)
    resource.setrlimit(resource.RLIMIT_DATA, (MAX_DATA_BYTES, MAX_DATA_BYTES))
    signal.alarm(MAX_SECONDS)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    for line in answer(json.load(sys.stdin)):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
