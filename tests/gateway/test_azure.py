"""Azure's API: its URLs are translated to OpenAI's routes, and its header `api-key` is accepted on every route."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import DONE, ScriptedEngine, beginning, text_answer
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

USER: Any = [{"role": "user", "content": IN_CHAT}]
CHAT = "/v1/chat/completions"
DEPLOYED_CHAT = "/openai/deployments/auto/chat/completions?api-version=2024-10-21"


@pytest.fixture
async def guarded(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Gateway]:
    """Runs a gateway with authentication and an embedding model."""
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}}
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def key(guarded: Gateway, valkey: Valkey) -> str:
    return (await issue(valkey.url)).credential.text


async def test_azures_client_works(guarded: Gateway, key: str, engine: ScriptedEngine) -> None:
    client = openai.AsyncAzureOpenAI(
        azure_endpoint=guarded.url,
        api_key=key,
        api_version="2024-10-21",
        max_retries=0,
        http_client=httpx.AsyncClient(),
    )
    async with client:
        answer = await client.chat.completions.with_raw_response.create(model="auto", messages=USER)
        assert answer.headers["x-pointsman-path"] == "small_talk"
        assert answer.parse().choices[0].message.content == "Hello there"
        stream = await client.chat.completions.create(model="path:small_talk", messages=USER, stream=True)
        streamed = "".join([c.choices[0].delta.content or "" async for c in stream if c.choices])
        assert streamed == "Hello there"
        embedded = await client.embeddings.create(model="minilm", input="hello")
        assert len(embedded.data[0].embedding) == 384
        responded = await client.responses.create(model="auto", input=IN_CHAT)
        assert responded.output_text == "Hello there"
        engine.says(*text_answer("x"))
        completed = await client.completions.create(model="triage@prod", prompt="Once")
        assert completed.choices[0].text == "x"
        assert engine.paths[-1] == "/v1/completions"


async def test_the_newer_urls_are_openais_with_a_prefix(guarded: Gateway, key: str) -> None:
    async with openai.AsyncOpenAI(
        base_url=f"{guarded.url}/openai/v1", api_key=key, max_retries=0, http_client=httpx.AsyncClient()
    ) as client:
        answer = await client.chat.completions.create(model="auto", messages=USER)
        assert answer.choices[0].message.content == "Hello there"
        assert "tiny" in [model.id async for model in client.models.list()]
        assert (await client.models.retrieve("path:small_talk")).id == "path:small_talk"


async def test_the_deployment_is_the_model_whatever_the_body_says(guarded: Gateway, key: str) -> None:
    async with open_http_client(guarded) as http:
        http.headers["api-key"] = key
        for model in ({}, {"model": "path:handbook"}, {"model": None}, {"model": 5}, {"model": {"a": [1]}}):
            for route, deployment, body in (
                ("chat/completions", "path:small_talk", {"messages": USER}),
                ("completions", "path:small_talk", {"prompt": IN_CHAT}),
                ("responses", "path:small_talk", {"input": IN_CHAT}),
                ("embeddings", "minilm", {"input": "a"}),
            ):
                answer = await http.post(f"/openai/deployments/{deployment}/{route}", json={**body, **model})
                assert answer.status_code == 200, (route, model, answer.text)
                assert answer.headers.get("x-pointsman-path", "small_talk") == "small_talk"
        for route in ("chat/completions", "completions", "responses", "embeddings"):
            for sent in (b"", b"[]", b'{"model": null, "n": NaN}', b'{"model": '):
                answer = await http.post(
                    f"/openai/deployments/auto/{route}", content=sent, headers={"content-type": "application/json"}
                )
                assert (answer.status_code, shapes.error(answer)["code"]) == (400, "bad_json"), (route, sent)
        error = shapes.error(await http.post("/openai/deployments/nobody/embeddings", json={"input": "a"}))
        assert error["code"] == "unknown_model"
        error = shapes.error(await http.post("/openai/deployments/auto/completions", json={"prompt": [1, 2]}))
        assert error["code"] == "unsupported_prompt"


async def test_every_route_takes_an_api_key_header(guarded: Gateway, key: str) -> None:
    async with open_http_client(guarded) as http:
        body = {"model": "auto", "messages": USER}
        for url in CHAT, "/v1/route", DEPLOYED_CHAT:
            assert (await http.post(url, json=body, headers={"api-key": key})).status_code == 200
            assert (await http.post(url, json=body, headers={"authorization": f"Bearer {key}"})).status_code == 200
            assert shapes.error(await http.post(url, json=body, headers={"api-key": "pm_x"}))["code"] == "unknown_key"
            assert shapes.error(await http.post(url, json=body))["code"] == "missing_key"
        assert (await http.get("/v1/models", headers={"api-key": key})).status_code == 200


async def test_an_authorization_header_is_not_replaced_by_an_api_key(guarded: Gateway, key: str) -> None:
    """A proxy in front of the gateway may check only one of the two headers."""
    async with open_http_client(guarded) as http:
        body = {"model": "auto", "messages": USER}
        for authorization, code in ("Bearer pm_x", "unknown_key"), ("Basic eDp5", "missing_key"):
            headers = {"authorization": authorization, "api-key": key}
            for url in CHAT, "/v1/route", DEPLOYED_CHAT:
                assert shapes.error(await http.post(url, json=body, headers=headers))["code"] == code
        twice = [("api-key", key), ("api-key", "pm_x")]
        error = shapes.error(await http.post(CHAT, json=body, headers=twice))
        assert error["code"] == "duplicate_header"


async def test_limits_and_errors_are_those_of_openais_urls(guarded: Gateway, key: str, engine: ScriptedEngine) -> None:
    async with open_http_client(guarded) as http:
        http.headers["api-key"] = key
        long = {"model": "auto", "messages": [{"role": "user", "content": "x" * (8 * 1024 * 1024)}]}
        for url in DEPLOYED_CHAT, "/openai/v1/responses", "/openai/deployments/auto/completions":
            error = shapes.error(await http.post(url, json=long))
            assert error["code"] == "body_too_large"
        for url in "/openai/deployments/auto/images", "/openai/nothing", "/openai/deployments//chat/completions":
            answer = await http.post(url, json={})
            assert (answer.status_code, shapes.error(answer)["code"]) == (404, "unknown_route")
        for url in "/openai/%2e%2e/metrics", "/openai/v1/%2e%2e/%2e%2e/metrics", "/openai/metrics":
            assert shapes.error(await http.get(url, headers={"api-key": ""}))["code"] == "missing_key"
    assert engine.bodies == []


async def test_a_client_that_disconnects_stops_the_engine(guarded: Gateway, key: str, engine: ScriptedEngine) -> None:
    engine.says(*beginning("a"), asyncio.Event(), DONE)
    async with open_http_client(guarded) as http:
        headers = {"api-key": key}
        body = {"messages": [{"role": "user", "content": IN_TRIAGE}], "stream": True}
        async with http.stream("POST", DEPLOYED_CHAT, json=body, headers=headers) as answer:
            await anext(answer.aiter_raw())
            assert engine.running == 1
    await until(lambda: engine.running == 0)
