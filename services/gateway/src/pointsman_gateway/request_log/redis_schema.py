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
"""Key of the stream of decisions. Its fields are `decision` (the id), `entry` (JSON), and `evidence_key` and `day`, to
which ratings of the answer are added."""

INDEX = "{pointsman}:decisions:index"
"""Key of a hash that has, by decision id, the id of the decision's entry in the stream of decisions."""

UNDECIDED = "{pointsman}:undecided"
"""Key of the stream of the receipts of requests without a decision. Its field is `entry` (JSON)."""

FEEDBACK = "{pointsman}:feedback"
"""Key of the stream of feedback, with one entry for each decision that has feedback."""

FEEDBACK_INDEX = "{pointsman}:feedback:index"
"""Key of a hash that has, by decision id, the id of the decision's entry in the stream of feedback."""

EVIDENCE = "{pointsman}:evidence:"
"""Prefix of a day's key; the day follows (YYYYMMDD, UTC). The value is a hash with the evidence of the day: each
field's name is an evidence key as JSON and a count's name, its value the count."""

EVALUATION = "{pointsman}:evaluation:"
"""Prefix of an evaluation's key; the evaluation's id follows. The value is a hash with the amounts that the evaluation
has added: by evidence key, "DAY ROWS SUM_OF_SCORES", with the sum in millionths."""

SPENDING = "{pointsman}:spending:"
"""Prefix of a day's key; the day follows (YYYYMMDD, UTC). The value is a hash with the spending of the day: each
field's name is a spending key as JSON and a count's name, its value the count."""

PAIR_SCORES = "{pointsman}:shadow:scores"
"""Key of the stream of scored shadow requests. Its fields are `decision` (the id) and `scores` (JSON: an evidence key
and a score for each of the two answers)."""

TRAINING_SAMPLES = "{pointsman}:training_samples"
"""Key of the stream of answers that may be used for training. Its fields are `decision` (the id), `tenant` and `sample`
(JSON)."""

WRITER = "{pointsman}:writer:"
"""Prefix of a writer's key; the writer's id follows, which is new at each start of a gateway process. The value is the
number of the last batch that the writer wrote."""

WRITER_TTL_SECONDS = 14 * SECONDS_PER_DAY
"""Seconds for which Redis keeps the number of a writer's last batch.

In this time, the write-ahead log of a process that has ended can be recovered without counting a receipt twice.
"""


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
