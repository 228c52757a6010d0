"""`POST /v1/rerank` and `/v2/rerank` with the retriever's reranker and an engine's: form, limits, keys and metering."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.reranking.remote import MAX_ADDED_TOKENS
from pointsman_servicekit.errors import FailedPrecondition, ResourceExhausted
from pointsman_servicekit.keys.records import NO_LIMITS, KeyScope, Limits

from tests.gateway.doubles.engine import BREAK, Refusal, ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import until

V1, V2 = "/v1/rerank", "/v2/rerank"
QUERY = "may bicycles ride on trains"
DOCUMENTS = ["Dogs travel free.", "On trains bicycles ride free, if there is room.", "bicycles"]


def configure(neighbours: Neighbours) -> None:
    neighbours.config.models["rerankers"] = {
        "own": {"retriever": True, "usd_per_million_tokens": 0.5},
        "remote": {
            "url": neighbours.engine.url,
            "upstream": "bge",
            "api_key_env": "RERANK_KEY",
            "usd_per_million_tokens": 20.0,
            "usd_per_search": 0.002,
        },
    }
    neighbours.config.models["aliases"] = {"rerank-v3.5": "own"}


@pytest.fixture
async def gateway(neighbours: Neighbours, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    monkeypatch.setenv("RERANK_KEY", "sesame")
    configure(neighbours)
    await neighbours.ready()
    async with neighbours.gateway() as gateway:
        yield gateway


def error_of(answer: httpx.Response) -> dict[str, Any]:
    """Returns the error in OpenAI's form; checks that Cohere's and Jina's clients find its text too."""
    body = answer.json()
    error: dict[str, Any] = body["error"]
    assert body == {"message": error["message"], "detail": error["message"], "error": error}
    return error


def asked(**more: Any) -> dict[str, Any]:
    return {"model": "own", "query": QUERY, "documents": DOCUMENTS, **more}


# -- both APIs' forms


async def test_cohere_gets_the_best_documents_first_with_its_units(
    http: httpx.AsyncClient, gateway: Gateway, retriever: ScriptedRetriever
) -> None:
    answer = await http.post(V2, json=asked(top_n=2))
    body = answer.json()
    assert body["results"] == [{"index": 1, "relevance_score": 3.0}, {"index": 2, "relevance_score": 1.0}]
    assert body["meta"] == {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    assert body["id"] == answer.headers["x-request-id"]
    (sent,) = retriever.reranked
    assert (sent.query, list(sent.documents)) == (QUERY, DOCUMENTS)
    tokens = body["usage"]["total_tokens"]
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(tokens * 0.5 / 1e6)
    assert gateway.metric("pointsman_rerank_requests_total", model="own", outcome="ok") == 1
    assert gateway.metric("pointsman_rerank_tokens_total", model="own") == tokens
    assert gateway.metric("pointsman_rerank_cost_usd_total", model="own") == pytest.approx(tokens * 0.5 / 1e6)


async def test_jina_gets_documents_and_tokens(http: httpx.AsyncClient) -> None:
    objects: list[Any] = [{"text": DOCUMENTS[0]}, DOCUMENTS[1], {"text": DOCUMENTS[2], "title": "not read"}]
    body = (await http.post(V1, json=asked(documents=objects))).json()
    assert [(each["index"], each["document"]["text"]) for each in body["results"]] == [
        (1, DOCUMENTS[1]),
        (2, DOCUMENTS[2]),
        (0, DOCUMENTS[0]),
    ]
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] > 0
    assert (body["object"], body["model"]) == ("list", "own")
    without = (await http.post(V1, json=asked(return_documents=False, top_n=9))).json()
    assert [set(each) for each in without["results"]] == [{"index", "relevance_score"}] * 3


async def test_documents_of_equal_score_keep_their_order(http: httpx.AsyncClient) -> None:
    body = (await http.post(V2, json=asked(documents=["x", "y", "z"]))).json()
    assert [each["index"] for each in body["results"]] == [0, 1, 2]


async def test_models_are_listed_and_may_have_aliases(http: httpx.AsyncClient) -> None:
    names = [model["id"] for model in (await http.get("/v1/models")).json()["data"]]
    assert {"own", "remote", "rerank-v3.5"} <= set(names)
    assert names.count("rerank-v3.5") == 1
    assert (await http.post(V1, json=asked(model="rerank-v3.5"))).status_code == 200
    chat = {"model": "rerank-v3.5", "messages": [{"role": "user", "content": "Hello"}]}
    assert (await http.post("/v1/chat/completions", json=chat)).status_code == 404


# -- engines


async def test_an_engine_scores_the_documents(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    answer = await http.post(V1, json=asked(model="remote", top_n=1))
    body = answer.json()
    assert [(each["index"], each["relevance_score"]) for each in body["results"]] == [(1, len(DOCUMENTS[1]) / 1000)]
    assert engine.bodies == [{"model": "bge", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}]
    assert (engine.paths, engine.headers[0]["authorization"]) == ([V1], "Bearer sesame")
    assert body["usage"]["total_tokens"] == 21
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(21 * 20 / 1e6 + 0.002)


async def test_a_complete_url_and_coheres_units_are_taken(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    def cohere(body: Any) -> bytes:
        results = [{"index": number, "relevance_score": 0.5} for number in range(len(body["documents"]))]
        return json.dumps({"results": results, "meta": {"billed_units": {"search_units": 3}}}).encode()

    engine.reranks = cohere
    url = f"{engine.url}/v2/rerank"
    neighbours.config.models["rerankers"] = {"rerank-v4": {"url": url, "usd_per_search": 0.002}}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        answer = await http.post(V2, json=asked(model="rerank-v4"))
    assert engine.paths == [V2]
    assert answer.json()["meta"]["billed_units"] == {"search_units": 3}
    assert float(answer.headers["x-pointsman-cost-usd"]) == pytest.approx(0.006)


@pytest.mark.parametrize("tokens", [-1, True, 10**12, "many"])
async def test_a_usage_that_cannot_be_is_capped(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine, tokens: Any
) -> None:
    results = [{"index": number, "relevance_score": 0.5} for number in range(3)]
    engine.reranks = lambda body: json.dumps({"results": results, "usage": {"total_tokens": tokens}}).encode()
    body = (await http.post(V1, json=asked(model="remote"))).json()
    most = sum(len(QUERY) + len(text) + MAX_ADDED_TOKENS for text in DOCUMENTS)
    assert 0 < body["usage"]["total_tokens"] <= most
    assert gateway.metric("pointsman_rerank_usage_capped_total", model="remote") == 1


SCORED = [{"index": number, "relevance_score": 0.5} for number in range(3)]
FAILURES: list[tuple[Any, int, str]] = [
    (Refusal(400, {"error": {"message": "too long", "param": "documents"}}), 400, "engine_refused"),
    (Refusal(401, {"message": "invalid api token"}), 503, "engine_error"),
    (Refusal(404, {"error": {"message": "no such model"}}), 404, "model_not_served"),
    (Refusal(429, "slow down"), 503, "engine_overloaded"),
    (Refusal(529, "overloaded"), 503, "engine_overloaded"),
    (b"<html>", 503, "engine_unavailable"),
    (b'{"results": 5}', 503, "engine_unavailable"),
    (b'{"results": [{"index": 0, "relevance_score": 0.5}]}', 503, "engine_unavailable"),
    (json.dumps({"results": [*SCORED[:2], {"index": 7, "relevance_score": 1}]}).encode(), 503, "engine_unavailable"),
    (json.dumps({"results": [*SCORED[:2], {"index": 2, "relevance_score": "1e999"}]}).encode(), 503,
     "engine_unavailable"),
    (BREAK, 503, "engine_unavailable"),
]  # fmt: skip


async def test_an_engines_failure_is_reported_with_its_cause_and_costs_nothing(
    http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine
) -> None:
    for failure, status, code in FAILURES:
        engine.reranks = lambda body, failure=failure: failure  # type: ignore[misc]  # bound at once
        answer = await http.post(V2, json=asked(model="remote"))
        assert (answer.status_code, error_of(answer)["code"]) == (status, code), answer.text
    assert gateway.metric("pointsman_rerank_requests_total", model="remote") == len(FAILURES)
    assert gateway.metric("pointsman_rerank_tokens_total", model="remote") == 0


async def test_the_retrievers_failures_are_its_own(
    http: httpx.AsyncClient, gateway: Gateway, retriever: ScriptedRetriever
) -> None:
    retriever.error = FailedPrecondition("this retriever has no reranker", code="no_reranker")
    answer = await http.post(V1, json=asked())
    assert (answer.status_code, error_of(answer)["code"]) == (503, "no_reranker")
    assert gateway.metric("pointsman_rerank_requests_total", outcome="no_reranker", fault="retriever") == 1
    retriever.error = ResourceExhausted("too many", code="overloaded", retry_after=1.0)
    assert (await http.post(V1, json=asked())).status_code == 429


# -- limits


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"query": ""}, "empty_input", "query"),
    ({"query": "q" * 16_385}, "context_length_exceeded", "query"),
    ({"query": ["a"]}, "bad_parameter", "query"),
    ({"documents": []}, "bad_parameter", "documents"),
    ({"documents": ["a"] * 1001}, "bad_parameter", "documents"),
    ({"documents": ["a", " "]}, "empty_input", "documents"),
    ({"documents": ["x" * 131_073]}, "context_length_exceeded", "documents"),
    ({"documents": [{"image": "data:"}]}, "bad_parameter", "documents[0]"),
    ({"documents": "text"}, "bad_parameter", "documents"),
    ({"top_n": 0}, "bad_parameter", "top_n"),
    ({"model": ""}, "missing_model", "model"),
    ({"model": "tiny"}, "unknown_model", "model"),
    ({"rank_fields": ["title"]}, "unsupported_parameter", "rank_fields"),
    ({"user": "u" * 600}, "bad_parameter", "user"),
    ({"topn": 3}, "bad_parameter", "topn"),
]


async def test_what_cannot_be_reranked_is_rejected_by_name(
    http: httpx.AsyncClient, retriever: ScriptedRetriever
) -> None:
    for body, code, param in REFUSED:
        error = error_of(await http.post(V1, json=asked(**body)))
        assert (error["code"], error["param"]) == (code, param), (body.keys(), error)
    assert retriever.reranked == []


async def test_errors_before_a_request_is_decoded_have_the_same_form(http: httpx.AsyncClient) -> None:
    for url in (V1, V2):
        answer = await http.post(url, content=b'{"model": ', headers={"content-type": "application/json"})
        assert (answer.status_code, error_of(answer)["code"]) == (400, "bad_json")
        answer = await http.get(url)
        assert (answer.status_code, error_of(answer)["code"]) == (405, "unknown_route")


async def test_the_deadline_bounds_a_slow_reranker(
    http: httpx.AsyncClient, engine: ScriptedEngine, retriever: ScriptedRetriever
) -> None:
    engine.reranks = lambda body: asyncio.Event()
    retriever.may_score.clear()
    for model in ("own", "remote"):
        answer = await http.post(V1, json=asked(model=model), headers={"x-request-timeout": "0.2"})
        assert (answer.status_code, error_of(answer)["code"]) == (504, "deadline_exceeded")


async def test_a_disconnect_stops_the_engine(http: httpx.AsyncClient, gateway: Gateway, engine: ScriptedEngine) -> None:
    engine.reranks = lambda body: asyncio.Event()
    asking = asyncio.create_task(http.post(V1, json=asked(model="remote")))
    await until(lambda: engine.running == 1)
    asking.cancel()
    await until(lambda: engine.running == 0)
    await until(lambda: gateway.metric("pointsman_rerank_requests_total", outcome="cancelled") == 1)


@pytest.mark.parametrize(("query", "spaces"), [(QUERY, 10_000_000), ("q" * 16_000, 200_000)])
async def test_an_answer_that_is_too_long_for_the_documents_is_a_failure(
    http: httpx.AsyncClient, engine: ScriptedEngine, query: str, spaces: int
) -> None:
    engine.reranks = lambda body: b'{"results": [' + b" " * spaces + b"]}"
    answer = await http.post(V1, json=asked(model="remote", query=query))
    assert (answer.status_code, error_of(answer)["code"]) == (503, "engine_unavailable")
    assert "is over" in answer.text


# -- keys


async def test_keys_budgets_and_receipts_are_those_of_every_request(
    neighbours: Neighbours, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RERANK_KEY", "sesame")
    configure(neighbours)
    neighbours.settings |= {"auth": "on", "redis_url": valkey.url}
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:

        async def ask(model: str, limits: Limits = NO_LIMITS, **scope: tuple[str, ...]) -> httpx.Response:
            key = await issue(valkey.url, limits, tenant="acme", scope=KeyScope(**scope))
            headers = {"authorization": f"Bearer {key.credential.text}"}
            listed = [each["id"] for each in (await http.get("/v1/models", headers=headers)).json()["data"]]
            answer = await http.post(V1, json=asked(model=model), headers=headers)
            assert (model in listed) == (answer.status_code in (200, 429))
            return answer

        assert (await http.post(V1, json=asked())).status_code == 401
        assert (await ask("own")).status_code == 200
        assert (await ask("own", rerankers=("own",))).status_code == 200
        for scope in ({"rerankers": ("remote",)}, {"tasks": ("chat",)}, {"embeddings": ("minilm",)}):
            refused = await ask("own", **scope)  # type: ignore[arg-type]  # names of tuples
            assert (refused.status_code, error_of(refused)["code"]) == (403, "not_in_scope")
            assert "--reranker" in refused.text
        poor = await ask("remote", Limits(dollars_per_day=0.001))
        assert (poor.status_code, error_of(poor)["code"]) == (429, "dollars_per_day")
        few = await ask("own", Limits(tokens_per_minute=5))
        assert (few.status_code, error_of(few)["code"]) == (429, "tokens_per_minute")
        assert neighbours.engine.bodies == []


# -- the configuration


BAD: list[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda m: m.update(rerankers={"r": {}}), "a reranker is either retriever: true or has a url"),
    (lambda m: m.update(rerankers={"r": {"retriever": True, "url": "http://x"}}), "either retriever: true"),
    (lambda m: m.update(rerankers={"r": {"retriever": True, "upstream": "x"}}), "has no api_key_env and no upstream"),
    (lambda m: m.update(rerankers={"r": {"url": "http://x", "usd_per_search": -1}}), "usd_per_search"),
    (lambda m: m.update(rerankers={"tiny": {"retriever": True}}), "'tiny' is a model and a reranker"),
    (
        lambda m: m.update(
            rerankers={"e": {"retriever": True}}, embeddings={"e": {"local": True, "usd_per_million_tokens": 0}}
        ),
        "'e' is an embedding model and a reranker",
    ),
]


def test_an_invalid_reranker_is_rejected_by_name(neighbours: Neighbours, tmp_path: Path) -> None:
    for bend, problem in BAD:
        bend(neighbours.config.models)
        with pytest.raises(ConfigError, match=problem):
            load_config(neighbours.config.write(), {})
        neighbours.config.models.pop("embeddings", None)


@pytest.mark.parametrize(
    ("more", "problem"), [({"url": "ftp://x"}, "is no URL"), ({"url": "http://x", "api_key_env": "NOT_SET"}, "NOT_SET")]
)
async def test_an_invalid_endpoint_is_rejected_at_the_start(
    neighbours: Neighbours, more: dict[str, Any], problem: str
) -> None:
    neighbours.config.models["rerankers"] = {"r": more}
    with pytest.raises(ConfigError, match=problem):
        async with neighbours.gateway():
            pass
