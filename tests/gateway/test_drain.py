"""Graceful shutdown: not ready, then a notice period, then draining with a time limit."""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
from pointsman_gateway.domain import Message, Request
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.shutdown import DrainTimes, drain
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client import CollectorRegistry, Gauge

from tests.gateway.doubles.api_clients import GrpcStreamClient
from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.engine import ScriptedEngine, beginning
from tests.gateway.doubles.gateway import Gateway, open_http_client
from tests.gateway.doubles.load import Load, Outcome
from tests.gateway.doubles.process_engine import process_engine
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.slots import slot
from tests.gateway.doubles.waiting import found, until

REQUEST = Request("auto", (Message("user", "Hello"),))

Starting = Callable[..., AbstractAsyncContextManager[ProcessGateway]]


@pytest.fixture
def starting(tmp_path: Path, config_folder: ConfigFolder, model_folder: Path) -> Starting:
    @asynccontextmanager
    async def start(gap: float = 0.1, **settings: Any) -> AsyncIterator[ProcessGateway]:
        """Starts a gateway with an engine that answers with 20 chunks, one every `gap` seconds."""
        async with process_engine(tmp_path, "a", pieces=20, first=0.05, gap=gap) as engine:
            config_folder.models["engines"] = {"local": {"model": "tiny", "url": engine.url}}
            config_folder.paths = {name: path for name, path in config_folder.paths.items() if "adapter" not in path}
            config_folder.tasks["triage"]["policy"] = {"fixed": "triage_few_shot"}
            folder = config_folder.write()
            async with process_gateway(tmp_path, config=folder, embedding_model=model_folder, **settings) as gateway:
                yield gateway

    return start


async def streams(gateway: ProcessGateway, count: int, session: aiohttp.ClientSession) -> tuple[Load, Awaitable[Any]]:
    """Starts this many streams, and waits until all have begun."""
    load = Load(f"{gateway.url}/v1/chat/completions", IN_CHAT, 30, "auto")
    asked = asyncio.gather(*(load.ask(session) for _ in range(count)))
    await until(lambda: load.streaming == count, within=30)
    return load, asked


async def says_no(gateway: ProcessGateway) -> bool:
    return (await gateway.look("/readyz"))[0] == 503


async def test_during_the_notice_period_running_and_new_requests_are_served(starting: Starting) -> None:
    async with (
        starting(shutdown_delay=1.5, shutdown_timeout=30) as gateway,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        load, asked = await streams(gateway, 50, session)
        gateway.signal(signal.SIGTERM)

        await found(lambda: says_no(gateway))
        late = await load.ask(session)  # a load balancer that does not know about the shutdown yet
        outcomes: list[Outcome] = await asked
        assert [outcome for outcome in [late, *outcomes] if not outcome.ok] == []
        assert {outcome.text for outcome in outcomes} == {"a" * 20}
        assert await gateway.ended(within=30) == 0


async def test_after_the_notice_period_new_requests_are_rejected(starting: Starting) -> None:
    async with (
        starting(shutdown_delay=0, shutdown_timeout=30) as gateway,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        load, asked = await streams(gateway, 2, session)
        gateway.signal(signal.SIGTERM)

        await found(lambda: says_no(gateway))  # without a notice period it is closed immediately
        result = await load.ask(session)
        assert (result.status, result.code, result.retry_after) == (503, "shutting_down", "1")
        assert all(outcome.ok for outcome in await asked)
        assert await gateway.ended(within=30) == 0


async def test_requests_beyond_the_shutdown_timeout_end_with_an_error(starting: Starting) -> None:
    async with (
        starting(gap=1.0, shutdown_delay=0, shutdown_timeout=0.3) as gateway,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        _, asked = await streams(gateway, 5, session)
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(within=30) == 0
        outcomes: list[Outcome] = await asked
        assert [(outcome.status, outcome.code) for outcome in outcomes] == [(200, "shutting_down")] * 5
        assert "draining: 5 requests are aborted after 0.3 s" in gateway.words


STREAMS: dict[str, tuple[dict[str, Any], str]] = {
    "/v1/chat/completions": ({"messages": [{"role": "user", "content": IN_CHAT}]}, '"code":"shutting_down"'),
    "/v1/completions": ({"prompt": IN_CHAT}, '"code":"shutting_down"'),
    "/v1/responses": ({"input": IN_CHAT}, '"type":"response.failed"'),
    "/v1/messages": ({"messages": [{"role": "user", "content": IN_CHAT}], "max_tokens": 9}, '"type":"error"'),
}
"""By route, the body of a request, and the last event of its stream if the gateway stops."""


async def test_every_api_reports_that_the_gateway_stops(gateway: Gateway, engine: ScriptedEngine) -> None:
    """Two requests are in progress: one in the middle of its stream, one before its answer."""

    async def streamed(http: httpx.AsyncClient, route: str) -> str:
        body = {"model": "path:small_talk", "stream": True, **STREAMS[route][0]}
        return (await http.post(route, json=body)).text

    engine.says(*beginning("Hello"), asyncio.Event())
    async with open_http_client(gateway) as http, open_channel(gateway.grpc_address) as channel:
        asked = [asyncio.create_task(streamed(http, route)) for route in STREAMS]
        grpc_client = asyncio.create_task(GrpcStreamClient(channel).ask(IN_CHAT, "tiny"))
        await until(lambda: engine.running == 5)
        await until(lambda: gateway.components.pipeline.active_runs.count == 5)
        engine.says(asyncio.Event())
        plain = {"model": "path:small_talk", **STREAMS["/v1/chat/completions"][0]}
        waiting = asyncio.create_task(http.post("/v1/chat/completions", json=plain))
        await until(lambda: engine.running == 6)
        gateway.components.pipeline.active_runs.shut_down()
        for route, text in zip(STREAMS, await asyncio.gather(*asked), strict=True):
            last = text.strip().split("\n\n")[-1]
            assert STREAMS[route][1] in last, text
            assert "the gateway is shutting down" in last, text
        with pytest.raises(Unavailable) as raised:
            await grpc_client
        refused = await waiting
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["error"]["code"] == raised.value.code == "shutting_down"
    await until(lambda: engine.running == 0)
    assert gateway.metric("pointsman_in_flight") == 0
    assert gateway.metric("pointsman_requests_total", outcome="shutting_down", fault="gateway") == 6


async def test_ctrl_c_skips_the_notice_period(starting: Starting) -> None:
    async with starting(shutdown_delay=600) as gateway:
        gateway.signal(signal.SIGINT)
        assert await gateway.ended(within=30) == 0


async def test_the_order_of_shutdown() -> None:
    """For every server: not ready first, closed after the notice period, and finished when no request is left."""
    seen: list[tuple[bool, bool]] = []
    admission = Admission(2, Gauge("in_flight", "Inside.", registry=CollectorRegistry()))

    async def stop_calling() -> None:
        seen.append((admission.is_ready, admission.is_closed))
        async with slot(admission, REQUEST):  # still served
            pass

    assert admission.enter(REQUEST)
    leaving = asyncio.create_task(drain(admission, signal.SIGTERM, DrainTimes(0.01, 30), stop_calling))
    await until(lambda: admission.is_closed)
    assert seen == [(False, False)]
    with pytest.raises(Unavailable):
        async with slot(admission, REQUEST):
            pass
    assert not leaving.done()
    admission.leave(REQUEST)
    assert await leaving
