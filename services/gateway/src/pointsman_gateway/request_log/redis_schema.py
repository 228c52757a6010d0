"""Redis keys of the request log, which the Lua scripts in lua/ change atomically.

All keys have the same hash tag (in braces), so that they are in one slot of a Redis Cluster: a script cannot use keys
of several slots. Each script is idempotent: it may run twice, or late, and counts once.
"""

import hashlib
import time
from datetime import UTC, datetime
from functools import lru_cache

SECONDS_PER_DAY = 24 * 60 * 60

DECISIONS = "{pointsman}:decisions"
"""Stream of decisions: `decision` (the id), `entry` (JSON), and the `evidence_key` and `day` to which ratings of the
answer are added."""

INDEX = "{pointsman}:decisions:index"
"""Hash from a decision's id to its entry id in the stream."""

UNDECIDED = "{pointsman}:undecided"
"""Stream of the receipts of requests without a decision: `entry` (JSON)."""

FEEDBACK = "{pointsman}:feedback"
"""Stream of feedback, with one entry for each decision that has feedback."""

FEEDBACK_INDEX = "{pointsman}:feedback:index"
"""Hash from a decision's id to its entry id in the stream of feedback."""

EVIDENCE = "{pointsman}:evidence:"
"""Followed by a day (YYYYMMDD, UTC): a hash from an evidence key (JSON), followed by a count's name, to the count."""

EVALUATION = "{pointsman}:evaluation:"
"""Followed by an evaluation's id: a hash from an evidence key to what the evaluation has added to that evidence: "DAY
ROWS SUM_OF_SCORES", the sum in millionths."""

SPENDING = "{pointsman}:spending:"
"""Followed by a day (YYYYMMDD, UTC): a hash from a spending key (JSON), followed by a count's name, to the count."""

PAIR_SCORES = "{pointsman}:shadow:scores"
"""Stream of scored shadow requests: `decision`, and `scores` (JSON: an evidence key and a score for both answers)."""

TRAINING_SAMPLES = "{pointsman}:training_samples"
"""Stream of answers that may be used for training: `decision`, `tenant` and `sample` (JSON)."""

WRITER = "{pointsman}:writer:"
"""Followed by a writer's id, which is new at each start of a gateway: the number of the last batch that it wrote."""

WRITER_TTL_SECONDS = 14 * SECONDS_PER_DAY
"""Seconds for which Redis keeps the number of a writer's last batch. For so long after it, the write-ahead log of a
process that has ended can be recovered without counting a receipt twice."""


def today() -> str:
    return day_of(time.time())


def day_of(unix_seconds: float) -> str:
    """Returns the UTC day of a time in Unix seconds, as YYYYMMDD."""
    return _name(int(unix_seconds // SECONDS_PER_DAY))


def last_days(count: int) -> list[str]:
    """Returns `count` UTC days as YYYYMMDD: today and those before it, newest first."""
    newest = int(time.time() // SECONDS_PER_DAY)
    return [_name(newest - back) for back in range(count)]


def hash_to_unit_interval(decision_id: str) -> float:
    """Returns a number from 0 to 1 that depends only on the id, and is uniformly distributed over ids. So the ids
    with a number below 0.1 are a random tenth of all decisions.
    """
    return int.from_bytes(hashlib.blake2b(f"sample {decision_id}".encode(), digest_size=8).digest()) / 2**64


@lru_cache(maxsize=512)
def _name(day: int) -> str:
    return datetime.fromtimestamp(day * SECONDS_PER_DAY, UTC).strftime("%Y%m%d")
