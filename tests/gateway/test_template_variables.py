"""A request may set simple variables of the engine's chat template, but none that replaces the template."""

import json
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway

MESSAGES = [{"role": "user", "content": IN_CHAT}]
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": MESSAGES}),
    ("/v1/route", {"messages": MESSAGES}),
    ("/v1/messages", {"messages": MESSAGES, "max_tokens": 5}),
    ("/v1/messages/count_tokens", {"messages": MESSAGES}),
    ("/v1/responses", {"input": IN_CHAT}),
    ("/v1/completions", {"prompt": IN_CHAT}),
]
PLAIN = {"enable_thinking": False, "thinking": True, "reasoning_effort": "low", "thinking_budget": 64, "date": None}
ENDLESS = "{% for a in range(10**9) %}{% endfor %}"
REFUSED: list[tuple[Any, str, str]] = [
    ({"chat_template": ENDLESS}, "unsupported_parameter", ".chat_template"),
    ({"enable_thinking": True, "tokenize": False}, "unsupported_parameter", ".tokenize"),
    ({"conversation": "x"}, "unsupported_parameter", ".conversation"),
    ({"messages": None}, "unsupported_parameter", ".messages"),
    ({"tools": []}, "unsupported_parameter", ".tools"),
    ({"padding": True}, "unsupported_parameter", ".padding"),
    ({"examples": ["x"]}, "bad_parameter", ".examples"),
    ({"settings": {"a": 1}}, "bad_parameter", ".settings"),
    ({"persona": "x" * 257}, "bad_parameter", ".persona"),
    ({str(number): 1 for number in range(33)}, "bad_parameter", ""),
    (["chat_template"], "bad_parameter", ""),
    ("x", "bad_parameter", ""),
]


async def test_every_api_passes_simple_variables_on(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for route, body in ROUTES:
        got = await http.post(route, json={**body, "model": "path:small_talk", "chat_template_kwargs": PLAIN})
        assert got.status_code == 200, (route, got.text)
        if route != "/v1/route":
            assert engine.bodies[-1]["chat_template_kwargs"] == PLAIN, route


async def test_no_api_lets_a_request_replace_the_template(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for variables, code, param in REFUSED:
        for route, body in ROUTES:
            got = await http.post(route, json={**body, "model": "auto", "chat_template_kwargs": variables})
            answer = got.json()["error"]
            expected = (400, code, "chat_template_kwargs" + param)
            assert (got.status_code, answer["code"], answer["param"]) == expected, (route, answer)
    assert engine.bodies == []


async def test_the_same_variables_are_refused_over_grpc(gateway: Gateway, engine: ScriptedEngine) -> None:
    def request(variables: Any) -> pb.GenerateRequest:
        sampling = pb.Sampling(extra_json=json.dumps({"chat_template_kwargs": variables}))
        return pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content=IN_CHAT)], sampling=sampling)

    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        for variables, _, param in REFUSED:
            with pytest.raises(grpc.aio.AioRpcError, match="chat_template_kwargs" + param) as rejected:
                await stub.Generate(request(variables))
            assert rejected.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert engine.bodies == []
        await stub.Generate(request(PLAIN))
        assert engine.bodies[-1]["chat_template_kwargs"] == PLAIN
