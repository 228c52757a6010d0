"""What lora-servers tell one another beside the desired state: who works on what, and which engine holds what."""

from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_lora_server.domain import EngineState, EngineStatus, Fleet
from pointsman_lora_server.registry import lease_scripts
from pointsman_lora_server.registry.layout import Layout


class Leases:
    """A lease is somebody's until it ends by itself: who dies holds nobody up for long."""

    def __init__(self, redis: BoundedRedis, layout: Layout) -> None:
        self._redis = redis
        self._layout = layout
        self._take = redis.client.register_script(lease_scripts.LEASE)
        self._release = redis.client.register_script(lease_scripts.RELEASE)

    async def take(self, what: str, owner: str, seconds: float) -> bool:
        """Whether `owner` has it now, for `seconds` from now on. Raises Unavailable."""
        keys, arguments = [self._layout.lease(what)], [owner, _milliseconds(seconds)]
        return bool(await self._redis.call(lambda: self._take(keys=keys, args=arguments)))

    async def release(self, what: str, owner: str) -> None:
        """Another's stays. Raises Unavailable."""
        await self._redis.call(lambda: self._release(keys=[self._layout.lease(what)], args=[owner]))


class Confirmations:
    def __init__(self, redis: BoundedRedis, layout: Layout) -> None:
        self._redis = redis
        self._keys = [layout.engines]
        self._confirm = redis.client.register_script(lease_scripts.CONFIRM)
        self._fleet = redis.client.register_script(lease_scripts.FLEET)
        self._holders = redis.client.register_script(lease_scripts.HOLDERS)

    async def confirm(self, engine: str, state: EngineState, seconds: float) -> None:
        """`engine` holds what `state` says, and is believed for `seconds`. Raises Unavailable."""
        is_up = "1" if state.status is EngineStatus.READY else ""
        arguments = [engine, " ".join(sorted(state.resident)), _milliseconds(seconds), is_up]
        await self._redis.call(lambda: self._confirm(keys=self._keys, args=arguments))

    async def fleet(self) -> Fleet:
        """Raises Unavailable."""
        told = list(await self._redis.call(lambda: self._fleet(keys=self._keys)))
        return Fleet({engine: frozenset(held.split()) for engine, held in zip(told[::2], told[1::2], strict=True)})

    async def holders(self, version: str) -> list[str]:
        """The engines that hold it, by name. Raises Unavailable."""
        return list(await self._redis.call(lambda: self._holders(keys=self._keys, args=[version])))


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1000))
