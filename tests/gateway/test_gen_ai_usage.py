"""Tokens by the names of the first release of OpenTelemetry's conventions for generative AI, beside the earlier ones.

Source: github.com/open-telemetry/semantic-conventions-genai, v0.1.0, docs/gen-ai/client-inference.md: counters
`gen_ai.client.inference.usage.*` with the required attribute `gen_ai.token.modality`, and attributes `gen_ai.usage.*`.
"""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import TokenDetails, Usage
from pointsman_gateway.metering.gen_ai import GenAiMetrics
from pointsman_gateway.tracing.engine_calls import usage_attributes
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.anthropic_api import Anthropic, ask, ended, running_anthropic, site, started, text
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import BREAK, ScriptedEngine, answer, beginning
from tests.gateway.doubles.gateway import Gateway, Neighbours

USAGE = "gen_ai_client_inference_usage_"
PARTS = ("input", "output", "cache_read_input", "cache_write_input", "reasoning_output")
DETAILS = TokenDetails(10, 20, 5, 7, reasoning=3, completion_audio=4, completion_image=2)


def usages(registry: CollectorRegistry) -> dict[tuple[str, str], float]:
    """The tokens that are not 0, by the metric's distinguishing part and the modality."""
    return {
        (sample.name.removeprefix(USAGE).removesuffix("_tokens_total"), sample.labels["gen_ai_token_modality"]):
            sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.name.startswith(USAGE) and sample.name.endswith("_total") and sample.value
    }  # fmt: skip


@pytest.mark.parametrize("is_alone", [True, False], ids=["one answer", "several answers"])
def test_tokens_of_each_kind_are_counted_with_the_modality_that_the_engine_tells(is_alone: bool) -> None:
    registry = CollectorRegistry()
    metrics = GenAiMetrics(registry)
    metrics.set_label_values({"tiny": "openai"}, (), ())
    usage = Usage(100, 40, 30, details=DETAILS)
    if is_alone:
        counts = {"prompt_tokens": 100, "completion_tokens": 40, "cached_tokens": 30}
        for column, series in metrics.token_series("chat", "tiny"):
            series.add([counts[column]])
        metrics.count_details("chat", "tiny", DETAILS)
    else:
        metrics.observe_tokens("chat", "tiny", usage)
    assert usages(registry) == {
        ("input", "unknown"): 88, ("input", "audio"): 5, ("input", "image"): 7,
        ("output", "unknown"): 34, ("output", "audio"): 4, ("output", "image"): 2,
        ("cache_read_input", "unknown"): 30, ("cache_write_input", "unknown"): 30, ("reasoning_output", "unknown"): 3,
    }  # fmt: skip
    assert registry.get_sample_value("gen_ai_client_token_usage_sum", {
        "gen_ai_operation_name": "chat", "gen_ai_provider_name": "openai", "gen_ai_request_model": "tiny",
        "gen_ai_token_type": "input",
    }) == 100  # fmt: skip


async def test_an_answer_is_counted_under_its_model_and_provider(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer("a", "b", "c", prompt_tokens=101, cached_tokens=64))
    await http.post(
        "/v1/chat/completions", json={"model": "auto", "messages": [{"role": "user", "content": IN_TRIAGE}]}
    )
    called = {"gen_ai_operation_name": "chat", "gen_ai_request_model": "triage", "gen_ai_provider_name": "vllm"}
    found = [gateway.metric(f"{USAGE}{part}_tokens_total", **called) for part in PARTS]
    assert found == [101, 3, 64, 0, 0]
    assert gateway.metric(f"{USAGE}input_tokens_total") == 101


async def test_what_no_engine_has_counted_is_not_in_these_counters(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    engine.says(*beginning("a", "b"), BREAK)
    await http.post("/v1/chat/completions", json={"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]})
    assert usages(gateway.components.registry) == {}


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


async def test_writes_to_a_prompt_cache_are_counted(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 1}
    anthropic.events = [started(cache_creation=writes), *text("Hello"), *ended()]
    async with site(neighbours, anthropic, monkeypatch) as http:
        await ask(http)
        page = (await http.get("/metrics")).text
    labels = 'gen_ai_operation_name="chat",gen_ai_provider_name="anthropic",gen_ai_request_model="claude"'
    assert f'{USAGE}cache_write_input_tokens_total{{{labels},gen_ai_token_modality="unknown"}} 4.0' in page
    assert f'{USAGE}input_tokens_total{{{labels},gen_ai_token_modality="unknown"}} 20.0' in page


def test_a_span_has_the_attributes_of_both_releases() -> None:
    attributes: dict[str, Any] = usage_attributes(Usage(100, 40, 30, details=DETAILS))
    assert attributes == {
        "gen_ai.usage.input_tokens": 100, "gen_ai.usage.output_tokens": 40, "gen_ai.usage.cache_read.input_tokens": 30,
        "gen_ai.usage.cache_creation.input_tokens": 30, "gen_ai.usage.cache_write.input_tokens": 30,
        "gen_ai.usage.reasoning.output_tokens": 3, "gen_ai.usage.audio.input_tokens": 5,
        "gen_ai.usage.image.input_tokens": 7, "gen_ai.usage.audio.output_tokens": 4,
        "gen_ai.usage.image.output_tokens": 2,
    }  # fmt: skip
    assert usage_attributes(Usage(9, 2)).keys() == {
        "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens", "gen_ai.usage.cache_read.input_tokens"
    }  # fmt: skip
