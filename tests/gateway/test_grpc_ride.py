"""A plain answer over gRPC on the express lane beside the ordinary one: the same answer, the same books."""

import asyncio
import gc
from typing import Any

import pytest
from doubles.answers import Answer
from doubles.doors import opening_door
from doubles.engine import BREAK, ScriptedEngine, answer, beginning, chunk, usage
from doubles.gateway import TRIAGE, Gateway
from doubles.leases import held_back
from doubles.waiting import until
from pointsman_gateway.backends.express import Sent
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.doors.grpc_ride import GrpcRide
from pointsman_gateway.pipeline import Pipeline
from pointsman_servicekit.errors import Internal, PointsmanError

COUNTED = (
    "pointsman_requests", "pointsman_tokens", "pointsman_cost_usd", "pointsman_decisions", "pointsman_rejected",
    "pointsman_engine_attempts", "pointsman_retries", "pointsman_fallbacks", "pointsman_request_duration_seconds",
    "pointsman_time_to_first_token_seconds", "pointsman_phase_duration_seconds",
)  # fmt: skip

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


class Lane:
    """Whether calls may ride, and how many did."""

    def __init__(self) -> None:
        self.open = True
        self.carried = 0


@pytest.fixture
def lane(monkeypatch: pytest.MonkeyPatch) -> Lane:
    lane, departs = Lane(), GrpcRide.departs

    def may_depart(ride: GrpcRide) -> bool:
        carried = lane.open and departs(ride)
        lane.carried += carried
        return carried

    monkeypatch.setattr(GrpcRide, "departs", may_depart)
    return lane


def counts(gateway: Gateway) -> dict[Any, float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in gateway.house.registry.collect()
        if family.name in COUNTED
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }


async def told(gateway: Gateway, model: str, parameters: dict[str, Any]) -> tuple[Answer | tuple[str, str], Any]:
    """The answer, or its error; and what was counted."""
    gateway.house.engines.cell("local").breaker = Breaker()  # what went before must not count
    before = counts(gateway)
    got: Answer | tuple[str, str]
    async with opening_door("grpc-once", gateway.url, gateway.grpc_address) as door:
        try:
            got = await door.ask("Hello", model, **parameters)
        except PointsmanError as error:
            got = error.code, error.message
    return got, {key: change for key, n in counts(gateway).items() if (change := round(n - before.get(key, 0.0), 9))}


@pytest.mark.parametrize("script", TOLD)
async def test_both_ways_tell_and_count_the_same(
    gateway: Gateway, engine: ScriptedEngine, lane: Lane, script: str
) -> None:
    engine.says(*TOLD[script])
    for name, (model, parameters) in ASKED.items():
        lane.open = False
        ordinary = await told(gateway, model, dict(parameters))
        lane.open, before = True, lane.carried
        assert await told(gateway, model, dict(parameters)) == ordinary, name
        assert lane.carried == before + (name != "an unknown path"), name
        if name != "an unknown path":
            assert engine.bodies[-1] == engine.bodies[-2], name
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_engine_in_flight") == 0


async def test_who_hangs_up_stops_the_engine_and_is_metered(
    gateway: Gateway, engine: ScriptedEngine, lane: Lane
) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    async with opening_door("grpc-once", gateway.url, gateway.grpc_address) as door:
        asking = asyncio.create_task(door.ask("Hello", "path:small_talk"))
        await until(lambda: engine.running == 1 and engine.sent > 0)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: engine.running == 0)
        await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert lane.carried == 1
    assert gateway.metric("pointsman_in_flight") == 0


async def test_who_must_wait_for_its_limits_rides_on_or_hangs_up(
    gateway: Gateway, engine: ScriptedEngine, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello"))
    given = held_back(gateway.house.tenancy, monkeypatch)
    async with opening_door("grpc-once", gateway.url, gateway.grpc_address) as door:
        leaving, staying = [asyncio.create_task(door.ask("Hello", "path:small_talk")) for _ in range(2)]
        await until(lambda: gateway.metric("pointsman_in_flight") == 2)
        leaving.cancel()
        await until(lambda: gateway.metric("pointsman_in_flight") == 1)
        assert engine.bodies == []
        given.set()
        await staying
    assert lane.carried == 1
    assert len(engine.bodies) == 1
    await until(lambda: gateway.metric("pointsman_in_flight") == 0)
    assert gateway.metric("pointsman_rejected_total", code="cancelled") == 1


async def test_what_goes_wrong_at_the_very_end_is_told(
    gateway: Gateway, engine: ScriptedEngine, lane: Lane, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello"))

    def broken(*args: object, **named: object) -> None:
        raise RuntimeError("no books")

    monkeypatch.setattr(Pipeline, "write", broken)
    async with opening_door("grpc-once", gateway.url, gateway.grpc_address) as door, asyncio.timeout(10):
        with pytest.raises(Internal):
            await door.ask("Hello", "path:small_talk")
    assert lane.carried == 1


async def test_a_call_leaves_nothing_for_the_garbage_collector(
    gateway: Gateway, engine: ScriptedEngine, lane: Lane
) -> None:
    engine.says(*answer("Hello", " there"))
    async with opening_door("grpc-once", gateway.url, gateway.grpc_address) as door:
        await door.ask("Hello", "path:small_talk")
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                await door.ask("Hello", "path:small_talk")
            await until(lambda: not [one for one in gc.get_objects() if isinstance(one, GrpcRide | Sent)])
        finally:
            gc.enable()
    assert lane.carried == 4
