"""If the retriever is unavailable, the first few requests wait for it, and later ones continue without passages."""

import asyncio
from dataclasses import dataclass, field

import pytest
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.config.engine_config import BreakerConfig
from pointsman_gateway.domain import Vector
from pointsman_gateway.extensions import Found
from pointsman_gateway.prompts.retriever import ProtectedSearch
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from tests.gateway.doubles.clocks import Clock

NOTHING = Found((), False)


@dataclass
class ScriptedSearch:
    """A retriever that finds nothing, or fails as scripted."""

    error: PointsmanError | None = None
    asked: int = 0
    limits: list[float] = field(default_factory=list)

    async def search(self, collection: str, query: str, vector: Vector | None, top_k: int, deadline: float) -> Found:
        self.asked += 1
        self.limits.append(deadline - asyncio.get_running_loop().time())
        if self.error:
            raise self.error
        return NOTHING


@dataclass
class SearchHarness:
    inner: ScriptedSearch
    clock: Clock
    search: ProtectedSearch

    async def ask(self, seconds: float = 60.0) -> Found:
        return await self.search.search("handbook", "?", None, 3, asyncio.get_running_loop().time() + seconds)

    async def fails(self, times: int, seconds: float = 60.0) -> None:
        for _ in range(times):
            with pytest.raises(Unavailable):
                await self.ask(seconds)


@pytest.fixture
def harness() -> SearchHarness:
    inner, clock = ScriptedSearch(), Clock()
    return SearchHarness(
        inner,
        clock,
        ProtectedSearch(inner, Breaker(clock), BreakerConfig(consecutive_failures=3, open_duration_seconds=2)),
    )


def away() -> Unavailable:
    return Unavailable("cannot be reached", code="retriever_unavailable")


def late() -> Unavailable:
    return Unavailable("not in time", code="deadline_exceeded")


@pytest.mark.parametrize("error", [away(), late()])
async def test_after_a_few_failures_requests_do_not_wait_for_the_retriever(
    harness: SearchHarness, error: Unavailable
) -> None:
    harness.inner.error = error
    await harness.fails(3)
    with pytest.raises(Unavailable, match="the retriever has failed and is not asked for a while") as raised:
        await harness.ask()
    assert (raised.value.code, raised.value.retry_after) == ("retriever_unavailable", 2)
    assert harness.inner.asked == 3


async def test_the_retriever_is_probed_after_a_while(harness: SearchHarness) -> None:
    harness.inner.error = away()
    await harness.fails(3)
    harness.inner.error = None
    harness.clock.passes(2)
    assert await harness.ask() is NOTHING
    assert await harness.ask() is NOTHING


async def test_a_search_has_its_own_short_timeout(harness: SearchHarness) -> None:
    await harness.ask(seconds=60)
    await harness.ask(seconds=1)
    assert 1.5 < harness.inner.limits[0] <= 2
    assert harness.inner.limits[1] <= 1


async def test_a_timeout_caused_by_the_requests_deadline_is_not_the_retrievers_failure(harness: SearchHarness) -> None:
    harness.inner.error = late()
    for _ in range(10):
        with pytest.raises(DeadlineExceeded, match="the request's time ran out"):
            await harness.ask(0.5)
    assert harness.inner.asked == 10


async def test_an_error_about_a_collection_is_not_an_outage(harness: SearchHarness) -> None:
    harness.inner.error = Unavailable("no such collection", code="unknown_collection")
    await harness.fails(10)
    assert harness.inner.asked == 10
