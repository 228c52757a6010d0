"""A key's scope also limits embeddings and listings; metrics are not for everybody."""

import http.client
import json
from collections.abc import AsyncIterator
from contextlib import closing
from typing import Any

import pytest
import pytest_asyncio
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.records import KeyScope

from tests.gateway.doubles.engine import running_engine
from tests.ports import free_port
from tests.security.keyed_gateway import KeyedGateway, keyed_gateway

OPERATIONS = ("/metrics", "/openapi.json", "/docs")

SCOPES: dict[str, tuple[KeyScope, set[str]]] = {
    "a path": (KeyScope(paths=("small_talk",)), {"small_talk"}),
    "a task": (KeyScope(tasks=("chat",)), {"small_talk", "safe_start"}),
    "an adapter": (KeyScope(adapters=("voice",), collections=()), {"triage_few_shot", "small_talk"}),
}
"""Scopes, and the paths that they allow."""


pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyedGateway]:
    folder, listen = tmp_path_factory.mktemp("scopes"), f"127.0.0.1:{free_port()}"
    async with running_engine() as engine, keyed_gateway(folder, engine.url, metrics_listen=listen) as gateway:
        gateway.http.headers["x-operations"] = listen
        yield gateway


async def get(gateway: KeyedGateway, path: str, key: dict[str, str]) -> Any:
    response = await gateway.http.get(path, headers=key)
    assert response.status_code == 200, response.text
    return response.json()


async def test_listings_name_what_the_key_may_use(gateway: KeyedGateway) -> None:
    everything = {path["id"] for path in (await get(gateway, "/v1/models", await gateway.key("all")))["data"]}
    for scope, allowed in SCOPES.values():
        key = await gateway.key("acme", scope=scope)
        models = {model["id"] for model in (await get(gateway, "/v1/models", key))["data"]}
        assert {name for name in models if name.startswith("path:")} == {f"path:{name}" for name in allowed}
        assert "auto" in models < everything
        assert "minilm" not in models
        tasks = await get(gateway, "/v1/tasks", key)
        assert tasks["paths"].keys() == allowed
        assert tasks["tasks"].keys() == ({"chat"} if scope.tasks else {"triage", "policy", "chat"})
        assert all(set(task["paths"]) <= allowed for task in tasks["tasks"].values())
        async with open_channel(gateway.process.grpc_address) as channel:
            stub = gateway_pb2_grpc.GatewayStub(channel)
            listed = await stub.ListPaths(pb.ListPathsRequest(), metadata=tuple(key.items()), timeout=20)
        assert {path.name for path in listed.paths} == allowed
        assert set(listed.models) == models
        for hidden in everything - models:
            response = await gateway.http.get(f"/v1/models/{hidden}", headers=key)
            assert response.status_code == 404, hidden


async def test_an_unknown_path_is_not_answered_with_hidden_ones(gateway: KeyedGateway) -> None:
    key = await gateway.key("acme", scope=KeyScope(paths=("small_talk",)))
    response = await gateway.chat(key, model="path:nothing")
    assert response.status_code == 404
    assert response.json()["error"]["message"] == "unknown model 'path:nothing'; known: path:small_talk"
    response = await gateway.chat(key, model="nothing")
    expected = "unknown model 'nothing'; known: auto, path:NAME; GET /v1/models lists all"
    assert response.json()["error"]["message"] == expected


async def test_embeddings_are_in_the_scope(gateway: KeyedGateway) -> None:
    async def status(scope: KeyScope, model: str = "minilm") -> int:
        key = await gateway.key("acme", scope=scope)
        body = {"model": model, "input": "x"}
        return (await gateway.http.post("/v1/embeddings", json=body, headers=key)).status_code

    assert await status(KeyScope()) == 200
    for scope, _ in SCOPES.values():
        assert await status(scope) == 403
    assert await status(KeyScope(paths=("small_talk",), embeddings=("minilm",))) == 200
    assert await status(KeyScope(embeddings=())) == 403
    assert await status(KeyScope(paths=("small_talk",), embeddings=("other",)), "nothing") == 404


async def test_rerankers_are_in_the_scope(gateway: KeyedGateway) -> None:
    async def status(scope: KeyScope) -> int:
        key = await gateway.key("acme", scope=scope)
        body = {"model": "reranker", "query": "x", "documents": ["y"]}
        return (await gateway.http.post("/v1/rerank", json=body, headers=key)).status_code

    assert await status(KeyScope()) == 503  # nothing is at its URL
    for scope, _ in SCOPES.values():
        assert await status(scope) == 403
    assert await status(KeyScope(embeddings=("minilm",))) == 403
    assert await status(KeyScope(paths=("small_talk",), rerankers=("reranker",))) == 503


def look(address: str, path: str, key: dict[str, str]) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection(address, timeout=20)) as connection:
        connection.request("GET", path, headers=key)
        response = connection.getresponse()
        return response.status, response.read()


async def test_metrics_and_schema_have_a_port_of_their_own(gateway: KeyedGateway) -> None:
    key, separate = await gateway.key("acme"), gateway.http.headers["x-operations"]
    for path in OPERATIONS:
        for headers in ({}, key):
            assert (await gateway.http.get(path, headers=headers)).status_code == 404, path
    served = {"/metrics": 200, "/openapi.json": 200, "/healthz": 200, "/readyz": 200, "/docs": 307}
    for path, status in served.items():
        answered, body = look(separate, path, key)
        assert answered == status, path
        if path == "/openapi.json":
            assert "/v1/chat/completions" in json.loads(body)["paths"]
        if path == "/metrics":
            assert b"pointsman_build_info" in body
    for path in ("/v1/models", "/v1/tasks", "/console", "/console/api/overview"):
        assert look(separate, path, key)[0] == 404, path
    for path in ("/healthz", "/readyz"):
        assert (await gateway.http.get(path)).status_code == 200
