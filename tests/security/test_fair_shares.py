"""Neither one key nor connections without a key can keep all others from being served."""

import asyncio
import http.client
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, closing, suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from pointsman.v1 import gateway_pb2 as pb

from tests.gateway.doubles.engine import ScriptedEngine, Step, answer, beginning, running_engine
from tests.gateway.doubles.http2_client import SETTINGS, frame, speaking, with_prefix
from tests.gateway.doubles.waiting import found, until
from tests.security.keyed_gateway import CHAT, HELLO, KeyedGateway, keyed_gateway
from tests.security.measuring import connect

pytestmark = pytest.mark.asyncio(loop_scope="module")

SLOTS, SHARE, CONNECTIONS = 16, 15, 40
"""The gateway's slots, the slots of a tenant that is alone (15 of 16), and the gateway's HTTP connections."""
PATIENCE = 60.0
SLOW = [{"role": "user", "content": "Answer slowly"}]
INNOCENT_SECONDS = 0.5
"""Seconds within which an innocent client must be answered; without a free slot it would wait a second in the queue."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[ScriptedEngine]:
    async with running_engine() as engine:
        yield engine


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def gateway(engine: ScriptedEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KeyedGateway]:
    folder = tmp_path_factory.mktemp("fairness")
    async with keyed_gateway(
        folder,
        engine.url,
        {"timeouts": {"connect_seconds": 30}},
        max_in_flight=SLOTS,
        queue_size=4,
        queue_timeout=1.0,
        http_connections=CONNECTIONS,
    ) as gateway:
        yield gateway


async def seconds_of_an_innocent(gateway: KeyedGateway, key: dict[str, str]) -> float:
    """Returns the shortest of three response times of an innocent client, since other programs of this machine delay
    it, too.
    """
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        response = await gateway.chat(key)
        taken.append(time.perf_counter() - began)
        assert response.status_code == 200, response.text
    return min(taken)


def slow_script(engine: ScriptedEngine) -> asyncio.Event:
    """Scripts the engine to answer slow questions only after the returned event is set."""
    gate = asyncio.Event()

    def script(body: Any) -> Sequence[Step]:
        is_slow = body["messages"][-1]["content"] == SLOW[0]["content"]
        return [*beginning("a"), gate, *answer("b")] if is_slow else answer("Hello")

    engine.script = script
    return gate


async def test_one_tenant_does_not_take_all_slots(gateway: KeyedGateway, engine: ScriptedEngine) -> None:
    greedy, innocent = await gateway.key("greedy"), await gateway.key("innocent")
    gate, statuses = slow_script(engine), list[int]()

    async def stream(client: httpx.AsyncClient) -> None:
        body = {"model": "tiny", "messages": SLOW, "stream": True}
        async with client.stream("POST", CHAT, json=body, headers=greedy) as response:
            await response.aread()
            statuses.append(response.status_code)

    async with httpx.AsyncClient(base_url=gateway.process.url, timeout=PATIENCE, verify=False) as client:
        streams = [asyncio.create_task(stream(client)) for _ in range(2 * SLOTS)]
        await until(lambda: engine.running >= SHARE, PATIENCE)
        assert await seconds_of_an_innocent(gateway, innocent) < INNOCENT_SECONDS
        refused = await gateway.chat(greedy)
        assert (refused.status_code, engine.running) == (503, SHARE)
        assert refused.json()["error"]["message"].startswith(f"{SHARE} requests of this tenant, its share of {SLOTS}")
        gate.set()
        await asyncio.gather(*streams)
    assert statuses.count(200) >= SHARE
    assert statuses.count(503) >= SLOTS - SHARE
    assert (await gateway.chat(greedy)).status_code == 200


async def test_answers_that_nobody_reads_have_no_slot(gateway: KeyedGateway, engine: ScriptedEngine) -> None:
    """The client is one gRPC connection with a flow-control window of zero, and more calls than there are slots."""
    greedy, innocent = await gateway.key("greedy"), await gateway.key("innocent")
    engine.says(*answer(*["word "] * 50))
    message = pb.GenerateRequest(
        model="tiny", messages=[pb.Message(role=m["role"], content=m["content"]) for m in HELLO]
    )
    headers = [("authorization", greedy["authorization"])]

    async def all_ended() -> bool:
        done = await gateway.process.metric("pointsman_requests_total", outcome="ok")
        return done - before >= SHARE and await gateway.process.metric("pointsman_in_flight") == 0

    before = await gateway.process.metric("pointsman_requests_total", outcome="ok")
    async with speaking(gateway.process.grpc_address, {4: 0}) as client:
        client.say(frame(SETTINGS, 1, 0, b""))
        for _ in range(SLOTS + 4):
            client.call("/pointsman.v1.Gateway/GenerateStream", with_prefix(message.SerializeToString()), headers)
        with suppress(ConnectionError):
            await client.flush()
        await found(all_ended, PATIENCE)
        assert await seconds_of_an_innocent(gateway, innocent) < INNOCENT_SECONDS


async def test_idle_connections_without_a_key_do_not_keep_others_out(gateway: KeyedGateway) -> None:
    address = gateway.process.url.removeprefix("http://")
    innocent = await gateway.key("innocent")
    assert (await gateway.chat(innocent)).status_code == 200  # over a connection that stays open
    with ExitStack() as stack:
        for number in range(5 * CONNECTIONS):
            idle = stack.enter_context(connect(address))
            if number % 2:
                with suppress(ConnectionError):
                    idle.sendall(b"GET /v1/models HTTP/1.1\r\n")  # headers that do not end
        for path in ("/healthz", "/readyz"):
            with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as probe:
                probe.request("GET", path)
                assert probe.getresponse().status == 200
        assert (await gateway.chat(innocent)).status_code == 200
        async with httpx.AsyncClient(base_url=gateway.process.url, timeout=PATIENCE, verify=False) as other:
            response = await other.post(CHAT, json={"model": "tiny", "messages": HELLO}, headers=innocent)
            assert response.status_code == 200


async def test_connections_of_a_key_leave_room_for_probes(gateway: KeyedGateway) -> None:
    address, key = gateway.process.url.removeprefix("http://"), await gateway.key("greedy")
    request = f"GET /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: {key['authorization']}\r\n\r\n".encode()
    with ExitStack() as stack:
        for _ in range(CONNECTIONS + 8):
            held = stack.enter_context(connect(address))
            held.sendall(request)
            assert await asyncio.to_thread(first_bytes, held)
        with closing(http.client.HTTPConnection(address, timeout=PATIENCE)) as probe:
            probe.request("GET", "/readyz")
            assert probe.getresponse().status == 200


def first_bytes(connection: socket.socket) -> bytes:
    return connection.recv(65536)
