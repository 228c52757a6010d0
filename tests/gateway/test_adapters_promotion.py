"""If an alias moves under load, one version answers each request, and the new one answers all requests after the
move."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from functools import partial

import httpx
import pytest

from tests.gateway.doubles.api_clients import HttpStreamClient
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import answer
from tests.gateway.doubles.engine_pair import NEW, OLD, PROD, EnginePair, alias, run_engine_pair
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

BOTH = {"local": (OLD, NEW), "second": (OLD, NEW)}


@pytest.fixture
async def pair(neighbours: Neighbours) -> AsyncIterator[EnginePair]:
    async with run_engine_pair(neighbours, BOTH) as pair:
        yield pair


@pytest.fixture
async def http(pair: EnginePair) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(pair.gateway) as client:
        yield client


async def answered_by(api: HttpStreamClient, model: str = "path:triage_adapter", text: str = IN_TRIAGE) -> str:
    """Returns the version that answered; the text, the chunks' model and the header must agree on it."""
    got = await api.ask(text, model)
    assert got.text.rstrip(".") == got.model == got.headers["adapter"]
    return got.model


async def test_answers_in_flight_keep_their_version_and_later_ones_have_the_new_one(
    pair: EnginePair, http: httpx.AsyncClient
) -> None:
    api, gate = HttpStreamClient(http), asyncio.Event()
    for side in pair.sides.values():
        side.engine.script = lambda body: [*answer(body["model"])[:2], gate, *answer(".")[1:]]
    before = [asyncio.create_task(answered_by(api)) for _ in range(64)]
    await until(lambda: sum(side.engine.running for side in pair.sides.values()) == 64)
    await pair.sides["second"].say(alias(NEW, 2))  # the other gateway has not received the change yet
    await until(lambda: pair.version == NEW)
    texts = [f"{IN_TRIAGE} {number}" for number in range(32)]
    after = [asyncio.create_task(answered_by(api, text=text)) for text in texts]
    await until(lambda: sum(side.engine.running for side in pair.sides.values()) == 96)
    await pair.sides["local"].say(alias(NEW, 2))
    gate.set()
    assert set(await asyncio.gather(*before)) == {OLD}
    assert set(await asyncio.gather(*after)) == {NEW}
    for side in pair.sides.values():
        assert set(side.asked[-10:]) == {NEW}


@dataclass
class Points:
    """Counts the moves of an alias that were published and those that the gateway has received, and collects wrong
    answers.
    """

    sent: int = 0
    received: int = 0
    wrong: list[tuple[str, int, int]] = field(default_factory=list)
    answers: int = 0

    @staticmethod
    def version(move: int) -> str:
        return (OLD, NEW)[move % 2]


async def test_continuous_alias_changes_under_64_streams_cause_no_wrong_version(
    pair: EnginePair, http: httpx.AsyncClient
) -> None:
    points, api, moving = Points(), HttpStreamClient(http), True

    async def ask() -> None:
        while moving:
            oldest = points.received
            version = await answered_by(api)
            points.answers += 1
            if version not in {Points.version(move) for move in range(oldest, points.sent + 1)}:
                points.wrong.append((version, oldest, points.sent))

    asking = [asyncio.create_task(ask()) for _ in range(64)]
    for move in range(1, 25):
        version = Points.version(move)
        first, late = ("local", "second") if move % 2 else ("second", "local")
        seen = points.answers
        points.sent = move
        await pair.sides[first].say(alias(version, move + 1))
        await until(partial(lambda wanted: pair.version == wanted, version))
        points.received = move
        await until(partial(lambda before: points.answers > before + 16, seen))
        await pair.sides[late].say(alias(version, move + 1))
    moving = False
    await asyncio.gather(*asking)
    assert points.answers > 24 * 16
    assert points.wrong == []
    assert pair.gateway.metric("pointsman_requests_total", outcome="ok") == points.answers
    assert pair.gateway.metric("pointsman_fallbacks_total") == 0


async def test_a_promotion_applies_as_soon_as_it_is_received(pair: EnginePair, http: httpx.AsyncClient) -> None:
    """The gateway does not poll: the published state applies to the next request."""
    api = HttpStreamClient(http)
    before = pair.gateway.components.engines.get("local")
    await pair.sides["local"].say(alias(NEW, 2))
    await until(lambda: pair.gateway.components.engines.get("local") is not before)
    assert pair.version == NEW
    assert await answered_by(api) == NEW


async def test_a_version_held_by_one_engine_is_requested_there(pair: EnginePair, http: httpx.AsyncClient) -> None:
    await pair.sides["second"].say(alias(OLD, 1), resident=[OLD])
    await until(lambda: pair.holds("second") == {OLD})
    await pair.sides["local"].say(alias(NEW, 2))
    await until(lambda: pair.version == NEW)
    api = HttpStreamClient(http)
    assert {await answered_by(api) for _ in range(5)} == {NEW}
    assert pair.sides["second"].asked == []
    assert {await answered_by(api, PROD), await answered_by(api, NEW)} == {NEW}
    assert await answered_by(api, OLD) == OLD
