"""The spending table of the console: requests, tokens and dollars by day, tenant, key, path and model."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from pointsman_gateway.domain import PICODOLLARS, Caller
from pointsman_gateway.domain.request import UNRESTRICTED
from pointsman_gateway.request_log import spending
from pointsman_gateway.request_log.redis_schema import last_days
from pointsman_gateway.request_log.spending import SpendingCounts, SpendingKey
from pointsman_gateway.request_log.store import RequestLogReader


@dataclass(frozen=True, slots=True)
class SpendingRow:
    day: str
    """The day in UTC, such as 2026-12-01."""
    tenant: str
    key: str
    """The id of the API key."""
    path: str
    """The name of the path; empty for embeddings and reranking."""
    model: str
    """The base model, adapter version, embedding model or reranker that answered; empty if no model did."""
    requests: int
    failed: int
    """Number of requests that failed or were cancelled."""
    prompt_tokens: int
    cached_tokens: int
    """Number of prompt tokens that were in the engine's prefix cache."""
    completion_tokens: int
    usd: float
    unknown_costs: int
    """Number of requests of which a part has no price, so that `usd` is too low."""


@dataclass(frozen=True, slots=True)
class Spending:
    days: list[str]
    """The days that were read, oldest first; the last one is today, which has not ended."""
    rows: list[SpendingRow]
    """The table's rows, ordered by day, tenant, key, path and model."""
    whole: bool
    """Whether the rows include all tenants, and not only the caller's tenant or key."""


async def read_spending(log: RequestLogReader, caller: Caller, days: int, *, keys: bool) -> Spending:
    """Returns the spending of the last `days` UTC days, today included, as far as the caller may see it.

    `keys` says whether the gateway requires API keys. If it does not, or if the caller is an admin, the rows are of all
    tenants. In all other cases they are of the caller's tenant or, if its key has a scope, of its key. Raises
    Unavailable if Redis does not answer.
    """
    whole = not keys or caller.is_admin
    names = last_days(days)[::-1]
    rows = [row for name in names for row in _rows(_as_date(name), await log.spending(name), None if whole else caller)]
    return Spending([_as_date(name) for name in names], rows, whole)


def _as_date(day: str) -> str:
    return f"{day[:4]}-{day[4:6]}-{day[6:]}"


def _rows(date: str, counts: SpendingCounts, caller: Caller | None) -> Iterable[SpendingRow]:
    """Yields the rows of a day that the caller may see; None sees all."""
    for key in sorted(counts):
        if caller is None or _may_see(caller, key):
            number = defaultdict(int, counts[key])
            yield SpendingRow(
                date,
                *key,
                requests=number[spending.REQUESTS],
                failed=number[spending.FAILED],
                prompt_tokens=number[spending.PROMPT_TOKENS],
                cached_tokens=number[spending.CACHED_TOKENS],
                completion_tokens=number[spending.COMPLETION_TOKENS],
                usd=number[spending.PICODOLLARS] / PICODOLLARS,
                unknown_costs=number[spending.UNKNOWN_COSTS],
            )


def _may_see(caller: Caller, key: SpendingKey) -> bool:
    return key.tenant == caller.tenant and (caller.scope is UNRESTRICTED or key.key == caller.key)
