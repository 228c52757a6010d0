"""What is the gRPC door's own: the order of events, deadlines, cancellation, extra JSON."""

import asyncio
import json
from collections.abc import AsyncIterator

import grpc
import pytest
from doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from doubles.engine import DONE, ScriptedEngine, answer, beginning, chunk, usage
from doubles.gateway import TRIAGE, Gateway
from doubles.waiting import until
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.rich_status import from_rpc_error


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(gateway.grpc_address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> gateway_pb2_grpc.GatewayStub:
    return gateway_pb2_grpc.GatewayStub(channel)


def asking(text: str = IN_CHAT, **more: object) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content=text)], **more)


async def test_a_stream_is_started_then_deltas_then_finished(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b"))
    responses = [response async for response in stub.Generate(asking(IN_TRIAGE))]
    kinds = [response.WhichOneof("event") for response in responses]
    assert kinds == ["started", "delta", "delta", "delta", "finished"]
    started, finished = responses[0].started, responses[-1].finished
    assert (started.model, started.decision.path, started.decision.kind) == (TRIAGE, "triage_adapter", "lora")
    assert (finished.finish_reason, finished.receipt.outcome) == ("stop", "ok")
    assert started.decision.id.startswith("dec_")
    assert finished.receipt.seconds["total"] >= finished.receipt.seconds["first_token"] > 0


async def test_sources_carry_title_and_score(stub: gateway_pb2_grpc.GatewayStub) -> None:
    *_, last = [response async for response in stub.Generate(asking(IN_POLICY))]
    (source,) = last.finished.receipt.sources
    assert (source.document_id, source.title, source.score) == ("bicycles.md", "Bicycles", pytest.approx(0.9))


async def test_what_is_more_than_text_comes_as_json(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    engine.says(chunk("a", logprobs={"content": [1]}), chunk("b", index=1, reasoning="hm"), usage(), DONE)
    request = asking(sampling=pb.Sampling(extra_json='{"n": 2, "logprobs": true}'))
    deltas = [r.delta for r in [r async for r in stub.Generate(request)] if r.WhichOneof("event") == "delta"]
    assert [(d.index, d.content) for d in deltas] == [(0, "a"), (1, "b")]
    assert [json.loads(d.extra_json) for d in deltas] == [
        {"logprobs": {"content": [1]}},
        {"delta": {"reasoning": "hm"}},
    ]
    assert (engine.bodies[0]["n"], engine.bodies[0]["logprobs"]) == (2, True)


async def test_zero_is_a_value_and_not_a_gap(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    async for _ in stub.Generate(asking(sampling=pb.Sampling(temperature=0, seed=0))):
        pass
    assert (engine.bodies[0]["temperature"], engine.bodies[0]["seed"]) == (0, 0)
    async for _ in stub.Generate(asking()):
        pass
    assert engine.bodies[1]["temperature"] == 0.7  # the path's
    assert "seed" not in engine.bodies[1]


async def test_an_authors_name_reaches_the_engine(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    request = pb.GenerateRequest(model="tiny", messages=[pb.Message(role="user", content="hi", name="ann")])
    async for _ in stub.Generate(request):
        pass
    assert engine.bodies[0]["messages"] == [{"role": "user", "content": "hi", "name": "ann"}]


@pytest.mark.parametrize(("extra", "code"), [("{", "bad_json"), ("[1]", "bad_parameter"), ("5", "bad_parameter")])
async def test_extra_json_that_is_no_object_is_refused(
    stub: gateway_pb2_grpc.GatewayStub, extra: str, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.Generate(asking(sampling=pb.Sampling(extra_json=extra))):
            pass
    told = from_rpc_error(failed.value, "gateway")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (told.code, told.param) == (code, "extra_json")


@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_the_callers_deadline_stops_the_engine(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.Generate(asking(), timeout=0.3):
            pass
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: engine.running == 0, within=1)
    ended = ("cancelled", "deadline_exceeded")  # whichever side's clock is first
    await until(lambda: sum(gateway.metric("pointsman_requests_total", outcome=outcome) for outcome in ended) == 1)


@pytest.mark.parametrize("pieces", [(), ("Hel", "lo")])
async def test_cancelling_stops_the_engine_and_is_metered(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    call = stub.Generate(asking())
    await until(lambda: engine.running == 1)
    for _ in range(1 + len(pieces) if pieces else 0):
        await call.read()
    call.cancel()
    await until(lambda: engine.running == 0, within=1)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric("pointsman_tokens_total", type="completion") == len(pieces)
    assert gateway.metric("pointsman_in_flight") == 0


async def test_health_is_served_beside_it(channel: grpc.aio.Channel) -> None:
    answered = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
    assert answered.status == health_pb2.HealthCheckResponse.SERVING
