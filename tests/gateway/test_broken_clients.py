"""A bug in an engine client ends its request: with an error, a receipt, a free slot, and a failure of the engine."""

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.engines.connection_pool import Pool
from pointsman_gateway.engines.engine_state import EngineState
from pointsman_gateway.engines.http_engine_client import HttpEngineClient
from pointsman_servicekit.errors import Unavailable

from tests.gateway.doubles.anthropic_api import running_anthropic
from tests.gateway.doubles.broken_clients import (
    BrokenPool,
    BrokenReading,
    BrokenSdk,
    BrokenStream,
    Bug,
    events_of,
    use_client,
)
from tests.gateway.doubles.engine import BREAK, DONE, ScriptedEngine, Step, chunk
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until


@pytest.fixture
def neighbours(neighbours: Neighbours) -> Neighbours:
    neighbours.config.models["resilience"] = {
        "retries": {"max_retries": 0},
        "breaker": {"consecutive_failures": 1},
    }
    return neighbours


def state_of(gateway: Gateway, engine: str) -> EngineState:
    return next(state for state in gateway.components.engines.states if state.engine.name == engine)


async def fails_and_frees_everything(gateway: Gateway, model: str, engine: str, caplog: Any, bugs: int = 1) -> None:
    """Asserts that a request ends as a failure of the engine, whose traceback is logged once, and that all resources
    are free again.
    """
    caplog.clear()
    state = state_of(gateway, engine)
    state.breaker = Breaker(state.clock)
    before = gateway.metric("pointsman_requests_total", outcome="engine_unavailable")
    with pytest.raises(Unavailable) as raised:
        await events_of(gateway, model)
    assert raised.value.code == "engine_unavailable"
    assert raised.value.receipt is not None
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="engine_unavailable") == before + 1)
    assert not state.breaker.closed
    assert state.in_flight == 0
    assert gateway.metric("pointsman_in_flight") == 0
    tracebacks = [record for record in caplog.records if record.levelno == logging.ERROR and record.exc_info]
    assert len(tracebacks) == bugs


HELLO, WORLD = chunk("Hel"), chunk("lo")
LONG = [chunk("Hel"), *[chunk("lo" * 5000)] * 20, DONE]
"""The events of an answer that is too long to be read in one step."""


@pytest.mark.parametrize(
    ("where", "steps", "bugs"),
    [
        ("post 1", [HELLO, DONE], 1),
        ("read_some 1", [HELLO, DONE], 1),
        ("failure", [HELLO, WORLD, BREAK], 1),
        ("read_some 2", LONG, 1),  # when the run resumes the transfer
        ("read_some 3", LONG, 1),  # in the next step of the event loop
        ("connection_lost", [HELLO, WORLD, BREAK], 1),
        # The parser catches what its callbacks raise.
        ("on_header", [HELLO, DONE], 0),
        ("on_headers_complete", [HELLO, DONE], 0),
        ("on_body", [HELLO, DONE], 0),
    ],
)
async def test_a_bug_while_an_engines_answer_is_read_is_the_engines_failure(
    gateway: Gateway, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture, where: str, steps: list[Step], bugs: int
) -> None:
    engine.says(*steps)
    use_client(gateway, HttpEngineClient(BrokenPool(where)))
    await fails_and_frees_everything(gateway, "tiny", "local", caplog, bugs)
    await until(lambda: engine.running == 0)


async def test_a_bug_when_more_arrives_is_the_engines_failure(
    gateway: Gateway, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    later = asyncio.Event()
    asyncio.get_running_loop().call_later(0.05, later.set)
    engine.says(HELLO, later, WORLD, DONE)
    use_client(gateway, HttpEngineClient(BrokenPool("read_some 2")))
    await fails_and_frees_everything(gateway, "tiny", "local", caplog)


async def test_a_bug_of_a_pooled_connection_is_the_engines_failure(
    gateway: Gateway, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    use_client(gateway, HttpEngineClient(BrokenPool("post 2")))
    await events_of(gateway, "tiny")
    await fails_and_frees_everything(gateway, "tiny", "local", caplog)
    await until(lambda: engine.running == 0)


async def test_a_bug_of_the_connection_that_replaces_a_pooled_one_is_the_engines_failure(
    gateway: Gateway, engine: ScriptedEngine, caplog: pytest.LogCaptureFixture
) -> None:
    use_client(gateway, HttpEngineClient(BrokenPool("post 1", first=2)))
    await events_of(gateway, "tiny")
    engine.drops_next = True
    await fails_and_frees_everything(gateway, "tiny", "local", caplog)
    assert not engine.drops_next
    await until(lambda: engine.running == 0)


async def test_a_bug_of_anthropics_reader_is_the_engines_failure(
    neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_anthropic() as double:
        double.hold = asyncio.Event()
        monkeypatch.setenv("CLAUDE_KEY", "sk-ant")
        neighbours.config.models["models"]["claude"] = {"upstream": "claude-haiku-4-5"}
        neighbours.config.models["engines"]["claude"] = {
            "model": "claude", "provider": "anthropic", "url": double.url, "api_key_env": "CLAUDE_KEY",
        }  # fmt: skip
        await neighbours.ready()
        async with neighbours.gateway() as gateway:
            for client in (HttpEngineClient(BrokenPool("read_some 1")), BrokenReading(Pool())):
                use_client(gateway, client)
                await fails_and_frees_everything(gateway, "claude", "claude", caplog)
                await until(lambda: double.running == 0)


class TestLiteLLM:
    @pytest.fixture
    def sdk(self) -> Iterator[BrokenSdk]:
        sys.modules["litellm"] = sdk = BrokenSdk()
        yield sdk
        del sys.modules["litellm"]

    @pytest.fixture
    def neighbours(self, neighbours: Neighbours, sdk: BrokenSdk) -> Neighbours:
        models = neighbours.config.models
        models["models"]["other"] = models["models"]["tiny"]
        models["engines"]["other"] = {
            "model": "other", "provider": "litellm/openai", "timeouts": {"first_token_seconds": 0.2},
        }  # fmt: skip
        return neighbours

    async def test_a_bug_of_the_sdk_is_the_engines_failure(
        self, gateway: Gateway, sdk: BrokenSdk, caplog: pytest.LogCaptureFixture
    ) -> None:
        cancelled = asyncio.CancelledError()
        for stream, bugs in [
            (Bug(), 1),
            (object(), 1),
            (BrokenStream(0, Bug()), 1),
            (BrokenStream(2, Bug()), 1),
            (cancelled, 0),
            (BrokenStream(2, cancelled), 0),
        ]:
            sdk.stream = stream
            await fails_and_frees_everything(gateway, "other", "other", caplog, bugs)

    async def test_a_stream_is_closed_if_it_fails_before_its_first_event(
        self, gateway: Gateway, sdk: BrokenSdk, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Silent(BrokenStream):
            async def __anext__(self) -> Any:
                await asyncio.Event().wait()

        for stream, code in [(BrokenStream(0, Bug()), "engine_unavailable"), (Silent(0, Bug()), "first_token_timeout")]:
            sdk.stream = stream
            with pytest.raises(Unavailable) as raised:
                await events_of(gateway, "other")
            assert raised.value.code == code
            await until(lambda: sdk.stream.is_closed)
            state_of(gateway, "other").breaker = Breaker()
