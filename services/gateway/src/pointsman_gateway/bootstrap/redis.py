"""Opens connections to Redis, and tracks whether all of them work."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis

from pointsman_gateway.config.field_types import ConfigError


class RedisState:
    """Tracks whether all of the gateway's connections to Redis work, for a metric and the health check."""

    def __init__(self, report: Callable[[bool], None] = lambda up: None) -> None:
        """Takes `report`, which is called after each `set_up`: with True if all connections work, otherwise False."""
        self._report = report
        self._down: set[str] = set()

    def set_up(self, connection: str, up: bool) -> None:
        (self._down.discard if up else self._down.add)(connection)
        self._report(not self._down)


async def connect(stack: AsyncExitStack, url: str, setting: str, set_up: Callable[[bool], None]) -> BoundedRedis:
    """Returns a Redis client for `url`, which is closed with `stack`. The function raises no error if Redis is
    unreachable.

    The client calls `set_up` with True when Redis becomes reachable, and with False when it becomes unreachable.
    `setting` is the end of the setting's name (POINTSMAN_GATEWAY_`setting`) for the error message. Raises ConfigError
    if the URL is invalid.
    """
    try:
        return await stack.enter_async_context(open_redis(url, set_up))
    except ValueError as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_{setting} is no address of Redis: {error}") from error
