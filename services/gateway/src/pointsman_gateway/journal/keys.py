"""Where in Redis what is; the braces keep all of it in one slot of a cluster, since scripts touch several keys."""

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache

A_DAY = 24 * 60 * 60

DECISIONS = "{pointsman}:decisions"
"""A stream; each entry has `decision` (its id), `entry` (JSON), `cell` and `day` (what its ratings count for)."""

INDEX = "{pointsman}:decisions:index"
"""A hash: a decision's id to its place in the stream."""

UNDECIDED = "{pointsman}:undecided"
"""A stream: the receipts of requests that came to no decision, each in one field, `entry` (JSON)."""

FEEDBACK = "{pointsman}:feedback"
"""A stream, with one entry for each decision of which something was said."""

FEEDBACK_INDEX = "{pointsman}:feedback:index"
"""A hash: a decision's id to its place in that stream."""

EVIDENCE = "{pointsman}:evidence:"
"""With a day (YYYYMMDD, UTC) behind it: a hash of counts, a cell and the name of the count to a whole number."""

LESSONS = "{pointsman}:lessons"
"""A stream of answers that are kept to learn from: `decision`, `tenant` and `lesson` (JSON)."""

WRITER = "{pointsman}:writer:"
"""With a writer's id behind it, one for each start of a gateway: the number of the last batch that it wrote."""


def today() -> str:
    return day_of(time.time())


def day_of(unix_seconds: float) -> str:
    return _name(int(unix_seconds // A_DAY))


def last_days(count: int) -> list[str]:
    """Today and the days before it, newest first."""
    newest = int(time.time() // A_DAY)
    return [_name(newest - back) for back in range(count)]


def share_of(decision_id: str) -> float:
    """Where a decision lies between 0 and 1; decisions lie evenly."""
    return int.from_bytes(hashlib.blake2b(f"lesson {decision_id}".encode(), digest_size=8).digest()) / 2**64


@lru_cache(maxsize=512)
def _name(day: int) -> str:
    return datetime.fromtimestamp(day * A_DAY, UTC).strftime("%Y%m%d")
