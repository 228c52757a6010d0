"""Prints API keys, their usage and their budgets as tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from pointsman_servicekit.keys.administration import UsageRow
from pointsman_servicekit.keys.records import ALL_TASKS, KeyRecord, KeyScope, Limits, TenantRecord
from pointsman_servicekit.keys.redis_layout import COUNTERS, dollars

from pointsman_cli.tables import decimal_text, print_table

SHORT_LIMITS = {
    "requests_per_minute": "{} req/min",
    "tokens_per_minute": "{} tok/min",
    "concurrent_streams": "{} at once",
    "dollars_per_day": "${}/day",
    "dollars_per_month": "${}/month",
}
"""Formats for the limits of a key in tables, by their field of `Limits`; other limits are shown with their names."""


def show_keys(records: Sequence[KeyRecord], now: float) -> None:
    rows = []
    for record in records:
        created, expires = _day(record.created), _day(record.expires)
        cells = (record.prefix, record.name, record.tenant, record.state(now), created, expires, str(record.priority))
        rows.append((*cells, limits_text(record.limits), _rights(record), record.id))
    columns = ("prefix", "name", "tenant", "state", "created", "expires", "priority", "limits", "may use", "id")
    print_table(columns, rows)


def show_usage(spendings: Sequence[UsageRow]) -> None:
    rows = []
    for one in spendings:
        left = ", ".join(_limit_text(name, value) for name, value in one.left.items())
        who = f"{one.key.prefix} {one.key.name}".strip() if one.key else "all"
        for period, counts in (("today", one.today), ("month", one.month)):
            numbers = [f"{counts.get(name, 0):,}" for name in COUNTERS[:-1]]
            cells = (one.tenant.name, who, period, *numbers, f"{dollars(counts):.6f}", left)
            rows.append(cells)
            left = ""
    numbers_of = ("requests", "failed", "cancelled", "prompt", "cached", "answers", "dollars")
    print_table(("tenant", "key", "", *numbers_of, "left"), rows, right=numbers_of)


def show_budgets(budgets: Sequence[Mapping[str, Any]]) -> None:
    rows = []
    for one in budgets:
        share = f"{one['used_share']:.0%}" + (" nearly spent" if one["is_nearly_spent"] else "")
        budget, used = _limit_text(one["limit"], one["usd"]), f"${one['used_usd']:.6f}"
        rows.append((one["tenant"], one["key"] or "all", budget, used, share, _day(one["resets_unix"])))
    print_table(("tenant", "key", "budget", "used", "", "resets (UTC)"), rows)


def limits_text(limits: Limits) -> str:
    return ", ".join(_limit_text(name, value) for name, value in asdict(limits).items() if value) or "none"


def _limit_text(name: str, value: float) -> str:
    return SHORT_LIMITS.get(name, f"{{}} {name}").format(decimal_text(value))


def consent_text(tenant: TenantRecord) -> str:
    named = "all tasks" if ALL_TASKS in tenant.learning else ", ".join(tenant.learning)
    return f"answers of {named} may be learnt from" if named else "no answer may be learnt from"


def _rights(record: KeyRecord) -> str:
    return "; ".join([_scope(record.scope), *(flag for flag in ("operator", "admin") if getattr(record, flag))])


def _scope(scope: KeyScope) -> str:
    named = {name: names for name, names in asdict(scope).items() if names is not None}
    return "; ".join(f"{name}: {', '.join(names) or 'none'}" for name, names in named.items()) or "all"


def _day(unix_seconds: float | None) -> str:
    return "" if unix_seconds is None else datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M")
