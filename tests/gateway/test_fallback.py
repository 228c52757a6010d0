"""With two engines for one model, the second one answers if the first fails before the first token."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from pointsman_gateway.domain import Event, Finished, Message, Request, Started
from pointsman_servicekit.errors import DeadlineExceeded, InvalidArgument, Unavailable

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, TOO_LONG, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.waiting import until


@pytest.fixture(autouse=True)
def two_engines(neighbours: Neighbours, second_engine: ScriptedEngine) -> None:
    neighbours.config.models["engines"]["spare"] = {"model": "tiny", "url": second_engine.url}
    second_engine.says(*answer("from", " the", " second"))


@pytest.fixture
async def gateway(neighbours: Neighbours) -> AsyncIterator[Gateway]:
    """Runs a gateway whose second engine is so busy that the first one is chosen."""
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        next(cell for cell in gateway.components.engines.states if cell.engine.name == "spare").in_flight += 100
        yield gateway


async def answered(gateway: Gateway, text: str = IN_CHAT, seconds: float = 10) -> list[Event]:
    deadline = asyncio.get_running_loop().time() + seconds
    request = Request("auto", (Message("user", text),), deadline=deadline)
    return [event async for event in gateway.components.pipeline.answer(request)]


def text_of(events: list[Event]) -> str:
    return "".join(chunk.content for event in events if isinstance(event, tuple) for chunk in event)


@pytest.mark.parametrize("script", [[BREAK], [*beginning(), BREAK], [], [b"data: [DONE]\n\n"]])
async def test_a_failure_before_the_first_token_is_retried_on_another_engine(
    gateway: Gateway, engine: ScriptedEngine, script: list[object]
) -> None:
    engine.says(*script)  # type: ignore[arg-type]
    events = await answered(gateway)
    assert text_of(events) == "from the second"
    assert len(engine.bodies) == 1


@pytest.mark.parametrize("status", [404, 429, 500, 503])
async def test_an_engines_error_is_retried_on_another_engine(
    gateway: Gateway, engine: ScriptedEngine, status: int
) -> None:
    engine.refuses(status, {"error": {"message": "not now"}})
    events = await answered(gateway)
    assert text_of(events) == "from the second"
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    assert started.decision.reason == "policy:fixed"  # it is the same path
    assert finished.receipt.usage.completion_tokens == 3


async def test_a_named_model_falls_back_to_the_models_that_it_lists(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    models = neighbours.config.models
    models["models"]["large"] = models["models"]["tiny"]
    models["models"]["tiny"] = {**models["models"]["tiny"], "fallback": ["large"]}
    models["engines"]["spare"]["model"] = "large"
    engine.refuses(503, {"error": {"message": "not now"}})
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        request = Request("tiny", (Message("user", IN_CHAT),), deadline=asyncio.get_running_loop().time() + 10)
        events = [event async for event in gateway.components.pipeline.answer(request)]
    assert text_of(events) == "from the second"
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert finished.receipt.model == "large"


async def test_the_expected_cost_is_that_of_the_path_that_answered(
    neighbours: Neighbours, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    config = neighbours.config
    dear = {"prompt": 100.0, "cached": 100.0, "completion": 100.0}
    config.models["models"]["grand"] = {"context_window": 4096, "usd_per_million_tokens": dear}
    config.models["engines"]["spare"]["model"] = "grand"
    config.paths["dear"] = {"model": "grand", "strategies": []}
    config.tasks["chat"]["fallback"] = ["dear"]
    engine.refuses(500, "x")
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        deadline = asyncio.get_running_loop().time() + 10
        named = Request("path:dear", (Message("user", IN_CHAT),), deadline=deadline)
        expected = (await gateway.components.pipeline.decide(named)).decision.expected_cost_usd
        started = (await answered(gateway))[0]
        assert isinstance(started, Started)
        assert started.decision.path.name == "dear"
        assert started.decision.expected_cost_usd == expected


async def test_there_is_no_retry_after_the_first_token(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.says(*beginning("Hel"), BREAK)
    with pytest.raises(Unavailable, match="engine 'local' failed"):
        await answered(gateway)
    assert second_engine.bodies == []


async def test_an_invalid_request_is_not_retried(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.refuses(400, TOO_LONG)
    with pytest.raises(InvalidArgument):
        await answered(gateway)
    assert second_engine.bodies == []


async def test_if_all_engines_fail_the_last_error_is_reported(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.refuses(500, "a")
    second_engine.refuses(500, "b")
    with pytest.raises(Unavailable, match="engine 'spare' answered 500"):
        await answered(gateway)
    assert (len(engine.bodies), len(second_engine.bodies)) == (2, 2)  # by the task's path, then by the default path


async def test_an_adapters_path_uses_only_engines_that_hold_it(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.refuses(500, "x")
    events = await answered(gateway, IN_TRIAGE)
    started = events[0]
    assert isinstance(started, Started)
    assert (started.decision.path.name, started.decision.reason) == ("triage_few_shot", "fallback")
    assert [body["model"] for body in second_engine.bodies] == ["tiny"]


async def test_retries_share_one_deadline(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    engine.says(asyncio.Event())
    with pytest.raises(DeadlineExceeded):
        await answered(gateway, seconds=0.2)
    assert second_engine.bodies == []
    await until(lambda: engine.running == 0)


async def test_the_router_skips_a_path_whose_engine_keeps_failing(gateway: Gateway, engine: ScriptedEngine) -> None:
    """The adapter's path has one engine. Once its circuit breaker is open, the router chooses the next path."""
    engine.refuses(500, "x")
    for _ in range(5):
        await answered(gateway, IN_TRIAGE)
    asked = len(engine.bodies)
    events = await answered(gateway, IN_TRIAGE)
    started = events[0]
    assert isinstance(started, Started)
    assert (started.decision.path.name, started.decision.reason) == ("triage_few_shot", "availability")
    skipped = next(row for row in started.decision.considered if row.path == "triage_adapter")
    assert skipped.reason.startswith("local has failed and is tried again in ")
    assert len(engine.bodies) == asked


async def test_a_gateway_with_all_breakers_open_is_not_ready(
    gateway: Gateway, engine: ScriptedEngine, second_engine: ScriptedEngine
) -> None:
    assert gateway.components.engines.any_ready
    engine.refuses(500, "x")
    second_engine.refuses(500, "x")
    while gateway.components.engines.any_ready:
        with pytest.raises(Unavailable):
            await answered(gateway)
    asked = len(engine.bodies) + len(second_engine.bodies)
    with pytest.raises(Unavailable) as raised:
        await answered(gateway)
    assert raised.value.code == "breaker_open"
    assert raised.value.retry_after is not None
    assert 1 <= raised.value.retry_after <= 5
    assert len(engine.bodies) + len(second_engine.bodies) == asked
