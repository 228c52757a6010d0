"""Opens connections to Redis, and tracks which of them are up."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis

from pointsman_gateway.config.field_types import ConfigError


class RedisState:
    """Tracks whether all connections to one Redis are up, for the metric and the health check."""

    def __init__(self, report: Callable[[bool], None] = lambda up: None) -> None:
        """Takes `report`, which is called at each change of a connection with whether all are up."""
        self._report = report
        self._down: set[str] = set()

    def set_up(self, connection: str, up: bool) -> None:
        (self._down.discard if up else self._down.add)(connection)
        self._report(not self._down)


async def connect(stack: AsyncExitStack, url: str, setting: str, set_up: Callable[[bool], None]) -> BoundedRedis:
    """Opens Redis until the stack is closed; `set_up` is called with whether it is reachable.

    Raises ConfigError if the URL, that of the setting POINTSMAN_GATEWAY_`setting`, is invalid; does not wait for Redis.
    """
    try:
        return await stack.enter_async_context(open_redis(url, set_up))
    except ValueError as error:
        raise ConfigError(f"POINTSMAN_GATEWAY_{setting} is no address of Redis: {error}") from error
