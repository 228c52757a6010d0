"""`pointsman keys`: creates, lists, limits and revokes API keys in Redis; parses limits and expiry times."""

import re
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from pointsman_servicekit.audit.entries import Actor
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import InvalidArgument
from pointsman_servicekit.keys.administration import Administration, usage_as_json
from pointsman_servicekit.keys.key_store import IssuedKey, NewKey
from pointsman_servicekit.keys.records import (
    ALL_TASKS,
    Credential,
    KeyScope,
    Limits,
    TenantRecord,
    credential_of,
    digest_of,
)

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError, run_interruptibly
from pointsman_cli.keys.tables import consent_text, limits_text, show_budgets, show_keys, show_usage
from pointsman_cli.options import (
    DEFAULT_DATA_DIR,
    DataDirOption,
    JsonOption,
    RedisOption,
    author_name,
    print_json,
    redis_url,
)

T = TypeVar("T")

REDIS_TIMEOUT_SECONDS = 5.0
"""Timeout in seconds of a call to Redis by `pointsman keys`.

It is longer than the services' timeout, since no request of a client waits for this call.
"""
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,6})([mhdw])")

WhichArgument = Annotated[str, typer.Argument(metavar="KEY", help="Prefix or id of the key, as `keys list` shows it.")]
OnlyTenantOption = Annotated[
    str, typer.Option("--tenant", metavar="NAME", help="Only this tenant; default: all.", show_default=False)
]

RequestsOption = Annotated[int | None, typer.Option(metavar="N", help="Maximum requests per minute.")]
TokensOption = Annotated[int | None, typer.Option(metavar="N", help="Maximum tokens per minute, prompts and answers.")]
ConcurrencyOption = Annotated[int | None, typer.Option(metavar="N", help="Maximum concurrent requests.")]
DayOption = Annotated[float | None, typer.Option(metavar="USD", help="Budget per day (UTC).")]
MonthOption = Annotated[float | None, typer.Option(metavar="USD", help="Budget per month (UTC).")]

ScopeOption = Annotated[
    list[str] | None, typer.Option(metavar="NAME", help="Allow only this one; repeatable; default: all.")
]


def changed_limits(
    requests: int | None, tokens: int | None, concurrency: int | None, day: float | None, month: float | None
) -> dict[str, int | float | None]:
    """Returns the limits that the user gave as options, by their field of `Limits`.

    `requests` and `tokens` are per minute, `day` and `month` are in dollars. Options that were not given (None) are
    left out. An option of 0 removes the limit, and is None in the result.
    """
    named = dict(zip(Limits.__dataclass_fields__, (requests, tokens, concurrency, day, month), strict=True))
    return {name: value or None for name, value in named.items() if value is not None}


def expiry_time(text: str, now: float) -> float | None:
    """Returns the Unix time in seconds at which a key expires; None if `text` is empty.

    `text` is the time from now in minutes, hours, days or weeks ("90m", "12h", "30d", "8w"), or a date, of which 00:00
    UTC is taken ("2027-01-31"). `now` is in Unix seconds. Raises UsageError for any other text, or a date in the past.
    """
    if not text:
        return None
    age = age_in_seconds(text)
    if age:
        return now + age
    try:
        end = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UsageError(f"--expires is '{text}'; use an age (90m, 12h, 30d, 8w) or a date (2027-01-31)") from None
    if end <= now:
        raise UsageError(f"--expires is '{text}', which is in the past")
    return end


def age_in_seconds(text: str) -> int:
    """Converts an age such as "90m", "12h", "30d" or "8w" to seconds; returns 0 for any text that is not an age."""
    age = _AGE.fullmatch(text)
    return int(age[1]) * _SECONDS[age[2]] if age else 0


def run_on_keys(redis: str, data_dir: Path, work: Callable[[Administration], Awaitable[T]], command: str = "keys") -> T:
    """Calls `work` with the administration of the API keys in Redis, and returns the result of `work`.

    The audit log names the user of this process, the machine and the `command`. `redis` is the URL of Redis; if it is
    empty, the URL of the running `pointsman up` is used. Raises UsageError if there is no URL or it is invalid,
    Interrupted on Ctrl-C, and what `work` raises, such as Unavailable.
    """
    url = redis_url(redis, DataDir.at(data_dir))
    if not url:
        raise UsageError(
            "there is no Redis to keep keys in; start `pointsman up FOLDER` here, or name one with --redis "
            "redis://HOST:PORT/0"
        )

    async def run() -> T:
        async with AsyncExitStack() as stack:
            try:
                opened = await stack.enter_async_context(open_redis(url, lambda up: None, REDIS_TIMEOUT_SECONDS))
            except ValueError as error:
                raise UsageError(f"--redis is '{url}', which is no address of Redis: {error}") from error
            actor = Actor(author_name(""), f"{socket.gethostname()} (pointsman {command})")
            return await work(Administration(opened, actor=actor))

    return run_interruptibly(run())


def build_app() -> typer.Typer:
    app = typer.Typer(
        help="Create API keys, set limits and budgets, and show usage.",
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    app.command("list")(list_keys)
    for command in (create, limit, consent, revoke, usage, budgets):
        app.command()(command)
    return app


def create(
    tenant: Annotated[str, typer.Option(metavar="NAME", help="The tenant of the key; created if new.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="A name for people to read.")] = "",
    task: ScopeOption = None,
    path: ScopeOption = None,
    adapter: ScopeOption = None,
    collection: ScopeOption = None,
    embedding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Allow this embedding model; repeatable; default: all, or none with another scope."
        ),
    ] = None,
    reranker: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Allow this reranker, as --embedding does.")
    ] = None,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    max_concurrency: ConcurrencyOption = None,
    dollars_per_day: DayOption = None,
    dollars_per_month: MonthOption = None,
    priority: Annotated[int, typer.Option(help="Keys with higher priority are served first under overload.")] = 0,
    expires: Annotated[
        str, typer.Option(metavar="WHEN", help="After an age (12h, 30d, 8w) or on a date (2027-01-31, UTC).")
    ] = "",
    operator: Annotated[
        bool, typer.Option("--operator", help="Also allow to move adapter aliases and to send evaluations.")
    ] = False,
    admin: Annotated[
        bool, typer.Option("--admin", help="Also allow the admin API: keys and limits of all tenants, configuration.")
    ] = False,
    key_file: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Use the key in this file. If it exists already, nothing is changed."),
    ] = None,
    as_json: JsonOption = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Create an API key and print it. Only its digest is stored, so it cannot be shown again.

    Without limits, only the limits of its tenant apply. Without scopes (--task, --path, ...), it may use everything. A
    key that --key-file contains already is not printed.
    """
    given = (requests_per_minute, tokens_per_minute, max_concurrency, dollars_per_day, dollars_per_month)
    limits = Limits(*given)
    given_names = (task, path, adapter, collection, embedding, reranker)
    scope = KeyScope(*(tuple(names) if names else None for names in given_names))
    credential = _read_credential(key_file) if key_file else None
    until = expiry_time(expires, time.time())
    new_key = NewKey(tenant, name, scope, limits, priority, until, operator, admin, credential)

    async def make(opened: Administration) -> tuple[str, dict[str, Any]]:
        store = opened.keys
        known = await store.by_digest(digest_of(credential.text)) if credential else None
        issued = IssuedKey(credential, known) if credential and known else await store.create(new_key)
        return issued.credential.text, opened.keys_as_json([issued.record])[0]

    key, described = run_on_keys(redis, data_dir, make)
    if credential:
        typer.echo(f"{described['id']} of tenant {described['tenant']} is the key in {key_file}")
        return
    if as_json:
        print_json({"key": key, **described})
        return
    typer.echo(key)
    typer.echo(f"{described['id']} of tenant {tenant}; this is the only time that the key is shown", err=True)


def _read_credential(file: Path) -> Credential:
    try:
        return credential_of(file.read_text("utf-8").strip())
    except (OSError, ValueError, InvalidArgument) as error:
        raise UsageError(f"--key-file {file}: {getattr(error, 'strerror', None) or error}") from error


def list_keys(
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """List the API keys (oldest first) with their limits and scopes, without the secrets."""

    async def read(opened: Administration) -> None:
        records = await opened.list_keys(tenant)
        if as_json:
            print_json(opened.keys_as_json(records))
        else:
            show_keys(records, time.time())

    run_on_keys(redis, data_dir, read)


def limit(
    key: Annotated[str, typer.Argument(metavar="[KEY]", help="Prefix or id of the key; or give --tenant.")] = "",
    tenant: Annotated[
        str, typer.Option(metavar="NAME", help="Set the limits of all keys of this tenant together.")
    ] = "",
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    max_concurrency: ConcurrencyOption = None,
    dollars_per_day: DayOption = None,
    dollars_per_month: MonthOption = None,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Change limits of an API key or a tenant. 0 removes a limit; limits that are not given do not change."""
    if bool(key) == bool(tenant):
        raise UsageError("give either a key or --tenant")
    named = changed_limits(requests_per_minute, tokens_per_minute, max_concurrency, dollars_per_day, dollars_per_month)
    if not named:
        raise UsageError("give a limit to change, such as --requests-per-minute 60")

    record = run_on_keys(redis, data_dir, lambda opened: opened.change_limits(named, key, tenant))
    whose = f"tenant {record.name}" if isinstance(record, TenantRecord) else f"key {record.prefix} {record.name}"
    typer.echo(f"{whose.strip()}: {limits_text(record.limits)}")


def consent(
    tenant: Annotated[str, typer.Argument(metavar="TENANT", help="The tenant; created if new.")],
    task: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Consent for this task; repeatable.")] = None,
    all_tasks: Annotated[bool, typer.Option("--all", help="Consent for every task.")] = False,
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Withdraw all consent.")] = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Set the tasks whose answers a tenant allows to store and to train on; replaces the earlier setting.

    Without consent, no answer is stored. After a withdrawal, the next build of a data set removes stored answers.
    """
    if bool(task) + all_tasks + withdraw != 1:
        raise UsageError("give --task (repeatable), --all or --withdraw")
    tasks = [ALL_TASKS] if all_tasks else task or []
    record = run_on_keys(redis, data_dir, lambda opened: opened.keys.consent(tenant, tasks))
    typer.echo(f"tenant {tenant}: {consent_text(record)}")


def revoke(key: WhichArgument, redis: RedisOption = "", data_dir: DataDirOption = DEFAULT_DATA_DIR) -> None:
    """Revoke an API key: gateways that reach Redis reject it within a second."""
    record = run_on_keys(redis, data_dir, lambda opened: opened.keys.revoke(key))
    typer.echo(f"{record.prefix} {record.name}".strip() + f" of tenant {record.tenant} is revoked")


def usage(
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show usage of tenants and keys today and this month (UTC), and what is left of their limits."""
    rows = run_on_keys(redis, data_dir, lambda opened: opened.usage(tenant))
    if as_json:
        print_json(usage_as_json(rows))
    else:
        show_usage(rows)


def budgets(
    tenant: OnlyTenantOption = "",
    as_json: JsonOption = False,
    redis: RedisOption = "",
    data_dir: DataDirOption = DEFAULT_DATA_DIR,
) -> None:
    """Show the budgets in dollars of tenants and keys, and how much of each is used."""
    found = run_on_keys(redis, data_dir, lambda opened: opened.budgets(tenant))
    if as_json:
        print_json(found)
    else:
        show_budgets(found)
