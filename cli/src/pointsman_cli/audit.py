"""`pointsman audit`: shows who has changed what, and from where."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from pointsman_servicekit.audit.entries import KINDS, AuditEntry

from pointsman_cli.errors import UsageError
from pointsman_cli.keys.command import age_in_seconds, run_on_keys
from pointsman_cli.options import DEFAULT_DATA_DIR, DataDirOption, JsonOption, RedisOption, print_json
from pointsman_cli.tables import print_table

MAX_ENTRIES = 10_000


def audit(
    since: Annotated[str, typer.Option(metavar="AGE", help="Changes of the last 90m, 24h, 7d, 8w.")] = "7d",
    kind: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND", help=f"Only changes of this kind; repeatable: {', '.join(KINDS)}."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MAX_ENTRIES, metavar="N", help="The most changes.")] = 100,
    as_json: JsonOption = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List administrative changes, the newest first: who, from where, before and after.

    They are changes of keys, limits, budgets, consents and aliases, and of the configuration with its prices and roles.
    """
    unknown = [one for one in kind or () if one not in KINDS]
    if unknown:
        raise UsageError(f"--kind is '{unknown[0]}'; it should be one of: {', '.join(KINDS)}")
    seconds = age_in_seconds(since)
    if not seconds:
        raise UsageError(f"--since is '{since}'; use an age (90m, 24h, 7d, 8w)")
    found = run_on_keys(redis, data_dir, lambda opened: opened.audit.read(seconds, kind or (), limit), "audit")
    if as_json:
        print_json([entry.as_fields() for entry in found])
    elif not found:
        typer.echo(f"no changes in the last {since}")
    else:
        columns = ("time (UTC)", "who", "where", "kind", "change", "what", "before", "after", "reason")
        shown = len(columns) if any(entry.reason for entry in found) else -1
        print_table(columns[:shown], [_row(entry)[:shown] for entry in found])


def _row(entry: AuditEntry) -> tuple[str, ...]:
    changed = entry.changed
    at = datetime.fromtimestamp(entry.unix_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    who = (entry.actor.name or "-", entry.actor.origin or "-")
    what = (changed.kind, changed.change, changed.subject)
    return (at, *who, *what, _text(changed.before), _text(changed.after), entry.reason)


def _text(values: Any) -> str:
    if values.keys() == {"is"}:
        return str(values["is"])
    return ", ".join(f"{name}: {_value(value)}" for name, value in values.items()) or "-"


def _value(value: Any) -> str:
    return value if isinstance(value, str) and value.isprintable() else json.dumps(value)
