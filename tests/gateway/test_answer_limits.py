"""An answer is limited by the kind of its path, if neither the request nor the path sets `max_tokens`."""

import json
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pointsman_gateway.bootstrap.paths import default_answer_limit
from pointsman_gateway.domain.path import AnswerLimit, Kind
from pointsman_gateway.engines.answer_limits import max_tokens_as_json

from tests.gateway.doubles.api_clients import ApiClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import Gateway, Neighbours, open_http_client

TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
LIMIT = 4096 // 8
"""An eighth of the context window of the configuration's model."""


@pytest.mark.parametrize(
    ("kind", "window", "tokens"),
    [
        (Kind.PROMPT, 2048, 256),
        (Kind.PROMPT, 8192, 1024),
        (Kind.PROMPT, 128_000, 4096),
        (Kind.TUNED, 128_000, 4096),
        (Kind.RAG, 4096, 512),
        (Kind.RAG, 128_000, 1024),
        (Kind.LORA, 128_000, 1024),
        (Kind.HYBRID, 128_000, 1024),
        (Kind.PROMPT, 1, 1),
    ],
)
def test_the_limit_follows_from_kind_and_context_window(kind: Kind, window: int, tokens: int) -> None:
    assert default_answer_limit(kind, window) == AnswerLimit(tokens, window - tokens)


def json_values(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner, max_size=5) | st.dictionaries(st.text("abc"), inner, max_size=5)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("aé漢 "), json_values, max_leaves=20
    )
)
def test_a_value_has_at_most_as_many_tokens_as_its_json_has_bytes(value: Any) -> None:
    length = len(json.dumps(value, ensure_ascii=False).encode())
    assert max_tokens_as_json(value, length) >= length


def test_counting_a_large_value_stops_when_it_is_known_to_be_too_long() -> None:
    assert 10 < max_tokens_as_json({"calls": [["x" * 100] * 1000] * 1000}, 10) < 10_000


async def test_every_api_states_the_limit_that_was_set(api: ApiClient, engine: ScriptedEngine) -> None:
    answer = await api.ask(IN_CHAT)
    assert engine.bodies[-1]["max_tokens"] == LIMIT
    assert answer.default_max_tokens == LIMIT


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"model": "auto"}, LIMIT),
        ({"model": "path:small_talk"}, LIMIT),
        ({"model": "auto", "max_tokens": 7}, 7),
        ({"model": "auto", "max_completion_tokens": 2000}, 2000),
        ({"model": "auto", "messages": [{"role": "user", "content": IN_TRIAGE}]}, 60),  # of the path
        ({"model": "tiny"}, None),  # a model that the request names is not limited
        ({"model": "auto", "tools": [TOOL]}, None),
        ({"model": "auto", "response_format": {"type": "json_object"}}, None),
        ({"model": "auto", "reasoning_effort": "low"}, None),
        ({"model": "path:small_talk", "messages": [{"role": "user", "content": "x" * 4000}]}, None),  # fills the window
        ({"model": "path:small_talk", "messages": [{"role": "user", "content": "\u6f22" * 1200}]}, None),
        ({"model": "path:small_talk", "messages": [{"role": "user", "content": "x" * 1200}]}, LIMIT),
    ],
)
async def test_only_a_request_and_a_path_without_a_limit_get_one(
    http: httpx.AsyncClient, engine: ScriptedEngine, asked: Mapping[str, Any], sent: int | None
) -> None:
    body = {"messages": [{"role": "user", "content": IN_CHAT}], **asked}
    response = await http.post("/v1/chat/completions", json=body)
    assert response.status_code == 200, response.text
    assert engine.bodies[-1].get("max_tokens") == sent
    assert response.json()["pointsman"].get("default_max_tokens") == (LIMIT if sent == LIMIT else None)


async def test_a_path_can_be_unlimited(neighbours: Neighbours, engine: ScriptedEngine) -> None:
    neighbours.config.paths["small_talk"]["max_tokens"] = "unlimited"
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        assert (await HttpClient(http).ask(IN_CHAT)).default_max_tokens is None
    assert "max_tokens" not in engine.bodies[-1]


async def test_an_estimate_of_costs_does_not_assume_that_the_default_is_used_up(gateway: Gateway) -> None:
    async with open_http_client(gateway) as http:
        routed = await HttpClient(http).route(IN_CHAT)
    assert routed["expected_cost_usd"] == pytest.approx((len(IN_CHAT) // 4 + 4 * 128) / 1e6)
