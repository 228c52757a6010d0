"""Metrics follow OpenTelemetry's semantic conventions for generative AI, and only the configuration creates label
values."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import httpx
import pytest
from pointsman_gateway.domain import Event, Finished, Message, Receipt, Request, Usage
from pointsman_servicekit.errors import NotFound
from pointsman_servicekit.logs import TraceIds, current_trace
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from tests.gateway.doubles.api_clients import ApiClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_POLICY, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import TRIAGE, Gateway
from tests.gateway.doubles.request_logs import ended

MANY = 10_000
OPENMETRICS = {"accept": "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"}
TRACE = "0af7651916cd43dd8448eb211c80319c"

SERVER = "gen_ai_server_request_duration_seconds_count"
CLIENT = "gen_ai_client_operation_duration_seconds_count"
TOKENS = "gen_ai_client_token_usage"


async def test_every_api_has_the_same_metrics(gateway: Gateway, api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("a", "b", "c", prompt_tokens=101))
    await api.ask(IN_TRIAGE)
    chat = {"gen_ai_operation_name": "chat", "error_type": ""}
    served = {"gen_ai_request_model": "auto", "gen_ai_response_model": "triage", "gen_ai_provider_name": "pointsman"}
    called = {"gen_ai_request_model": "triage", "gen_ai_provider_name": "vllm"}
    assert gateway.metric(SERVER, **chat, **served) == gateway.metric(SERVER) == 1
    assert gateway.metric(CLIENT, **chat, **called) == gateway.metric(CLIENT) == 1
    for name in ("gen_ai_server_time_to_first_token_seconds", "gen_ai_server_time_per_output_token_seconds"):
        assert gateway.metric(f"{name}_count", **served) == 1
    for kind, tokens in (("input", 101), ("output", 3)):
        assert gateway.metric(f"{TOKENS}_sum", gen_ai_token_type=kind, **called) == tokens
        assert gateway.metric(f"{TOKENS}_count", gen_ai_token_type=kind, **called) == 1


async def test_a_failing_engine_is_counted_with_its_error(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.refuses(400, {"error": {"message": "no"}})
    body = {"model": "tiny", "messages": [{"role": "user", "content": IN_CHAT}]}
    assert (await http.post("/v1/chat/completions", json=body)).status_code == 400
    error = {"error_type": "engine_refused", "gen_ai_request_model": "tiny"}
    assert gateway.metric(CLIENT, **error) == gateway.metric(SERVER, **error) == 1
    assert gateway.metric("gen_ai_server_time_to_first_token_seconds_count") == 0
    assert gateway.metric(f"{TOKENS}_count") == 0


async def test_a_completion_has_its_own_operation_name(gateway: Gateway, http: httpx.AsyncClient) -> None:
    await http.post("/v1/completions", json={"model": "tiny", "prompt": "once upon a time"})
    assert gateway.metric(SERVER, gen_ai_operation_name="text_completion", gen_ai_request_model="tiny") == 1
    assert gateway.metric(CLIENT, gen_ai_operation_name="text_completion", gen_ai_request_model="tiny") == 1


async def test_ten_thousand_unknown_names_create_no_series(gateway: Gateway, http: httpx.AsyncClient) -> None:
    for model in ("auto", TRIAGE):
        await HttpClient(http).ask(IN_POLICY, model)
    aggregator = gateway.components.reloader.stages().metering.aggregator
    gen_ai = aggregator.gen_ai
    receipt = await _receipt(gateway)

    async def junk(number: int) -> None:
        with pytest.raises(NotFound):
            await _events(gateway, Request(f"junk-{number}", (Message("user", "x"),)))
        version = f"junk-{number}@0123456789ab"
        gen_ai.observe_call("chat", version, "ok", 0.1)
        gen_ai.observe_tokens("chat", version, Usage(1, 1))
        named = replace(receipt.decision.path, name=f"adapter:{version}", adapter=version, fingerprint="")
        odd = replace(receipt, model=version, decision=replace(receipt.decision, path=named, task=f"task-{number}"))
        aggregator.add(ended(odd, version))

    await junk(0)
    before, size = set(_series(gateway)), len(generate_latest(gateway.components.registry))
    for number in range(1, MANY):
        await junk(number)
    assert set(_series(gateway)) == before
    assert gateway.metric(SERVER, gen_ai_request_model="other") == 2 * MANY
    # Counts have more digits; nothing else is new.
    assert len(generate_latest(gateway.components.registry)) < 1.1 * size < 400_000


async def test_openmetrics_latencies_have_exemplars_of_recorded_traces(
    gateway: Gateway, http: httpx.AsyncClient
) -> None:
    token = current_trace.set(TraceIds(TRACE, "b7ad6b7169203331", sampled=True))
    await _receipt(gateway)
    current_trace.set(TraceIds("f" * 32, "b7ad6b7169203331", sampled=False))
    await _receipt(gateway)
    current_trace.reset(token)
    classic, metrics = await http.get("/metrics"), await http.get("/metrics", headers=OPENMETRICS)
    assert classic.headers["content-type"].startswith("text/plain; version=")
    assert TRACE not in classic.text
    assert metrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    named = {
        sample.name: sample.exemplar
        for family in text_string_to_metric_families(metrics.text)
        for sample in family.samples
        if sample.exemplar
    }
    assert named.keys() >= {
        "pointsman_request_duration_seconds_bucket",
        "pointsman_time_to_first_token_seconds_bucket",
        "pointsman_phase_duration_seconds_bucket",
        "gen_ai_server_request_duration_seconds_bucket",
        "gen_ai_client_operation_duration_seconds_bucket",
    }
    for exemplar in named.values():
        assert exemplar.labels == {"trace_id": TRACE}
        assert exemplar.value > 0


async def test_release_and_event_loop_lag_are_exported(gateway: Gateway) -> None:
    assert gateway.metric("pointsman_build_info", service="gateway") == 1
    assert gateway.metric("pointsman_config_revision") == 1
    assert b"pointsman_event_loop_lag_seconds_bucket" in generate_openmetrics(gateway.components.registry)


async def _receipt(gateway: Gateway) -> Receipt:
    """Sends a request to the base model, and returns its receipt."""
    *_, finished = await _events(gateway, Request("tiny", (Message("user", IN_CHAT),), deadline=_in_a_minute()))
    assert isinstance(finished, Finished)
    return finished.receipt


async def _events(gateway: Gateway, request: Request) -> list[Event]:
    return [event async for event in gateway.components.pipeline.answer(request)]


def _in_a_minute() -> float:
    return asyncio.get_running_loop().time() + 60


def _series(gateway: Gateway) -> Iterator[tuple[str, ...]]:
    for family in gateway.components.registry.collect():
        for sample in family.samples:
            yield (sample.name, *sample.labels.values())
