"""This release opens the state of each earlier release, and restarts of services on it lose no request."""

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from pointsman.v1 import lora_server_pb2 as lora_pb
from pointsman.v1 import retriever_pb2 as pb
from pointsman.v1 import retriever_pb2_grpc
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.redis_layout import USAGE
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.load import under_load
from tests.gateway.doubles.process_retriever import HANDBOOK
from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.request_logs import feedback_in
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.waiting import found
from tests.security.target import Services, prepare_model, running_services
from tests.upgrades.release_state import LORA_SETTINGS, RELEASES, ReleaseState, unpack

PATIENCE = 60.0


@pytest.fixture(params=RELEASES)
def state(request: pytest.FixtureRequest, tmp_path: Path) -> ReleaseState:
    prepare_model()
    return unpack(request.param, tmp_path)


@pytest.fixture
async def services(state: ReleaseState) -> AsyncIterator[Services]:
    async with running_services(state.folder, {"shutdown_delay": 0}, LORA_SETTINGS, fill=False) as services:
        yield services


def session(services: Services, key: str) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(services.gateway.url, headers={"authorization": f"Bearer {key}"})


def test_there_is_a_state_of_the_first_release() -> None:
    assert "0.1.0" in RELEASES


async def test_keys_decisions_feedback_usage_and_write_ahead_logs_are_read(
    state: ReleaseState, services: Services
) -> None:
    expected, url = state.expected, services.valkey.url
    async with session(services, expected["key"]) as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
        async with client.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
        for decision in expected["decisions"]:
            async with client.get(f"/console/api/decisions/{decision}", headers={"x-pointsman-console": "1"}) as answer:
                assert answer.status == 200, await answer.text()
        async with client.post("/v1/feedback", json={"decision_id": expected["decisions"][2], "rating": 1.0}) as answer:
            assert answer.status == 200, await answer.text()
    async with session(services, expected["revoked_key"]) as client, client.get("/v1/models") as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (401, "revoked_key")

    async def is_recovered() -> bool:
        decided = {one["id"] for one in (await receipts_in(url)).decided}
        rated = {one["decision"] for one in await feedback_in(url)}
        return decided >= {*expected["decisions"], *expected["in_wal"]} and rated >= set(expected["decisions"])

    await found(is_recovered, PATIENCE)
    async with open_redis(url, lambda up: None, 2.0) as redis:
        record = await KeyStore(redis).find(expected["key_id"])
        assert (record.tenant, record.operator) == (expected["tenant"], True)
    async with open_client(url) as opened:
        days = await opened.client.keys(f"{USAGE}2*")
        requests = [
            await opened.client.hget(day, f"{expected['tenant']}:{expected['key_id']}:requests") for day in days
        ]
    assert sum(int(number or 0) for number in requests) >= len(expected["decisions"])


async def test_collections_are_opened_searched_and_changed(state: ReleaseState, services: Services) -> None:
    async with open_channel(services.retriever.address, token=lambda: services.tokens["admin"]) as channel:
        stub = retriever_pb2_grpc.RetrieverStub(channel)
        search = await stub.Search(
            pb.SearchRequest(collection="handbook", query="bicycles", top_k=10), timeout=PATIENCE
        )
        assert {passage.document_id for passage in search.passages} == set(HANDBOOK)
        document = pb.Document(id="boats.md", title="boats.md", text="The ferry carries bicycles.")
        await stub.Upsert(pb.UpsertRequest(collection="handbook", documents=[document]), timeout=PATIENCE)
        verified = await stub.Verify(pb.VerifyRequest(collection="handbook"), timeout=PATIENCE)
        assert not list(verified.problems)


async def test_adapters_are_loaded_and_moved(state: ReleaseState, services: Services) -> None:
    expected, server = state.expected, services.lora_server
    listed = await server.listed()
    assert {version.version for version in listed.versions} == set(expected["versions"])
    assert {alias.alias: alias.version for alias in listed.aliases} == expected["alias"]
    changes = (await server.call("History", lora_pb.HistoryRequest(name="triage", limit=100))).changes
    assert len(changes) >= len(expected["versions"])

    async def answers(version: str) -> bool:
        return (await server.answered_by(version)).startswith(version)

    for version in (expected["versions"][0], expected["versions"][1]):
        await server.promote("triage@prod", version)
        await server.until(lambda version=version: answers(version))  # type: ignore[misc]


async def test_restarts_of_the_services_on_that_state_lose_no_request(state: ReleaseState, services: Services) -> None:
    """tests/rollout restarts the gateway itself behind a proxy; here clients notice its restart directly."""
    url, issued = services.gateway.url, await issue(services.valkey.url, tenant="loaded")
    headers = {"authorization": f"Bearer {issued.credential.text}"}
    async with (
        under_load(url, IN_TRIAGE, clients=4, headers=headers) as triage,
        under_load(url, IN_POLICY, clients=4, headers=headers) as policy,
    ):
        await triage.more(20, lambda outcome: outcome.ok)
        await policy.more(20, lambda outcome: outcome.path == "handbook")
        services.retriever.signal(signal.SIGTERM)
        assert await services.retriever.ended(within=60) == 0
        await services.retriever.start()
        await policy.more(20, lambda outcome: outcome.path == "handbook")
        services.lora_server.signal(signal.SIGTERM)
        assert await services.lora_server.ended(within=60) == 0
        await services.lora_server.start_with_engine()
        await triage.more(20, lambda outcome: outcome.path == "triage_adapter" and outcome.ok)
    lost = [outcome for load in (triage, policy) for outcome in load.outcomes if not outcome.ok]
    # There is one engine only, which stops with its lora-server: requests get a clear error until the next one is up.
    assert [outcome for outcome in lost if outcome.status != 503 or not outcome.retry_after] == []
