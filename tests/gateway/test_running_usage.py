"""Engines such as Gemini report a usage in every event of a stream: only that of a complete answer is exact."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Usage
from pointsman_gateway.engines.dialects.openai.events import EventReader

from tests.gateway.doubles.config_folder import PRICES
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway
from tests.gateway.doubles.waiting import until
from tests.gateway.test_estimated_costs import BODY, ESTIMATED, tokens_usd


def event(completion: int | None, *choices: dict[str, Any]) -> bytes:
    """An event with these choices and, unless `completion` is None, a usage of 9 prompt tokens and so many others."""
    usage = {"prompt_tokens": 9, "completion_tokens": completion, "total_tokens": 9 + (completion or 0)}
    data = {"choices": list(choices), **({} if completion is None else {"usage": usage})}
    return b"data: %b\n\n" % json.dumps(data).encode()


def piece(index: int = 0, finish_reason: str | None = None) -> dict[str, Any]:
    return {"index": index, "delta": {"content": "x"}, "finish_reason": finish_reason}


DONE = b"data: [DONE]\n\n"


def usages(*events: bytes, choices: int = 1) -> list[tuple[int, bool]]:
    """The numbers of completion tokens that are read, and whether they are estimates."""
    reader = EventReader(choices=choices)
    found = [chunk.usage for data in events for chunk in reader.read(data)]
    return [(usage.completion_tokens, usage.is_estimate) for usage in found if usage is not None]


def test_the_usage_of_an_answer_that_goes_on_is_an_estimate() -> None:
    assert usages(event(1, piece()), event(2, piece())) == [(1, True), (2, True)]


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        ([event(3, piece(finish_reason="stop"))], [(3, False)]),
        ([event(3)], [(3, False)]),
        ([event(None, piece(finish_reason="stop")), event(3, {"index": 0, "delta": {}})], [(3, False)]),
        ([event(2, piece()), event(None, piece(finish_reason="stop")), DONE], [(2, True), (2, False)]),
        ([event(2, piece()) + DONE], [(2, False)]),
    ],
    ids=["with the finish reason", "alone", "after the finish reason", "earlier", "without a finish reason"],
)
def test_the_last_usage_of_a_complete_answer_is_exact(last: list[bytes], expected: list[tuple[int, bool]]) -> None:
    assert usages(event(1, piece()), *last) == [(1, True), *expected]


def test_an_answer_is_complete_when_all_its_choices_are() -> None:
    ended = event(2, piece(0, "stop")), event(4, piece(1)), event(5, piece(1, "stop"))
    assert usages(*ended, choices=2) == [(2, True), (4, True), (5, False)]


def test_a_usage_alone_at_the_end_of_a_stream_is_exact() -> None:
    reader = EventReader()
    (*_, chunk) = reader.read(event(None, piece(finish_reason="stop")) + event(3) + DONE)
    assert chunk.usage == Usage(9, 3)


async def test_a_stream_with_usages_whose_client_left_is_an_estimate(
    gateway: Gateway, http: httpx.AsyncClient, engine: ScriptedEngine
) -> None:
    running = [json.loads(event(tokens, piece())[6:]) for tokens in (5, 7)]
    engine.says(*running, asyncio.Event())
    async with http.stream("POST", "/v1/chat/completions", json=BODY):
        await until(lambda: engine.sent == 2)
    await until(lambda: gateway.metric("pointsman_requests_total", outcome="cancelled") == 1)
    completion = gateway.metric("pointsman_cost_usd_total", component="completion")
    assert completion == pytest.approx(7 * PRICES["completion"] / 1e6)
    assert gateway.metric(ESTIMATED, cause="cancelled") == pytest.approx(tokens_usd(gateway)) != 0
