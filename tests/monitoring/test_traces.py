"""One trace connects each API of the gateway to vLLM, through a real OpenTelemetry agent; no span is an orphan."""

import pytest

from tests.gateway.doubles.otlp_agent import Arrived
from tests.monitoring.monitored_run import MonitoredRun

API_SPANS = {"POST /v1/chat/completions", "pointsman.v1.Gateway/GenerateStream"}
ENOUGH = 10
"""A number of requests that a minute of load always exceeds."""


@pytest.fixture(scope="module")
def by_id(monitored_run: MonitoredRun) -> dict[str, Arrived]:
    return {span.span_id: span for span in monitored_run.spans}


@pytest.fixture(scope="module")
def of_the_engine(monitored_run: MonitoredRun) -> list[Arrived]:
    return [span for span in monitored_run.spans if (span.service, span.name) == ("vllm", "llm_request")]


def test_every_engine_request_belongs_to_its_gateway_trace(
    by_id: dict[str, Arrived], of_the_engine: list[Arrived]
) -> None:
    assert len(of_the_engine) >= ENOUGH
    api_spans = set()
    for span in of_the_engine:
        asked = by_id[span.parent_id]  # so the lora-server's own questions make none
        assert (asked.service, asked.trace_id) == ("pointsman-gateway", span.trace_id)
        assert asked.name.startswith("chat ")
        api_spans.add(_top(asked, by_id).name)
    assert api_spans == API_SPANS


def test_the_engine_counts_the_tokens_of_a_request_as_the_gateway_does(
    by_id: dict[str, Arrived], of_the_engine: list[Arrived]
) -> None:
    seen = [
        (by_id[span.parent_id].attributes, span.attributes)
        for span in of_the_engine
        if "gen_ai.usage.output_tokens" in by_id[span.parent_id].attributes  # otherwise its end was not received
    ]
    assert len(seen) >= ENOUGH
    for asked, of_engine in seen:
        assert of_engine["gen_ai.usage.prompt_tokens"] == asked["gen_ai.usage.input_tokens"]
        assert of_engine["gen_ai.usage.completion_tokens"] == asked["gen_ai.usage.output_tokens"]
        assert of_engine["gen_ai.latency.time_in_model_inference"] > 0


def test_all_services_and_the_engine_have_sent_spans_with_known_names(monitored_run: MonitoredRun) -> None:
    services = {span.service for span in monitored_run.spans}
    assert services == {"pointsman-gateway", "pointsman-retriever", "pointsman-lora-server", "vllm"}


def test_an_exemplar_of_a_panel_leads_to_its_trace(monitored_run: MonitoredRun) -> None:
    known = {span.trace_id for span in monitored_run.spans}
    assert monitored_run.exemplars
    assert monitored_run.exemplars <= known


def _top(span: Arrived, by_id: dict[str, Arrived]) -> Arrived:
    while span.parent_id in by_id:
        span = by_id[span.parent_id]
    return span
