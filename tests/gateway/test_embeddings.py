"""`POST /v1/embeddings` with the gateway's own model and with an engine's: format, limits, deadlines and metering."""

import asyncio
import base64
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from pointsman_embedding import MiniLM
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Caller, Message, Request, UndecidedReceipt, Usage
from pointsman_gateway.embeddings.models import BATCH_TEXTS, MAX_ADDED_TOKENS, MAX_HELD_BYTES, LocalEmbedder
from pointsman_gateway.embeddings.stage import EMBEDDINGS, Embedder, EmbeddingRequest, Embeddings, EncodedEmbeddings
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.model_calls.call import Called, Price, PricedModel
from pointsman_gateway.model_calls.metrics import CallMetrics
from pointsman_gateway.pipeline.admission import Admission
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_servicekit.buffer_budget import BufferedBytesBudget
from pointsman_servicekit.errors import DeadlineExceeded, PointsmanError, ResourceExhausted
from prometheus_client import CollectorRegistry, Gauge

from tests.gateway.doubles import openai_shapes as shapes
from tests.gateway.doubles.broken_clients import Bug
from tests.gateway.doubles.engine import BREAK, Refusal, ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.openai_clients import in_a_thread, opening_client
from tests.gateway.doubles.waiting import until

URL = "/v1/embeddings"
TEXTS = ["I left my umbrella on the train", "Are bicycles allowed?", "naïve 日本 🚂"]


@pytest.fixture
async def gateway(neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """Runs a gateway with an embedding model of its own and one of the scripted engine."""
    monkeypatch.setenv("EMBEDDING_KEY", "sesame")
    remote = {
        "url": neighbours.engine.url,
        "usd_per_million_tokens": 20.0,
        "api_key_env": "EMBEDDING_KEY",
        "upstream": "text-3",
    }
    neighbours.config.models["embeddings"] = {"minilm": {"local": True, "usd_per_million_tokens": 0.5}, "small": remote}
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


@pytest.fixture
async def client(gateway: Gateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with opening_client(gateway) as client:
        yield client


# -- the gateway's own model


async def test_the_client_gets_the_classifiers_vectors(
    client: openai.AsyncOpenAI, gateway: Gateway, minilm: MiniLM
) -> None:
    expected = minilm.embed(TEXTS)
    got = await client.embeddings.create(model="minilm", input=TEXTS)  # the client requests base64 by default
    assert np.array_equal(np.array([d.embedding for d in got.data], np.float32), expected)
    assert [d.index for d in got.data] == [0, 1, 2]
    assert got.model == minilm.fingerprint
    one = await client.embeddings.create(model=minilm.fingerprint, input=TEXTS[1], encoding_format="float")
    assert np.allclose(one.data[0].embedding, expected[1], atol=1e-7)
    again = await in_a_thread(gateway, lambda client: client.embeddings.create(model="minilm", input=TEXTS[2]))
    assert np.array_equal(np.array(again.data[0].embedding, np.float32), expected[2])


async def test_both_formats_conform_to_the_published_type_and_report_costs(
    http: httpx.AsyncClient, gateway: Gateway, minilm: MiniLM
) -> None:
    tokens = sum(len(minilm.tokenizer.encode(text).ids) for text in TEXTS)
    for encoding in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        answer = await http.post(URL, json={"model": "minilm", "input": TEXTS, "dimensions": 384, **encoding})
        got = shapes.embeddings(answer.json())
        assert (got.usage.prompt_tokens, got.usage.total_tokens) == (tokens, tokens)
        assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(tokens * 0.5 / 1e6)
        assert answer.headers["content-length"] == str(len(answer.content))
    packed = base64.b64decode(answer.json()["data"][0]["embedding"])
    assert np.array_equal(np.frombuffer(packed, "<f4"), minilm.embed(TEXTS[:1])[0])
    assert gateway.metric("pointsman_embedding_tokens_total", model="minilm") == 3 * tokens
    assert gateway.metric("pointsman_embedding_cost_usd_total", model="minilm") == pytest.approx(3 * tokens * 0.5 / 1e6)
    assert gateway.metric("pointsman_embedding_requests_total", model="minilm", outcome="ok") == 3


async def test_a_long_list_is_embedded_in_order(client: openai.AsyncOpenAI, minilm: MiniLM) -> None:
    texts = [f"text {number}" for number in range(3 * BATCH_TEXTS + 1)]
    got = await client.embeddings.create(model="minilm", input=texts)
    assert np.array_equal(np.array([d.embedding for d in got.data], np.float32), minilm.embed(texts))


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"input": ""}, "empty_input", "input"),
    ({"input": ["a", " "]}, "empty_input", "input"),
    ({"input": []}, "bad_parameter", "input"),
    ({"input": ["a"] * 2049}, "bad_parameter", "input"),
    ({"input": [1, 2]}, "unsupported_input", "input"),
    ({"input": [[1], [2]]}, "unsupported_input", "input"),
    ({"input": 5}, "bad_parameter", "input"),
    ({}, "bad_parameter", "input"),
    ({"input": "a", "dimensions": 128}, "unsupported_dimensions", "dimensions"),
    ({"input": "a", "encoding_format": "int8"}, "bad_parameter", "encoding_format"),
    ({"input": ["a", "word " * 300]}, "context_length_exceeded", "input"),
    ({"input": "x" * 9000}, "context_length_exceeded", "input"),
    ({"input": "a", "model": ""}, "missing_model", "model"),
    ({"input": "a", "model": "tiny"}, "unknown_model", "model"),
    ({"input": "a", "user": "u" * 600}, "bad_parameter", "user"),
    ({"input": "a", "overflow": "cut"}, "bad_parameter", "overflow"),
]


async def test_unsupported_parameters_are_rejected_by_name(http: httpx.AsyncClient) -> None:
    for body, code, param in REFUSED:
        error = shapes.error(await http.post(URL, json={"model": "minilm", **body}))
        assert (error["code"], error["param"]) == (code, param), body
    half = b'{"model": "minilm", "input": ["\\ud800"]}'
    error = shapes.error(await http.post(URL, content=half, headers={"content-type": "application/json"}))
    assert error["code"] == "bad_text"


async def test_without_embedding_models_the_route_is_not_found(neighbours: Neighbours) -> None:
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        answer = await http.post(URL, json={"model": "minilm", "input": "a"})
        assert (answer.status_code, shapes.error(answer)["code"]) == (404, "unknown_model")


# -- texts that are too long for it

LONG = " ".join(f"The night train number {number} waits at platform {number % 9}." for number in range(60))
"""A text of some 700 tokens."""


def told_overflow(answer: httpx.Response) -> Any:
    assert answer.status_code == 200, answer.text
    return answer.json()["pointsman"]["overflow"]


async def test_a_long_text_is_truncated_if_the_request_says_so(http: httpx.AsyncClient, minilm: MiniLM) -> None:
    answer = await http.post(URL, json={"model": "minilm", "input": ["a", LONG, "b"], "overflow": "truncate"})
    got = shapes.embeddings(answer.json())
    assert told_overflow(answer) == [{"index": 1, "applied": "truncate", "windows": 1, "tokens_read": 256}]
    assert np.allclose([d.embedding for d in got.data], minilm.embed(["a", LONG, "b"]), atol=1e-6)
    assert got.usage.prompt_tokens == 3 + 256 + 3


async def test_the_vectors_of_a_long_texts_windows_are_averaged(http: httpx.AsyncClient, minilm: MiniLM) -> None:
    answer = await http.post(URL, json={"model": "minilm", "input": [LONG, "b"], "overflow": "mean"})
    got = shapes.embeddings(answer.json())
    (overflow,) = told_overflow(answer)
    total = len(minilm.tokenizer.encode(LONG).ids)
    assert (overflow["index"], overflow["applied"]) == (0, "mean")
    # Each window has its own [CLS] and [SEP], and all tokens of the text are in one of them.
    assert overflow["tokens_read"] == total + 2 * (overflow["windows"] - 1)
    assert overflow["windows"] == pytest.approx(total / 254, abs=1)
    vector = np.array(got.data[0].embedding)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-5)
    first = minilm.embed([LONG])[0]
    assert 0.8 < float(vector @ first) < 0.9999
    assert np.allclose(got.data[1].embedding, minilm.embed(["b"])[0], atol=1e-6)


@pytest.mark.parametrize(
    "text",
    ["x" * 9000, " " * 9000 + "x", "日本語の列車" * 100, "word " * 300 + " " * 5000, "a\u0301" * 4500, "." * 700],
)
async def test_every_kind_of_long_text_can_be_split(http: httpx.AsyncClient, text: str) -> None:
    for overflow in "mean", "truncate":
        answer = await http.post(URL, json={"model": "minilm", "input": text, "overflow": overflow})
        shapes.embeddings(answer.json())
        body = answer.json().get("pointsman", {"overflow": []})["overflow"]
        assert all(0 < part["tokens_read"] <= 256 * part["windows"] for part in body)


async def test_texts_that_fit_are_embedded_as_without_overflow(http: httpx.AsyncClient, minilm: MiniLM) -> None:
    for overflow in "mean", "truncate", "error":
        answer = await http.post(URL, json={"model": "minilm", "input": TEXTS, "overflow": overflow})
        got = shapes.embeddings(answer.json())
        assert np.allclose([d.embedding for d in got.data], minilm.embed(TEXTS), atol=1e-7)
        assert "pointsman" not in answer.json()


async def test_the_configuration_may_say_what_is_done_with_long_texts(neighbours: Neighbours) -> None:
    model = {"local": True, "usd_per_million_tokens": 0.5, "overflow": "mean"}
    neighbours.config.models["embeddings"] = {"minilm": model}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        assert told_overflow(await http.post(URL, json={"model": "minilm", "input": LONG}))[0]["applied"] == "mean"
        refused = await http.post(URL, json={"model": "minilm", "input": LONG, "overflow": "error"})
        assert shapes.error(refused)["code"] == "context_length_exceeded"
        assert "overflow" in shapes.error(refused)["message"]


async def test_tokens_of_the_models_own_tokenizer_are_read(http: httpx.AsyncClient, minilm: MiniLM) -> None:
    texts = [*TEXTS, "Don't reply: it's 3.5 km (all-in)!", "umbrella"]
    ids = [minilm.tokenizer.encode(text).ids for text in texts]
    got = shapes.embeddings((await http.post(URL, json={"model": "minilm", "input": ids})).json())
    assert np.allclose([d.embedding for d in got.data], minilm.embed(texts), atol=1e-6)
    one = shapes.embeddings((await http.post(URL, json={"model": "minilm", "input": ids[0]})).json())
    assert np.allclose(one.data[0].embedding, minilm.embed(texts[:1])[0], atol=1e-6)
    long = await http.post(
        URL, json={"model": "minilm", "input": minilm.tokenizer.encode(LONG).ids, "overflow": "mean"}
    )
    assert told_overflow(long)[0]["applied"] == "mean"


CL100K_HELLO_WORLD = [9906, 1917]
"""OpenAI's tokens for "Hello world"; in MiniLM's vocabulary these ids are other words."""


@pytest.mark.parametrize("ids", [CL100K_HELLO_WORLD, [15339], [101, 999_999, 102], [101, 7, 102], [0], [2**31 - 1]])
async def test_tokens_of_another_tokenizer_are_refused(http: httpx.AsyncClient, ids: list[int]) -> None:
    error = shapes.error(await http.post(URL, json={"model": "minilm", "input": ids}))
    assert (error["code"], error["param"]) == ("unsupported_input", "input")
    assert "check_embedding_ctx_length=False" in error["message"]


# -- an engine's


async def test_overflow_of_another_api_is_its_own_parameter(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    error = shapes.error(await http.post(URL, json={"model": "small", "input": "a", "overflow": "mean"}))
    assert (error["code"], error["param"]) == ("unsupported_parameter", "overflow")
    assert "truncate_prompt_tokens" in error["message"]
    await http.post(URL, json={"model": "small", "input": "a", "overflow": "error", "truncate_prompt_tokens": -1})
    assert engine.bodies == [{"model": "text-3", "input": "a", "truncate_prompt_tokens": -1}]


async def test_an_engines_answer_is_forwarded_byte_for_byte(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    body = {
        "model": "small",
        "input": [[1, 2], [3]],
        "encoding_format": "base64",
        "dimensions": 3,
        "user": "u",
        "truncate_prompt_tokens": 8,
    }
    answer = await http.post(URL, json=body)
    assert engine.bodies == [{**body, "model": "text-3"}]
    assert engine.headers[0]["authorization"] == "Bearer sesame"
    got = shapes.embeddings(answer.json())
    assert (got.model, [d.embedding for d in got.data]) == ("text-3", [[2, 4, 0.5], [1, 2, 0.5]])
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(14 * 20 / 1e6)


def _answer(**more: Any) -> bytes:
    return json.dumps({"object": "list", "data": [], "model": "m", **more}).encode()


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (b'{"usage": {"prompt_tokens": 9, "total_tokens": 9}, "data": [' + b"0.5, " * 40_000 + b"1]}", 9),
        (b'{"data": [' + b"0.5, " * 40_000 + b'1], "usage" : {"prompt_tokens": 8}}\n', 8),
        (_answer(), 3),
        (_answer(usage=None), 3),
        (_answer(usage={"prompt_tokens": "many"}), 3),
        (_answer(usage={"total_tokens": 74}), 74),
    ],
)
async def test_usage_is_found_anywhere_in_the_answer_or_estimated(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine, answer: bytes, tokens: int
) -> None:
    engine.embeds = lambda body: answer
    got = await http.post(URL, json={"model": "small", "input": "ten letter"})
    assert (got.status_code, got.content) == (200, answer)
    assert gateway.metric("pointsman_embedding_tokens_total", model="small") == tokens


@pytest.mark.parametrize(
    ("usage", "charged"),
    [
        (b'{"total_tokens": -5000000}', 3),
        (b'{"total_tokens": 1000000000000}', 10 + MAX_ADDED_TOKENS),
        (b'{"total_tokens": 75}', 10 + MAX_ADDED_TOKENS),
        (b'{"total_tokens": true}', 3),
        (b'{"total_tokens": 9.5}', 3),
        (b'{"prompt_tokens": "9"}', 3),
        (b'{"total_tokens": {"a": 1}}', 3),
    ],
)
async def test_a_usage_that_cannot_be_is_capped_with_a_note(
    http: httpx.AsyncClient,
    gateway: Gateway,
    engine: ScriptedEngine,
    usage: bytes,
    charged: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine.embeds = lambda body: b'{"data": [], "usage": %b}' % usage
    got = await http.post(URL, json={"model": "small", "input": "ten letter"})
    assert got.status_code == 200
    assert gateway.metric("pointsman_embedding_tokens_total", model="small") == charged
    assert gateway.metric("pointsman_embedding_usage_capped_total", model="small") == 1
    assert "usage capped: the engine reported" in caplog.text


@pytest.mark.parametrize("usage", [b"[" * 2000, b'{"a":' * 600 + b"1", b"1" * 4000])
async def test_a_usage_that_cannot_be_read_is_estimated(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine, usage: bytes
) -> None:
    engine.embeds = lambda body: b'{"data": [], "usage": %b}' % usage
    assert (await http.post(URL, json={"model": "small", "input": "ten letter"})).status_code == 200
    assert gateway.metric("pointsman_embedding_tokens_total", model="small") == 3


async def test_the_answers_of_endpoints_share_one_memory_budget(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    embeddings = gateway.components.reloader.current.embeddings
    large = b'{"data": [' + b"0.5, " * 40_000 + b"1]}"
    engine.embeds = lambda body: large
    held = embeddings.reserve_answer()
    held.grow("", MAX_HELD_BYTES // 2 - len(large) + 1)
    refused = await http.post(URL, json={"model": "small", "input": "a"})
    assert (refused.status_code, shapes.error(refused)["code"]) == (503, "overloaded")
    held.release()
    for _ in range(3):  # an answer that was sent, or refused, leaves nothing behind
        assert (await http.post(URL, json={"model": "small", "input": "a"})).status_code == 200
    held.grow("", MAX_HELD_BYTES // 2)
    held.release()


FAILURES: list[tuple[Any, int, str]] = [
    (Refusal(400, {"error": {"message": "too many", "param": "input"}}), 400, "engine_refused"),
    (Refusal(401, {"error": {"message": "bad key"}}), 503, "engine_error"),
    (Refusal(404, {"error": {"message": "no such model"}}), 404, "model_not_served"),
    (Refusal(429, "slow down"), 503, "engine_overloaded"),
    (Refusal(529, "overloaded"), 503, "engine_overloaded"),
    (Refusal(500, {}), 503, "engine_error"),
    (b"<html>", 503, "engine_unavailable"),
    (b'{"data": [0.5', 503, "engine_unavailable"),
    (BREAK, 503, "engine_unavailable"),
]


async def test_an_engines_failure_is_reported_with_its_cause(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    for failure, status, code in FAILURES:
        engine.embeds = lambda body, failure=failure: failure  # type: ignore[misc]  # bound at once
        answer = await http.post(URL, json={"model": "small", "input": "a"})
        assert (answer.status_code, shapes.error(answer)["code"]) == (status, code)
    assert gateway.metric("pointsman_embedding_requests_total", model="small") == len(FAILURES)
    assert gateway.metric("pointsman_embedding_tokens_total", model="small") == 0


SECRET = "sk-" + "a" * 40
LONG_ERROR = {"message": f"Wrong key {SECRET} {'x' * 50_000}", "param": f"{SECRET} {'x' * 10_000}"}


@pytest.mark.parametrize(
    "failure",
    [
        Refusal(400, {"error": LONG_ERROR}),
        Refusal(404, {"error": LONG_ERROR}),
        Refusal(500, {"error": LONG_ERROR}),
        Refusal(500, f"{SECRET} {'x' * 60_000}"),
        f"{SECRET} is wrong".encode(),
    ],
)
async def test_an_engines_error_is_masked_and_cut(
    http: httpx.AsyncClient, engine: ScriptedEngine, failure: Any
) -> None:
    engine.embeds = lambda body: failure

    answer = await http.post(URL, json={"model": "small", "input": "a"})

    assert answer.status_code >= 400
    assert len(answer.text) < 2600
    assert "[secret]" in answer.text
    assert SECRET[:10] not in answer.text


async def test_a_closed_connection_is_reopened(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    for _ in range(2):
        assert (await http.post(URL, json={"model": "small", "input": "a"})).status_code == 200


async def test_a_disconnect_stops_the_engine(
    client: openai.AsyncOpenAI, gateway: Gateway, engine: ScriptedEngine
) -> None:
    never = asyncio.Event()
    engine.embeds = lambda body: never
    asking = asyncio.create_task(client.embeddings.create(model="small", input="a"))
    await until(lambda: engine.running == 1)
    asking.cancel()
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_embedding_requests_total", outcome="cancelled") == 1)


async def test_a_slow_engine_is_bounded_by_the_deadline(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    never = asyncio.Event()
    engine.embeds = lambda body: never
    answer = await http.post(URL, json={"model": "small", "input": "a"}, headers={"x-request-timeout": "0.2"})
    assert (answer.status_code, shapes.error(answer)["code"]) == (504, "deadline_exceeded")


async def test_embeddings_in_progress_are_told_that_the_gateway_stops(
    neighbours: Neighbours, engine: ScriptedEngine
) -> None:
    never = asyncio.Event()
    engine.embeds = lambda body: never
    neighbours.config.models["embeddings"] = {"small": {"url": engine.url, "usd_per_million_tokens": 1.0}}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        asked = asyncio.create_task(http.post(URL, json={"model": "small", "input": "a"}))
        await until(lambda: engine.running == 1)
        gateway.components.pipeline.active_runs.shut_down()
        answer = await asked
        assert (answer.status_code, shapes.error(answer)["code"]) == (503, "shutting_down")
        assert answer.headers["retry-after"] == "1"
        await until(lambda: engine.running == 0)
        outcome = {"model": "small", "outcome": "shutting_down", "fault": "gateway"}
        assert gateway.metric("pointsman_embedding_requests_total", **outcome) == 1


async def test_the_admission_limit_applies_to_embeddings(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    never = asyncio.Event()
    engine.embeds = lambda body: never
    neighbours.config.models["embeddings"] = {"small": {"url": engine.url, "usd_per_million_tokens": 1.0}}
    neighbours.settings |= {"max_in_flight": 1}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        first = asyncio.create_task(http.post(URL, json={"model": "small", "input": "a"}))
        await until(lambda: engine.running == 1)
        answer = await http.post(URL, json={"model": "small", "input": "a"}, headers={"x-request-timeout": "0.2"})
        assert (answer.status_code, shapes.error(answer)["code"]) == (503, "overloaded")
        assert answer.headers["retry-after"]
        never.set()
        assert (await first).status_code == 200


# -- the stage, with its seams in a test's hands


class SlowEncoder:
    """An encoder that blocks its thread until it is released."""

    dimensions, fingerprint, max_tokens = 2, "slow", 256

    def __init__(self, minilm: MiniLM) -> None:
        self.tokenizer = minilm.tokenizer
        self.seen: list[Sequence[str]] = []
        self.gate = threading.Event()

    def embed(self, texts: Sequence[str]) -> Any:
        self.seen.append(texts)
        assert self.gate.wait(20)
        return np.ones((len(texts), 2), np.float32)


class Limits:
    """A tenancy that records reservations and settlements."""

    def __init__(self) -> None:
        self.noted: list[tuple[Any, ...]] = []
        self.refuses: PointsmanError | None = None

    @property
    def headers(self) -> dict[str, str]:
        return {"x-ratelimit-remaining-tokens": str(len(self.noted))}

    def enter_now(self, caller: Caller, tokens: int) -> "Limits":
        self.noted.append(("enter", caller.key, tokens))
        return self

    async def afford(self, usd: float) -> None:
        self.noted.append(("afford", round(usd * 1e6, 6)))
        if self.refuses:
            raise self.refuses

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        self.noted.append(("settle", usage.prompt_tokens, round(usd * 1e6, 6), outcome))


def wanted(*texts: str, deadline: float = float("inf")) -> EmbeddingRequest:
    request = Request("m", (Message("user", texts[0]),), caller=Caller(key="k"), deadline=deadline)
    return EmbeddingRequest(request, texts)


class Receipts(list[UndecidedReceipt]):
    """Implements the methods of `RequestLog` that are called, and stores the receipts."""

    def note_undecided(self, receipt: UndecidedReceipt) -> None:
        self.append(receipt)


@dataclass
class Stage:
    """The pipeline of the embeddings endpoint, with one model."""

    model: Embedder
    limits: Limits
    receipts: Receipts = field(default_factory=Receipts)

    async def embed(self, inputs: EmbeddingRequest) -> Called[EncodedEmbeddings]:
        return await self._pipeline.call_model(self._embeddings.call(inputs))

    @cached_property
    def _embeddings(self) -> Embeddings:
        registry = CollectorRegistry()
        metrics = CallMetrics(registry, GenAiMetrics(registry), "embeddings", "pointsman_embedding")
        models = {"m": PricedModel("m", self.model.embed, Price(2.0))}
        return Embeddings(EMBEDDINGS, models, metrics, BufferedBytesBudget(1000))

    @cached_property
    def _pipeline(self) -> Pipeline:
        admission = Admission(2, Gauge("in_flight", "Inside.", registry=None))
        tenancy: Any = self.limits  # it has the methods that are called
        request_log: Any = self.receipts
        stages: Any = None  # of answers
        return Pipeline(admission, tenancy, stages, request_log)


async def test_the_reservation_is_settled_with_the_actual_usage(minilm: MiniLM) -> None:
    limits = Limits()
    got = await Stage(LocalEmbedder(minilm), limits).embed(wanted("a", "b" * 400))
    assert got.headers == {"x-ratelimit-remaining-tokens": "3"}
    tokens = got.answer.charge.tokens
    assert limits.noted == [("enter", "k", 102), ("afford", 204), ("settle", tokens, 2 * tokens, "ok")]


async def test_without_budget_nothing_is_embedded(minilm: MiniLM) -> None:
    limits, encoder = Limits(), SlowEncoder(minilm)
    stage = Stage(LocalEmbedder(encoder), limits)
    limits.refuses = ResourceExhausted("the budget is used up", code="dollars_per_day")
    with pytest.raises(ResourceExhausted):
        await stage.embed(wanted("a"))
    assert (encoder.seen, limits.noted[-1]) == ([], ("settle", 0, 0, "dollars_per_day"))
    assert [(receipt.outcome, receipt.fault) for receipt in stage.receipts] == [("dollars_per_day", "limits")]


class BrokenEmbedder:
    async def embed(self, inputs: EmbeddingRequest) -> EncodedEmbeddings:
        raise Bug


async def test_a_bug_costs_nothing_and_is_the_gateways_fault() -> None:
    limits = Limits()
    stage = Stage(BrokenEmbedder(), limits)
    with pytest.raises(Bug):
        await stage.embed(wanted("a"))
    assert limits.noted[-1] == ("settle", 0, 0, "internal")
    assert [(receipt.outcome, receipt.fault) for receipt in stage.receipts] == [("internal", "gateway")]


async def test_embedding_does_not_block_the_event_loop_and_cancellation_stops_after_a_slice(
    minilm: MiniLM,
) -> None:
    limits, encoder = Limits(), SlowEncoder(minilm)
    texts = [f"text {number}" for number in range(10 * BATCH_TEXTS)]
    embedding = asyncio.create_task(Stage(LocalEmbedder(encoder), limits).embed(wanted(*texts)))
    await until(lambda: encoder.seen)  # the event loop runs while the thread is blocked
    embedding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await embedding
    encoder.gate.set()
    assert limits.noted[-1] == ("settle", 0, 0, "cancelled")
    assert encoder.seen == [tuple(texts[:BATCH_TEXTS])]


async def test_a_short_request_is_interleaved_with_a_long_one(minilm: MiniLM) -> None:
    encoder = SlowEncoder(minilm)
    embeddings = Stage(LocalEmbedder(encoder), Limits())
    long = asyncio.create_task(embeddings.embed(wanted(*(f"t{n}" for n in range(4 * BATCH_TEXTS)))))
    await until(lambda: encoder.seen)
    short = asyncio.create_task(embeddings.embed(wanted("short")))
    encoder.gate.set()
    await asyncio.gather(long, short)
    assert encoder.seen.index(("short",)) < len(encoder.seen) - 1


async def test_the_deadline_applies_to_the_gateways_own_model(minilm: MiniLM) -> None:
    encoder, limits = SlowEncoder(minilm), Limits()
    with pytest.raises(DeadlineExceeded):
        await Stage(LocalEmbedder(encoder), limits).embed(wanted("a", deadline=0.0))
    assert limits.noted[-1] == ("settle", 0, 0, "deadline_exceeded")
    encoder.gate.set()


# -- the configuration


BAD: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda m: m.update(embeddings={"e": {"local": True}}), "'embeddings.e.usd_per_million_tokens' is missing"),
    (lambda m: m.update(embeddings={"e": {"usd_per_million_tokens": 1}}), "either local: true or has a url"),
    (
        lambda m: m.update(embeddings={"e": {"usd_per_million_tokens": 1, "local": True, "url": "http://x"}}),
        "either local: true",
    ),
    (
        lambda m: m.update(embeddings={"e": {"usd_per_million_tokens": 1, "local": True, "upstream": "x"}}),
        "has no api_key_env and no upstream",
    ),
    (
        lambda m: m.update(embeddings={"e": {"usd_per_million_tokens": 1, "local": True, "urll": "x"}}),
        "unknown key 'embeddings.e.urll'",
    ),
    (
        lambda m: m.update(embeddings={"e": {"usd_per_million_tokens": 1, "url": "http://x", "overflow": "mean"}}),
        "overflow is for local: true alone",
    ),
    (
        lambda m: m.update(embeddings={"tiny": {"usd_per_million_tokens": 1, "local": True}}),
        "'tiny' is a model and an embedding model",
    ),
]


def test_an_invalid_embedding_model_is_rejected_by_name(neighbours: Neighbours, tmp_path: Path) -> None:
    for bend, problem in BAD:
        bend(neighbours.config.models)
        with pytest.raises(ConfigError, match=problem):
            load_config(neighbours.config.write(), {})


@pytest.mark.parametrize(
    ("more", "problem"), [({"url": "ftp://x"}, "is no URL"), ({"url": "http://x", "api_key_env": "NOT_SET"}, "NOT_SET")]
)
async def test_an_invalid_endpoint_is_rejected_at_the_start(
    neighbours: Neighbours, more: dict[str, Any], problem: str
) -> None:
    neighbours.config.models["embeddings"] = {"e": {"usd_per_million_tokens": 1, **more}}
    with pytest.raises(ConfigError, match=problem):
        async with neighbours.gateway():
            pass
