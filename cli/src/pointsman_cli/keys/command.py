"""`pointsman keys`: create, list, limit, consent, revoke, usage."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from pointsman_servicekit.keys.layout import WHOLE_TENANT
from pointsman_servicekit.keys.records import ALL_TASKS, KeyRecord, KeyScope, Limits, TenantRecord
from pointsman_servicekit.keys.register import Issued, Order, Register
from pointsman_servicekit.keys.usage import UsageBook, add

from pointsman_cli.errors import Misused
from pointsman_cli.interrupts import run_interruptibly
from pointsman_cli.keys import pages
from pointsman_cli.keys.options import (
    DayOption,
    JsonOption,
    MonthOption,
    RedisOption,
    RequestsOption,
    StreamsOption,
    TenantOption,
    TokensOption,
    WhichArgument,
    changed,
    open_keys,
    unix_end,
)
from pointsman_cli.keys.pages import Spending
from pointsman_cli.options import HomeOption

HERE = Path(".pointsman")

ScopeOption = Annotated[list[str] | None, typer.Option(metavar="NAME", help="May be given again; else all.")]


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Say who may use the gateway and how much; see what they have used.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("list")(list_keys)
    for command in (create, limit, consent, revoke, usage):
        app.command()(command)
    return app


def create(
    tenant: Annotated[str, typer.Option(metavar="NAME", help="Whose it is; made where it is new.")],
    name: Annotated[str, typer.Argument(help="What it is for, for people to read.")] = "",
    task: ScopeOption = None,
    path: ScopeOption = None,
    adapter: ScopeOption = None,
    collection: ScopeOption = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    streams: StreamsOption = None,
    dollars_per_day: DayOption = None,
    dollars_per_month: MonthOption = None,
    priority: Annotated[int, typer.Option(help="The higher goes first where not all can be served.")] = 0,
    expires: Annotated[str, typer.Option(metavar="WHEN", help="In 12h, 30d or 8w; or on 2027-01-31 (UTC).")] = "",
    operator: Annotated[bool, typer.Option("--operator", help="It may also move adapters in the console.")] = False,
    as_json: JsonOption = False,
    redis: RedisOption = "",
    home: HomeOption = HERE,
) -> None:
    """Make a key and print it, this once: what is kept is its digest, so it cannot be shown again.

    Without a limit or a scope it is bound by its tenant's limits alone, and may use everything.
    """
    given = (requests_per_minute, tokens_per_minute, streams, dollars_per_day, dollars_per_month)
    limits = Limits(*given)
    scope = KeyScope(*(tuple(names) if names else None for names in (task, path, adapter, collection)))
    order = Order(tenant, name, scope, limits, priority, unix_end(expires, time.time()), operator)

    async def make() -> Issued:
        async with open_keys(redis, home) as opened:
            return await Register(opened).create(order)

    issued = run_interruptibly(make())
    if as_json:
        (described,) = pages.keys_as_json([issued.record], time.time())
        _print_json({"key": issued.credential.text, **described})
        return
    typer.echo(issued.credential.text)
    typer.echo(f"{issued.record.id} of tenant {tenant}; this is the only time that the key is shown", err=True)


def list_keys(
    tenant: TenantOption = "", as_json: JsonOption = False, redis: RedisOption = "", home: HomeOption = HERE
) -> None:
    """Show the keys, oldest first, with their limits and what they may use; never the secrets."""

    async def read() -> list[KeyRecord]:
        async with open_keys(redis, home) as opened:
            return [record for record in await Register(opened).keys() if tenant in ("", record.tenant)]

    records, now = run_interruptibly(read()), time.time()
    if as_json:
        _print_json(pages.keys_as_json(records, now))
    else:
        pages.show_keys(records, now)


def limit(
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Its prefix or its id; or --tenant.")] = "",
    tenant: Annotated[str, typer.Option(metavar="NAME", help="For all keys of this tenant together.")] = "",
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    streams: StreamsOption = None,
    dollars_per_day: DayOption = None,
    dollars_per_month: MonthOption = None,
    redis: RedisOption = "",
    home: HomeOption = HERE,
) -> None:
    """Change limits of a key, or of a tenant; 0 lifts one. What is not named stays as it is."""
    if bool(key) == bool(tenant):
        raise Misused("name a key or a --tenant, one of them")
    named = changed(requests_per_minute, tokens_per_minute, streams, dollars_per_day, dollars_per_month)
    if not named:
        raise Misused("name a limit to change, such as --requests-per-minute 60")

    def change(limits: Limits) -> Limits:
        return replace(limits, **named)  # type: ignore[arg-type]  # by name; Limits checks the values

    async def put() -> KeyRecord | TenantRecord:
        async with open_keys(redis, home) as opened:
            register = Register(opened)
            return await (register.limit_tenant(tenant, change) if tenant else register.limit_key(key, change))

    record = run_interruptibly(put())
    whose = f"tenant {record.name}" if isinstance(record, TenantRecord) else f"key {record.prefix} {record.name}"
    typer.echo(f"{whose.strip()}: {pages.limits_in_words(record.limits)}")


def consent(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="Whose answers they are; made where it is new.")],
    task: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="May be learnt from; may be given again.")
    ] = None,
    all_tasks: Annotated[bool, typer.Option("--all", help="Of every task.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Of none any more.")] = False,
    redis: RedisOption = "",
    home: HomeOption = HERE,
) -> None:
    """Say of which tasks a tenant's answers may be kept and learnt from, in place of what was said before.

    Without a word nothing of a tenant's is kept. What was kept before a withdrawal goes with the next data set.
    """
    if bool(task) + all_tasks + withdraw != 1:
        raise Misused("name each --task, or say --all or --withdraw, one of them")
    tasks = [ALL_TASKS] if all_tasks else task or []

    async def put() -> TenantRecord:
        async with open_keys(redis, home) as opened:
            return await Register(opened).consent(tenant, tasks)

    typer.echo(f"tenant {tenant}: {pages.consent_in_words(run_interruptibly(put()))}")


def revoke(key: WhichArgument, redis: RedisOption = "", home: HomeOption = HERE) -> None:
    """Take a key back: within a second no gateway that reaches Redis lets it in."""

    async def put() -> KeyRecord:
        async with open_keys(redis, home) as opened:
            return await Register(opened).revoke(key)

    record = run_interruptibly(put())
    typer.echo(f"{record.prefix} {record.name}".strip() + f" of tenant {record.tenant} is revoked")


def usage(
    tenant: TenantOption = "", as_json: JsonOption = False, redis: RedisOption = "", home: HomeOption = HERE
) -> None:
    """Show what tenants and their keys have used today and this month (UTC), and what is left of their limits."""

    async def read() -> list[Spending]:
        async with open_keys(redis, home) as opened:
            return await _spendings(Register(opened), UsageBook(opened), tenant)

    spendings = run_interruptibly(read())
    if as_json:
        _print_json(pages.usage_as_json(spendings))
    else:
        pages.show_usage(spendings)


async def _spendings(register: Register, book: UsageBook, only: str) -> list[Spending]:
    """Of each tenant, and then of its keys."""
    used, records = await book.read(), await register.keys()
    found = []
    for name, tenant in (await register.tenants()).items():
        if only not in ("", name):
            continue
        today, month = (
            [counts for who, counts in period.items() if who[0] == name] for period in (used.today, used.month)
        )
        left = await book.left(name, WHOLE_TENANT, tenant.limits)
        found.append(Spending(tenant, None, add(today), add(month), left))
        for record in records:
            if record.tenant == name:
                who = (name, record.id)
                left = await book.left(name, record.id, record.limits)
                found.append(Spending(tenant, record, used.today.get(who, {}), used.month.get(who, {}), left))
    return found


def _print_json(what: Any) -> None:
    typer.echo(json.dumps(what, indent=2, ensure_ascii=False))
