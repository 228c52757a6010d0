"""Chat requests with values of any type in their fields are answered, or rejected with 400, for every engine."""

import copy
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.doubles.anthropic_api import Anthropic, running_anthropic, site
from tests.gateway.doubles.gateway import Neighbours

Place = tuple[str | int, ...]

EPHEMERAL = {"type": "ephemeral"}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
FUNCTION = {"name": "weather", "description": "Now", "parameters": SCHEMA, "strict": True}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
BODY: Mapping[str, Any] = {
    "messages": [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": EPHEMERAL}]},
        {"role": "assistant", "content": "I look.", "tool_calls": [CALL], "cache_control": EPHEMERAL},
        {"role": "tool", "tool_call_id": "call_1", "content": "Rain", "cache_control": EPHEMERAL},
        {"role": "assistant", "content": None, "function_call": CALL["function"]},
        {"role": "user", "content": "And tomorrow?"},
    ],
    "tools": [{"type": "function", "function": FUNCTION, "cache_control": EPHEMERAL}],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    "cache_control": EPHEMERAL,
    "stop": ["x"],
    "metadata": {"source": "inbox"},
}
FIELDS: Mapping[str, Mapping[str, Any]] = {
    "tiny": {name: value for name, value in BODY.items() if name != "cache_control"} | {"logit_bias": {"5": 1}},
    "claude": BODY,
}
"""By model, the valid fields of a request: one model has an engine with OpenAI's API, the other one with
Anthropic's."""

NAMES = st.sampled_from(["type", "function", "name", "schema", "json_schema", "text", "id", "cache_control", "5", ""])
TEXTS = st.sampled_from(["", "x", "auto", "none", "required", "function", "json_schema", "text", "tool", "{}", "é"])
NUMBERS = st.sampled_from([0, 1, -1, 0.5, 2**31, 2**63, -(2**64), 10**30, 1e308])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, at: Place = ()) -> Iterator[Place]:
    """Yields the position of each value below `value`, at any depth."""
    if isinstance(value, Mapping | list):
        for key, member in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield (*at, key)
            yield from places(member, (*at, key))


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Returns a body with one to three of its values replaced."""
    model = draw(st.sampled_from(sorted(FIELDS)))
    body = copy.deepcopy(dict(FIELDS[model]))
    for _ in range(draw(st.integers(1, 3))):
        *parents, last = draw(st.sampled_from(list(places(body))))
        holder: Any = body
        for key in parents:
            holder = holder[key]
        holder[last] = draw(VALUES)
    return {"model": model, **body}


@pytest.fixture
async def anthropic() -> AsyncIterator[Anthropic]:
    async with running_anthropic() as double:
        yield double


@pytest.fixture
async def http(
    neighbours: Neighbours, anthropic: Anthropic, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[httpx.AsyncClient]:
    neighbours.config.models["resilience"] = {"breaker": {"enabled": False}}
    async with site(neighbours, anthropic, monkeypatch) as client:
        yield client


async def answers(http: httpx.AsyncClient, body: Mapping[str, Any]) -> Sequence[httpx.Response]:
    """Sends the body twice, for a plain answer and for a stream, and returns both responses."""
    return [await http.post("/v1/chat/completions", json={**body, "stream": streams}) for streams in (False, True)]


@pytest.mark.parametrize("model", FIELDS)
async def test_the_fields_are_accepted_as_they_are(http: httpx.AsyncClient, model: str) -> None:
    for answer in await answers(http, {"model": model, **FIELDS[model]}):
        assert answer.status_code == 200, answer.text


@settings(max_examples=100, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(body=bodies())
async def test_a_value_of_any_type_is_answered_or_rejected(http: httpx.AsyncClient, body: dict[str, Any]) -> None:
    plain, streamed = await answers(http, body)
    assert plain.status_code in (200, 400), plain.text
    assert streamed.status_code == plain.status_code, streamed.text
    if plain.status_code == 400:
        assert json.loads(plain.text)["error"]["code"], plain.text
    else:
        assert streamed.text.endswith("data: [DONE]\n\n"), streamed.text
