"""Counts answers, their costs and seconds, ratings and scores of each path from exported records.

These counts are called evidence. They equal the counts that the gateway keeps in Redis.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pointsman_gateway.domain import PICODOLLARS
from pointsman_gateway.request_log.evidence import (
    ANSWERS,
    BUCKET,
    COST,
    EVALUATED,
    RATED,
    RATING,
    SCORE,
    UNITS_PER_RATING,
    Counts,
    EvidenceKey,
)
from pointsman_servicekit.statistics import PATH_LATENCY_BUCKETS

from pointsman_lab.parquet.files import RecordFiles

_BUCKET = (
    f"CASE WHEN seconds <= {PATH_LATENCY_BUCKETS.smallest} THEN 0 ELSE ceil({PATH_LATENCY_BUCKETS.per_doubling!r} * "
    f"log2(least(seconds, {PATH_LATENCY_BUCKETS.largest}) / {PATH_LATENCY_BUCKETS.smallest}))::INTEGER END"
)
"""The SQL expression that computes what `PATH_LATENCY_BUCKETS.index` computes for the column `seconds`."""
_IS_EVIDENCE = "outcome = 'ok' AND coalesce(escalated_from, '') = '' AND coalesce(cached, '') = ''"
_ANSWERS = f"""
SELECT evidence_key, {_BUCKET} AS bucket, count(*), sum(round(coalesce(cost_usd, 0) * {PICODOLLARS}))::HUGEINT
FROM (SELECT DISTINCT ON (id) evidence_key, seconds, cost_usd FROM {{decisions}}
  WHERE {_IS_EVIDENCE} AND evidence_key <> '')
GROUP BY ALL
"""
MAY_RATE = "(f.tenant = '_none' OR d.tenant IN ('_none', f.tenant))"
"""A SQL condition: the tenant that sent the feedback `f` may rate the decision `d`, by the rule of add_feedback.lua."""
FEEDBACK = "(SELECT DISTINCT ON (id, tenant) * FROM {feedback} ORDER BY id, tenant, time)"
"""A SQL subquery for feedback without repetitions: of entries with one id and tenant only the first counts.

The script add_feedback.lua has the same rule.
"""
_RATED = f"""
WITH f AS (
  SELECT decision, tenant, arg_max(rating, time) AS rating, max(time) AS time
  FROM {FEEDBACK} WHERE rating IS NOT NULL GROUP BY decision, tenant
)
SELECT evidence_key, count(*), sum(round(rating * {UNITS_PER_RATING}))::HUGEINT FROM (
  SELECT any_value(d.evidence_key) AS evidence_key, arg_max(f.rating, f.time) AS rating
  FROM {{decisions}} d JOIN f ON d.id = f.decision AND {MAY_RATE}
  GROUP BY d.id
) WHERE evidence_key <> '' GROUP BY ALL
"""
_SCORED = f"""
SELECT task, path, fingerprint, version, count(*), sum(rows)::HUGEINT,
  sum(round(score * rows * {UNITS_PER_RATING}))::HUGEINT
FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY time DESC) AS nth FROM {{scores}})
WHERE nth = 1 AND day = ?
GROUP BY ALL
"""
_LATEST = f"""
SELECT evidence_key, epoch(max(time)), arg_max(kind, time), bool_and(cost_usd IS NOT NULL) FROM {{decisions}}
WHERE {_IS_EVIDENCE} AND evidence_key <> '' GROUP BY ALL
"""


def count_day(files: RecordFiles, day: str) -> Counts:
    """Returns the ratings, evaluations and costs of paths that were recorded on a UTC day (YYYY-MM-DD)."""
    counts: Counts = {}
    decisions = files.table("decisions", day)
    for key, bucket, number, cost in files.query(_ANSWERS.format(decisions=decisions)):
        _add(counts, _key(key), {ANSWERS: number, COST: int(cost), f"{BUCKET}{bucket}": number})
    for key, number, units in files.query(_RATED.format(decisions=decisions, feedback=files.table("feedback"))):
        _add(counts, _key(key), {RATED: number, RATING: int(units)})
    for *of, number, _, units in files.query(_SCORED.format(scores=files.table("scores")), [day]):
        _add(counts, EvidenceKey(*of), {RATED: number, RATING: int(units)})
    for *of, _, rows, units in files.query(_SCORED.format(scores=files.table("evaluations")), [day]):
        _add(counts, EvidenceKey(*of), {EVALUATED: int(rows), SCORE: int(units)})
    return counts


@dataclass(frozen=True, slots=True)
class LatestAnswer:
    unix_seconds: float
    kind: str
    """The kind of the path that answered, such as "rag"."""
    is_priced: bool
    """Whether the cost is known for all answers of the day, not only for the last one."""


def latest_answers(files: RecordFiles, day: str) -> Mapping[EvidenceKey, LatestAnswer]:
    """Returns the last answer on a UTC day (YYYY-MM-DD) of each combination of task, path, configuration and adapter
    version.
    """
    rows = files.query(_LATEST.format(decisions=files.table("decisions", day)))
    return {_key(key): LatestAnswer(*of) for key, *of in rows}


def _key(text: str) -> EvidenceKey:
    return EvidenceKey(*json.loads(text))


def _add(counts: Counts, key: EvidenceKey, more: Mapping[str, int]) -> None:
    sums = counts.setdefault(key, {})
    for name, number in more.items():
        if number:
            sums[name] = sums.get(name, 0) + number
