"""The fast HTTP reader and uvicorn send the same bytes, and change the metrics equally, for every request."""

import asyncio
import gc
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from pointsman_gateway.breaker import Breaker
from pointsman_gateway.engines.call import EngineCall
from pointsman_gateway.engines.http_engine_client import HttpTransfer
from pointsman_gateway.http.app import build_app
from pointsman_gateway.http.fast_reader import BufferingConnection, ChatReader
from pointsman_gateway.http.server import serve_http
from pointsman_gateway.http.sinks import ConnectionSink
from pointsman_gateway.pipeline.run import RequestRun
from pointsman_servicekit.keys.records import Limits

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.engine_scripts import Script, scripts
from tests.gateway.doubles.garbage import nothing_is_left
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, http_dependencies
from tests.gateway.doubles.leases import held_back
from tests.gateway.doubles.raw_engine import RawEngine, running_raw_engine
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

COUNTED = (
    "pointsman_requests", "pointsman_tokens", "pointsman_cost_usd", "pointsman_decisions", "pointsman_rejected",
    "pointsman_engine_attempts", "pointsman_retries", "pointsman_fallbacks", "pointsman_request_duration_seconds",
    "pointsman_time_to_first_token_seconds", "pointsman_phase_duration_seconds", "pointsman_decision_duration_seconds",
    "pointsman_validations", "pointsman_key_refusals",
)  # fmt: skip
OURS = RequestRun | ConnectionSink | EngineCall | HttpTransfer
"""Objects that are unique to each request."""
OF_ONE_ANSWER = {
    "date",
    "content-length",
    "x-request-id",
    "request-id",
    "x-pointsman-decision-id",
    "x-pointsman-overhead-ms",
}
LIMITS = Limits(requests_per_minute=100_000, tokens_per_minute=10**9, concurrent_streams=100, dollars_per_day=100.0)
CHAT = "/v1/chat/completions"
TELL_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


class WatchedReader(ChatReader):
    """A reader that counts the requests that it starts."""

    started = 0

    def start(self, connection: BufferingConnection, data: bytes, max_headers: int) -> ConnectionSink | int:
        started = super().start(connection, data, max_headers)
        self.started += isinstance(started, ConnectionSink)
        return started


@dataclass
class ComparableResponse:
    """A response without the fields that are unique to it."""

    status: int
    headers: Mapping[str, str]
    names: list[str]
    body: bytes
    counted: Mapping[Any, float]


@dataclass
class Ways:
    """One gateway with two HTTP servers: with the fast reader, and with uvicorn only."""

    gateway: Gateway
    reader: WatchedReader
    clients: Mapping[str, httpx.AsyncClient]

    async def post(
        self, way: str, asked: Mapping[str, Any] | bytes, headers: Mapping[str, str], url: str = CHAT
    ) -> ComparableResponse:
        before = self._counts()
        body = asked if isinstance(asked, bytes) else json.dumps(asked).encode()
        answered = await self.clients[way].post(
            url, content=body, headers={"content-type": "application/json", **headers}
        )
        counted = {key: change for key, n in self._counts().items() if (change := round(n - before.get(key, 0.0), 9))}
        same = {
            name: value
            for name, value in answered.headers.items()
            if name not in OF_ONE_ANSWER and not name.startswith(("x-ratelimit-remaining", "x-ratelimit-reset"))
        }
        return ComparableResponse(
            answered.status_code, same, sorted(answered.headers), _alike(answered.content), counted
        )

    async def alike(
        self, asked: Mapping[str, Any] | bytes, headers: Mapping[str, str], name: str, url: str = CHAT
    ) -> ComparableResponse:
        """Asserts that both servers give the same answer to a request."""
        self.gateway.components.engines.state("local").breaker = Breaker()  # earlier requests must not count
        by_uvicorn = await self.post("uvicorn", asked, headers, url)
        self.gateway.components.engines.state("local").breaker = Breaker()
        by_us = await self.post("ours", asked, headers, url)
        assert by_us.counted == by_uvicorn.counted, name
        assert by_us == by_uvicorn, name
        return by_us

    def _counts(self) -> dict[Any, float]:
        """Returns the values of all counters and gauges, except for times."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.gateway.components.registry.collect()
            if family.name in COUNTED
            for sample in family.samples
            if sample.name.endswith(("_total", "_count"))
        }


def _alike(body: bytes) -> bytes:
    body = re.sub(
        rb"dec_\w+|chatcmpl-\w+|msg_dec_\w+|\"request_id\":\"\w{16}\"|\"created\": ?\d+|request \w{16}", b"_", body
    )
    return re.sub(rb'"seconds":\{[^}]*\}', lambda match: b",".join(re.findall(rb'"\w+"', match[0])), body)


@pytest.fixture
async def ways(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> AsyncIterator[Ways]:
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, AsyncExitStack() as stack:
        components = gateway.components
        dependencies = http_dependencies(components)
        reader = WatchedReader(dependencies)
        clients = {}
        key = (await issue(valkey.url, limits=LIMITS)).credential.text
        for name, chat_reader in {"uvicorn": None, "ours": reader}.items():
            address = await stack.enter_async_context(
                serve_http(build_app(dependencies), "127.0.0.1:0", grace=1, chat_reader=chat_reader)
            )
            client = httpx.AsyncClient(
                base_url=f"http://{address}", timeout=20, verify=False, headers={"authorization": f"Bearer {key}"}
            )
            clients[name] = await stack.enter_async_context(client)
        hello = {"model": "tiny", "messages": turns("Hello")}
        async with asyncio.timeout(30):  # on a slow machine, Redis may time out at first
            while components.tenancy.identify_now(key) is None:
                for client in clients.values():
                    await client.post("/v1/chat/completions", json=hello)
        yield Ways(gateway, reader, clients)


def turns(*texts: str, role: str = "user") -> list[dict[str, str]]:
    return [{"role": role, "content": text} for text in texts]


USUAL: dict[str, dict[str, Any]] = {
    "a model": {"model": "tiny", "messages": turns("Hello")},
    "a path": {"model": "path:small_talk", "messages": turns("Hello")},
    "an alias": {"model": "triage@prod", "messages": turns("Hello")},
    "a version": {"model": TRIAGE, "messages": turns("Hello")},
    "auto, by rule": {"model": "auto", "messages": turns(IN_TRIAGE), "metadata": {"source": "inbox"}},
    "a stream": {"model": "path:small_talk", "messages": turns("Hello"), "stream": True},
    "a stream with usage": {"model": "path:small_talk", "messages": turns("Hello"), **TELL_USAGE},
    "sampling": {
        "model": "path:small_talk", "messages": turns("Hello"), "max_tokens": 5, "max_completion_tokens": 7,
        "temperature": 0, "top_p": 0.5, "seed": 7, "stop": ["a", "b"], "user": "Zug",
    },
    "one stop": {"model": "tiny", "messages": turns("Hello"), "stop": "x", "temperature": 0.25},
    "system messages": {
        "model": "path:small_talk",
        "messages": [*turns("Be kind.", role="system"), *turns("Zug 🚂"), *turns("Be brief.", role="developer")],
    },
}  # fmt: skip


async def test_ordinary_requests_get_the_same_answer(ways: Ways, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    for name, asked in USUAL.items():
        before = ways.reader.started
        response = await ways.alike(asked, {}, name)
        assert response.status == 200, name
        assert ways.reader.started == before + 1, name
        assert engine.bodies[-1] == engine.bodies[-2], name


MESSAGES: dict[str, tuple[dict[str, Any], bool, int]] = {
    "a model": ({"model": "tiny"}, True, 200),
    "a path": ({"model": "path:small_talk", "system": "Be kind.", "temperature": 0.5, "top_p": 0.5}, True, 200),
    "auto, by rule": ({"model": "auto", "metadata": {"source": "inbox", "user_id": "u"}}, True, 200),
    "a stream": ({"model": "tiny", "stream": True, "stop_sequences": ["x"], "top_k": 4}, True, 200),
    "a prefill": (
        {"model": "tiny", "messages": [*turns("Hello"), *turns("It is", role="assistant")]},
        True,
        200,
    ),
    "blocks": ({"model": "tiny", "system": [{"type": "text", "text": "Be kind."}]}, False, 200),
    "tools": ({"model": "tiny", "tools": [{"name": "f", "input_schema": {}}]}, False, 200),
    "an unknown field": ({"model": "tiny", "temprature": 1}, False, 400),
    "an unknown model": ({"model": "nobody"}, True, 404),
    "no messages": ({"model": "tiny", "messages": []}, False, 400),
    "no limit": ({"model": "tiny", "max_tokens": None}, False, 400),
    "a role of chats": ({"model": "tiny", "messages": turns("Hello", role="tool")}, False, 400),
}
"""By the test's name: fields of a Messages request, whether the fast reader handles them, and the expected status."""


@pytest.mark.parametrize("url", ["/v1/messages", "/v1/messages?beta=true"])
async def test_requests_in_anthropics_dialect_get_the_same_answer(ways: Ways, engine: ScriptedEngine, url: str) -> None:
    engine.says(*answer("Hello", " there"))
    for name, (fields, is_plain, status) in MESSAGES.items():
        before = ways.reader.started
        response = await ways.alike({"max_tokens": 9, "messages": turns("Hello"), **fields}, {}, name, url)
        assert response.status == status, name
        assert ways.reader.started == before + is_plain, name
        assert status != 200 or engine.bodies[-1] == engine.bodies[-2], name


UNUSUAL: dict[str, tuple[Any, dict[str, str], int]] = {
    "more than is known": ({"model": "tiny", "messages": turns("Hello"), "top_k": 3}, {}, 200),
    "parts": ({"model": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]}, {}, 200),
    "a name in a message": ({"model": "tiny", "messages": [{**turns("Hello")[0], "name": "x"}]}, {}, 200),
    "auto": ({"model": "auto", "messages": turns(IN_CHAT)}, {}, 200),
    "a path that searches": ({"model": "path:handbook", "messages": turns("Hello")}, {}, 200),
    "an unknown path": ({"model": "path:nowhere", "messages": turns("Hello")}, {}, 404),
    "an unknown model": ({"model": "nobody", "messages": turns("Hello")}, {}, 404),
    "no messages": ({"model": "tiny", "messages": []}, {}, 400),
    "an empty message": ({"model": "tiny", "messages": turns(" ")}, {}, 200),
    "an unknown role": ({"model": "tiny", "messages": turns("Hello", role="robot")}, {}, 400),
    "too hot": ({"model": "tiny", "messages": turns("Hello"), "temperature": 3}, {}, 400),
    "too many stops": ({"model": "tiny", "messages": turns("Hello"), "stop": list("abcde")}, {}, 400),
    "a number as a text": ({"model": "tiny", "messages": turns("Hello"), "max_tokens": "7"}, {}, 200),
    "half a character": (b'{"model":"tiny","messages":[{"role":"user","content":"\\ud800"}]}', {}, 400),
    "no JSON": (b'{"model":', {}, 400),
    "not UTF-8": (b'{"model":"tiny","messages":[{"role":"user","content":"\xff"}]}', {}, 400),
    "nothing": (b"", {}, 400),
    "a name of its own": ({"model": "tiny", "messages": turns("Hello")}, {"x-request-id": "mine-1"}, 200),
    "a time of its own": ({"model": "tiny", "messages": turns("Hello")}, {"x-request-timeout": "5"}, 200),
    "a time that is none": ({"model": "tiny", "messages": turns("Hello")}, {"x-request-timeout": "soon"}, 400),
    "an unknown key": ({"model": "tiny", "messages": turns("Hello")}, {"authorization": "Bearer pm_x"}, 401),
    "no key": ({"model": "tiny", "messages": turns("Hello")}, {"authorization": ""}, 401),
    "a connection that ends": ({"model": "tiny", "messages": turns("Hello")}, {"connection": "close"}, 200),
    "more tokens than are allowed": (
        {"model": "tiny", "messages": turns("Hello"), "max_tokens": 10**9 + 1},
        {},
        429,
    ),
}


async def test_unusual_requests_get_the_same_answer(ways: Ways, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    for name, (asked, headers, status) in UNUSUAL.items():
        response = await ways.alike(asked, headers, name)
        assert response.status == status, name


TROUBLE: dict[str, Any] = {
    "is cut before it begins": [BREAK],
    "is cut after its role": [chunk("", role="assistant"), BREAK],
    "is cut after its first word": [*beginning("Hello"), BREAK],
    "ends without its end": [*beginning("Hello")],
    "says in its stream that it failed": [*beginning("Hello"), {"error": {"message": "out of memory"}}],
    "says that it failed at once": [{"error": {"message": "out of memory"}}],
    "says what cannot be read": [*beginning("Hello"), b"data: {nonsense\n\n"],
    "counts and says nothing": [usage(20, 0), b"data: [DONE]\n\n"],
    "counts nothing": [*beginning("Hello"), chunk("", finish="stop"), b"data: [DONE]\n\n"],
}
REFUSALS = {500: "engine_error", 503: "engine_error", 429: "engine_overloaded", 400: "engine_refused"}


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_failing_answer_ends_in_the_same_way(ways: Ways, engine: ScriptedEngine, streams: bool) -> None:
    for name, steps in TROUBLE.items():
        engine.says(*steps)
        before = ways.reader.started
        await ways.alike({"model": "path:small_talk", "messages": turns("Hello"), "stream": streams}, {}, name)
        assert ways.reader.started == before + 1, name
        assert ways.gateway.metric("pointsman_in_flight") == 0, name
        assert ways.gateway.metric("pointsman_engine_in_flight") == 0, name


async def test_an_engines_error_is_reported_in_the_same_way(ways: Ways, engine: ScriptedEngine) -> None:
    for status, code in REFUSALS.items():
        engine.refuses(status, {"error": {"message": "no"}})
        response = await ways.alike({"model": "path:small_talk", "messages": turns("Hello")}, {}, code)
        assert code.encode() in response.body


async def test_reservations_are_settled_in_the_same_way(ways: Ways, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    remaining = []
    for way in ("uvicorn", "ours"):
        left = []
        for _ in range(2):
            asked = {"model": "tiny", "messages": turns("Hello"), "max_tokens": 40}
            answered = await ways.clients[way].post("/v1/chat/completions", json=asked)
            left.append({n: int(v) for n, v in answered.headers.items() if n.startswith("x-ratelimit-remaining")})
        remaining.append({name: left[0][name] - left[1][name] for name in left[0]})
    assert remaining[0] == remaining[1]
    assert remaining[0]["x-ratelimit-remaining-requests"] == 1


async def test_a_disconnect_stops_the_engine_and_is_metered(ways: Ways, engine: ScriptedEngine) -> None:
    for streams in (True, False):
        goes_on = asyncio.Event()
        engine.says(*beginning("Hello"), goes_on)
        before = ways.gateway.metric("pointsman_requests_total", outcome="cancelled")
        taken = ways.reader.started
        asked = {"model": "path:small_talk", "messages": turns("Hello"), "stream": streams}
        asking = asyncio.create_task(ways.clients["ours"].post("/v1/chat/completions", json=asked))
        await until(lambda: engine.running == 1)
        await until(lambda: engine.sent > 0)
        asking.cancel()
        await asyncio.wait([asking])
        await until(lambda: engine.running == 0)
        counted = before + 1
        await until(
            partial(
                lambda wanted: ways.gateway.metric("pointsman_requests_total", outcome="cancelled") == wanted, counted
            )
        )
        assert ways.reader.started == taken + 1
        assert ways.gateway.metric("pointsman_in_flight") == 0


@pytest.mark.parametrize("streams", [False, True], ids=["plain", "stream"])
async def test_a_request_continues_once_it_has_its_lease(
    ways: Ways, engine: ScriptedEngine, streams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello", " there"))
    given, before = held_back(ways.gateway.components.tenancy, monkeypatch), ways.reader.started
    asked = {"model": "path:small_talk", "messages": turns("Hello"), "stream": streams}
    asking = asyncio.create_task(ways.clients["ours"].post("/v1/chat/completions", json=asked))
    await until(lambda: ways.reader.started == before + 1)
    assert ways.gateway.metric("pointsman_in_flight") == 1
    assert ways.gateway.metric("pointsman_engine_in_flight") == 0
    given.set()
    assert (await asking).status_code == 200
    assert engine.bodies[-1]["messages"][-1] == turns("Hello")[0]
    assert ways.reader.started == before + 1


async def test_a_disconnect_while_waiting_for_a_lease_holds_nothing(
    ways: Ways, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.says(*answer("Hello", " there"))
    given, asked_before = held_back(ways.gateway.components.tenancy, monkeypatch), len(engine.bodies)
    asked = {"model": "path:small_talk", "messages": turns("Hello")}
    asking = asyncio.create_task(ways.clients["ours"].post("/v1/chat/completions", json=asked))
    await until(lambda: ways.gateway.metric("pointsman_in_flight") == 1)
    asking.cancel()
    await asyncio.wait([asking])
    await until(lambda: ways.gateway.metric("pointsman_in_flight") == 0)
    assert ways.gateway.metric("pointsman_rejected_total", code="cancelled") == 1
    given.set()
    assert (await ways.clients["ours"].post("/v1/chat/completions", json=asked)).status_code == 200
    assert len(engine.bodies) == asked_before + 1


async def test_a_request_refused_after_waiting_for_a_lease_gets_the_reason(
    ways: Ways, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = held_back(ways.gateway.components.tenancy, monkeypatch)
    asked = {"model": "path:small_talk", "messages": turns("Hello"), "max_tokens": 10**9 + 1}
    asking = asyncio.create_task(ways.clients["ours"].post("/v1/chat/completions", json=asked))
    await until(lambda: ways.gateway.metric("pointsman_in_flight") == 1)
    given.set()
    response = await asking
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "tokens_per_minute"
    assert int(response.headers["x-ratelimit-limit-tokens"]) == 10**9
    assert ways.gateway.metric("pointsman_in_flight") == 0


async def test_a_request_leaves_no_garbage(ways: Ways, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    gc.collect()
    gc.disable()
    try:
        for asked in USUAL.values():
            await ways.post("ours", asked, {})
        await until(lambda: not [one for one in gc.get_objects() if isinstance(one, OURS)])
    finally:
        gc.enable()


async def cut_off(ways: Ways, engine: ScriptedEngine, way: str) -> None:
    engine.says(*beginning("Hello"), asyncio.Event())
    asked = {"model": "path:small_talk", "messages": turns("Hello"), "stream": True}
    async with ways.clients[way].stream("POST", "/v1/chat/completions", json=asked) as answered:
        assert "Hello" in await anext(answered.aiter_text())
    await until(lambda: ways.gateway.metric("pointsman_in_flight") == 0)


async def failing(ways: Ways, engine: ScriptedEngine, way: str) -> None:
    engine.refuses(500, {"error": {"message": "out of order"}})
    for _ in range(8):  # in the end its circuit breaker is open
        await ways.post(way, {"model": "path:small_talk", "messages": turns("Hello")}, {})


async def refusing(ways: Ways, engine: ScriptedEngine, way: str) -> None:
    engine.refuses(400, {"error": {"message": "not so"}})
    await ways.post(way, {"model": "path:small_talk", "messages": turns("Hello")}, {})


async def breaking_off(ways: Ways, engine: ScriptedEngine, way: str) -> None:
    engine.says(*beginning("Hello"), BREAK)
    for stream in (False, True):
        await ways.post(way, {"model": "path:small_talk", "messages": turns("Hello"), "stream": stream}, {})


async def beyond_its_limits(ways: Ways, engine: ScriptedEngine, way: str) -> None:
    response = await ways.post(way, {"model": "tiny", "messages": turns("Hello"), "max_tokens": 10**10}, {})
    assert response.status == 429


@pytest.mark.parametrize("way", ["uvicorn", "ours"])
@pytest.mark.parametrize("ends", [cut_off, failing, refusing, breaking_off, beyond_its_limits])
async def test_failing_requests_leave_no_garbage(
    ways: Ways, engine: ScriptedEngine, way: str, ends: Callable[[Ways, ScriptedEngine, str], Awaitable[None]]
) -> None:
    """Garbage stays in memory until the next collection; with many errors it can be megabytes."""

    async def once_more() -> None:
        ways.gateway.components.engines.state("local").breaker = Breaker()
        await ends(ways, engine, way)
        await asyncio.sleep(0.1)

    await once_more()  # objects that are created once and kept
    await nothing_is_left(once_more)


async def test_pipelined_requests_are_answered_in_order(ways: Ways, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " there"))
    client = ways.clients["ours"]
    body = json.dumps({"model": "tiny", "messages": turns("Hello")}).encode()
    url = client.base_url
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: {url.host}\r\nauthorization: {client.headers['authorization']}"
        f"\r\ncontent-length: {len(body)}\r\n\r\n"
    ).encode()
    last = head.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    writer.write(head + body)
    await until(lambda: engine.running == 1 or len(engine.bodies) > 2)
    writer.write(head + body + last + body)
    response = await reader.read()
    assert response.count(b"HTTP/1.1 200 OK") == 3
    writer.close()
    await writer.wait_closed()


@pytest.fixture
async def raw_ways(
    neighbours: Neighbours, valkey: Valkey, tmp_path: Path, engine: ScriptedEngine
) -> AsyncIterator[tuple[RawEngine, dict[str, httpx.AsyncClient]]]:
    async with running_raw_engine() as raw, AsyncExitStack() as stack:
        engine.url = raw.url
        await neighbours.ready()
        gateway = await stack.enter_async_context(neighbours.gateway())
        components = gateway.components
        dependencies = http_dependencies(components)
        clients = {}
        for name, chat_reader in {"uvicorn": None, "ours": ChatReader(dependencies)}.items():
            address = await stack.enter_async_context(
                serve_http(build_app(dependencies), "127.0.0.1:0", grace=1, chat_reader=chat_reader)
            )
            client = httpx.AsyncClient(base_url=f"http://{address}", timeout=20, verify=False)
            clients[name] = await stack.enter_async_context(client)
        yield raw, clients


@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(script=scripts())
async def test_any_engine_answer_is_sent_in_the_same_way(
    raw_ways: tuple[RawEngine, dict[str, httpx.AsyncClient]], script: Script
) -> None:
    raw, clients = raw_ways
    raw.says(*script.pieces)
    for asked in ({}, TELL_USAGE):
        response = {}
        for name, client in clients.items():
            body = {"model": "tiny", "messages": turns("Hello"), "n": len(script.choices), **asked}
            answered = await client.post("/v1/chat/completions", json=body)
            response[name] = answered.status_code, _alike(answered.content)
        assert response["ours"] == response["uvicorn"]
