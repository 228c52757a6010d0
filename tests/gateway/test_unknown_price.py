"""A model may have an unknown price: its dollars are then null in every answer, and never 0."""

from collections.abc import AsyncIterator

import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import answer, running_engine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

CONSOLE = {"x-pointsman-console": "1"}


@pytest.fixture
async def own(neighbours: Neighbours) -> AsyncIterator[Neighbours]:
    """Changes the configuration: small talk is sent to a model without a price; the task falls back to a path with
    one.
    """
    async with running_engine() as engine:
        engine.script = lambda body: answer("Good", " day")
        models = neighbours.config.models
        models["models"]["own"] = {"context_window": 4096, "usd_per_million_tokens": "unknown"}
        models["engines"]["own"] = {"model": "own", "url": engine.url}
        neighbours.config.paths["small_talk"]["model"] = "own"
        neighbours.config.tasks["chat"]["fallback"] = ["safe_start"]
        await neighbours.ready()
        yield neighbours


@pytest.fixture
async def gateway(own: Neighbours) -> AsyncIterator[Gateway]:
    async with own.gateway() as gateway:
        yield gateway


async def post(http: httpx.AsyncClient, text: str, **more: object) -> httpx.Response:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **more}
    return await http.post("/v1/chat/completions", json=body)


async def test_http_says_null(gateway: Gateway) -> None:
    async with open_http_client(gateway) as http:
        plain = await post(http, IN_CHAT)
        assert plain.json()["pointsman"]["cost_usd"] is None
        assert plain.json()["pointsman"]["cost_parts_usd"] == {"unpriced": None}
        assert "x-pointsman-cost-usd" not in plain.headers
        streamed = await post(http, IN_CHAT, stream=True, stream_options={"include_usage": True})
        assert '"cost_usd":null' in streamed.text.replace(" ", "")
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
        route = (await http.post("/v1/route", json=body)).json()
        assert route["path"] == "small_talk"
        assert route["expected_cost_usd"] is None
        assert route["costs_usd"]["small_talk"] is None
        assert route["costs_usd"]["safe_start"] > 0
        tasks = (await http.get("/v1/tasks")).json()
        assert tasks["models"]["own"]["prices"] is None
        paths = (await http.get("/console/api/overview", headers=CONSOLE)).json()["overview"]["tasks"]
        (chat,) = [task for task in paths if task["task"] == "chat"]
        known = {path["path"]: path["usd_per_1k"] for path in chat["paths"]}
        assert known["small_talk"] is None
        assert known["safe_start"] > 0


async def test_grpc_leaves_it_unset(gateway: Gateway) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        request = pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content=IN_CHAT)])
        response = await stub.Generate(request)
        assert not response.receipt.HasField("cost_usd")
        assert not response.receipt.cost_parts_usd
        request.messages[0].content = IN_POLICY
        assert (await stub.Generate(request)).receipt.HasField("cost_usd")


async def test_no_metric_claims_that_it_cost_nothing(gateway: Gateway) -> None:
    async with open_http_client(gateway) as http:
        await post(http, IN_CHAT)
        await post(http, IN_POLICY)
        page = (await http.get("/metrics")).text
    costs = [line for line in page.splitlines() if line.startswith(("pointsman_cost_usd_total", "pointsman_counterf"))]
    assert any('path="handbook"' in line for line in costs)
    assert not [line for line in costs if 'path="small_talk"' in line]


async def test_a_budget_in_dollars_pays_for_no_unknown_price(own: Neighbours, valkey: Valkey) -> None:
    own.settings |= {"auth": "on", "redis_url": valkey.url}
    async with own.gateway() as gateway, open_http_client(gateway) as http:
        key = await issue(valkey.url, Limits(dollars_per_day=1.0))
        http.headers["authorization"] = f"Bearer {key.credential.text}"
        answered = await post(http, IN_CHAT)
        assert answered.headers["x-pointsman-path"] == "safe_start"
        assert float(answered.headers["x-pointsman-cost-usd"]) > 0
        named = await http.post(
            "/v1/chat/completions", json={"model": "own", "messages": [{"role": "user", "content": "Hi"}]}
        )
        assert named.status_code == 429
        assert named.json()["error"]["code"] == "price_unknown"
        free = await issue(valkey.url, Limits())
        http.headers["authorization"] = f"Bearer {free.credential.text}"
        assert (await post(http, IN_CHAT)).headers["x-pointsman-path"] == "small_talk"


async def test_the_request_log_keeps_it_unknown(own: Neighbours, valkey: Valkey) -> None:
    own.settings |= {"redis_url": valkey.url}
    async with own.gateway() as gateway, open_http_client(gateway) as http:
        answered = await post(http, IN_CHAT)
        number = answered.headers["x-pointsman-decision-id"]

        async def logged() -> dict[str, object] | None:
            response = await http.get(f"/console/api/decisions/{number}", headers=CONSOLE)
            return response.json()["entry"] if response.status_code == 200 else None

        entry = await found(logged)
        assert entry["cost_usd"] is None
        assert entry["expected_cost_usd"] is None
