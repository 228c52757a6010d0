"""`pointsman audit`: lists administrative changes, such as new API keys, with their authors and network addresses."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman_servicekit.audit.entries import KINDS, AuditEntry, from_json

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.keys.command import age_in_seconds, run_on_keys
from pointsman_cli.lab_process import LabJob, lab_facts
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    JsonOption,
    RecordsOption,
    RedisOption,
    log_arguments,
    print_json,
)
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
    records: RecordsOption = "",
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List administrative changes, newest first: who made each, from which address, and the values before and after.

    Administrative changes are those of API keys, limits, budgets, consents, adapter aliases, and of the configuration
    with its prices and roles.
    """
    unknown = [one for one in kind or () if one not in KINDS]
    if unknown:
        raise UsageError(f"--kind is '{unknown[0]}'; it should be one of: {', '.join(KINDS)}")
    seconds = age_in_seconds(since)
    if not seconds:
        raise UsageError(f"--since is '{since}'; use an age (90m, 24h, 7d, 8w)")
    if records:
        found = _exported(log_arguments(redis, records, DataDir.at(data_dir)), since, kind or (), limit, data_dir)
    else:
        found = run_on_keys(redis, data_dir, lambda opened: opened.audit.read(seconds, kind or (), limit), "audit")
    if as_json:
        print_json([entry.as_fields() for entry in found])
    elif not found:
        typer.echo(f"no changes in the last {since}")
    else:
        columns = ("time (UTC)", "who", "where", "kind", "change", "what", "before", "after", "reason")
        shown = len(columns) if any(entry.reason for entry in found) else -1
        print_table(columns[:shown], [_row(entry)[:shown] for entry in found])


def _exported(source: Sequence[str], since: str, kinds: Sequence[str], limit: int, data_dir: Path) -> list[AuditEntry]:
    """Returns the changes in exported request-log records, read by the lab; `source` is its options for the log."""
    arguments = ["audit", "--since", since, "--limit", str(limit), *source]
    arguments += [argument for kind in kinds for argument in ("--kind", kind)]
    job = LabJob(arguments, DataDir.at(data_dir), as_json=True, needs_model=False)
    changes = run_interruptibly(lab_facts(job))["changes"]
    return [from_json(json.dumps(change), change["unix_ms"]) for change in changes]


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
