"""Shows keys and their usage, as tables and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pointsman_servicekit.keys.records import ALL_TASKS, KeyRecord, KeyScope, Limits, TenantRecord
from pointsman_servicekit.keys.redis_layout import COUNTERS, Counts, dollars
from rich.table import Table
from rich.text import Text

from pointsman_cli.options import table_console

_SHORT = {
    "requests_per_minute": "{:g} req/min",
    "tokens_per_minute": "{:g} tok/min",
    "concurrent_streams": "{:g} at once",
    "dollars_per_day": "${:g}/day",
    "dollars_per_month": "${:g}/month",
}


@dataclass(frozen=True, slots=True)
class UsageRow:
    """Usage of a key, or of a tenant if `key` is None."""

    tenant: TenantRecord
    key: KeyRecord | None
    today: Counts
    month: Counts
    left: Mapping[str, float]


def keys_as_json(records: Sequence[KeyRecord], now: float) -> list[dict[str, Any]]:
    return [{**_without_digest(record), "state": record.state(now)} for record in records]


def usage_as_json(spendings: Sequence[UsageRow]) -> list[dict[str, Any]]:
    return [
        {
            "tenant": one.tenant.name,
            "key": _without_digest(one.key) if one.key else None,
            "today": _counts(one.today),
            "month": _counts(one.month),
            "limits": asdict(one.key.limits if one.key else one.tenant.limits),
            "left": dict(one.left),
        }
        for one in spendings
    ]


def show_keys(records: Sequence[KeyRecord], now: float) -> None:
    table = _table("prefix", "name", "tenant", "state", "created", "expires", "priority", "limits", "may use", "id")
    for record in records:
        created, expires = _day(record.created), _day(record.expires)
        cells = (record.prefix, record.name, record.tenant, record.state(now), created, expires, str(record.priority))
        table.add_row(*map(Text, (*cells, limits_text(record.limits), _rights(record), record.id)))
    _print(table)


def show_usage(spendings: Sequence[UsageRow]) -> None:
    table = _table(
        "tenant", "key", "", "requests", "failed", "cancelled", "prompt", "cached", "answers", "dollars", "left"
    )
    for one in spendings:
        left = ", ".join(_SHORT[name].format(value) for name, value in one.left.items())
        who = f"{one.key.prefix} {one.key.name}".strip() if one.key else "all"
        for period, counts in (("today", one.today), ("month", one.month)):
            numbers = [f"{counts.get(name, 0):,}" for name in COUNTERS[:-1]]
            cells = (one.tenant.name, who, period, *numbers, f"{dollars(counts):.6f}", left)
            table.add_row(*map(Text, cells))
            left = ""
    _print(table)


def _without_digest(record: KeyRecord) -> dict[str, Any]:
    return {name: value for name, value in asdict(record).items() if name != "digest"}


def _counts(counts: Counts) -> dict[str, Any]:
    return {name: counts.get(name, 0) for name in COUNTERS} | {"dollars": dollars(counts)}


def limits_text(limits: Limits) -> str:
    return ", ".join(_SHORT[name].format(value) for name, value in asdict(limits).items() if value) or "none"


def consent_text(tenant: TenantRecord) -> str:
    named = "all tasks" if ALL_TASKS in tenant.learning else ", ".join(tenant.learning)
    return f"answers of {named} may be learnt from" if named else "no answer may be learnt from"


def _rights(record: KeyRecord) -> str:
    return _scope(record.scope) + ("; operator" if record.operator else "")


def _scope(scope: KeyScope) -> str:
    named = {name: names for name, names in asdict(scope).items() if names is not None}
    return "; ".join(f"{name}: {', '.join(names) or 'none'}" for name, names in named.items()) or "all"


def _day(unix_seconds: float | None) -> str:
    return "" if unix_seconds is None else datetime.fromtimestamp(unix_seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _table(*columns: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _print(table: Table) -> None:
    table_console().print(table)
