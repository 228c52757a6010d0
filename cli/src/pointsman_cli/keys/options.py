"""What the commands on keys share: where keys are kept, and how limits, scopes and ends are written."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.keys.records import Limits

from pointsman_cli.data_dir import DataDir
from pointsman_cli.errors import UsageError
from pointsman_cli.options import redis_url

DEADLINE = 5.0
"""Seconds a call; a person waits, no request does."""
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


def changed(
    requests: int | None, tokens: int | None, concurrency: int | None, day: float | None, month: float | None
) -> dict[str, int | float | None]:
    """The limits that were named; 0 lifts one."""
    named = dict(zip(Limits.__dataclass_fields__, (requests, tokens, concurrency, day, month), strict=True))
    return {name: value or None for name, value in named.items() if value is not None}


def unix_end(text: str, now: float) -> float | None:
    """Of "30d" from now, or of "2027-01-31", the begin of that day (UTC); None of nothing. Raises Misused."""
    if not text:
        return None
    age = _AGE.fullmatch(text)
    if age and int(age[1]):
        return now + int(age[1]) * _SECONDS[age[2]]
    try:
        end = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UsageError(f"--expires is '{text}'; use an age (90m, 12h, 30d, 8w) or a date (2027-01-31)") from None
    if end <= now:
        raise UsageError(f"--expires is '{text}', which is in the past")
    return end


@asynccontextmanager
async def open_keys(named: str, data_dir: Path) -> AsyncIterator[BoundedRedis]:
    url = redis_url(named, DataDir.at(data_dir))
    if not url:
        raise UsageError("there is no Redis to keep keys in: nothing runs here, and no --redis was given")
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(url, lambda up: None, DEADLINE))
        except ValueError as error:
            raise UsageError(f"--redis is '{url}', which is no address of Redis: {error}") from error
        yield redis
