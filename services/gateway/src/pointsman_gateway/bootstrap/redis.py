"""Opens connections to Redis, and tracks whether all of them work."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis

from pointsman_gateway.config.field_types import ConfigError


class RedisState:
    """Tracks whether all connections to one Redis work, for a metric and the health check."""

    def __init__(self, report: Callable[[bool], None] = lambda up: None) -> None:
        """Takes `report`, which `set_up` calls with whether all connections work now."""
        self._report = report
        self._down: set[str] = set()

    def set_up(self, connection: str, up: bool) -> None:
        (self._down.discard if up else self._down.add)(connection)
        self._report(not self._down)


async def connect(stack: AsyncExitStack, url: str, setting: str, set_up: Callable[[bool], None]) -> BoundedRedis:
    """Opens a connection to Redis until `stack` is closed; `set_up` is called with whether Redis can be reached.

    Raises ConfigError if the URL is invalid; the message names the setting POINTSMAN_GATEWAY_`setting`. An outage of
    Redis is no error.
    """
    try:
        return await stack.enter_async_context(open_redis(url, set_up))
    except ValueError as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_{setting} is no address of Redis: {error}") from error
