"""Each timeout of an engine is reported by its name, with real sockets and the real client."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from pointsman_gateway.config.engine_config import Timeouts
from pointsman_gateway.domain import Message, Sampling
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, Unavailable

from tests.gateway.doubles.clients import sent_by
from tests.gateway.doubles.engine import ScriptedEngine, Step, answer, beginning

SHORT = 0.1


@pytest.fixture
async def client() -> AsyncIterator[HttpEngineClient]:
    pool = Pool()
    yield HttpEngineClient(pool)
    pool.close()


async def failure(client: HttpEngineClient, url: str, timeouts: Timeouts, seconds: float = 30) -> PointsmanError:
    """Requests a complete answer, and returns the error."""
    deadline = asyncio.get_running_loop().time() + seconds
    call = EngineRequest("a", url, "tiny", (Message("user", "Hello"),), Sampling(), deadline, timeouts=timeouts)
    with pytest.raises(PointsmanError) as raised:
        async for _ in sent_by(partial(client.send, call)):
            pass
    return raised.value


@contextmanager
def nobody_accepts() -> Iterator[str]:
    """Yields an address at which connections are neither accepted nor refused, like that of a dead machine."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for filling in (first, second):
            filling.setblocking(False)
            filling.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_dead_machine_is_a_connect_timeout(client: HttpEngineClient) -> None:
    with nobody_accepts() as url:
        error = await failure(client, url, Timeouts(connect_seconds=SHORT))
    assert isinstance(error, Unavailable)
    assert (error.code, error.message) == ("connect_timeout", "engine 'a' failed: no connection within 0.1 s")


async def test_a_silent_engine_is_a_first_token_timeout(client: HttpEngineClient, engine: ScriptedEngine) -> None:
    engine.says(asyncio.Event())
    error = await failure(client, engine.url, Timeouts(first_token_seconds=SHORT))
    assert (error.code, error.message) == ("first_token_timeout", "engine 'a' failed: no first token within 0.1 s")


async def test_keep_alive_comments_are_not_a_first_token(client: HttpEngineClient, engine: ScriptedEngine) -> None:
    signs = [asyncio.Event() for _ in range(12)]
    for number, sign in enumerate(signs):
        asyncio.get_running_loop().call_later(SHORT / 4 * number, sign.set)
    dripping: list[Step] = [step for sign in signs for step in (sign, b": still here\n\n")]
    engine.says(*beginning(), *dripping, asyncio.Event())
    error = await failure(client, engine.url, Timeouts(first_token_seconds=SHORT))
    assert error.code == "first_token_timeout"
    assert not signs[-1].is_set()


async def test_an_engine_that_stops_sending_is_a_stream_idle_timeout(
    client: HttpEngineClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("Hel"), asyncio.Event(), *answer("lo"))
    error = await failure(client, engine.url, Timeouts(stream_idle_seconds=SHORT))
    assert (error.code, error.message) == ("stream_idle_timeout", "engine 'a' failed: nothing more within 0.1 s")


@pytest.mark.parametrize("script", [[], ["Hel"]])
async def test_the_requests_own_deadline_is_reported_as_such(
    client: HttpEngineClient, engine: ScriptedEngine, script: list[str]
) -> None:
    engine.says(*(beginning(*script) if script else ()), asyncio.Event())
    error = await failure(client, engine.url, Timeouts(), seconds=SHORT)
    assert isinstance(error, DeadlineExceeded)
    assert error.code == "deadline_exceeded"
