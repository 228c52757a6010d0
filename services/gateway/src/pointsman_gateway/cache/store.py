"""The answers in Redis: those of one tenant are together, and bounded together."""

from collections.abc import Awaitable
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.bounded_redis import BoundedRedis

from pointsman_gateway.cache.asked import Asked
from pointsman_gateway.cache.neighbours import MOST, Question, read_question, write_vector
from pointsman_gateway.cache.script import KEEP
from pointsman_gateway.domain import Vector

MOST_BYTES = 64 * 1024 * 1024
"""Of the answers of one tenant; beyond it those go first that would soon go by themselves."""


@dataclass(frozen=True, slots=True)
class Found:
    whole: str | None
    news: tuple[Question, ...] = ()
    """Of the questions that are alike."""


class CacheStore:
    """Each method raises Unavailable ("redis_unavailable") where Redis does not answer in time."""

    def __init__(self, redis: BoundedRedis, most_bytes: int = MOST_BYTES) -> None:
        self._redis = redis
        self._most_bytes = most_bytes
        self._keep = redis.client.register_script(KEEP)

    async def look(self, asked: Asked, after: str) -> Found:
        """The very answer, and what is new after `after` among the questions that are alike: one round trip."""
        if not asked.near:
            return Found(await self.read(asked.tenant, asked.exact))

        def both() -> Awaitable[Any]:
            pipeline = self._redis.client.pipeline(transaction=False)
            pipeline.get(_answer(asked.tenant, asked.exact))
            pipeline.xrange(_near(asked.tenant, asked.near), min=f"({after}" if after else "-", count=MOST)
            running: Awaitable[Any] = pipeline.execute()
            return running

        whole, news = await self._redis.call(both)
        read = (read_question(place, fields) for place, fields in news)
        return Found(whole, tuple(question for question in read if question is not None))

    async def read(self, tenant: str, digest: str) -> str | None:
        found: str | None = await self._redis.call(lambda: self._redis.client.get(_answer(tenant, digest)))
        return found

    async def keep(self, asked: Asked, whole: str, ttl_seconds: int, vector: Vector | None) -> None:
        """For so long; with a vector also as an answer to questions that are alike."""
        near = asked.near if vector is not None else ""
        names = [
            _answer(asked.tenant, asked.exact),
            _prefix(asked.tenant) + "index",
            _prefix(asked.tenant) + "sizes",
            _near(asked.tenant, near),
        ]
        written = write_vector(vector) if vector is not None else ""
        arguments = [asked.exact, whole, ttl_seconds, self._most_bytes, MOST, near, written, _prefix(asked.tenant)]
        await self._redis.call(lambda: self._keep(keys=names, args=arguments))


def _prefix(tenant: str) -> str:
    """The braces keep what is a tenant's in one slot of a cluster, and tenants apart."""
    return f"{{pointsman:cache:{tenant}}}:"


def _answer(tenant: str, digest: str) -> str:
    return f"{_prefix(tenant)}answer:{digest}"


def _near(tenant: str, partition: str) -> str:
    return f"{_prefix(tenant)}near:{partition}"
