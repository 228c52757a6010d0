"""Structured output: the client's format and limits replace those of the path and of the task."""

from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Sampling

from tests.gateway.doubles.api_clients import ApiClient
from tests.gateway.doubles.config_folder import IN_TRIAGE
from tests.gateway.doubles.engine import DONE, ScriptedEngine, answer, chunk, usage
from tests.gateway.doubles.gateway import Neighbours

TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


def format_of(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


PATH = Sampling(max_tokens=60, temperature=0.5, stop=("\n\n",), structured_max_tokens=900)
STRUCTURED: list[dict[str, Any]] = [
    {"response_format": {"type": "json_object"}},
    {"response_format": format_of(PERSON)},
    {"response_format": {"type": "structural_tag", "format": {}}},
    {"tools": TOOLS},
    {"functions": [TOOLS[0]["function"]]},
    {"structured_outputs": {"regex": "[0-9]+"}},
    {"guided_json": PERSON},
]
UNSTRUCTURED: list[dict[str, Any]] = [
    {},
    {"top_k": 3},
    {"response_format": {"type": "text"}},
    {"response_format": None, "tools": None},
    {"tools": []},
]


@pytest.mark.parametrize("extra", STRUCTURED)
def test_a_structured_request_ignores_the_paths_stop_and_max_tokens(extra: dict[str, Any]) -> None:
    sampling = Sampling(extra=extra).with_defaults(PATH)

    assert (sampling.stop, sampling.max_tokens, sampling.temperature) == ((), 900, 0.5)
    assert Sampling(extra=extra).with_defaults(Sampling(max_tokens=60)).max_tokens is None


@pytest.mark.parametrize("extra", STRUCTURED)
def test_a_structured_requests_own_limits_apply(extra: dict[str, Any]) -> None:
    sampling = Sampling(max_tokens=7, stop=("END",), extra=extra).with_defaults(PATH)

    assert (sampling.stop, sampling.max_tokens) == (("END",), 7)


@pytest.mark.parametrize("extra", UNSTRUCTURED)
def test_other_requests_take_the_paths_limits(extra: dict[str, Any]) -> None:
    sampling = Sampling(extra=extra).with_defaults(PATH)

    assert (sampling.stop, sampling.max_tokens) == (("\n\n",), 60)
    assert Sampling(stop=(), extra=extra).with_defaults(PATH).stop == ()


# -- through the APIs


@pytest.fixture(autouse=True)
def paths_with_limits(neighbours: Neighbours) -> None:
    """Changes the configuration: each path has stop sequences and `max_tokens`, and the task validates its own
    format.
    """
    for path in neighbours.config.paths.values():
        path |= {"stop": ["\n\n"], "max_tokens": 60}
    neighbours.config.tasks["triage"] |= {
        "policy": {"escalate": {"paths": ["triage_adapter", "triage_few_shot"]}},
        "validators": [{"json_schema": {"type": "object", "required": ["urgency"]}}],
        "fallback": [],
    }


async def test_no_api_truncates_structured_output(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer('{"name": "Ann"}'))

    for extra in ({"tools": TOOLS}, {"response_format": format_of(PERSON)}):
        await api.ask(IN_TRIAGE, "path:triage_few_shot", **extra)

        assert not {"stop", "max_tokens"} & engine.bodies[-1].keys()
    await api.ask(IN_TRIAGE, "path:triage_few_shot")
    assert (engine.bodies[-1]["stop"], engine.bodies[-1]["max_tokens"]) == (["\n\n"], 60)


MESSAGES = [{"role": "user", "content": "Hi"}]
FORM = {"type": "json_schema", "schema": PERSON}


@pytest.mark.parametrize(
    ("route", "body", "max_tokens"),
    [
        ("responses", {"input": "Hi", "text": {"format": {"name": "person", **FORM}}}, None),
        ("responses", {"input": "Hi", "tools": [{"type": "function", **TOOLS[0]["function"]}]}, None),
        ("messages", {"messages": MESSAGES, "max_tokens": 50, "output_config": {"format": FORM}}, 50),
        ("messages", {"messages": MESSAGES, "max_tokens": 50, "tools": [{"name": "a", "input_schema": PERSON}]}, 50),
    ],
)
async def test_no_dialect_truncates_structured_output(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, body: dict[str, Any], max_tokens: int | None
) -> None:
    engine.says(*answer('{"name": "Ann"}'))

    await http.post(f"/v1/{route}", json={"model": "path:small_talk", **body})

    assert (engine.bodies[-1].get("stop"), engine.bodies[-1].get("max_tokens")) == (None, max_tokens)


@pytest.mark.parametrize(
    ("route", "text"),
    [("chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}), ("completions", {"prompt": "Hi"})],
)
@pytest.mark.parametrize(
    ("sent", "received"),
    [({}, ["\n\n"]), ({"stop": ""}, ["\n\n"]), ({"stop": []}, None), ({"stop": None}, None), ({"stop": "x"}, ["x"])],
)
async def test_stop_may_be_switched_off(
    http: httpx.AsyncClient, engine: ScriptedEngine, route: str, text: dict[str, Any], sent: Any, received: Any
) -> None:
    await http.post(f"/v1/{route}", json={"model": "path:small_talk", **text, **sent})

    assert engine.bodies[-1].get("stop") == received


async def test_the_clients_schema_replaces_the_tasks_validator(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer('{"name": "Ann"}'))

    got = await api.ask(IN_TRIAGE, response_format=format_of(PERSON))

    assert (got.text, got.path, len(engine.bodies)) == ('{"name": "Ann"}', "triage_adapter", 1)


async def test_vllms_structured_outputs_replace_the_tasks_validator(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer("42"))

    got = await api.ask(IN_TRIAGE, structured_outputs={"regex": "[0-9]+"})

    assert (got.text, got.path, len(engine.bodies)) == ("42", "triage_adapter", 1)


async def test_a_tool_call_is_not_refused_by_the_tasks_validator(api: ApiClient, engine: ScriptedEngine) -> None:
    call = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    engine.says(chunk(tool_calls=[call], finish="tool_calls"), usage(), DONE)

    got = await api.ask(IN_TRIAGE, tools=TOOLS)

    assert (got.finish_reason, got.path, len(engine.bodies)) == ("tool_calls", "triage_adapter", 1)


async def test_an_answer_that_breaks_the_clients_schema_is_tried_on_the_next_path(
    api: ApiClient, engine: ScriptedEngine
) -> None:
    engine.says(*answer('{"urgency": "low"}'))

    got = await api.ask(IN_TRIAGE, response_format=format_of(PERSON))

    assert (got.path, len(engine.bodies)) == ("triage_few_shot", 2)


async def test_an_answer_truncated_by_its_client_is_not_escalated(api: ApiClient, engine: ScriptedEngine) -> None:
    engine.says(*answer('{"na', finish="length"))

    got = await api.ask(IN_TRIAGE, response_format={"type": "json_object"}, max_tokens=3)

    assert (got.text, len(engine.bodies)) == ('{"na', 1)


async def test_tool_calls_and_their_results_reach_the_engine_over_every_api(
    api: ApiClient, engine: ScriptedEngine
) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "sunny", "tool_call_id": "call_1"},
    ]

    await api.ask(conversation, "tiny", tools=TOOLS, tool_choice="required")

    body = engine.bodies[-1]
    assert (body["messages"], body["tools"], body["tool_choice"]) == (conversation, TOOLS, "required")
