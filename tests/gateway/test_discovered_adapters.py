"""Adapters of an existing vLLM: the gateway reads them from its /v1/models, over real sockets."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from aiohttp import web

from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.dns_server import running_dns
from tests.gateway.doubles.engine import (
    ScriptedEngine,
    answer,
    model_card,
    model_list,
    no_such_model,
    running_engine,
)
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

BASE = "meta-llama/Llama-3.1-8B"
LORAS = {"sql-lora": "/loras/sql", "Acme/Support_v2": "/loras/support"}


@dataclass
class Site:
    """A gateway with a vLLM that lists its adapters itself."""

    gateway: Gateway
    http: httpx.AsyncClient
    vllm: ScriptedEngine

    async def ask(self, model: str, text: str = "Hello") -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}]}
        return await self.http.post("/v1/chat/completions", json=body)

    async def code(self, model: str) -> str:
        """Sends a request for `model`, and returns the error's code."""
        return str((await self.ask(model)).json()["error"]["code"])

    async def names(self) -> list[str]:
        return [model["id"] for model in (await self.http.get("/v1/models")).json()["data"]]

    def polls(self, outcome: str) -> float:
        return self.gateway.metric("pointsman_engine_model_lists_total", engine="mine", outcome=outcome)

    async def polled(self, outcome: str, times: int = 1) -> None:
        """Waits until `times` more polls of the engine have ended with this outcome."""
        before = self.polls(outcome)
        await until(lambda: self.polls(outcome) >= before + times, within=30)

    @property
    def engine(self) -> Any:
        return self.gateway.components.engines.get("mine")


@pytest.fixture
async def vllm() -> AsyncIterator[ScriptedEngine]:
    """Runs an engine that answers with the name of the requested model, and lists two adapters."""
    async with running_engine() as vllm:
        vllm.lists = lambda: model_list(BASE, LORAS)
        vllm.script = lambda body: answer(body["model"], " here")
        yield vllm


@asynccontextmanager
async def opened(neighbours: Neighbours, vllm: ScriptedEngine, **engine: Any) -> AsyncIterator[Site]:
    models = neighbours.config.models
    models["models"][BASE] = models["models"]["tiny"]
    models["engines"]["mine"] = {"model": BASE, "url": vllm.url, "adapters": "discover", **engine}
    neighbours.config.paths["triage_adapter"] = {"model": BASE, "adapter": "sql-lora", "max_tokens": 60}
    neighbours.settings["discovery_seconds"] = 0.02
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        yield Site(gateway, http, vllm)


@pytest.fixture
async def site(neighbours: Neighbours, vllm: ScriptedEngine) -> AsyncIterator[Site]:
    async with opened(neighbours, vllm) as site:
        await until(lambda: site.engine.ready)
        yield site


async def test_each_adapter_is_used_under_its_own_name(site: Site) -> None:
    assert {BASE, *LORAS} <= {*await site.names()}
    for name in (BASE, *LORAS):
        body = (await site.ask(name)).json()
        assert body["choices"][0]["message"]["content"] == f"{name} here"
        assert site.vllm.bodies[-1]["model"] == name


async def test_a_path_with_a_discovered_adapter_is_a_lora_path_with_a_price(site: Site) -> None:
    response = await site.ask("auto", IN_TRIAGE)
    assert response.headers["x-pointsman-path"] == "triage_adapter"
    assert response.headers["x-pointsman-kind"] == "lora"
    assert float(response.headers["x-pointsman-cost-usd"]) == pytest.approx(20e-6 + 2 * 4e-6)
    assert site.vllm.bodies[-1]["model"] == "sql-lora"
    assert site.gateway.metric("pointsman_engine_attempts_total", engine="mine", outcome="ok") == 1
    assert site.gateway.metric("pointsman_engine_adapters", engine="mine") == 2


async def test_adapters_that_are_loaded_and_unloaded_at_run_time_come_and_go(site: Site) -> None:
    site.vllm.lists = lambda: model_list(BASE, {"new": "/loras/new", "sql-lora": "/loras/sql"})
    await until(lambda: site.engine.resident == {"new", "sql-lora"})
    assert (await site.ask("new")).json()["choices"][0]["message"]["content"] == "new here"
    assert await site.code("Acme/Support_v2") == "unknown_model"
    changes = "pointsman_engine_adapter_changes_total"
    assert site.gateway.metric(changes, engine="mine", change="came") == 3
    assert site.gateway.metric(changes, engine="mine", change="went") == 1


async def test_an_adapter_that_has_gone_leaves_its_task_to_the_fallback(site: Site) -> None:
    site.vllm.lists = lambda: model_list(BASE)
    await until(lambda: not site.engine.resident)
    response = await site.ask("auto", IN_TRIAGE)
    assert response.headers["x-pointsman-path"] == "triage_few_shot"
    refused = (await site.ask("path:triage_adapter")).json()["error"]
    assert refused["code"] == "adapter_not_resident"
    assert "adapter 'sql-lora' is not resident on any engine" in refused["message"]


async def test_an_adapter_that_was_unloaded_since_the_last_poll_is_no_failure_of_the_engine(site: Site) -> None:
    site.vllm.script = lambda body: no_such_model(body["model"]) if body["model"] == "sql-lora" else answer("ok")
    assert await site.code("path:triage_adapter") == "adapter_not_resident"
    assert site.gateway.metric("pointsman_engine_breaker_open", engine="mine") == 0
    site.vllm.script = lambda body: answer("back")
    await until(lambda: "sql-lora" in site.engine.resident)
    assert (await site.ask("path:triage_adapter")).status_code == 200


async def test_polls_are_single_flight_and_carry_the_key(
    neighbours: Neighbours, vllm: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-mine")
    async with opened(neighbours, vllm, api_key_env="MY_KEY") as site:
        await site.polled("listed", 5)
    assert vllm.most_listing == 1
    assert vllm.list_headers["authorization"] == "Bearer sk-mine"


async def test_two_engines_share_an_adapter_that_both_list(neighbours: Neighbours, vllm: ScriptedEngine) -> None:
    async with running_engine() as other:
        other.lists = lambda: model_list(BASE, {"sql-lora": "/loras/sql"})
        other.script = vllm.script
        neighbours.config.models["engines"]["other"] = {"model": BASE, "url": other.url, "adapters": "discover"}
        async with opened(neighbours, vllm) as site:
            await until(lambda: site.engine.ready and site.gateway.components.engines.get("other").ready)
            vllm.refuses(503, "gone")
            for _ in range(4):
                assert (await site.ask("sql-lora")).status_code == 200
            assert {body["model"] for body in other.bodies} == {"sql-lora"}


async def test_each_member_of_a_dns_group_lists_its_own_adapters(neighbours: Neighbours, vllm: ScriptedEngine) -> None:
    async with running_dns() as dns:
        dns.names["vllm.svc"] = ["127.0.0.1"]
        neighbours.settings["dns"] = dns.address
        async with opened(neighbours, vllm, url=f"dns+http://vllm.svc:{vllm.url.rpartition(':')[2]}") as site:
            await until(lambda: any(engine.resident == {*LORAS} for engine in site.gateway.components.engines.all()))
            assert (await site.ask("sql-lora")).status_code == 200
            assert site.gateway.metric("pointsman_engine_adapters", engine="mine/0") == 2


async def test_a_base_model_with_several_names_has_the_adapters_of_all(site: Site) -> None:
    cards = [model_card("short", "/models/base"), model_card(BASE, "/models/base")]
    cards += [model_card("by-name", "/l/a", "short"), model_card("by-path", "/l/b", "/models/base")]
    site.vllm.lists = lambda: web.json_response({"object": "list", "data": cards})
    await until(lambda: site.engine.resident == {"by-name", "by-path"})


async def test_an_adapter_for_another_base_model_is_refused_with_the_reason(site: Site) -> None:
    cards = [model_card(BASE, "/m"), model_card("sql-lora", "/loras/sql", "qwen")]
    site.vllm.lists = lambda: web.json_response({"data": cards})
    await until(lambda: site.engine.unusable)
    site.vllm.lists = lambda: web.json_response({"data": [model_card(BASE, "/m")]})
    await until(lambda: not site.engine.resident)
    site.vllm.lists = lambda: web.json_response({"data": cards})
    await until(lambda: site.engine.unusable)
    message = (await site.ask("path:triage_adapter")).json()["error"]["message"]
    assert "(mine: it is listed for base model 'qwen')" in message


async def test_an_adapter_that_is_listed_twice_stays_as_it_was(site: Site) -> None:
    cards = [model_card(BASE, "/m"), model_card("sql-lora", "/a", BASE), model_card("sql-lora", "/b", BASE)]
    cards += [model_card("twin", "/a", BASE), model_card("twin", "/b", BASE), *[model_card("same", "/c", BASE)] * 2]
    site.vllm.lists = lambda: web.json_response({"data": cards})
    await until(lambda: site.engine.unusable)
    assert site.engine.resident == {"sql-lora", "same"}
    assert site.engine.unusable["twin"] == "it is listed 2 times with different weights: '/a', '/b'"


async def test_an_engine_that_changes_its_base_model_is_not_ready_until_it_changes_back(site: Site) -> None:
    site.vllm.lists = lambda: model_list("qwen", {"q": "/q"})
    await until(lambda: not site.engine.ready)
    refused = (await site.ask("path:triage_adapter")).json()["error"]
    assert refused["code"] == "engine_not_ready"
    assert f"mine: it serves 'qwen', not '{BASE}' as the configuration says" in refused["message"]
    site.vllm.lists = lambda: model_list(BASE, LORAS)
    await until(lambda: site.engine.ready)
    assert (await site.ask("path:triage_adapter")).status_code == 200


def html() -> web.Response:
    return web.Response(text="<!doctype html><title>Sign in</title>", content_type="text/html")


def busy() -> web.Response:
    return web.Response(status=429, headers={"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT", "x-rate": "é"})


BAD = [
    ("missing", "answered 404: `adapters: discover` needs an engine that lists its models", web.HTTPNotFound),
    ("rejected", "answered 401: the key is missing or rejected, check api_key_env", web.HTTPUnauthorized),
    ("overloaded", "answered 429: too many requests", busy),
    ("invalid", "is no list of models in OpenAI's format; it begins '<!doctype html>", html),
    ("invalid", "is no list of models", lambda: web.json_response({"data": [{"id": None}]})),
    ("invalid", "is no list of models", lambda: web.json_response([])),
    ("invalid", "is no list of models", lambda: web.Response(body=b'{"data": [{"id": "\xff"}]}')),
    ("unreachable", "cannot be read: its answer is over 4194304 bytes", lambda: web.Response(body=b"x" * 5_000_000)),
    ("error", "answered 500: 'it is broken'", lambda: web.Response(status=500, text="it is broken")),
]


@pytest.mark.parametrize(("outcome", "message", "lists"), BAD)
async def test_a_list_that_cannot_be_read_keeps_the_last_good_state(
    site: Site, outcome: str, message: str, lists: Callable[[], Any], caplog: pytest.LogCaptureFixture
) -> None:
    site.vllm.lists = as_response(lists)
    await site.polled(outcome, 3)
    assert (await site.ask("path:triage_adapter")).status_code == 200
    assert (await site.http.get("/readyz")).status_code == 200
    logged = [record.getMessage() for record in caplog.records if message in record.getMessage()]
    assert len(logged) == 1  # once, not with each poll
    assert "its last known adapters stay in use" in logged[0]


@pytest.mark.parametrize(("outcome", "message", "lists"), BAD)
async def test_an_engine_is_not_ready_before_its_first_good_list(
    neighbours: Neighbours, vllm: ScriptedEngine, outcome: str, message: str, lists: Callable[[], Any]
) -> None:
    vllm.lists = as_response(lists)
    async with opened(neighbours, vllm) as site:
        await site.polled(outcome)
        refused = (await site.ask(BASE)).json()["error"]
        assert refused["code"] == "engine_not_ready"
        assert message in refused["message"]
        vllm.lists = lambda: model_list(BASE, LORAS)
        await until(lambda: site.engine.ready)
        assert (await site.ask(BASE)).status_code == 200


def as_response(lists: Callable[[], Any]) -> Callable[[], web.StreamResponse]:
    def respond() -> web.StreamResponse:
        found = lists()
        if isinstance(found, web.HTTPException):
            raise found
        return found  # type: ignore[no-any-return]  # each of the scripts is a response or raises one

    return respond


async def test_a_redirect_is_never_followed(neighbours: Neighbours, vllm: ScriptedEngine) -> None:
    async with running_engine() as elsewhere:
        vllm.lists = lambda: web.Response(status=307, headers={"Location": f"{elsewhere.url}/v1/models"})
        async with opened(neighbours, vllm) as site:
            await site.polled("redirect")
            assert f"a redirect to '{elsewhere.url}/v1/models', which is not followed" in site.engine.detail
        assert elsewhere.listed == 0


async def test_a_retry_after_is_respected_up_to_a_minute(site: Site) -> None:
    site.vllm.lists = lambda: web.Response(status=429, headers={"Retry-After": "30"})
    await site.polled("overloaded")
    listed = site.vllm.listed
    await asyncio.sleep(0.2)  # ten polls' time
    assert site.vllm.listed == listed


async def test_names_that_no_header_can_carry_are_left_out(site: Site) -> None:
    strange = {"with space": "/a", "Zug\nführer": "/b", "x" * 201: "/c", "good": "/d"}
    site.vllm.lists = lambda: model_list(BASE, strange)
    await until(lambda: site.engine.resident == {"good"})
    assert "printable ASCII" in site.engine.unusable["with space"]


async def test_an_adapter_called_like_a_model_does_not_hide_it(site: Site) -> None:
    site.vllm.lists = lambda: model_list(BASE, {"tiny": "/a", "auto": "/b"})
    await until(lambda: site.engine.resident == {"tiny", "auto"})
    names = await site.names()
    assert len(names) == len(set(names))
    response = await site.ask("tiny")
    assert response.headers["x-pointsman-kind"] == "prompt"
