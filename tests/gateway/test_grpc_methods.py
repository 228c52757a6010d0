"""A unary answer and a streamed one over gRPC have the same content, and change the metrics equally."""

import asyncio
import gc
from typing import Any

import pytest
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.engines.call import EngineCall
from pointsman_gateway.engines.http_engine_client import HttpTransfer
from pointsman_gateway.pipeline.metered import MeteredRequest
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_servicekit.errors import Internal, PointsmanError

from tests.gateway.doubles.answers import Answer
from tests.gateway.doubles.api_clients import open_api_client
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import TRIAGE, Gateway, counters, increases
from tests.gateway.doubles.leases import held_back
from tests.gateway.doubles.waiting import until

COUNTED = (
    "pointsman_requests", "pointsman_tokens", "pointsman_cost_usd", "pointsman_decisions", "pointsman_rejected",
    "pointsman_engine_attempts", "pointsman_retries", "pointsman_fallbacks", "pointsman_request_duration_seconds",
    "pointsman_time_to_first_token_seconds", "pointsman_phase_duration_seconds",
)  # fmt: skip

OURS = RequestRun | EngineCall | HttpTransfer
"""Objects that are unique to each request."""

ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "a model": ("tiny", {}),
    "a path": ("path:small_talk", {}),
    "a version": (TRIAGE, {}),
    "sampling": ("tiny", {"max_tokens": 7, "temperature": 0.5, "top_p": 0.5, "seed": 7, "stop": ["a", "b"]}),
    "an unknown path": ("path:nowhere", {}),
}

TOLD: dict[str, list[Any]] = {
    "an answer": answer("Hello", " there"),
    "nothing but its usage": [usage(5, 0)],
    "no text": [chunk("", finish="stop"), usage(5, 1)],
    "cut before its first token": [BREAK],
    "cut in its middle": [*beginning("Hello"), BREAK],
}


Said = Answer | tuple[str, str]
"""An answer, or the code and message of an error."""


async def answer_and_metrics(gateway: Gateway, method: str, model: str, parameters: dict[str, Any]) -> tuple[Said, Any]:
    """Sends a request; returns the answer and the change of the metrics."""
    gateway.components.engines.state("local").breaker = Breaker()  # earlier requests must not count
    before = counters(gateway, COUNTED, ("_total", "_count"))
    got: Said
    async with open_api_client(method, gateway.url, gateway.grpc_address) as api:
        try:
            got = await api.ask("Hello", model, **parameters)
        except PointsmanError as error:
            got = error.code, error.message
    return got, increases(before, counters(gateway, COUNTED, ("_total", "_count")), 9)


@pytest.mark.parametrize("script", TOLD)
async def test_both_methods_have_equal_answers_and_metrics(
    gateway: Gateway, engine: ScriptedEngine, script: str
) -> None:
    engine.says(*TOLD[script])
    for name, (model, parameters) in ASKED.items():
        streamed = await answer_and_metrics(gateway, "grpc", model, dict(parameters))
        assert await answer_and_metrics(gateway, "grpc-once", model, dict(parameters)) == streamed, name
        if name != "an unknown path":
            assert engine.bodies[-1] == engine.bodies[-2], name
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_engine_in_flight") == 0


async def test_a_disconnect_stops_the_engine_and_is_metered(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    async with open_api_client("grpc-once", gateway.url, gateway.grpc_address) as api:
        asking = asyncio.create_task(api.ask("Hello", "path:small_talk"))
        await until(lambda: engine.running == 1 and engine.sent > 0)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: engine.running == 0)
        await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric("pointsman_in_flight") == 0


async def test_a_call_that_waits_for_a_lease_continues_or_is_cancelled(
    gateway: Gateway, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello"))
    given = held_back(gateway.components.tenancy, monkeypatch)
    async with open_api_client("grpc-once", gateway.url, gateway.grpc_address) as api:
        leaving, staying = [asyncio.create_task(api.ask("Hello", "path:small_talk")) for _ in range(2)]
        await until(lambda: gateway.metric("pointsman_in_flight") == 2)
        leaving.cancel()
        await until(lambda: gateway.metric("pointsman_in_flight") == 1)
        assert engine.bodies == []
        given.set()
        await staying
    assert len(engine.bodies) == 1
    await until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert gateway.metric("pointsman_rejected_total", code="cancelled") == 1


async def test_a_late_error_is_reported(
    gateway: Gateway, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello"))

    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("no receipt")

    monkeypatch.setattr(MeteredRequest, "log", broken)
    async with open_api_client("grpc-once", gateway.url, gateway.grpc_address) as api, asyncio.timeout(10):
        with pytest.raises(Internal):
            await api.ask("Hello", "path:small_talk")


async def test_a_call_leaves_no_garbage(gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    async with open_api_client("grpc-once", gateway.url, gateway.grpc_address) as api:
        await api.ask("Hello", "path:small_talk")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await api.ask("Hello", "path:small_talk")
            await until(lambda: not [one for one in gc.get_objects() if isinstance(one, OURS)])
        finally:
            gc.enable()
