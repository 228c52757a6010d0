"""The gRPC API: the order of events, deadlines, cancellation, and additional JSON fields."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.domain import ANONYMOUS, Caller, Request
from pointsman_gateway.grpc.servicer import SERVICE, Authentication, GatewayServicer
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Pipeline, Routed
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_gateway.ports import AnswerSink
from pointsman_servicekit.errors import DeadlineExceeded, Unauthenticated
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.grpc_server import serving

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, DONE, ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY
from tests.gateway.doubles.waiting import until
from tests.grpc_stubs import health_stub, reflection_stub


@pytest.fixture
def impatient(neighbours: Neighbours) -> None:
    neighbours.settings["request_timeout"] = 0.3


@pytest.fixture
async def channel(gateway: Gateway) -> AsyncIterator[grpc.aio.Channel]:
    async with open_channel(gateway.grpc_address) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.aio.Channel) -> gateway_pb2_grpc.GatewayStub:
    return gateway_pb2_grpc.GatewayStub(channel)


def asking(text: str = IN_CHAT, **more: Any) -> pb.GenerateRequest:
    return pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content=text)], **more)


async def test_a_stream_is_started_then_deltas_then_finished(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b"))
    responses = [response async for response in stub.GenerateStream(asking(IN_TRIAGE))]
    first, *middle, last = [response.WhichOneof("event") for response in responses]
    assert (first, set(middle), last) == ("started", {"delta"}, "finished")
    assert "".join(response.delta.content for response in responses) == "ab"
    started, finished = responses[0].started, responses[-1].finished
    assert (started.model, started.decision.path, started.decision.kind) == (TRIAGE, "triage_adapter", "lora")
    assert (finished.finish_reason, finished.receipt.outcome) == ("stop", "ok")
    assert started.decision.id.startswith("dec_")
    assert finished.receipt.seconds["total"] >= finished.receipt.seconds["first_token"] > 0


TWO_CHOICES = pb.Sampling(extra_json='{"n": 2}')


async def test_sources_carry_title_and_score(stub: gateway_pb2_grpc.GatewayStub) -> None:
    *_, last = [response async for response in stub.GenerateStream(asking(IN_POLICY))]
    (source,) = last.finished.receipt.sources
    assert (source.document_id, source.title, source.score) == ("bicycles.md", "Bicycles", pytest.approx(0.9))


async def test_additional_fields_are_sent_as_json(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    logprobs = {"content": [{"token": "a", "logprob": -0.5}]}
    engine.says(chunk("a", logprobs=logprobs), chunk("b", index=1, reasoning="hm"), usage(), DONE)
    request = asking(sampling=pb.Sampling(extra_json='{"n": 2, "logprobs": true}'))
    deltas = [r.delta for r in [r async for r in stub.GenerateStream(request)] if r.WhichOneof("event") == "delta"]
    assert [(d.index, d.content) for d in deltas] == [(0, "a"), (1, "b")]
    assert [json.loads(d.extra_json) for d in deltas] == [
        {"logprobs": logprobs},
        {"delta": {"reasoning": "hm"}},
    ]
    assert (engine.bodies[0]["n"], engine.bodies[0]["logprobs"]) == (2, True)


async def test_zero_is_an_explicit_value(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    async for _ in stub.GenerateStream(asking(sampling=pb.Sampling(temperature=0, seed=0))):
        pass
    assert (engine.bodies[0]["temperature"], engine.bodies[0]["seed"]) == (0, 0)
    async for _ in stub.GenerateStream(asking()):
        pass
    assert engine.bodies[1]["temperature"] == 0.7  # the path's
    assert "seed" not in engine.bodies[1]


@pytest.mark.parametrize(
    ("request_", "param"),
    [
        (asking(sampling=pb.Sampling(extra_json='{"\\ud800": true}')), "extra_json"),
        (asking(sampling=pb.Sampling(extra_json='{"logit_bias": {"\\ud800": 1}}')), "extra_json.logit_bias"),
        (asking(sampling=pb.Sampling(extra_json='"\\ud800"')), "extra_json"),
        (
            pb.GenerateRequest(model="tiny", messages=[pb.Message(role="user", extra_json='{"\\ud800": true}')]),
            "messages[0].extra_json",
        ),
    ],
)
async def test_half_a_character_in_extra_json_is_refused_as_over_http(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, request_: pb.GenerateRequest, param: str
) -> None:
    routed = pb.RouteRequest(model="tiny", messages=request_.messages, sampling=request_.sampling)
    for call in (stub.Generate(request_), stub.Route(routed)):
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call
        error = from_rpc_error(failed.value, "gateway")
        assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert (error.code, error.param) == ("bad_text", param)
    assert engine.bodies == []


async def test_an_authors_name_reaches_the_engine(stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine) -> None:
    request = pb.GenerateRequest(model="tiny", messages=[pb.Message(role="user", content="hi", name="ann")])
    async for _ in stub.GenerateStream(request):
        pass
    assert engine.bodies[0]["messages"] == [{"role": "user", "content": "hi", "name": "ann"}]


@pytest.mark.parametrize(
    ("extra", "code"),
    [
        ("{", "bad_json"), ("[" * 10_000, "body_too_deep"), ("[1]", "bad_parameter"), ("5", "bad_parameter"),
        ('{"max_tokens": 0}', "bad_parameter"), ('{"stream": false, "n": 2}', "bad_parameter"),
    ],
)  # fmt: skip
async def test_extra_json_that_is_no_object_of_further_parameters_is_refused(
    stub: gateway_pb2_grpc.GatewayStub, extra: str, code: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.GenerateStream(asking(sampling=pb.Sampling(extra_json=extra))):
            pass
    error = from_rpc_error(failed.value, "gateway")
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert (error.code, error.param) == (code, "extra_json")


@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_the_callers_deadline_stops_the_engine(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        async for _ in stub.GenerateStream(asking(), timeout=0.3):
            pass
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: engine.running == 0, within=1)
    ended = ("cancelled", "deadline_exceeded")  # depends on which side's timer fires first
    await until(lambda: sum(gateway.metric("pointsman_requests_total", outcome=outcome) for outcome in ended) == 1)


@pytest.mark.parametrize("pieces", [(), ("Hel", "lo")])
async def test_cancelling_stops_the_engine_and_is_metered(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    call = stub.GenerateStream(asking())
    await until(lambda: engine.running == 1)
    received = ""
    while received != "".join(pieces):
        received += (await call.read()).delta.content
    call.cancel()
    await until(lambda: engine.running == 0, within=1)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    assert gateway.metric("pointsman_tokens_total", type="completion") == len(pieces)
    assert gateway.metric("pointsman_in_flight") == 0


# -- the whole answer in one message


async def test_a_unary_answer_equals_the_streamed_one(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(*answer("Zug", "führer", prompt_tokens=100, cached_tokens=64))
    whole = await stub.Generate(asking(IN_TRIAGE))
    assert (whole.started.model, whole.started.decision.path) == (TRIAGE, "triage_adapter")
    assert [(c.index, c.content, c.finish_reason, c.extra_json) for c in whole.choices] == [
        (0, "Zugführer", "stop", "")
    ]
    usage_ = whole.receipt.usage
    assert (usage_.prompt_tokens, usage_.completion_tokens, usage_.cached_tokens) == (100, 2, 64)
    assert whole.receipt.outcome == "ok"
    assert whole.receipt.cost_usd == pytest.approx(60e-6)
    assert whole.receipt.seconds["total"] >= whole.receipt.seconds["first_token"] > 0


async def test_a_unary_answer_has_complete_tool_calls_and_logprobs(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "refund", "arguments": ""}}
    pieces = [{"index": 0, "function": {"arguments": part}} for part in ('{"booking":', ' "AB12"}')]
    engine.says(
        *(chunk(tool_calls=[piece]) for piece in (call, *pieces)),
        chunk("b", index=1, reasoning="hm", logprobs={"content": [{"token": "b"}]}),
        chunk("", finish="tool_calls"), chunk("", index=1, finish="stop"), usage(), DONE,
    )  # fmt: skip
    called, spoken = (await stub.Generate(asking(sampling=TWO_CHOICES))).choices
    function = {"name": "refund", "arguments": '{"booking": "AB12"}'}
    assert json.loads(called.extra_json) == {
        "message": {"tool_calls": [{"id": "c1", "type": "function", "function": function}]}
    }
    assert (called.content, called.finish_reason) == ("", "tool_calls")
    assert json.loads(spoken.extra_json) == {
        "message": {"reasoning": "hm"}, "logprobs": {"content": [{"token": "b"}]},
    }  # fmt: skip
    assert (spoken.index, spoken.content, spoken.finish_reason) == (1, "b", "stop")


async def test_each_choice_of_a_stream_has_a_finish_reason(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(chunk("a"), chunk("b", index=1, finish="length"), chunk("", finish="stop"), usage(), DONE)
    responses = [response async for response in stub.GenerateStream(asking(sampling=TWO_CHOICES))]
    deltas = [response.delta for response in responses if response.WhichOneof("event") == "delta"]
    assert [(d.index, d.finish_reason) for d in deltas] == [(0, ""), (1, "length"), (0, "stop")]


# -- what is sent beside it


async def trailers(call: grpc.aio.Call) -> dict[str, str]:
    return {name: str(value) for name, value in await call.trailing_metadata()}


async def test_trailers_carry_decision_usage_and_cost(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b", prompt_tokens=100, cached_tokens=64))
    stream, once = stub.GenerateStream(asking(), metadata=(("x-request-id", "abc-1"),)), stub.Generate(asking())
    *_, last = [response async for response in stream]
    for call, decision_id in ((stream, ""), (once, (await once).started.decision.id)):
        metadata = await trailers(call)
        assert (metadata["x-pointsman-path"], metadata["x-pointsman-kind"]) == ("small_talk", "prompt")
        assert metadata["x-pointsman-cost-usd"] == f"{last.finished.receipt.cost_usd:.9f}"
        tokens = [metadata[f"x-pointsman-{kind}-tokens"] for kind in ("prompt", "completion", "cached")]
        assert tokens == ["100", "2", "64"]
        assert metadata["x-pointsman-decision-id"].startswith(decision_id or "dec_")
    assert (await trailers(stream))["x-pointsman-request-id"] == "abc-1"
    assert (await trailers(once))["x-pointsman-request-id"] not in ("abc-1", "")


async def test_the_decision_is_sent_before_the_first_delta(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("Hel"), asyncio.Event())
    call = stub.GenerateStream(asking(IN_TRIAGE))
    metadata = dict(await call.initial_metadata())
    assert (metadata["x-pointsman-task"], metadata["x-pointsman-path"]) == ("triage", "triage_adapter")
    assert (metadata["x-pointsman-kind"], metadata["x-pointsman-reason"]) == ("lora", "policy:fixed")
    call.cancel()


@pytest.mark.parametrize("method", ["GenerateStream", "Generate"])
async def test_errors_have_trailers_too(
    stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, method: str
) -> None:
    async def failed(request: pb.GenerateRequest) -> tuple[grpc.StatusCode, dict[str, str]]:
        call = getattr(stub, method)(request, metadata=(("x-request-id", "abc-1"),))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            _ = [response async for response in call] if method == "GenerateStream" else await call
        return raised.value.code(), {str(name): str(value) for name, value in raised.value.trailing_metadata() or ()}

    code, metadata = await failed(pb.GenerateRequest(model="auto"))
    assert (code, metadata["x-pointsman-request-id"]) == (grpc.StatusCode.INVALID_ARGUMENT, "abc-1")
    assert "grpc-status-details-bin" in metadata
    assert "x-pointsman-path" not in metadata  # nothing was decided
    engine.says(*beginning("Hel"), BREAK)
    code, metadata = await failed(asking())
    assert (code, metadata["x-pointsman-path"], metadata["x-pointsman-kind"]) == (
        grpc.StatusCode.UNAVAILABLE, "small_talk", "prompt",
    )  # fmt: skip
    assert metadata["x-pointsman-decision-id"].startswith("dec_")


# -- time


@pytest.mark.parametrize("method", ["GenerateStream", "Generate"])
async def test_the_gateways_own_deadline_comes_with_details(
    impatient: None, stub: gateway_pb2_grpc.GatewayStub, engine: ScriptedEngine, gateway: Gateway, method: str
) -> None:
    engine.says(asyncio.Event())
    call = getattr(stub, method)(asking(), timeout=60)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        _ = [response async for response in call] if method == "GenerateStream" else await call
    error = from_rpc_error(failed.value, "gateway")
    assert (type(error), error.code) == (DeadlineExceeded, "deadline_exceeded")
    await until(lambda: engine.running == 0)
    assert gateway.metric("pointsman_requests_total", outcome="deadline_exceeded", path="small_talk") == 1


# -- what can be had


async def test_paths_are_listed_with_kind_and_availability(
    stub: gateway_pb2_grpc.GatewayStub, neighbours: Neighbours, gateway: Gateway
) -> None:
    listed = await stub.ListPaths(pb.ListPathsRequest())
    assert [(p.name, p.kind, p.model, p.adapter) for p in listed.paths] == [
        ("triage_adapter", "lora", "tiny", "triage@prod"),
        ("triage_few_shot", "prompt", "tiny", ""),
        ("handbook", "rag", "tiny", ""),
        ("letter", "hybrid", "tiny", "voice@prod"),
        ("small_talk", "prompt", "tiny", ""),
        ("safe_start", "rag", "tiny", ""),
    ]
    assert list(listed.paths[2].strategies) == ["zero_shot", "retrieval"]
    assert all(path.available and not path.why_not for path in listed.paths)
    assert listed.revision == gateway.components.reloader.current.revision
    await neighbours.lora_server.say(READY, url=neighbours.engine.url)
    await until(lambda: not gateway.components.engines.get("local").resident)
    away = {p.name: p.why_not for p in (await stub.ListPaths(pb.ListPathsRequest())).paths if not p.available}
    assert away == {
        "triage_adapter": "adapter 'triage@prod' is not resident on any engine",
        "letter": "adapter 'voice@prod' is not resident on any engine",
    }


async def test_reflection_knows_every_method(channel: grpc.aio.Channel) -> None:
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    reflection = reflection_stub(channel).ServerReflectionInfo(iter([asked]))
    (response,) = [answer async for answer in reflection]
    files = map(descriptor_pb2.FileDescriptorProto.FromString, response.file_descriptor_response.file_descriptor_proto)
    methods = {m.name for file in files for service in file.service for m in service.method}
    assert methods == {"GenerateStream", "Generate", "Route", "Feedback", "ListPaths"}


# -- who asks


class ScriptedTenancy:
    """Knows one key locally, another one after a lookup, and no others."""

    def __init__(self) -> None:
        self.looked = 0

    def identify_now(self, credential: str) -> Caller | None:
        return Caller("known", "acme") if credential == "pm_known" else None

    async def identify(self, credential: str) -> Caller:
        self.looked += 1
        await asyncio.sleep(0)
        if credential == "pm_new":
            return Caller("new", "acme")
        raise Unauthenticated("this key is unknown", code="unknown_key")


@dataclass(frozen=True)
class Overheard:
    """A tenancy that knows one key locally, another one after a lookup, and no others."""

    pipeline: Pipeline
    callers: list[Caller]

    @property
    def admission(self) -> Admission:
        return self.pipeline.admission

    def run(self, request: Request, sink: AnswerSink) -> RequestRun:
        self.callers.append(request.caller)
        return self.pipeline.run(request, sink)

    async def decide(self, request: Request, *wanted: Any) -> Routed:
        self.callers.append(request.caller)
        return await self.pipeline.decide(request, *wanted)

    def record_rejection(self, *request: Any, caller: Caller) -> None:
        self.callers.append(caller)
        self.pipeline.record_rejection(*request, caller=caller)

    def costs(self, *routed: Any) -> Any:
        return self.pipeline.costs(*routed)


@pytest.fixture
async def keyed(gateway: Gateway) -> AsyncIterator[tuple[gateway_pb2_grpc.GatewayStub, list[Caller]]]:
    """Runs a server with authentication; yields a client, and the list of the callers that the server accepts."""
    components = gateway.components
    overheard: Any = Overheard(components.pipeline, [])  # it has the methods that the API calls
    tenancy: Any = ScriptedTenancy()
    servicer = GatewayServicer(overheard, components.feedback, 5, components.reloader)

    def register(server: Any) -> None:
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, server)

    async with (
        serving("127.0.0.1:0", [SERVICE], register, grace=0, gate=Authentication(overheard, tenancy)) as server,
        open_channel(server.address) as channel,
    ):
        yield gateway_pb2_grpc.GatewayStub(channel), overheard.callers


@pytest.mark.parametrize("credential", ["Bearer pm_known", "bearer  pm_known ", "Bearer pm_new"])
async def test_a_key_identifies_the_caller(
    keyed: tuple[gateway_pb2_grpc.GatewayStub, list[Caller]], credential: str
) -> None:
    stub, callers = keyed
    sent = (("authorization", credential),)
    async for _ in stub.GenerateStream(asking(), metadata=sent):
        pass
    await stub.Generate(asking(), metadata=sent)
    await stub.Route(pb.RouteRequest(model="tiny", messages=asking().messages), metadata=sent)
    key = "new" if "pm_new" in credential else "known"
    assert callers == [Caller(key, "acme")] * 3


@pytest.mark.parametrize("sent", [(), (("authorization", "Bearer pm_wrong"),), (("authorization", "Basic cG06"),)])
async def test_without_a_valid_key_nothing_is_revealed(
    keyed: tuple[gateway_pb2_grpc.GatewayStub, list[Caller]], engine: ScriptedEngine, sent: tuple[tuple[str, str], ...]
) -> None:
    stub, callers = keyed
    calls = [
        stub.Generate(asking(), metadata=sent),
        stub.Route(pb.RouteRequest(model="tiny", messages=asking().messages), metadata=sent),
        stub.Feedback(pb.FeedbackRequest(decision_id="dec_1", rating=1), metadata=sent),
        stub.ListPaths(pb.ListPathsRequest(), metadata=sent),
        stub.GenerateStream(asking(), metadata=sent).read(),
    ]
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert from_rpc_error(refused.value, "gateway").code == "unknown_key"
    assert (set(callers), engine.bodies) == ({ANONYMOUS}, [])


async def test_a_rejected_call_is_recorded_with_its_caller(
    keyed: tuple[gateway_pb2_grpc.GatewayStub, list[Caller]],
) -> None:
    stub, callers = keyed
    sent = (("authorization", "Bearer pm_known"),)
    for call in (
        stub.Generate(pb.GenerateRequest(model="tiny"), metadata=sent),
        stub.Route(pb.RouteRequest(model="tiny"), metadata=sent),
        stub.GenerateStream(pb.GenerateRequest(model="tiny"), metadata=sent).read(),
    ):
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await call
    assert callers == [Caller("known", "acme")] * 3


async def test_the_health_service_is_available(channel: grpc.aio.Channel) -> None:
    answered = await health_stub(channel).Check(health_pb2.HealthCheckRequest())
    assert answered.status == health_pb2.HealthCheckResponse.SERVING
