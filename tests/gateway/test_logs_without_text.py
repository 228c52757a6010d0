"""Neither logs nor exported exceptions contain prompt text, answers or secrets."""

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import grpc
import httpx
import pytest
from pointsman.v1 import gateway_pb2 as pb
from pointsman.v1 import gateway_pb2_grpc
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_servicekit import logs
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.grpc_client import open_channel

from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY
from tests.gateway.doubles.engine import BREAK, TOO_LONG, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.span_recorder import Recorded
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

SAID = "xyzzy my mother's maiden name is Plugh"
ANSWERED = "the answer to xyzzy is Frobozz"
CALLERS_KEY = "pm_0123456789abcdef0123456789abcdef"
ENGINES_KEY = "sk-proj-fedcba9876543210fedcba98"
HIDDEN = ("xyzzy", "Plugh", "Frobozz", "maiden", CALLERS_KEY, ENGINES_KEY)

CHAT = "/v1/chat/completions"
Script = Any


class Mistaken:
    """A pipeline stage whose exceptions quote the prompt."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        try:
            raise KeyError(request.query)
        except KeyError as error:
            raise ValueError(f"cannot make a prompt of {request.messages!r}") from error


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> Any:
    """The log format. With JSON, tracing is on too."""
    return request.param


@pytest.fixture
def log(form: Any, caplog: pytest.LogCaptureFixture) -> Iterator[io.StringIO]:
    """Captures the lines that are written to standard error from level INFO on."""
    written = io.StringIO()
    handler, root = logs.make_handler(written, "gateway", "INFO", form), logging.getLogger()
    with caplog.at_level(logging.INFO):
        root.addHandler(handler)
        with caplog.at_level(logging.WARNING, "httpx"):  # the tests' own client
            yield written
        root.removeHandler(handler)


@pytest.fixture
async def gateway(
    neighbours: Neighbours, valkey: Valkey, form: Any, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Gateway]:
    """Runs a gateway with a request log, whose engine requires a key."""
    monkeypatch.setenv("ENGINES_KEY", ENGINES_KEY)
    models = neighbours.config.models
    models["models"]["other"] = models["models"]["tiny"]
    models["engines"]["remote"] = {"model": "other", "url": neighbours.engine.url, "api_key_env": "ENGINES_KEY"}
    neighbours.settings["redis_url"] = valkey.url
    neighbours.config.rest_of_tasks["request_log"] = {"store_messages": True}
    await neighbours.ready()
    recorded = Recorded()
    async with neighbours.gateway(recorded.spans if form == "json" else None) as gateway:
        yield gateway
    assert (len(recorded) > 0) == (form == "json")
    assert not [span for span in recorded.all() for hidden in HIDDEN if hidden in span.to_json()]


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        client.headers["authorization"] = f"Bearer {CALLERS_KEY}"
        yield client


def body(text: str, model: str = "auto", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": f"{text} {SAID}"}], **more}


async def test_no_failure_writes_prompt_text_to_the_log(
    log: io.StringIO, client: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine, retriever: ScriptedRetriever
) -> None:
    seen = [await client.post(CHAT, json=body(IN_CHAT)), await client.post("/v1/route", json=body(IN_POLICY))]
    for steps in (
        answer(ANSWERED),
        [*beginning(ANSWERED), BREAK],
        [*beginning(ANSWERED), b"data: not json\n\n"],
        [*beginning(ANSWERED), {"error": {"message": "cannot go on"}}],
        [],
    ):
        engine.says(*steps)
        for streams in (False, True):
            for model in ("auto", "other"):
                seen.append(await client.post(CHAT, json=body(IN_CHAT, model, stream=streams)))
    for status, refusal in (
        (400, TOO_LONG),
        (400, {"error": {"message": f"cannot read {SAID}"}}),
        (500, {"error": {"message": f"failed at {SAID}"}}),
        (502, f"<html>{SAID}</html>"),
    ):
        engine.refuses(status, refusal)
        seen.append(await client.post(CHAT, json=body(IN_CHAT, "other")))
    engine.says(*answer(ANSWERED))
    retriever.error = NotFound(f"nothing for {SAID}", code="unknown_collection")
    for path in ("path:handbook", "path:safe_start"):
        seen.append(await client.post(CHAT, json=body(IN_POLICY, path)))
    for bad in (b"{" + SAID.encode(), b'{"model": 5, "messages": "xyzzy"}', b"\xff" + SAID.encode()):
        seen.append(await client.post(CHAT, content=bad))
    seen.append(await client.post(CHAT, json={"model": SAID, "messages": [{"role": SAID, "content": SAID}]}))
    seen.append(await client.get(f"/{SAID}?key={CALLERS_KEY}"))
    decision_id = seen[0].headers["x-pointsman-decision-id"]
    await client.post("/v1/feedback", json={"decision_id": decision_id, "right_answer": SAID, "correction": SAID})
    await _hang_up(client, engine)
    assert {response.status_code for response in seen} >= {200, 400, 404, 503}
    assert len(seen) >= 28
    _says_nothing(log)


async def test_an_engine_key_quoted_in_an_error_does_not_reach_the_client(
    log: io.StringIO, client: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.refuses(401, {"error": {"message": f"Incorrect API key provided: {ENGINES_KEY}."}})
    response = await client.post(CHAT, json=body(IN_CHAT, "other"))
    assert engine.headers[-1]["authorization"] == f"Bearer {ENGINES_KEY}"
    assert "Incorrect API key provided: [secret]" in response.text
    _says_nothing(log)


async def test_an_internal_error_gives_the_client_an_id_and_the_log_a_traceback(
    log: io.StringIO, client: httpx.AsyncClient, gateway: Gateway
) -> None:
    now = gateway.components.reloader.current
    gateway.components.reloader.current = replace(now, stages=replace(now.stages, prompts=Mistaken()))
    plain = await client.post(CHAT, json=body(IN_CHAT))
    streamed = await client.post(CHAT, json=body(IN_CHAT, stream=True))
    async with open_channel(gateway.grpc_address) as channel:
        request = pb.GenerateRequest(model="auto", messages=[pb.Message(role="user", content=SAID)])
        call = gateway_pb2_grpc.GatewayStub(channel).GenerateStream(request, metadata=[("authorization", CALLERS_KEY)])
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await call.read()
    for text in plain.text, streamed.text, str(failed.value):
        assert "internal error" in text
        assert not [hidden for hidden in HIDDEN if hidden in text], text
    _says_nothing(log)
    written = log.getvalue()
    for kept in ("in build", "raise ValueError", "KeyError", "ValueError", "withheld"):
        assert written.count(kept) >= 3, kept


async def test_a_failing_prompt_file_is_named_without_the_prompt(
    log: io.StringIO, neighbours: Neighbours, gateway: Gateway, client: httpx.AsyncClient
) -> None:
    before = gateway.components.reloader.current.revision
    neighbours.config.prompts["persona.txt"] = "{% if 'xyzzy' in query %}{{ 1 + query }}{% endif %}"
    neighbours.config.write()
    await until(lambda: gateway.components.reloader.current.revision != before, within=20)
    response = await client.post(CHAT, json=body(IN_CHAT, "path:small_talk"))
    assert (response.status_code, response.json()["error"]["code"]) == (500, "prompt_failed")
    assert "prompts/persona.txt cannot be rendered" in response.text
    assert not [hidden for hidden in HIDDEN if hidden in response.text]
    assert "prompts/persona.txt cannot be rendered" in log.getvalue()
    _says_nothing(log)


async def _hang_up(client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    engine.says(*beginning(ANSWERED), asyncio.Event())
    async with client.stream("POST", CHAT, json=body(IN_CHAT, stream=True)) as response:
        await anext(response.aiter_bytes())
    await until(lambda: engine.running == 0)


def _says_nothing(log: io.StringIO) -> None:
    text = log.getvalue()
    for hidden in HIDDEN:
        lines = [line for line in text.splitlines() if hidden in line]
        assert not lines, lines[:3]
