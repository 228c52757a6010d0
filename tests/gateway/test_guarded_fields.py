"""Guardrails check every string of a request that reaches the engine, except for the listed ones."""

from typing import Any

import httpx
import pytest

from tests.gateway.doubles.engine import ScriptedEngine, answer
from tests.gateway.doubles.gateway import Neighbours

SECRET = "sk-abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(autouse=True, params=["request", "prompt"])
def guardrail(neighbours: Neighbours, request: pytest.FixtureRequest) -> None:
    neighbours.config.rest_of_tasks["guardrails"] = [
        {
            "name": "secrets",
            "check": {"regex": {"API_KEY": r"\bsk-[a-z]{20,80}\b"}},
            "action": "redact",
            "hooks": [request.param],
        }
    ]


def tool_call(name: str, arguments: Any = "{}") -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}


def call_of(name: str, arguments: Any = "{}") -> dict[str, Any]:
    return {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "", "tool_calls": [tool_call(name, arguments)]},
            {"role": "tool", "content": "done", "tool_call_id": "call_1"},
        ]
    }


def schema(**fields: Any) -> dict[str, Any]:
    given = {"type": "object", **fields}
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": given}}}


BODIES: dict[str, dict[str, Any]] = {
    "the name of a message": {"messages": [{"role": "user", "content": "Hello", "name": SECRET}]},
    "the name of a called function": call_of(SECRET),
    "arguments in an object": call_of("f", {"id": {"data": SECRET}, "type": SECRET}),
    "stop": {"stop": [SECRET]},
    "response_format": schema(description=SECRET),
    "a property whose name is that of encrypted data": schema(properties={"data": {"description": SECRET}}),
    "a property whose name is that of an id": schema(properties={"id": {"enum": [SECRET]}, "type": {"const": SECRET}}),
    "a property whose name is that of a parameter": schema(properties={"prompt": {"title": SECRET}}),
    "structured_outputs": {"structured_outputs": {"choice": [SECRET, "b"]}},
    "chat_template_kwargs": {"chat_template_kwargs": {"note": SECRET}},
    "a template's variable whose name is that of an id": {"chat_template_kwargs": {"id": SECRET, "role": SECRET}},
    "a template's variable that looks like a medium": {"chat_template_kwargs": {"url": f"data:{SECRET}"}},
    "a document": {"documents": [{"title": "a", "data": SECRET, "signature": {"id": SECRET}}]},
}


@pytest.mark.parametrize("field", BODIES)
async def test_a_secret_in_any_field_is_redacted(http: httpx.AsyncClient, engine: ScriptedEngine, field: str) -> None:
    engine.says(*answer("Hi"))
    body = {"model": "path:small_talk", "messages": [{"role": "user", "content": "Hello"}], **BODIES[field]}

    reply = await http.post("/v1/chat/completions", json=body)

    assert reply.status_code == 200, reply.text
    assert SECRET not in str(engine.bodies[-1])
    assert "[API_KEY]" in str(engine.bodies[-1])


async def test_ids_signatures_and_types_stay_as_they_are(http: httpx.AsyncClient, engine: ScriptedEngine) -> None:
    """Redaction would break them: an id would no longer match that of its result."""
    engine.says(*answer("Hi"))
    call = {**tool_call("f"), "id": SECRET}
    details = [{"type": "reasoning.encrypted", "data": SECRET, "format": "x", "id": SECRET}]
    body = {
        "model": "path:small_talk",
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": SECRET, "tool_calls": [call], "reasoning_details": details},
            {"role": "tool", "content": "done", "tool_call_id": SECRET},
        ],
    }

    reply = await http.post("/v1/chat/completions", json=body)

    assert reply.status_code == 200, reply.text
    messages, result = engine.bodies[-1]["messages"][-2:]
    assert (messages["content"], messages["tool_calls"], messages["reasoning_details"]) == (
        "[API_KEY]",
        [call],
        details,
    )
    assert result["tool_call_id"] == SECRET
