"""Tokens of every kind that an engine reports reach the client, the metrics and the log; answers that were cut off are
marked."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import TokenDetails, Usage
from pointsman_gateway.engines.dialects.anthropic.events import MessagesReader
from pointsman_gateway.engines.dialects.openai.events import EventReader
from pointsman_gateway.request_log.wal_records import DecidedRecord, decided_record, from_line, to_line

from tests.gateway.doubles.anthropic_api import (
    Anthropic,
    ask,
    ended,
    running_anthropic,
    site,
    started,
    text,
    written,
)
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.request_logs import REQUEST
from tests.gateway.doubles.waiting import until
from tests.gateway.test_receipt_schema import NOW, RECEIPT

WRITES = {"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 1}


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


def read(usage: dict[str, Any], **event: Any) -> Usage | None:
    """Returns the usage that is read from the last event of an OpenAI-compatible stream."""
    data = {"choices": [], "usage": usage, **event}
    (chunk,) = EventReader().read(b"data: %b\n\n" % json.dumps(data).encode())
    return chunk.usage


def counted(prompt: int, completion: int, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, **more}


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        (counted(9, 2), Usage(9, 2)),
        (counted(9, 2, prompt_tokens_details=None), Usage(9, 2)),
        (
            counted(
                90, 40,
                prompt_tokens_details={"cached_tokens": 30, "audio_tokens": 20, "cache_write_tokens": 10},
                completion_tokens_details={
                    "reasoning_tokens": 8, "audio_tokens": 5, "accepted_prediction_tokens": 0, "image_tokens": 3,
                },
            ),
            Usage(90, 40, 30, details=TokenDetails(10, 0, 20, 0, 8, 5, 3)),
        ),
        (
            counted(90, 4, prompt_tokens_details={
                "cached_tokens": 30, "cache_creation_tokens": 50,
                "cache_creation_token_details": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 40},
            }),
            Usage(90, 4, 30, details=TokenDetails(10, 40)),
        ),
        (
            counted(
                2006, 300, prompt_tokens_details={"cached_tokens": 1920}, cache_creation_input_tokens=80,
                cache_read_input_tokens=1920,
            ),
            Usage(2006, 300, 1920, details=TokenDetails(80)),
        ),
        (
            counted(90, 4, prompt_tokens_details={
                "cached_tokens": 0, "cache_creation_input_tokens": 60, "cache_type": "ephemeral",
                "cache_creation": {"ephemeral_5m_input_tokens": 20, "ephemeral_1h_input_tokens": 40},
            }),
            Usage(90, 4, details=TokenDetails(20, 40)),
        ),
        (
            counted(90, 4, prompt_tokens_details={"cached_tokens": 3, "cache_write_tokens": 10.0, "audio_tokens": 5.5}),
            Usage(90, 4, 3, details=TokenDetails(10)),
        ),
        (counted(90, 4, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=26), Usage(90, 4, 64)),
        (counted(90, 4, cached_tokens=64), Usage(90, 4, 64)),
        (
            counted(90, 4) | {"total_tokens": 194, "completion_tokens_details": {"reasoning_tokens": 100}},
            Usage(90, 104, details=TokenDetails(reasoning=100)),
        ),
        (counted(90, 4) | {"total_tokens": 194}, Usage(90, 104, details=TokenDetails(reasoning=100))),
        (
            counted(90, 4, prompt_tokens_details={"cached_tokens": 80, "image_tokens": 70, "audio_tokens": "a"}),
            Usage(90, 4, 80, details=TokenDetails(prompt_image=10)),
        ),
        (counted(9, 2, server_tool_use={"web_search_requests": 2}), Usage(9, 2, details=TokenDetails(tool_requests=2))),
        (counted(9, 2, num_sources_used=3), Usage(9, 2, details=TokenDetails(tool_requests=3))),
        (counted(9, 2, num_sources_used=0), Usage(9, 2)),
        (counted(9, 2, num_search_queries=1), Usage(9, 2, details=TokenDetails(tool_requests=1))),
        (
            counted(9, 2, prompt_tokens_details={"web_search_requests": 4}),
            Usage(9, 2, details=TokenDetails(tool_requests=4)),
        ),
        (counted(9, 2, completion_tokens_details="many", cached_tokens=-1) | {"total_tokens": 1.5}, Usage(9, 2)),
    ],
    ids=[
        "plain", "null", "openai", "litellm", "litellm-proxy", "qwen", "whole-floats", "deepseek", "moonshot", "xai",
        "gemini", "overlapping",
        "openrouter-search", "xai-search", "xai-without-search", "perplexity-search", "litellm-search", "nonsense",
    ],
)  # fmt: skip
def test_openai_compatible_engines_report_kinds_in_different_ways(usage: dict[str, Any], expected: Usage) -> None:
    assert read(usage) == expected


@pytest.mark.parametrize(
    ("tier", "expected"),
    [("default", ""), ("on_demand", ""), (None, ""), (5, ""), ("flex", "flex"), ("x" * 99, "x" * 40)],
)
def test_the_service_tier_is_that_of_the_answer(tier: Any, expected: str) -> None:
    usage = read(counted(9, 2), service_tier=tier)
    assert usage is not None
    assert (usage.details.service_tier if usage.details else "") == expected


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, TokenDetails(cache_write=4)),
        ({"cache_creation": WRITES}, TokenDetails(cache_write=3, cache_write_1h=1)),
        ({"cache_creation": {"ephemeral_1h_input_tokens": 3}}, TokenDetails(cache_write=1, cache_write_1h=3)),
        ({"cache_creation": "many", "cache_creation_input_tokens": 0}, None),
        (
            {"output_tokens_details": {"thinking_tokens": 2}, "service_tier": "priority", "inference_geo": "us"},
            TokenDetails(cache_write=4, reasoning=2, service_tier="priority+us"),
        ),
        ({"server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 3}}, TokenDetails(4, tool_requests=2)),
        ({"service_tier": "standard", "inference_geo": "global", "speed": "standard"}, TokenDetails(cache_write=4)),
    ],
)
def test_anthropic_reports_writes_by_the_time_that_they_stay(more: dict[str, Any], expected: TokenDetails) -> None:
    chunks = MessagesReader().read(written([started(**more), *text("Hi"), *ended()]))
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.details == expected


def test_a_sum_keeps_each_kind_and_says_what_is_estimated() -> None:
    flex, cut_off = (
        TokenDetails(2, 1, service_tier="flex", tool_requests=1),
        TokenDetails(3, reasoning=4, is_estimate=True),
    )
    total = Usage(9, 2, details=flex) + Usage(5, 5) + Usage(9, 6, details=cut_off)
    kinds = {"reasoning": 4, "tool_requests": 1}
    assert total == Usage(23, 13, details=TokenDetails(5, 1, service_tier="flex", is_estimate=True, **kinds))
    assert (Usage(9, 2) + Usage(5, 5)).details is None


def test_a_capped_usage_caps_its_kinds() -> None:
    usage = Usage(100, 50, 20, details=TokenDetails(cache_write=70, reasoning=40, tool_requests=2))
    kept = TokenDetails(cache_write=40, reasoning=10, tool_requests=2)
    assert usage.capped(60, 10) == Usage(60, 10, 20, details=kept)


async def metric(http: httpx.AsyncClient, name: str) -> list[tuple[str, float]]:
    page = (await http.get("/metrics")).text
    lines = [line.rpartition(" ") for line in page.splitlines() if line.startswith(name + "{")]
    return [(labels, float(number)) for labels, _, number in lines]


async def test_every_api_reports_what_was_written_to_the_cache(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    anthropic.events = [started(cache_creation=WRITES), *text("Hello"), *ended()]
    body = {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    async with site(neighbours, anthropic, monkeypatch) as http:
        chat = (await ask(http)).json()
        messages = (await http.post("/v1/messages", json=body)).json()
        streamed = (await http.post("/v1/messages", json={**body, "stream": True})).text
        response = (await http.post("/v1/responses", json={"model": "claude", "input": "Hi"})).json()
        kinds = await metric(http, "pointsman_token_details_total")
    assert chat["usage"]["prompt_tokens_details"] == {"cached_tokens": 6, "cache_write_tokens": 4, "audio_tokens": 0}
    assert chat["pointsman"]["token_details"] == {"cache_write": 3, "cache_write_1h": 1}
    assert messages["usage"] == {
        "input_tokens": 10, "cache_creation_input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 2,
        "cache_creation": WRITES,
    }  # fmt: skip
    assert '"cache_creation_input_tokens":4' in streamed.replace(" ", "")
    assert response["usage"]["input_tokens_details"] == {"cached_tokens": 6, "cache_write_tokens": 4}
    assert {labels.partition('type="')[2][:-2]: number for labels, number in kinds} == {
        "cache_write": 12.0, "cache_write_1h": 4.0,
    }  # fmt: skip


async def test_a_cancelled_answer_pays_for_the_prompt_that_the_engine_has_counted(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    anthropic.events, anthropic.hold = [started(cache_creation=WRITES), *text("Hel")], asyncio.Event()
    body = {"model": "claude", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    async with site(neighbours, anthropic, monkeypatch) as http:
        async with http.stream("POST", "/v1/chat/completions", json=body) as response:
            async for line in response.aiter_lines():
                if "Hel" in line:
                    break
        await until(lambda: anthropic.running == 0)
        prompt = dict(await metric(http, "pointsman_tokens_total"))
        kinds = await metric(http, "pointsman_token_details_total")
        estimated = await metric(http, "pointsman_estimated_cost_usd_total")
        cost = await metric(http, "pointsman_cost_usd_total")
    assert sum(prompt.values()) == 21
    assert sorted(number for _, number in kinds) == [1.0, 3.0]
    assert sum(number for _, number in estimated) == pytest.approx(sum(number for _, number in cost)) != 0


def test_a_record_of_an_earlier_version_has_no_details() -> None:
    line = to_line(decided_record(1, NOW, REQUEST, RECEIPT.decision, RECEIPT))
    earlier = json.dumps(json.loads(line)[:-1]).encode()
    record = from_line(earlier)
    assert isinstance(record, DecidedRecord)
    assert record.to_pending_entry().receipt.usage == RECEIPT.usage
