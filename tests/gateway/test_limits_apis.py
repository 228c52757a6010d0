"""Every route of both APIs rejects bodies that are too deep or too large, before they are decoded."""

import json
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine, text_answer
from tests.gateway.doubles.gateway import Gateway

DEEP: Any = [[[[0]]]]
for _ in range(40):
    DEEP = [DEEP]
MESSAGE = {"role": "user", "content": IN_CHAT}


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/route", "/v1/feedback"])
@pytest.mark.parametrize("body", [json.dumps({"metadata": DEEP}).encode(), b"[" * 200_000, b'{"a":' * 50_000])
async def test_too_deep_bodies_are_rejected_at_each_route(http: httpx.AsyncClient, route: str, body: bytes) -> None:
    response = await http.post(route, content=body, headers={"content-type": "application/json"})
    assert (response.status_code, response.json()["error"]["code"]) in [
        (400, "body_too_deep"),
        (400, "body_too_complex"),
    ]


async def test_300_000_token_ids_are_completed(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*text_answer("a"))
    response = await http.post("/v1/completions", json={"model": "tiny", "prompt": [7] * 300_000})
    assert response.status_code == 200, response.text[:300]
    assert len(engine.bodies[-1]["prompt"]) == 300_000


@pytest.mark.parametrize(
    ("route", "values"), [("/v1/completions", 320_001), ("/v1/chat/completions", 60_000), ("/v1/route", 60_000)]
)
async def test_bodies_with_too_many_values_are_rejected(http: httpx.AsyncClient, route: str, values: int) -> None:
    response = await http.post(route, json={"model": "tiny", "messages": [MESSAGE], "prompt": [7] * values})
    assert (response.status_code, response.json()["error"]["code"]) == (400, "body_too_complex")


@pytest.mark.parametrize("route", ["/v1/chat/completions", "/v1/route"])
async def test_too_many_messages_or_tools_are_refused(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str
) -> None:
    for more, code in (
        ({"messages": [MESSAGE] * 1001}, "too_many_messages"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}] * 1001}]}, "too_many_messages"),
        ({"messages": [MESSAGE], "tools": [{"type": "function"}] * 129}, "too_many_tools"),
    ):
        response = await http.post(route, json={"model": "auto", **more})
        assert (response.status_code, response.json()["error"]["code"]) == (400, code)
    assert engine.bodies == []


async def test_the_grpc_api_rejects_the_same(gateway: Gateway, engine: ScriptedEngine) -> None:
    message = pb.Message(role="user", content=IN_CHAT)
    tools = pb.Sampling(extra_json=json.dumps({"tools": [{"type": "function"}] * 129}))
    async with open_channel(gateway.grpc_address) as channel:
        deep = pb.Sampling(extra_json="[" * 99)
        for request, code in (
            (pb.GenerateRequest(model="auto", messages=[message] * 1001), "too_many_messages"),
            (pb.GenerateRequest(model="auto", messages=[message], sampling=tools), "too_many_tools"),
            (pb.GenerateRequest(model="auto", messages=[message], sampling=deep), "body_too_deep"),
        ):
            call = gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request)
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await call.read()
            assert from_rpc_error(refused.value, "gateway").code == code
    assert engine.bodies == []
