"""Guardrails check every string of a request that reaches the engine, except those that are listed."""

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


def tool_call(name: str) -> dict[str, Any]:
    return {"id": "call_1", "type": "function", "function": {"name": name, "arguments": "{}"}}


SCHEMA = {"type": "object", "description": SECRET}
BODIES: dict[str, dict[str, Any]] = {
    "the name of a message": {"messages": [{"role": "user", "content": "Hello", "name": SECRET}]},
    "the name of a called function": {
        "messages": [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "", "tool_calls": [tool_call(SECRET)]},
            {"role": "tool", "content": "done", "tool_call_id": "call_1"},
        ]
    },
    "stop": {"stop": [SECRET]},
    "response_format": {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}}},
    "structured_outputs": {"structured_outputs": {"choice": [SECRET, "b"]}},
    "chat_template_kwargs": {"chat_template_kwargs": {"note": SECRET}},
}


@pytest.mark.parametrize("field", BODIES)
async def test_a_secret_in_any_field_is_redacted(http: httpx.AsyncClient, engine: ScriptedEngine, field: str) -> None:
    engine.says(*answer("Hi"))
    body = {"model": "path:small_talk", "messages": [{"role": "user", "content": "Hello"}], **BODIES[field]}

    reply = await http.post("/v1/chat/completions", json=body)

    assert reply.status_code == 200, reply.text
    assert SECRET not in str(engine.bodies[-1])
    assert "[API_KEY]" in str(engine.bodies[-1])
