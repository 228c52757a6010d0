"""The Lua script numbers the windows of limits, and computes their ends, like `redis_layout.window_at` in Python."""

from datetime import UTC, datetime
from importlib import resources
from pathlib import Path

import redis.asyncio as redis
from pointsman_servicekit.keys.redis_layout import Window, window_at

from tests.gateway.doubles.valkey import Valkey

SCRIPT = Path(str(resources.files("pointsman_gateway"))) / "tenancy" / "lua" / "exchange_leases.lua"
MOMENTS = [
    datetime(year, month, day, *time, tzinfo=UTC)
    for year in (1970, 1999, 2000, 2024, 2026, 2100)
    for month, day in ((1, 1), (2, 28), (3, 1), (6, 30), (12, 31))
    for time in ((0, 0, 0), (23, 59, 59))
]
LEAP_DAYS = [datetime(2000, 2, 29, tzinfo=UTC), datetime(2024, 2, 29, 23, 59, 59, tzinfo=UTC)]


async def test_a_limit_has_the_same_window_in_lua(valkey: Valkey) -> None:
    text = SCRIPT.read_text("utf-8")
    functions = text[text.index("local function is_leap") : text.index("local function read_lease")]
    script = f"""
        local now, lease, DAY = tonumber(ARGV[2]), 0, 86400000
        {functions}
        return {{window_at(ARGV[1])}}
    """
    async with redis.from_url(valkey.url) as client:
        for moment in (*MOMENTS, *LEAP_DAYS):
            now = int(moment.timestamp() * 1000)
            for window in (Window.MINUTE, Window.DAY, Window.MONTH):
                found = await client.eval(script, 0, window.value, str(now))
                assert tuple(found) == window_at(window, now), (moment, window)
