"""The real gateway and the real retriever send their spans through a real OpenTelemetry agent."""

import asyncio
import importlib.util
import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.gateway.doubles.config_folder import IN_POLICY
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.otlp_agent import Agent, running_agent
from tests.gateway.doubles.process_gateway import ProcessGateway, process_gateway
from tests.gateway.doubles.process_retriever import process_retriever
from tests.gateway.doubles.waiting import until
from tests.ports import free_port

CHAT = "/v1/chat/completions"
BODY = {"model": "auto", "messages": [{"role": "user", "content": IN_POLICY}]}
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ENDING = 30.0
"""Time limit for a gateway's shutdown in seconds."""


@pytest.fixture
async def agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Agent]:
    """Runs an agent, and sets the environment variables with which all services started from now on send their spans to
    it.
    """
    if importlib.util.find_spec("rotel") is None:
        pytest.skip("there is no Rotel for this machine")
    async with running_agent(tmp_path) as agent:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", agent.url)
        # A long export interval: spans are sent when a service stops.
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "600000")
        for service in ("GATEWAY", "RETRIEVER"):
            monkeypatch.setenv(f"POINTSMAN_{service}_LOG_FORMAT", "json")
        yield agent


async def test_one_trace_through_all_services_arrives_when_they_stop(
    agent: Agent, tmp_path: Path, neighbours: Neighbours, engine: ScriptedEngine, model_folder: Path
) -> None:
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    settings = {"config": neighbours.config.write(), "embedding_model": model_folder, "shutdown_delay": 0}
    async with (
        process_retriever(tmp_path, model_folder) as retriever,
        process_gateway(tmp_path, retriever=retriever.address, **settings) as gateway,
    ):
        answer = await _ask(gateway, {"traceparent": f"00-{TRACE}-{CALLER}-01"})
        assert answer.headers["x-pointsman-path"] == "handbook"
        for process in (gateway, retriever):
            process.signal(signal.SIGTERM)
            assert await process.ended(ENDING) == 0
        assert _services_of(gateway.words) == {"gateway"}
        assert _services_of(retriever.words) == {"retriever"}

    collector = agent.collector
    await until(lambda: len({span.service for span in collector.spans}) == 2)
    root = collector.named("pointsman-gateway", f"POST {CHAT}")
    prompt, first = (collector.named("pointsman-gateway", name) for name in ("prompt", "first token"))
    search = collector.named("pointsman-gateway", "pointsman.v1.Retriever/Search")
    served = collector.named("pointsman-retriever", "pointsman.v1.Retriever/Search")
    asked = collector.named("pointsman-gateway", "chat tiny")
    assert [span.parent_id for span in (root, prompt, search, served, first, asked)] == [
        CALLER, root.span_id, prompt.span_id, search.span_id, root.span_id, first.span_id,
    ]  # fmt: skip
    assert {span.trace_id for span in (root, prompt, search, served, first, asked)} == {TRACE}
    assert engine.headers[-1]["traceparent"][:52] == f"00-{TRACE}-{asked.span_id}"
    assert root.attributes["pointsman.decision_id"] == answer.headers["x-pointsman-decision-id"]
    assert served.attributes["gen_ai.data_source.id"] == "handbook"
    assert served.attributes["gen_ai.retrieval.top_k"] >= served.attributes["pointsman.passages"] > 0
    assert served.attributes["pointsman.request_id"] == root.attributes["pointsman.request_id"]


async def test_an_unreachable_agent_affects_neither_requests_nor_shutdown(
    tmp_path: Path, neighbours: Neighbours, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    settings = {"config": neighbours.config.write(), "embedding_model": model_folder, "shutdown_delay": 0}
    async with process_gateway(tmp_path, retriever=neighbours.retriever.address, **settings) as gateway:
        answers = await asyncio.gather(*(_ask(gateway, {}) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {200}
        gateway.signal(signal.SIGTERM)
        assert await gateway.ended(ENDING) == 0
    assert IN_POLICY not in gateway.words


async def test_unsupported_opentelemetry_variables_are_logged_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    gateway = ProcessGateway(tmp_path, {"config": tmp_path})
    with pytest.raises(AssertionError):
        await gateway.start()
    assert await gateway.ended(ENDING) == 1
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; traces are sent by http/protobuf" in gateway.words


def _services_of(words: str) -> set[str]:
    """Returns the services in log lines that Python has written; gRPC's C core writes lines of another form."""
    return {json.loads(line)["service"] for line in words.splitlines() if line.startswith("{")}


async def _ask(gateway: ProcessGateway, headers: dict[str, str]) -> httpx.Response:
    # verify=False: nothing is encrypted here, and reading the certificates takes longer than most tests.
    async with httpx.AsyncClient(base_url=gateway.url, timeout=30, verify=False) as client:
        return await client.post(CHAT, json=BODY, headers=headers)
