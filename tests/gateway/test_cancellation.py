"""If a client disconnects in any phase of its request, the engine's work stops and the request is metered."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import Any

import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc, retriever_pb2, retriever_pb2_grpc
from pointsman_servicekit.errors import DeadlineExceeded
from pointsman_servicekit.grpc_client import open_channel
from pointsman_servicekit.grpc_server import serving

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import chunk
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.raw_engine import HEAD, End, RawEngine, Step, event, in_chunks, running_raw_engine
from tests.gateway.doubles.retriever import SERVICE, ScriptedRetriever
from tests.gateway.doubles.waiting import until

AT_ONCE = 1.0
"""Seconds, for a busy machine. The promised limit, 0.2 s, is tested with the real engine."""

ROLE, FIRST = event(chunk("", role="assistant")), event(chunk("Zug"))

PHASES: dict[str, list[Step]] = {
    "queued": [],
    "begun": [HEAD],
    "before the first token": [HEAD, in_chunks([ROLE])],
    "after the first token": [HEAD, in_chunks([ROLE, FIRST])],
    "in the middle of a piece": [HEAD, in_chunks([ROLE, FIRST]) + in_chunks([FIRST])[:20]],
}


@pytest.fixture
async def engine() -> AsyncIterator[RawEngine]:
    async with running_raw_engine() as engine:
        yield engine


class PausedRetriever(ScriptedRetriever):
    """A retriever whose searches never return."""

    def __init__(self) -> None:
        super().__init__()
        self.searching = 0

    async def Search(self, request: retriever_pb2.SearchRequest, context: Any) -> retriever_pb2.SearchResponse:
        self.asked.append(request)
        self.searching += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.searching -= 1
        raise AssertionError("it waits for ever")


@pytest.fixture
async def retriever() -> AsyncIterator[PausedRetriever]:
    paused = PausedRetriever()

    def register(server: Any) -> None:
        retriever_pb2_grpc.add_RetrieverServicer_to_server(paused, server)

    async with serving("127.0.0.1:0", [SERVICE], register, grace=0) as server:
        paused.address = server.address
        yield paused


def size_of(steps: Iterable[object]) -> int:
    return sum(len(step) for step in steps if isinstance(step, bytes))


def cancelled(gateway: Gateway, path: str) -> float:
    return gateway.metric("pointsman_requests_total", outcome="cancelled", path=path)


@pytest.mark.parametrize("phase", PHASES)
async def test_the_engines_work_stops(api: ApiClient, engine: RawEngine, gateway: Gateway, phase: str) -> None:
    steps = PHASES[phase]
    engine.says(*steps, asyncio.Event())
    asking = asyncio.create_task(api.ask(IN_CHAT, "tiny"))
    await until(lambda: engine.running == 1 and engine.sent == size_of(steps))
    asking.cancel()
    await until(lambda: engine.hung_up == 1, within=AT_ONCE)
    await until(lambda: cancelled(gateway, "tiny") == 1)
    assert gateway.metric("pointsman_in_flight") == 0
    assert engine.asked == 1


async def test_a_search_is_cancelled_and_the_engine_not_called(
    api: ApiClient, engine: RawEngine, retriever: PausedRetriever, gateway: Gateway
) -> None:
    asking = asyncio.create_task(api.ask(IN_POLICY))
    await until(lambda: retriever.searching == 1)
    asking.cancel()
    await until(lambda: retriever.searching == 0, within=AT_ONCE)
    await until(lambda: cancelled(gateway, "handbook") == 1)
    assert gateway.metric("pointsman_in_flight") == 0
    assert engine.asked == 0


@pytest.fixture
def no_retries(neighbours: Neighbours) -> None:
    neighbours.config.models["resilience"] = {"retries": {"max_retries": 0}}


async def test_a_fallback_path_stops_too(
    no_retries: None, api: ApiClient, engine: RawEngine, retriever: PausedRetriever, gateway: Gateway
) -> None:
    engine.says(HEAD, End.CLOSED)
    retriever.asked.clear()
    asking = asyncio.create_task(api.ask(IN_CHAT))
    await until(lambda: retriever.searching == 1)  # the path of small talk has failed; the default path searches
    asking.cancel()
    await until(lambda: retriever.searching == 0, within=AT_ONCE)
    await until(lambda: cancelled(gateway, "safe_start") == 1)


@pytest.fixture
def short_of_time(neighbours: Neighbours) -> None:
    neighbours.settings["request_timeout"] = 0.4


@pytest.mark.parametrize("model", ["auto", "path:handbook"])
async def test_a_deadline_during_retrieval_is_reported_as_such(
    short_of_time: None, api: ApiClient, engine: RawEngine, retriever: PausedRetriever, gateway: Gateway, model: str
) -> None:
    with pytest.raises(DeadlineExceeded) as raised:
        await api.ask(IN_POLICY, model)
    assert raised.value.code == "deadline_exceeded"
    await until(lambda: retriever.searching == 0)
    assert gateway.metric("pointsman_requests_total", outcome="deadline_exceeded") == 1
    assert engine.asked == 0


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("method", ["GenerateStream", "Generate"])
async def test_a_closed_grpc_connection_cancels_its_calls(
    engine: RawEngine, gateway: Gateway, phase: str, method: str
) -> None:
    steps = PHASES[phase]
    engine.says(*steps, asyncio.Event())
    channel = open_channel(gateway.grpc_address)
    request = pb.GenerateRequest(model="tiny", messages=[pb.Message(role="user", content=IN_CHAT)])
    call = getattr(gateway_pb2_grpc.GatewayStub(channel), method)(request)
    await until(lambda: engine.running == 1 and engine.sent == size_of(steps))
    await channel.close()
    await until(lambda: engine.hung_up == 1, within=AT_ONCE)
    await until(lambda: cancelled(gateway, "tiny") == 1)
    assert call.cancelled()


async def test_many_simultaneous_disconnects_leak_nothing(
    api: ApiClient, engine: RawEngine, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    engine.says(*PHASES["after the first token"], asyncio.Event())
    asking = [asyncio.create_task(api.ask(IN_CHAT, "tiny")) for _ in range(40)]
    await until(lambda: engine.running == 40)
    for task in asking:
        task.cancel()
    await until(lambda: engine.hung_up == 40)
    await until(lambda: cancelled(gateway, "tiny") == 40)
    assert gateway.metric("pointsman_in_flight") == 0
    assert "Traceback" not in caplog.text
