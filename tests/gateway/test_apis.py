"""The common behaviour of the APIs; each test runs over HTTP, HTTP with streaming, and gRPC."""

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from pointsman_gateway.domain import Decision, Prompt, Request
from pointsman_servicekit.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    NotFound,
    PointsmanError,
    Unavailable,
)

from tests.gateway.doubles.api_clients import ApiClient, GrpcUnaryClient, HttpStreamClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_NONE, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, DONE, TOO_LONG, ScriptedEngine, answer, beginning, chunk
from tests.gateway.doubles.gateway import TRIAGE, VOICE, Gateway, Neighbours
from tests.gateway.doubles.lora_server import READY, STARTING
from tests.gateway.doubles.retriever import ScriptedRetriever
from tests.gateway.doubles.waiting import until

SYSTEM = {"role": "system", "content": "Be brief."}
USER = {"role": "user", "content": IN_CHAT}


async def test_an_answer_carries_text_usage_cost_and_its_path(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("Hello", " from", " Wren", prompt_tokens=100, cached_tokens=64))
    got = await api.ask(IN_CHAT)
    assert got.text == "Hello from Wren"
    assert (got.finish_reason, got.model, got.path, got.kind) == ("stop", "tiny", "small_talk", "prompt")
    assert (got.prompt_tokens, got.completion_tokens, got.cached_tokens) == (100, 3, 64)
    assert got.cost_parts_usd == pytest.approx({"prompt": 36e-6, "cached": 16e-6, "completion": 12e-6})
    assert got.cost_usd == pytest.approx(64e-6)


async def test_headers_and_metadata_agree_with_the_answer(api: ApiClient) -> None:
    got = await api.ask(IN_TRIAGE)
    headers = dict(got.headers)
    assert (headers["decision-id"], headers["path"], headers["kind"]) == (got.decision_id, "triage_adapter", "lora")
    assert headers["request-id"]
    if not isinstance(api, GrpcUnaryClient):
        assert (headers["task"], headers["reason"]) == ("triage", "policy:fixed")
        assert 0 < float(headers["confidence"]) <= 1
        assert float(headers["overhead-ms"]) > 0
    if not isinstance(api, HttpStreamClient):  # its headers are sent before the cost is known
        assert headers["cost-usd"] == f"{got.cost_usd:.9f}"


async def test_all_valid_model_names_are_listed(api: ApiClient) -> None:
    assert await api.models() == [
        "auto", "tiny", "path:triage_adapter", "path:triage_few_shot", "path:handbook", "path:letter",
        "path:small_talk", "path:safe_start", "triage@prod", "voice@prod", TRIAGE, VOICE,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path", "kind", "model"),
    [
        (IN_TRIAGE, "triage_adapter", "lora", TRIAGE),
        (IN_POLICY, "handbook", "rag", "tiny"),
        (IN_CHAT, "small_talk", "prompt", "tiny"),
        (IN_NONE, "safe_start", "rag", "tiny"),
    ],
)
async def test_a_text_takes_its_tasks_path(api: ApiClient, text: str, path: str, kind: str, model: str) -> None:
    got = await api.ask(text)
    assert (got.path, got.kind, got.model) == (path, kind, model)


async def test_passages_are_in_the_prompt_and_named_in_the_receipt(api: ApiClient, engine: ScriptedEngine) -> None:
    got = await api.ask(IN_POLICY)
    assert engine.system == "Answer from the handbook.\n\n[Bicycles] Bicycles ride free."
    assert got.sources == ["bicycles.md"]
    assert got.cost_parts_usd["retrieval"] == pytest.approx(0.00005)


@pytest.mark.parametrize(
    ("model", "path", "answers"),
    [
        ("path:letter", "letter", "voice@0123456789ab"),
        ("triage@prod", "adapter:triage@prod", TRIAGE),
        (TRIAGE, f"adapter:{TRIAGE}", TRIAGE),
        ("tiny", "tiny", "tiny"),
    ],
)
async def test_a_named_path_adapter_or_model_is_taken(api: ApiClient, model: str, path: str, answers: str) -> None:
    got = await api.ask(IN_CHAT, model)
    assert got.model == answers
    assert (await api.route(IN_CHAT, model))["reason"] == "forced"
    assert got.path == path


async def test_the_paths_sampling_values_are_defaults_for_the_requests(api: ApiClient, engine: ScriptedEngine) -> None:
    await api.ask(IN_TRIAGE, top_p=0.5, seed=11, stop=["END"], max_tokens=7, response_format={"type": "json_object"})
    body = engine.bodies[-1]
    assert {name: body[name] for name in ("max_tokens", "temperature", "top_p", "seed", "stop")} == {
        "max_tokens": 7, "temperature": 0, "top_p": 0.5, "seed": 11, "stop": ["END"],
    }  # fmt: skip
    assert body["response_format"] == {"type": "json_object"}
    assert body["stream_options"] == {"include_usage": True}


async def test_a_named_adapter_takes_the_sampling_values_of_its_path(api: ApiClient, engine: ScriptedEngine) -> None:
    await api.ask(IN_CHAT, "triage@prod", max_tokens=7)
    assert (engine.bodies[-1]["max_tokens"], engine.bodies[-1]["temperature"]) == (7, 0)
    await api.ask(IN_CHAT, TRIAGE)
    assert (engine.bodies[-1]["max_tokens"], engine.bodies[-1]["temperature"]) == (60, 0)


async def test_a_number_reaches_the_engine_as_it_was_written(api: ApiClient, engine: ScriptedEngine) -> None:
    await api.ask(IN_CHAT, temperature=0.7, top_p=0.95)
    assert (engine.bodies[-1]["temperature"], engine.bodies[-1]["top_p"]) == (0.7, 0.95)


async def test_metadata_can_decide_by_a_rule(api: ApiClient) -> None:
    decision = await api.route(IN_CHAT, metadata={"source": "inbox"})
    assert (decision["task"], decision["path"], decision["reason"]) == ("triage", "triage_adapter", "rule:inbox")
    assert decision["stage"] == "rule:inbox"


async def test_a_decision_lists_the_considered_paths(api: ApiClient) -> None:
    decision = await api.route(IN_TRIAGE)
    assert (decision["task"], decision["reason"], decision["stage"]) == ("triage", "policy:fixed", "encoder")
    assert [(c["path"], c["outcome"]) for c in decision["considered"]] == [
        ("triage_adapter", "chosen"),
        ("triage_few_shot", "fallback"),
        ("safe_start", "fallback"),
    ]
    assert next(iter(decision["probabilities"])) == "triage"
    assert sum(decision["probabilities"].values()) == pytest.approx(1)
    assert decision["expected_cost_usd"] > 0


async def test_a_decision_alone_generates_nothing_and_costs_nothing(
    api: ApiClient, engine: ScriptedEngine, gateway: Gateway
) -> None:
    await api.route(IN_POLICY)
    assert engine.bodies == []
    assert gateway.metric("pointsman_requests_total") == 0


async def test_a_decision_can_show_the_prompt_that_would_be_sent(api: ApiClient, engine: ScriptedEngine) -> None:
    shown = await api.route([SYSTEM, {"role": "user", "content": IN_POLICY}], include_prompt=True)
    await api.ask([SYSTEM, {"role": "user", "content": IN_POLICY}])
    assert shown["prompt"] == engine.bodies[-1]["messages"]


async def test_a_decision_shows_what_was_read_of_a_wrapped_text(api: ApiClient) -> None:
    wrapped = f"<system-reminder>Be brief. Today is Monday.</system-reminder>\n{IN_POLICY}"
    shown = await api.route(wrapped)
    assert shown["user_words"] == IN_POLICY
    assert "user_words" not in await api.route(IN_POLICY)


BAD_REQUESTS: list[tuple[dict[str, Any], type[PointsmanError], str, str]] = [
    ({"messages": []}, InvalidArgument, "empty_messages", "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, InvalidArgument, "bad_role", "messages[0].role"),
    ({"messages": "x", "model": ""}, InvalidArgument, "missing_model", "model"),
    ({"messages": "x", "model": "gpt-nonsense"}, NotFound, "unknown_model", "model"),
    ({"messages": "x", "model": "path:nowhere"}, NotFound, "unknown_model", "model"),
    ({"messages": "x", "model": "nobody@prod"}, NotFound, "unknown_model", "model"),
    ({"messages": "x", "temperature": 2.5}, InvalidArgument, "bad_parameter", "temperature"),
    ({"messages": "x", "top_p": 0}, InvalidArgument, "bad_parameter", "top_p"),
    ({"messages": "x", "max_tokens": 0}, InvalidArgument, "bad_parameter", "max_tokens"),
    ({"messages": "x", "stop": list("abcde")}, InvalidArgument, "bad_parameter", "stop"),
    ({"messages": "x", "n": 129}, InvalidArgument, "bad_parameter", "n"),
    ({"messages": "x", "n": "100"}, InvalidArgument, "bad_parameter", "n"),
    ({"messages": "x", "user": "u" * 513}, InvalidArgument, "bad_parameter", "user"),
    ({"messages": "x", "metadata": {str(i): "" for i in range(17)}}, InvalidArgument, "bad_parameter", "metadata"),
    ({"messages": "x", "metadata": {"k": "v" * 513}}, InvalidArgument, "bad_parameter", "metadata"),
]


async def test_an_invalid_request_has_the_same_code_everywhere_and_never_reaches_the_engine(
    api: ApiClient, engine: ScriptedEngine
) -> None:
    for request, *expected in BAD_REQUESTS:
        with pytest.raises(PointsmanError) as raised:
            await api.ask(**request)
        assert [type(raised.value), raised.value.code, raised.value.param] == expected, request
    assert engine.bodies == []


async def test_an_unknown_path_is_rejected_with_the_known_ones(api: ApiClient) -> None:
    with pytest.raises(NotFound, match=r"unknown model 'path:nowhere'; known: path:triage_adapter, .*path:safe_start"):
        await api.ask("x", "path:nowhere")


async def test_a_prompt_over_the_context_window_is_the_callers_error(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.refuses(400, TOO_LONG)
    with pytest.raises(InvalidArgument, match="maximum context length is 4096") as raised:
        await api.ask(IN_TRIAGE)
    assert (raised.value.code, raised.value.param) == ("context_length_exceeded", "messages")
    assert len(engine.bodies) == 1  # no other path could accept it


async def test_a_failing_engine_is_unavailable_with_a_retry_time(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.refuses(500, {"error": {"message": "CUDA said no"}})
    with pytest.raises(Unavailable, match="engine 'local' answered 500: CUDA said no") as raised:
        await api.ask(IN_CHAT, "tiny")
    assert (raised.value.code, raised.value.retry_after) == ("engine_error", 1.0)


async def test_a_starting_engine_is_unavailable_with_its_state(
    api: ApiClient, neighbours: Neighbours, gateway: Gateway
) -> None:
    await neighbours.lora_server.say(STARTING, detail="loading weights")
    await until(lambda: not gateway.components.engines.any_ready)
    with pytest.raises(Unavailable, match="loading weights") as raised:
        await api.ask(IN_CHAT)
    assert (raised.value.code, raised.value.retry_after) == ("engine_not_ready", 5.0)


@pytest.mark.parametrize("end", [[BREAK], [], [{"error": {"message": "out of memory", "code": 500}}, DONE]])
async def test_an_incomplete_answer_is_an_error(
    api: ApiClient, engine: ScriptedEngine, gateway: Gateway, end: list[Any]
) -> None:
    engine.says(*beginning("Hel"), *end)
    with pytest.raises(PointsmanError, match="engine 'local' failed") as raised:
        await api.ask(IN_CHAT)
    assert raised.value.code == "engine_unavailable"
    assert len(engine.bodies) == 1  # after the first token there is no fallback
    assert gateway.metric("pointsman_requests_total", outcome="engine_unavailable", path="small_talk") == 1


async def test_a_failure_before_the_first_token_leads_to_the_next_path(
    api: ApiClient, engine: ScriptedEngine, gateway: Gateway
) -> None:
    engine.script = lambda body: [BREAK] if body["model"] == TRIAGE else answer("sorted")
    got = await api.ask(IN_TRIAGE)
    assert (got.text, got.path, got.model) == ("sorted", "triage_few_shot", "tiny")
    assert gateway.metric("pointsman_fallbacks_total", source="triage_adapter", target="triage_few_shot") == 1
    assert gateway.metric("pointsman_requests_total", outcome="ok", path="triage_few_shot") == 1


async def test_a_role_delta_is_not_a_first_token(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.script = lambda body: [*beginning(), BREAK] if body["model"] == TRIAGE else answer("sorted")
    assert (await api.ask(IN_TRIAGE)).path == "triage_few_shot"


async def test_an_unavailable_required_retriever_leads_to_the_default_path(
    api: ApiClient, retriever: ScriptedRetriever, engine: ScriptedEngine
) -> None:
    retriever.error = Unavailable("no disk", code="store_unavailable")
    got = await api.ask(IN_POLICY)
    assert (got.path, got.sources) == ("safe_start", [])
    assert engine.system == "Think step by step.\n\nNothing found."


async def test_a_path_whose_adapter_is_not_loaded_is_skipped(
    api: ApiClient, neighbours: Neighbours, gateway: Gateway
) -> None:
    await neighbours.lora_server.say(READY, url=neighbours.engine.url)
    await until(lambda: not gateway.components.engines.get("local").resident)
    assert (await api.ask(IN_TRIAGE)).path == "triage_few_shot"
    decision = await api.route(IN_TRIAGE)
    assert decision["reason"] == "availability"
    assert decision["considered"][0] == {
        "path": "triage_adapter",
        "outcome": "skipped",
        "reason": "adapter 'triage@prod' is not resident on any engine",
    }


@pytest.fixture
def room_for_three(neighbours: Neighbours) -> None:
    neighbours.settings |= {"max_in_flight": 3, "queue_timeout": 0.5}


async def test_too_many_concurrent_requests_are_rejected_with_a_retry_time(
    room_for_three: None, api: ApiClient, engine: ScriptedEngine, gateway: Gateway
) -> None:
    first_token = asyncio.Event()
    engine.says(first_token, *answer("late"))
    asked = [asyncio.create_task(api.ask(IN_CHAT)) for _ in range(3)]
    await until(lambda: engine.running == 3)
    with pytest.raises(Unavailable) as raised:
        await api.ask(IN_CHAT)
    assert (raised.value.code, raised.value.retry_after) == ("overloaded", 1.0)
    first_token.set()
    assert {got.text for got in await asyncio.gather(*asked)} == {"late"}
    assert (await api.ask(IN_CHAT)).text == "late"
    assert gateway.metric("pointsman_in_flight") == 0


async def test_a_stopping_gateway_rejects_requests(api: ApiClient, gateway: Gateway) -> None:
    gateway.components.pipeline.admission.is_closed = True
    with pytest.raises(Unavailable) as raised:
        await api.ask(IN_CHAT)
    assert (raised.value.code, raised.value.retry_after) == ("shutting_down", 1.0)


@pytest.mark.parametrize("pieces", [(), ("Hel", "lo")])
async def test_a_disconnect_stops_the_engine_and_is_metered(
    api: ApiClient, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event(), *answer("never"))
    asked = asyncio.create_task(api.ask(IN_CHAT))
    await until(lambda: engine.running == 1 and engine.sent == 1 + len(pieces))
    assert gateway.metric("pointsman_in_flight") == 1
    asked.cancel()
    await until(lambda: engine.running == 0, within=1)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled", path="small_talk") == 1)
    assert gateway.metric("pointsman_in_flight") == 0


class Mistaken:
    """A pipeline stage that raises an exception that nothing expects."""

    async def build(self, request: Request, decision: Decision) -> Prompt:
        raise TypeError("unsupported operand")


@pytest.fixture
def mistaken(gateway: Gateway) -> None:
    now = gateway.components.reloader.current
    gateway.components.reloader.current = replace(now, stages=replace(now.stages, prompts=Mistaken()))


async def test_an_internal_error_is_reported_by_an_id_only(
    mistaken: None, api: ApiClient, gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(Internal, match=r"^internal error") as raised:
        await api.ask(IN_CHAT)
    assert raised.value.code == "internal"
    assert "TypeError" not in raised.value.message
    told_id = raised.value.message.rstrip(")").split()[-1]
    assert caplog.text.count("TypeError: unsupported operand") == 1  # one traceback
    assert told_id in caplog.text
    assert gateway.metric("pointsman_requests_total", outcome="internal") == 1


@pytest.fixture
def impatient(neighbours: Neighbours) -> None:
    neighbours.settings["request_timeout"] = 0.3


@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_the_gateways_own_deadline_ends_a_request(
    impatient: None, api: ApiClient, engine: ScriptedEngine, gateway: Gateway, pieces: tuple[str, ...]
) -> None:
    engine.says(*beginning(*pieces), asyncio.Event())
    with pytest.raises(PointsmanError, match="time ran out") as raised:
        await api.ask(IN_CHAT)
    assert raised.value.code == "deadline_exceeded"
    assert pieces or isinstance(raised.value, DeadlineExceeded)
    await until(lambda: engine.running == 0)
    assert gateway.metric("pointsman_requests_total", outcome="deadline_exceeded") == 1


async def test_tool_calls_and_their_finish_reason_pass_through(api: ApiClient, engine: ScriptedEngine) -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "refund", "arguments": "{}"}}
    engine.says(chunk(tool_calls=[call]), chunk("", finish="tool_calls"), DONE)
    got = await api.ask(IN_CHAT, tools=[{"type": "function", "function": {"name": "refund"}}])
    assert got.finish_reason == "tool_calls"
    assert engine.bodies[-1]["tools"][0]["function"]["name"] == "refund"
