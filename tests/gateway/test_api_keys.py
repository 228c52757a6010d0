"""API keys, scopes, limits and usage, over the real HTTP and gRPC APIs."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from pathlib import Path
from typing import Any

import grpc
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_servicekit.bounded_redis import CALL_TIMEOUT_SECONDS, open_redis
from pointsman_servicekit.errors import PermissionDenied, PointsmanError, ResourceExhausted, Unauthenticated
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_errors import from_rpc_error
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.records import KeyScope, Limits
from pointsman_servicekit.keys.redis_layout import UsageStore

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE, PRICES
from tests.gateway.doubles.engine import ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.receipts import receipts_once
from tests.gateway.doubles.tenancy import issue, register_at
from tests.gateway.doubles.valkey import SlowLink, Valkey
from tests.gateway.doubles.waiting import found, until

CHAT = "/v1/chat/completions"
FAMILIES = {401: Unauthenticated, 403: PermissionDenied, 429: ResourceExhausted}


@pytest.fixture
async def link(valkey: Valkey) -> AsyncIterator[SlowLink]:
    async with SlowLink(valkey).running() as link:
        yield link


@pytest.fixture
async def guarded(neighbours: Neighbours, link: SlowLink, tmp_path: Path) -> AsyncIterator[Gateway]:
    neighbours.settings |= {"auth": "on", "redis_url": link.url, "wal_dir": tmp_path / "wal"}
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


def body(text: str = IN_CHAT, **more: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **more}


async def over_http(gateway: Gateway, key: str, **more: Any) -> Mapping[str, str]:
    """Sends a request over HTTP and returns the answer's headers; raises an error answer."""
    shown = {"authorization": f"Bearer {key}"} if key else {}
    async with open_http_client(gateway) as client:
        response = await client.post(CHAT, json=body(**more), headers=shown)
    if response.is_success:
        return response.headers
    error = response.json()["error"]
    refusal = FAMILIES[response.status_code](error["message"], code=error["code"], param=error["param"])
    refusal.limits = response.headers
    raise refusal


async def over_grpc(gateway: Gateway, key: str, text: str = IN_CHAT, model: str = "auto") -> Mapping[str, str]:
    """Sends a request over gRPC and returns the answer's metadata with its trailers; raises an error answer."""
    shown = (("authorization", f"Bearer {key}"),) if key else ()
    asked = pb.GenerateRequest(model=model, messages=[pb.Message(role="user", content=text)])
    async with open_channel(gateway.grpc_address) as channel:
        call = gateway_pb2_grpc.GatewayStub(channel).Generate(asked, metadata=shown)
        try:
            await call
        except grpc.aio.AioRpcError as error:
            refusal = from_rpc_error(error, "gateway")
            refusal.limits = {str(name): str(value) for name, value in error.trailing_metadata()}
            raise refusal from error
        return dict([*await call.initial_metadata(), *await call.trailing_metadata()])


API_CLIENTS = pytest.mark.parametrize("ask", [over_http, over_grpc])


@API_CLIENTS
@pytest.mark.parametrize(
    ("key", "code"), [("", "missing_key"), ("sk-1", "unknown_key"), (f"pm_{'A' * 8}_{'b' * 32}", "unknown_key")]
)
async def test_requests_without_a_valid_key_are_rejected(
    guarded: Gateway, engine: ScriptedEngine, ask: Any, key: str, code: str
) -> None:
    with pytest.raises(Unauthenticated) as raised:
        await ask(guarded, key)
    assert raised.value.code == code
    assert engine.bodies == []


@pytest.mark.parametrize(
    ("method", "path", "asked"),
    [
        ("POST", "/v1/route", body()),
        ("POST", "/v1/feedback", {"decision_id": "d", "rating": 1}),
        ("POST", "/v1/evaluations", {}),
        ("POST", "/v1/completions", {"model": "auto", "prompt": IN_CHAT}),
        ("POST", "/v1/responses", {"model": "auto", "input": IN_CHAT}),
        (
            "POST",
            "/v1/messages",
            {"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": IN_CHAT}]},
        ),
        ("POST", "/v1/messages/count_tokens", {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}),
        ("POST", "/v1/embeddings", {"model": "minilm", "input": IN_CHAT}),
        ("GET", "/v1/models", None),
        ("GET", "/v1/tasks", None),
        ("GET", "/v1/configuration", None),
        ("POST", "/admin/v1/keys", {"tenant": "acme"}),
        ("GET", "/admin/v1/config", None),
    ],
)
async def test_every_route_except_operational_ones_needs_a_key(
    guarded: Gateway, method: str, path: str, asked: dict[str, Any] | None
) -> None:
    async with open_http_client(guarded) as client:
        response = await client.request(method, path, json=asked)
    assert (response.status_code, response.json()["error"]["code"]) == (401, "missing_key"), path


async def test_rejected_requests_of_a_known_key_are_recorded_with_it(guarded: Gateway, valkey: Valkey) -> None:
    issued = await issue(valkey.url, tenant="acme")
    headers = {"authorization": f"Bearer {issued.credential.text}", "content-type": "application/json"}
    rejected = [
        (CHAT, b"{"),
        ("/v1/messages", b"{}"),
        ("/v1/messages/count_tokens", b"{"),
        ("/v1/completions", b'{"model": "auto", "prompt": 1.5}'),
        ("/v1/responses", b'{"model": "auto", "input": []}'),
        ("/v1/embeddings", b'{"model": "minilm", "input": ""}'),
        ("/v1/route", b"\xff"),
    ]
    async with open_http_client(guarded) as client:
        for path, wrong in rejected:
            assert (await client.post(path, content=wrong, headers=headers)).status_code == 400, path
        assert (await client.post(CHAT, content=b"{", headers={"x-api-key": "sk-1"})).status_code == 401
    async with open_channel(guarded.grpc_address) as channel:
        call = gateway_pb2_grpc.GatewayStub(channel).Generate(
            pb.GenerateRequest(model="auto"), metadata=(("authorization", headers["authorization"]),)
        )
        with pytest.raises(grpc.aio.AioRpcError, match="INVALID_ARGUMENT"):
            await call
    receipts = await receipts_once(valkey.url, lambda receipts: len(receipts.undecided) == len(rejected) + 2)
    callers = [(one["tenant"], one["key"]) for one in receipts.undecided]
    assert callers == [("acme", issued.record.id)] * len(rejected) + [("", "")] + [("acme", issued.record.id)]


async def test_health_and_metrics_need_no_key(guarded: Gateway) -> None:
    async with open_http_client(guarded) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200, path


@API_CLIENTS
async def test_a_key_can_use_the_paths_in_its_scope_only(guarded: Gateway, valkey: Valkey, ask: Any) -> None:
    issued = await issue(valkey.url, scope=KeyScope(paths=("small_talk", "safe_start")))
    key = issued.credential.text
    named = await ask(guarded, key, text=IN_CHAT)
    assert named["x-pointsman-path"] == "small_talk"
    # The key may not use the task's path, but it may use the default path.
    instead = await ask(guarded, key, text=IN_TRIAGE)
    assert instead["x-pointsman-path"] == "safe_start"
    with pytest.raises(PermissionDenied, match="the key is not for path 'triage_adapter'") as raised:
        await ask(guarded, key, model="path:triage_adapter")
    assert (raised.value.code, raised.value.param) == ("not_in_scope", "model")


async def all_of(asked: Iterable[Awaitable[Any]]) -> None:
    for one in asked:
        await one


@API_CLIENTS
async def test_limits_are_reported_before_and_when_they_are_reached(guarded: Gateway, valkey: Valkey, ask: Any) -> None:
    issued = await issue(valkey.url, limits=Limits(requests_per_minute=2))
    headers = [await ask(guarded, issued.credential.text) for _ in range(2)]
    assert [t.get("x-ratelimit-limit-requests", "2") for t in headers] == ["2", "2"]
    with pytest.raises(ResourceExhausted) as refused:
        await all_of(ask(guarded, issued.credential.text) for _ in range(3))  # a new minute may have begun
    assert refused.value.code == "requests_per_minute"
    assert refused.value.limits["x-ratelimit-remaining-requests"] == "0"


async def test_limits_are_reported_with_rejected_embeddings(guarded: Gateway, valkey: Valkey) -> None:
    issued = await issue(valkey.url, limits=Limits(requests_per_minute=1))
    async with open_http_client(guarded) as client:
        client.headers["authorization"] = f"Bearer {issued.credential.text}"
        # A minute may end between two requests.
        answers = [await client.post("/v1/embeddings", json={"model": "minilm", "input": "a"}) for _ in range(4)]
    rejected = [answer for answer in answers if answer.status_code == 429]
    assert rejected
    assert rejected[0].headers["x-ratelimit-limit-requests"] == "1"


@API_CLIENTS
async def test_a_revoked_key_is_soon_rejected_and_its_usage_is_counted(
    guarded: Gateway, engine: ScriptedEngine, valkey: Valkey, ask: Any
) -> None:
    issued = await issue(valkey.url)
    engine.says(*answer("Hello", " there", prompt_tokens=20))
    await ask(guarded, issued.credential.text)
    async with open_redis(valkey.url, lambda up: None) as redis:
        book = UsageStore(redis)

        async def counted() -> Mapping[str, int]:
            return (await book.read()).today.get((issued.record.tenant, issued.record.id), {})

        counts = await found(counted)
    assert (counts["requests"], counts["prompt_tokens"], counts["completion_tokens"]) == (1, 20, 2)
    assert counts["picodollars"] == round(20 * PRICES["prompt"] + 2 * PRICES["completion"]) * 10**6
    async with register_at(valkey.url) as register:
        await register.revoke(issued.record.id)

    async def is_refused() -> bool:
        try:
            await ask(guarded, issued.credential.text)
        except PointsmanError as error:
            return error.code == "revoked_key"
        return False

    await found(is_refused)


async def test_a_disconnect_releases_the_concurrency_limit(
    guarded: Gateway, engine: ScriptedEngine, valkey: Valkey
) -> None:
    issued = await issue(valkey.url, limits=Limits(concurrent_streams=1))
    engine.says(*beginning("Hel"), asyncio.Event())
    asking = asyncio.create_task(over_http(guarded, issued.credential.text))
    await until(lambda: engine.running == 1)
    with pytest.raises(ResourceExhausted) as refused:
        await over_http(guarded, issued.credential.text)
    assert refused.value.code == "concurrent_streams"
    asking.cancel()
    await until(lambda: guarded.metric("pointsman_in_flight") == 0)
    engine.says(*answer("Hello"))
    assert await over_http(guarded, issued.credential.text)


@API_CLIENTS
async def test_a_tenant_cannot_give_feedback_on_anothers_answers(guarded: Gateway, valkey: Valkey, ask: Any) -> None:
    ours, theirs = [(await issue(valkey.url, tenant=name)).credential.text for name in ("acme", "other")]
    feedback = {"decision_id": (await ask(guarded, ours))["x-pointsman-decision-id"], "rating": 1.0}
    async with open_http_client(guarded) as client:
        responses = [
            await client.post("/v1/feedback", json=feedback, headers={"authorization": f"Bearer {key}"})
            for key in (theirs, ours)
        ]
    async with open_channel(guarded.grpc_address) as channel:
        stub = gateway_pb2_grpc.GatewayStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.Feedback(pb.FeedbackRequest(**feedback), metadata=(("authorization", f"Bearer {theirs}"),))
    assert [one.status_code for one in responses] == [404, 200]
    assert responses[0].json()["error"]["code"] == "unknown_decision"
    assert from_rpc_error(refused.value, "gateway").code == "unknown_decision"


async def test_a_gateway_reports_that_its_calls_about_keys_are_late(guarded: Gateway, link: SlowLink) -> None:
    assert guarded.metric("pointsman_redis_up") == 1
    link.delay, link.to = 1.5 * CALL_TIMEOUT_SECONDS, redis_layout.EPOCH.encode()
    await until(lambda: guarded.metric("pointsman_redis_up") == 0)
    link.delay = 0.0
    await until(lambda: guarded.metric("pointsman_redis_up") == 1)
