"""Guardrails block or redact what callers send, what engines get, and what engines answer."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import msgspec
import pytest
from aiohttp import web
from pointsman_gateway import bootstrap
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Chunk
from pointsman_gateway.extensions import Finding, GuardedText, Guardrail, GuardrailContext, Hook
from pointsman_gateway.pipeline.answer_window import AnswerWindow
from pointsman_gateway.validation.guardrails import (
    GUARDRAIL_THREADS,
    PII_OVERLAP,
    PII_WINDOW,
    Pii,
    PiiOptions,
    RegexGuardrail,
)
from pointsman_servicekit.errors import InvalidArgument

from tests.gateway.doubles import anthropic_shapes, http_server, openai_shapes
from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_CHAT, ConfigFolder
from tests.gateway.doubles.engine import DONE, ScriptedEngine, answer, beginning, chunk, usage
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.waiting import until

CHAT, MESSAGES = "/v1/chat/completions", "/v1/messages"
EMAIL = "ann@example.org"
SECRET = {"name": "secrets", "check": {"regex": {"EMAIL": r"[\w.]+@[\w.]+\w", "CODE": "code-[0-9]{4,12}"}}}


def guarded(neighbours: Neighbours, *guardrails: dict[str, Any]) -> None:
    neighbours.config.rest_of_tasks["guardrails"] = list(guardrails)


def body(text: str, **fields: Any) -> dict[str, Any]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}


def events(text: str) -> list[Any]:
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


def streamed(text: str) -> str:
    return "".join(choice["delta"].get("content") or "" for e in events(text) for choice in e.get("choices", ()))


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[httpx.AsyncClient]:
    async with open_http_client(gateway) as client:
        yield client


# -- requests


class TestBlocked:
    @pytest.fixture(autouse=True)
    def _guardrails(self, neighbours: Neighbours) -> None:
        guarded(neighbours, SECRET)

    async def test_a_request_is_blocked_before_it_is_classified(
        self, client: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
    ) -> None:
        reply = await client.post(CHAT, json=body(f"Write to {EMAIL}"))
        error = openai_shapes.error(reply)
        assert (reply.status_code, error["code"]) == (400, "guardrail_blocked")
        assert error["message"] == "the request is blocked by guardrail 'secrets', which found EMAIL"
        assert engine.bodies == []
        labels = {"guardrail": "secrets", "hook": "request", "ruling": "blocked"}
        assert gateway.metric("pointsman_guardrail_verdicts_total", **labels) == 1
        assert gateway.metric("pointsman_rejected_total", code="guardrail_blocked", fault="caller") == 1

    async def test_texts_in_tool_calls_and_content_parts_are_checked_too(self, client: httpx.AsyncClient) -> None:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": f'{{"to": "{EMAIL}"}}'}}
        for message in (
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "user", "content": [{"type": "text", "text": EMAIL}]},
        ):
            asked = {"model": "auto", "messages": [message, {"role": "user", "content": IN_CHAT}]}
            assert (await client.post(CHAT, json=asked)).status_code == 400

    async def test_both_apis_and_anthropics_format_report_it(self, api: ApiClient, client: httpx.AsyncClient) -> None:
        with pytest.raises(InvalidArgument) as blocked:
            await api.ask(EMAIL)
        assert blocked.value.code == "guardrail_blocked"
        error = anthropic_shapes.error(await client.post(MESSAGES, json=body(EMAIL, max_tokens=5)))
        assert (error["code"], error["type"]) == ("guardrail_blocked", "invalid_request_error")

    async def test_token_ids_cannot_be_checked(self, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        reply = await client.post("/v1/completions", json={"model": "tiny", "prompt": [1, 2]})
        assert openai_shapes.error(reply)["code"] == "unsupported_prompt"
        assert engine.bodies == []

    async def test_the_receipt_has_the_verdicts(self, client: httpx.AsyncClient) -> None:
        receipt = (await client.post(CHAT, json=body(IN_CHAT))).json()["pointsman"]
        passed = {"guardrail": "secrets", "ruling": "passed", "found": []}
        assert receipt["guardrails"] == [{**passed, "hook": "request"}, {**passed, "hook": "response"}]

    # -- answers

    async def test_an_answer_is_blocked_as_a_whole(self, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        engine.says(*answer("Write to ", EMAIL))
        reply = await client.post(CHAT, json=body(IN_CHAT))
        assert (
            openai_shapes.error(reply)["message"] == "the response is blocked by guardrail 'secrets', which found EMAIL"
        )
        assert EMAIL not in reply.text

    async def test_nothing_follows_the_block_of_a_stream(
        self, client: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
    ) -> None:
        start = "This is a long beginning without anything to find. " * 8
        has_received = asyncio.Event()
        secret = [chunk(piece) for piece in ("Write ann@exa", "mple.org", " now", "x" * 100)]
        engine.says(*beginning(*start.split(" ")), has_received, *secret, asyncio.Event())
        text = ""
        async with client.stream("POST", CHAT, json=body(IN_CHAT, stream=True)) as reply:
            async for line in reply.aiter_lines():
                text += f"{line}\n"
                if streamed(text):
                    has_received.set()
        sent = streamed(text)
        assert start.replace(" ", "").startswith(sent)
        assert 0 < len(sent) < len(start)
        assert events(text)[-1]["error"]["code"] == "guardrail_blocked"
        assert "[DONE]" not in text
        await until(lambda: engine.running == 0)
        # Everything that the engine had sent is metered, also what the caller did not get.
        pieces = len(start.split()) + len(secret)
        assert pieces - 2 <= gateway.metric("pointsman_tokens_total", type="completion") <= pieces
        assert gateway.metric("pointsman_requests_total", outcome="guardrail_blocked") == 1

    async def test_a_blocked_stream_of_messages_ends_with_its_error_event(
        self, client: httpx.AsyncClient, engine: ScriptedEngine
    ) -> None:
        engine.says(*answer("It is code-", "1234"))
        reply = await client.post(MESSAGES, json=body(IN_CHAT, max_tokens=50, stream=True))
        assert reply.text.rstrip().rpartition("event: ")[2].startswith("error")
        assert "message_stop" not in reply.text
        assert "1234" not in reply.text

    async def test_the_usage_of_an_answer_that_ended_is_the_engines_own(
        self, client: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
    ) -> None:
        engine.says(*answer(EMAIL, prompt_tokens=33))
        await client.post(CHAT, json=body(IN_CHAT, stream=True))
        assert gateway.metric("pointsman_tokens_total", type="prompt") == 33

    async def test_arguments_of_tool_calls_are_checked(self, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        def call(arguments: str) -> dict[str, Any]:
            function = {"name": "f", "arguments": arguments}
            return chunk("", tool_calls=[{"index": 0, "id": "c", "type": "function", "function": function}])

        engine.says(call('{"to": "ann@ex'), call('ample.org"}'), *answer(finish="tool_calls")[1:])
        reply = await client.post(CHAT, json=body(IN_CHAT, stream=True))
        assert events(reply.text)[-1]["error"]["code"] == "guardrail_blocked"


# -- redaction


class TestRedacted:
    @pytest.fixture(autouse=True)
    def _guardrails(self, neighbours: Neighbours) -> None:
        guarded(neighbours, {**SECRET, "action": "redact"})

    async def test_the_engine_gets_the_redacted_request(
        self, client: httpx.AsyncClient, engine: ScriptedEngine
    ) -> None:
        reply = await client.post(CHAT, json=body(f"Hello, I am {EMAIL} and code-1234, how are you?"))
        assert engine.bodies[-1]["messages"][-1]["content"] == "Hello, I am [EMAIL] and [CODE], how are you?"
        verdict = {"guardrail": "secrets", "hook": "request", "ruling": "redacted", "found": ["CODE", "EMAIL"]}
        assert verdict in reply.json()["pointsman"]["guardrails"]

    async def test_the_decision_notes_it(self, client: httpx.AsyncClient) -> None:
        decision = (await client.post("/v1/route", json=body(f"{IN_CHAT} {EMAIL}"))).json()
        assert "guardrail secrets: request redacted: EMAIL" in decision["notes"]

    async def test_several_prompts_are_redacted(self, client: httpx.AsyncClient, engine: ScriptedEngine) -> None:
        await client.post("/v1/completions", json={"model": "tiny", "prompt": [EMAIL, "b"]})
        assert engine.bodies[-1]["prompt"] == ["[EMAIL]", "b"]

    @pytest.mark.parametrize("stream", [False, True])
    async def test_the_answer_is_redacted_however_it_is_cut(
        self, client: httpx.AsyncClient, engine: ScriptedEngine, stream: bool
    ) -> None:
        text = f"Write to {EMAIL}, or {EMAIL}, and say code-12345678."
        for size in (1, 3, 7, len(text)):
            engine.says(*answer(*[text[at : at + size] for at in range(0, len(text), size)]))
            reply = await client.post(CHAT, json=body(IN_CHAT, stream=stream))
            answered = streamed(reply.text) if stream else reply.json()["choices"][0]["message"]["content"]
            assert answered == "Write to [EMAIL], or [EMAIL], and say [CODE]."

    async def test_logprobs_of_redacted_text_are_removed(
        self, client: httpx.AsyncClient, engine: ScriptedEngine
    ) -> None:
        logprobs = {"content": [{"token": EMAIL, "logprob": -0.1, "top_logprobs": []}]}
        spoken = chunk(EMAIL)
        spoken["choices"][0]["logprobs"] = logprobs
        engine.says(spoken, chunk("", finish="stop"), usage(), DONE)
        reply = await client.post(CHAT, json=body(IN_CHAT, logprobs=True))
        assert EMAIL not in reply.text


async def test_what_the_path_adds_is_checked_before_the_engine(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    neighbours.config.prompts["persona.txt"] = f"You are Wren, {EMAIL}."
    guarded(neighbours, {**SECRET, "action": "redact", "hooks": ["prompt"]})
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        reply = await client.post(CHAT, json=body(IN_CHAT))
        assert engine.bodies[-1]["messages"][0]["content"] == "You are Wren, [EMAIL]."
        assert [v["hook"] for v in reply.json()["pointsman"]["guardrails"]] == ["prompt"]


# -- an HTTP classifier, and its failures


class Classifier:
    """An HTTP classifier that answers each request with `reply`."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.reply: Any = {"findings": []}
        self.is_stuck = False
        self.endless: tuple[bytes, float] | None = None
        """A piece that is sent again and again as an answer that does not end, and the seconds between two pieces."""

    async def handle(self, request: web.Request) -> web.Response:
        self.bodies.append({"key": request.headers.get("authorization"), **await request.json()})
        if self.is_stuck:
            await asyncio.sleep(3600)
        if self.endless:
            await http_server.answer_without_end(request, *self.endless)
        return web.json_response(self.reply)


@pytest.fixture
async def classifier() -> AsyncIterator[tuple[Classifier, str]]:
    classifier, app = Classifier(), web.Application()
    app.router.add_post("/check", classifier.handle)
    async with http_server.serving(app, shutdown_timeout=0.1) as url:
        yield classifier, f"{url}/check"


@pytest.mark.parametrize("fail", ["open", "closed"])
async def test_a_classifier_that_fails_or_is_late_lets_pass_or_not(
    neighbours: Neighbours,
    classifier: tuple[Classifier, str],
    engine: ScriptedEngine,
    monkeypatch: pytest.MonkeyPatch,
    fail: str,
) -> None:
    service, url = classifier
    monkeypatch.setenv("CLASSIFIER_KEY", "secret")
    check = {"http": {"url": url, "api_key_env": "CLASSIFIER_KEY"}}
    guarded(neighbours, {"name": "toxic", "check": check, "fail": fail, "timeout_seconds": 0.2, "hooks": ["request"]})
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        assert (await client.post(CHAT, json=body(IN_CHAT))).status_code == 200
        assert service.bodies[-1] == {
            "key": "Bearer secret", "hook": "request", "texts": [{"role": "user", "text": IN_CHAT}]
        }  # fmt: skip
        service.reply = {"findings": [{"kind": "toxicity"}]}
        assert openai_shapes.error(await client.post(CHAT, json=body(IN_CHAT)))["code"] == "guardrail_blocked"
        called = len(engine.bodies)
        wrong = {"verdict": "fine"}, {"findings": [{"kind": "x", "start": 0, "end": 999}]}
        failures: list[tuple[Any, bool, Any]] = [(one, False, None) for one in wrong]
        failures += [(None, True, None), (None, False, (b" ", 0.02)), (None, False, (b" " * 65536, 0.0))]
        for service.reply, service.is_stuck, service.endless in failures:
            answered = await client.post(CHAT, json=body(IN_CHAT))
            if fail == "open":
                (verdict,) = answered.json()["pointsman"]["guardrails"]
                assert (answered.status_code, verdict["ruling"]) == (200, "unchecked")
            else:
                assert (answered.status_code, openai_shapes.error(answered)["code"]) == (503, "guardrail_unavailable")
        assert len(engine.bodies) - called == (len(failures) if fail == "open" else 0)
        checks = 2 + len(failures)
        assert gateway.metric("pointsman_guardrail_duration_seconds_count", guardrail="toxic") == checks


async def test_a_stream_waits_for_its_classifier_and_ends_if_the_client_leaves(
    neighbours: Neighbours, classifier: tuple[Classifier, str], engine: ScriptedEngine
) -> None:
    service, url = classifier
    service.is_stuck = True
    check = {"name": "slow", "check": {"http": {"url": url}}, "hooks": ["response"], "timeout_seconds": 20}
    guarded(neighbours, {**check, "every_characters": 1})
    engine.says(*beginning("one", " two"), asyncio.Event())
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        asked = asyncio.create_task(client.post(CHAT, json=body(IN_CHAT, stream=True)))
        await until(lambda: len(service.bodies) == 1)
        asked.cancel()
        await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
        assert gateway.metric("pointsman_tokens_total", type="completion") == 2


# -- configuration


class Shouting(Guardrail):
    """A guardrail extension as a user would write it."""

    Options = int

    def __init__(self, options: int, context: GuardrailContext) -> None:
        self._capitals = options

    async def find(self, hook: Hook, texts: Sequence[GuardedText]) -> list[Finding]:
        return [Finding("SHOUTING", n) for n, t in enumerate(texts) if sum(map(str.isupper, t.text)) > self._capitals]


async def test_a_guardrail_of_ones_own(neighbours: Neighbours) -> None:
    guarded(neighbours, {"name": "calm", "check": {f"{__name__}:Shouting": 10}, "action": "redact"})
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        assert (await client.post(CHAT, json=body(IN_CHAT))).status_code == 200
        error = openai_shapes.error(await client.post(CHAT, json=body(IN_CHAT.upper())))  # it has no place to redact
        assert error["message"] == "the request is blocked by guardrail 'calm', which found SHOUTING"


@pytest.mark.parametrize(
    ("guardrails", "message"),
    [
        ([{**SECRET, "check": {"regex": {"X": "("}}}], "guardrail 'secrets': X: bad regex"),
        ([{**SECRET, "check": {"regex": {"X": "a*"}}}], "matches an empty text"),
        (
            [{**SECRET, "check": {"regexp": {}}}],
            "the guardrail is 'regexp', which is unknown; use one of http, pii",
        ),
        ([SECRET, SECRET], "two guardrails have the same name"),
        ([{**SECRET, "check": {"pii": {"entities": ["PERSON"]}}}], "unknown entity 'PERSON'; known without a language"),
    ],
)
def test_a_wrong_configuration_is_refused(
    config_folder: ConfigFolder, guardrails: list[dict[str, Any]], message: str
) -> None:
    config_folder.rest_of_tasks["guardrails"] = guardrails
    with pytest.raises(ConfigError) as refused:
        bootstrap.check_config(load_config(config_folder.write(), {}))
    assert message in str(refused.value)


# -- the built-in checks


async def found(guardrail: Guardrail, text: str) -> list[tuple[str, str]]:
    return [(f.kind, text[f.start : f.end]) for f in await guardrail.find("request", [GuardedText("user", text)])]


async def test_personal_data_is_found_without_a_language_model() -> None:
    text = f"I am {EMAIL}, +1 212-555-0199, card 4111 1111 1111 1111, DE89370400440532013000. Not 4111 1111 1111 1112."
    pii = Pii(PiiOptions(), GuardrailContext("pii", None))
    assert sorted(await found(pii, text)) == [
        ("CREDIT_CARD", "4111 1111 1111 1111"),
        ("EMAIL_ADDRESS", EMAIL),
        ("IBAN_CODE", "DE89370400440532013000"),
        ("PHONE_NUMBER", "+1 212-555-0199"),
    ]


async def test_long_texts_are_searched_to_their_end() -> None:
    context = GuardrailContext("r", None)
    assert await found(RegexGuardrail({"CODE": "code-[0-9]+"}, context), "x" * 300_000 + " code-1") == [
        ("CODE", "code-1")
    ]
    with pytest.raises(TimeoutError):
        await found(RegexGuardrail({"EVIL": r"(a|aa)+\1$"}, context), "a" * 60 + "b")


async def test_many_short_texts_share_one_time_limit() -> None:
    evil = RegexGuardrail({"EVIL": r"(a|aa)+\1$"}, GuardrailContext("r", None))
    with pytest.raises(TimeoutError):  # one text takes some milliseconds
        await evil.find("request", [GuardedText("user", "a" * 17 + "b")] * 200)


async def test_personal_data_is_found_wherever_it_is_in_a_long_text() -> None:
    pii = Pii(PiiOptions(), GuardrailContext("pii", None))
    for before in range(PII_WINDOW - PII_OVERLAP - 30, PII_WINDOW + 10, 9):
        text = "x" * before + f" {EMAIL} " + "x" * PII_WINDOW
        assert set(await found(pii, text)) == {("EMAIL_ADDRESS", EMAIL)}


async def test_a_check_that_timed_out_does_not_keep_its_thread() -> None:
    pii = Pii(PiiOptions(), GuardrailContext("pii", None))
    for _ in range(GUARDRAIL_THREADS):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await found(pii, "1 " * 200_000)  # takes minutes
    async with asyncio.timeout(20):
        assert await found(pii, EMAIL) == [("EMAIL_ADDRESS", EMAIL)]


# -- the window of a stream


def test_nothing_is_released_before_what_follows_was_checked() -> None:
    window, sent = AnswerWindow(overlap=10, every=1), ""
    text = "0123456789" * 10
    for letter in text:
        window.add(Chunk(content=letter))
        texts, _ = window.texts()
        assert len(texts[0].text) <= 21
        window.clear([[] for _ in texts])
        sent += "".join(c.content for c in window.release())
        assert len(sent) == max(0, len(sent)) <= len(text)
    assert sent == text[:-10]
    window.add(Chunk(finish_reason="stop", raw=b"{}"))
    assert window.is_due
    window.clear([[] for _ in window.texts()[0]])
    assert (sent + "".join(c.content for c in window.release()), window.is_empty) == (text, True)


def test_chunks_without_findings_are_passed_on_as_they_came() -> None:
    window = AnswerWindow(overlap=1, every=1)
    chunks = [Chunk(0, "a", raw=b"1"), Chunk(1, "b", raw=b"2"), Chunk(0, "", "stop", raw=b"3")]
    for one in chunks:
        window.add(one)
    window.finish()
    window.clear([[] for _ in window.texts()[0]])
    assert [msgspec.structs.asdict(c) for c in window.release()] == [msgspec.structs.asdict(c) for c in chunks]


@pytest.mark.parametrize("index", [[["x"]], {"a": 1}, "b", None, 1.5])
def test_a_malformed_index_does_not_count(index: Any) -> None:
    window = AnswerWindow(overlap=1, every=1)
    details = [{"index": index, "text": "Hello"}, {"index": index, "text": " there"}]
    for detail in details:
        window.add(Chunk(0, extra={"delta": {"reasoning_details": [detail]}}))
    assert "Hello there" in [text.text for text in window.texts()[0]]
