"""Every request ends with a receipt, and the metrics are the sum of the receipts."""

import asyncio
import itertools

import httpx
import pytest
from doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from doubles.doors import GrpcDoor, HttpDoor, HttpStreamDoor
from doubles.engine import ScriptedEngine, answer, beginning
from doubles.gateway import TRIAGE, Gateway
from doubles.waiting import until
from pointsman_gateway.config.schema import ModelConfig, ModelsFile, Prices, RetrievalPrices
from pointsman_gateway.domain import Message, Path, Request, Sampling, Usage
from pointsman_gateway.metering.faults import fault_of
from pointsman_gateway.metering.pricing import ExpectedCost, Pricing
from pointsman_servicekit.errors import (
    DeadlineExceeded,
    InvalidArgument,
    PointsmanError,
    ResourceExhausted,
    Unavailable,
)
from pointsman_servicekit.grpc_client import open_channel

PRICING = Pricing(
    ModelsFile(
        models={"tiny": ModelConfig(context_window=1, prices=Prices(prompt=1, cached=0.25, completion=4))},
        engines={},
        retrieval=RetrievalPrices(search=0.00005),
    )
)


def test_each_component_has_its_price() -> None:
    assert PRICING.parts_usd("tiny", Usage(100, 10, 60), 2) == pytest.approx(
        {"prompt": 40e-6, "cached": 15e-6, "completion": 40e-6, "retrieval": 1e-4}
    )


def test_who_does_not_search_pays_no_search() -> None:
    assert set(PRICING.parts_usd("tiny", Usage(1, 1), 0)) == {"prompt", "cached", "completion"}


def test_the_expected_cost_is_estimated_first_and_learned_then() -> None:
    expected, path = ExpectedCost(PRICING), Path("p", "tiny", sampling=Sampling(max_tokens=10))
    request = Request("auto", (Message("user", "x" * 400),))
    assert expected.usd(path, request) == pytest.approx(100e-6 + 40e-6)
    for _ in range(200):
        expected.learn(path, 7e-6)
    assert expected.usd(path, request) == pytest.approx(7e-6)
    expected.learn(path, 107e-6)
    assert expected.usd(path, request) == pytest.approx(12e-6)  # a twentieth of the step


async def test_plain_stream_and_grpc_agree_to_the_token_and_the_cent(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b", "c", prompt_tokens=101, cached_tokens=64))
    async with open_channel(gateway.grpc_address) as channel:
        doors = [HttpDoor(http), HttpStreamDoor(http), GrpcDoor(channel)]
        plain, streamed, grpc = [await door.ask(IN_POLICY) for door in doors]
    assert plain == streamed == grpc
    assert plain.cost_usd == pytest.approx(sum(plain.cost_parts_usd.values()), abs=1e-15)
    assert gateway.metric("pointsman_cost_usd_total", path="handbook") == pytest.approx(3 * plain.cost_usd)
    assert gateway.metric("pointsman_tokens_total", path="handbook") == 3 * (101 + 3)
    assert gateway.metric("pointsman_tokens_total", path="handbook", type="cached") == 3 * 64


async def test_each_path_is_counted_under_its_own_labels(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    for text in (IN_TRIAGE, IN_POLICY, IN_CHAT):
        await HttpDoor(http).ask(text)
    for path, kind, task in [
        ("triage_adapter", "lora", "triage"), ("handbook", "rag", "policy"), ("small_talk", "prompt", "chat"),
    ]:  # fmt: skip
        labels = {"path": path, "kind": kind, "task": task}
        assert gateway.metric("pointsman_requests_total", **labels, outcome="ok") == 1
        assert gateway.metric("pointsman_request_seconds_count", **labels) == 1
        assert gateway.metric("pointsman_time_to_first_token_seconds_count", **labels) == 1
        assert gateway.metric("pointsman_decisions_total", path=path, task=task, reason="policy") == 1
    assert gateway.metric("pointsman_phase_seconds_count", path="handbook", phase="retrieval") == 1
    assert gateway.metric("pointsman_phase_seconds_count", path="small_talk", phase="retrieval") == 0
    assert gateway.metric("pointsman_confidence_count") == 3


async def test_the_phases_lie_within_the_total(http: httpx.AsyncClient, gateway: Gateway) -> None:
    body = (await http.post("/v1/chat/completions", json=asking(IN_POLICY))).json()
    seconds = body["pointsman"]["seconds"]
    assert set(seconds) == {
        "classification", "retrieval", "prompt", "queue_and_prefill", "first_token", "generation", "total",
    }  # fmt: skip
    assert 0 < seconds["classification"] < seconds["first_token"] <= seconds["total"]
    assert seconds["first_token"] + seconds["generation"] == pytest.approx(seconds["total"], abs=1e-4)


async def test_names_that_clients_invent_make_no_series(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    door = HttpDoor(http)
    await door.ask(IN_CHAT, "triage@prod")
    before = series(gateway)
    for number in range(20):
        with pytest.raises(PointsmanError, match="unknown model"):
            await door.ask("x", f"junk-{number}")
    await door.ask(IN_CHAT, TRIAGE)
    await door.ask(IN_CHAT, "tiny", user="someone", metadata={"junk": "junk"})
    new = {labels for labels in series(gateway) - before if "tiny" not in labels}
    names = ("pointsman_refused_total", "pointsman_refused_created")
    assert new == {(name, "unknown_model", "caller") for name in names}
    assert gateway.metric("pointsman_refused_total", code="unknown_model") == 20
    assert gateway.metric("pointsman_requests_total", path="other", kind="lora") == 2


def series(gateway: Gateway) -> set[tuple[str, ...]]:
    return {
        (sample.name, *sample.labels.values())
        for family in gateway.house.registry.collect()
        for sample in family.samples
        if sample.name.startswith("pointsman_")
    }


async def test_a_cut_answer_is_metered_by_what_had_come(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("one", "two", "three"), asyncio.Event())
    async with http.stream("POST", "/v1/chat/completions", json=asking(IN_CHAT) | {"stream": True}) as response:
        lines = response.aiter_lines()
        pieces = itertools.count()
        async for line in lines:
            if line.startswith("data: ") and next(pieces) == 2:
                break
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled", path="small_talk") == 1)
    assert gateway.metric("pointsman_tokens_total", path="small_talk", type="completion") == 3
    assert gateway.metric("pointsman_cost_usd_total", path="small_talk", component="completion") == pytest.approx(12e-6)
    # It has been read by then, and the engine can no longer say how long it was.
    sent = sum(len(message["content"]) for message in engine.bodies[0]["messages"])
    assert gateway.metric("pointsman_tokens_total", path="small_talk", type="prompt") == sent // 4 > 0
    await until(lambda: engine.running == 0)


async def test_an_engine_that_never_began_is_owed_nothing(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.refuses(400, {"error": {"message": "no"}})
    assert (await http.post("/v1/chat/completions", json=asking(IN_CHAT))).status_code == 400
    assert gateway.metric("pointsman_requests_total", outcome="engine_refused") == 1
    assert gateway.metric("pointsman_tokens_total") == 0
    assert gateway.metric("pointsman_cost_usd_total") == 0


async def test_a_failed_request_teaches_no_expectation(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    door = HttpDoor(http)
    before = (await door.route(IN_CHAT))["expected_cost_usd"]
    engine.refuses(500, "x")
    with pytest.raises(PointsmanError):
        await door.ask(IN_CHAT, "path:small_talk")
    assert (await door.route(IN_CHAT))["expected_cost_usd"] == before
    engine.says(*answer("a", prompt_tokens=5))
    await door.ask(IN_CHAT)
    assert (await door.route(IN_CHAT))["expected_cost_usd"] == pytest.approx(9e-6)


def asking(text: str) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": text}]}


@pytest.mark.parametrize(
    ("outcome", "error", "fault"),
    [
        ("ok", None, "none"),
        ("cancelled", None, "caller"),
        ("internal", None, "gateway"),
        ("bad_json", InvalidArgument("x", code="bad_json"), "caller"),
        ("requests_per_minute", ResourceExhausted("x", code="requests_per_minute"), "limits"),
        ("gap_timeout", Unavailable("x", code="gap_timeout"), "engine"),
        ("adapter_not_resident", Unavailable("x", code="adapter_not_resident"), "adapter"),
        ("redis_unavailable", Unavailable("x", code="redis_unavailable"), "state"),
        ("overloaded", Unavailable("x", code="overloaded"), "gateway"),
        ("deadline_exceeded", DeadlineExceeded("x", code="deadline_exceeded"), "gateway"),
    ],
)
def test_each_end_of_a_request_is_somebodys_fault(outcome: str, error: PointsmanError | None, fault: str) -> None:
    assert fault_of(outcome, error) == fault
