"""What the commands on keys share: where keys are kept, and how limits, scopes and ends are written."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from pointsman_servicekit.keys.records import Limits
from pointsman_servicekit.prompt_redis import PromptRedis, open_redis

from pointsman_cli.classifier.workbench import redis_of
from pointsman_cli.errors import Misused
from pointsman_cli.home import Home

DEADLINE = 5.0
"""Seconds a call; a person waits, no request does."""
_SECONDS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGE = re.compile(r"(\d{1,6})([mhdw])")

RedisOption = Annotated[
    str, typer.Option(metavar="URL", help="Where keys are kept; else the Redis of the running `pointsman up`.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print it as JSON.")]
WhichArgument = Annotated[str, typer.Argument(metavar="KEY", help="Its prefix or its id, as `list` shows them.")]
TenantOption = Annotated[str, typer.Option(metavar="NAME", help="Only this tenant.")]

RequestsOption = Annotated[int | None, typer.Option(metavar="N", help="Requests a minute.")]
TokensOption = Annotated[int | None, typer.Option(metavar="N", help="Tokens a minute, of prompts and answers.")]
StreamsOption = Annotated[int | None, typer.Option(metavar="N", help="Requests at once.")]
DayOption = Annotated[float | None, typer.Option(metavar="USD", help="Dollars a day (UTC).")]
MonthOption = Annotated[float | None, typer.Option(metavar="USD", help="Dollars a month (UTC).")]


def changed(
    requests: int | None, tokens: int | None, streams: int | None, day: float | None, month: float | None
) -> dict[str, int | float | None]:
    """The limits that were named; 0 lifts one."""
    named = dict(zip(Limits.__dataclass_fields__, (requests, tokens, streams, day, month), strict=True))
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
        raise Misused(f"--expires is '{text}'; write an age (90m, 12h, 30d, 8w) or a date (2027-01-31)") from None
    if end <= now:
        raise Misused(f"--expires is '{text}', which is past")
    return end


@asynccontextmanager
async def open_keys(named: str, home: Path) -> AsyncIterator[PromptRedis]:
    url = redis_of(named, Home.at(home))
    if not url:
        raise Misused("there is no Redis to keep keys in: nothing runs here, and no --redis was given")
    async with AsyncExitStack() as stack:
        try:
            redis = await stack.enter_async_context(open_redis(url, lambda up: None, DEADLINE))
        except ValueError as error:
            raise Misused(f"--redis is '{url}', which is no address of Redis: {error}") from error
        yield redis
