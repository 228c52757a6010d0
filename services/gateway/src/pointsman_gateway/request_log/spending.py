"""Spending: the numbers of requests, tokens and dollars by UTC day, tenant, API key, path and model.

A gateway writes the spending of requests to Redis in the batch that has their log entries. Each request is therefore
counted once, even if a batch is lost or repeated, or a write-ahead log is recovered.
"""

import json
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from pointsman_gateway.domain import Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.domain.outcome import OK, ROUTED
from pointsman_gateway.domain.value import UNPRICED

REQUESTS, FAILED, UNKNOWN_COSTS = "requests", "failed", "unknown_costs"
PROMPT_TOKENS, CACHED_TOKENS, COMPLETION_TOKENS = "prompt_tokens", "cached_tokens", "completion_tokens"
PICODOLLARS = "picodollars"
COUNTS = (REQUESTS, FAILED, UNKNOWN_COSTS, PROMPT_TOKENS, CACHED_TOKENS, COMPLETION_TOKENS, PICODOLLARS)
"""The names of the counts. `UNKNOWN_COSTS` counts requests with a part that has no price. `FAILED` includes cancelled
requests, and `PROMPT_TOKENS` includes `CACHED_TOKENS`."""

DAYS_KEPT = 100
"""Days for which Redis keeps a day's spending."""


class SpendingKey(NamedTuple):
    tenant: str
    """The caller's tenant; empty without authentication."""
    key: str
    """The id of the caller's API key; empty without authentication."""
    path: str
    """The name of the path; empty for embeddings and reranking, and for requests that ended before a path was
    chosen."""
    model: str
    """The base model or adapter version that answered, or the embedding model or reranker; empty if no model did."""

    def __str__(self) -> str:
        return _to_json(self)


@lru_cache(maxsize=4096)
def _to_json(key: SpendingKey) -> str:
    return json.dumps(key, separators=(",", ":"))


SpendingCounts = dict[SpendingKey, dict[str, int]]
"""Whole numbers by spending key, and then by the name of the count (one of `COUNTS`). Counts of 0 are left out."""


class SpendingCharge(NamedTuple):
    """The amounts that one request adds to the spending of `day` (YYYYMMDD, UTC), as pairs of a count's name and a
    number.
    """

    key: SpendingKey
    day: str
    counts: tuple[tuple[str, int], ...]


def charge_of(request: Request, receipt: Receipt, day: str) -> SpendingCharge | None:
    """Returns what a request adds to the spending on `day` (YYYYMMDD, UTC); None if it asked only which path would
    be chosen, which costs nothing.
    """
    if receipt.outcome == ROUTED:
        return None
    key = SpendingKey(request.caller.tenant, request.caller.key, receipt.decision.path.name, receipt.model)
    return SpendingCharge(key, day, _counts(receipt.outcome, receipt.usage, receipt.picodollars))


def charge_of_undecided(receipt: UndecidedReceipt, day: str) -> SpendingCharge | None:
    """Returns what a request without a chosen path, such as for embeddings, adds to the spending on `day`
    (YYYYMMDD, UTC); None if it used nothing, such as a rejected request.
    """
    if not receipt.picodollars and not receipt.usage.prompt_tokens:
        return None
    key = SpendingKey(receipt.caller.tenant, receipt.caller.key, "", receipt.model)
    return SpendingCharge(key, day, _counts(receipt.outcome, receipt.usage, receipt.picodollars))


def _counts(outcome: str, usage: Usage, picodollars: Mapping[str, int]) -> tuple[tuple[str, int], ...]:
    return (
        (REQUESTS, 1),
        (FAILED, outcome != OK),
        (UNKNOWN_COSTS, UNPRICED in picodollars),
        (PROMPT_TOKENS, usage.prompt_tokens),
        (CACHED_TOKENS, usage.cached_tokens),
        (COMPLETION_TOKENS, usage.completion_tokens),
        (PICODOLLARS, sum(picodollars.values())),
    )


def add_charges(days: dict[str, SpendingCounts], charges: Iterable[SpendingCharge | None]) -> None:
    """Adds each charge to the sums in `days`, which are by day (YYYYMMDD, UTC); None is skipped."""
    for charge in charges:
        if charge is None:
            continue
        sums = days.setdefault(charge.day, {}).setdefault(charge.key, {})
        for name, number in charge.counts:
            if number:
                sums[name] = sums.get(name, 0) + int(number)


def to_fields(counts: SpendingCounts) -> dict[str, int]:
    """Converts sums of spending to the fields of a Redis hash: each field's name is the key as JSON, followed by
    the name of the count.
    """
    return {str(key) + name: number for key, sums in counts.items() for name, number in sums.items()}


def from_fields(fields: Mapping[str, str]) -> tuple[SpendingCounts, list[str]]:
    """Parses the fields of a Redis hash. Returns the sums of spending, and the names of fields that cannot be
    parsed.
    """
    counts: SpendingCounts = {}
    unreadable = []
    for field, text in fields.items():
        key, bracket, name = field.rpartition("]")
        try:
            tenant, credential, path, model = json.loads(key + bracket)
            number = int(text)
            if name not in COUNTS or not all(isinstance(part, str) for part in (tenant, credential, path, model)):
                raise ValueError("it is no count of spending")
        except (ValueError, TypeError, RecursionError):
            unreadable.append(field)
            continue
        counts.setdefault(SpendingKey(tenant, credential, path, model), {})[name] = number
    return counts, unreadable
