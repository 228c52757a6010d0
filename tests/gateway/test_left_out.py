"""A decision's notes name the fields of the client's body that the engine does not get."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Message, Path, Request, Sampling
from pointsman_gateway.http.dialects.anthropic.messages import MessagesBody
from pointsman_gateway.http.dialects.openai.response_conversion import to_chat_tools
from pointsman_gateway.http.dialects.openai.responses import ResponsesBody
from pointsman_gateway.routing.left_out import LeftOutFields, ModelFields

from tests.gateway.doubles.config_folder import IN_CHAT

HELLO = [{"role": "user", "content": "Hello"}]
FIELDS = LeftOutFields(
    {"tiny": ModelFields(ignored={"service_tier", "store"}), "claude": ModelFields(reads_anthropic=True)}
)
WEB_SEARCH = {"type": "web_search_20250305", "name": "w"}
TINY, CLAUDE = (Path(name, name) for name in ("tiny", "claude"))
HINT = {"type": "ephemeral"}


def of_messages(**fields: Any) -> Request:
    body = MessagesBody.model_validate({"model": "m", "messages": HELLO, "max_tokens": 5, **fields})
    return body.to_request(0.0)


def of_responses(**fields: Any) -> Request:
    body = ResponsesBody.model_validate({"model": "m", "input": "Hello", **fields})
    return body.to_request(0.0, to_chat_tools(body.tools))


def of_chat(**fields: Any) -> Request:
    return Request("m", (Message("user", "Hello"),), Sampling(extra=fields))


@pytest.mark.parametrize(
    ("request_", "path", "notes"),
    [
        (of_chat(), TINY, ()),
        (of_chat(service_tier="flex", store=False, top_k=5), TINY, ("left out: service_tier",)),
        (of_chat(service_tier="auto", store=None), TINY, ()),
        (of_chat(service_tier="flex"), CLAUDE, ()),
        (of_messages(), TINY, ()),
        (of_messages(cache_control=HINT, speed="fast"), TINY, ("left out: cache_control, speed",)),
        (of_messages(cache_control=HINT, speed="fast"), CLAUDE, ("left out: speed",)),
        (of_messages(thinking={"type": "enabled", "budget_tokens": 9}, top_k=5), TINY, ("left out: thinking",)),
        (of_messages(tools=[WEB_SEARCH]), CLAUDE, ("left out: Anthropic's own tools",)),
        (of_messages(tools=[{"type": "bash_20250124", "name": "bash"}]), CLAUDE, ()),
        (of_messages(tools=[{"type": "bash_20250124", "name": "bash"}]), TINY, ("left out: Anthropic's own tools",)),
        (of_responses(store=False), TINY, ()),
        (of_responses(store=True, image={}, max_tool_calls=3), TINY, ("left out: max_tool_calls, store",)),
        (of_responses(tools=[{"type": "web_search"}]), TINY, ("left out: OpenAI's own tools",)),
    ],
)  # fmt: skip
def test_notes_name_what_the_engine_does_not_get(request_: Request, path: Path, notes: tuple[str, ...]) -> None:
    assert FIELDS.notes(request_, path) == notes


@pytest.mark.parametrize("fields", [{}, {"service_tier": "flex", "top_k": 5}])
async def test_a_decision_says_what_was_left_out(http: httpx.AsyncClient, fields: Mapping[str, Any]) -> None:
    body = {"model": "path:small_talk", "messages": [{"role": "user", "content": IN_CHAT}], **fields}
    told = await http.post("/v1/route", json=body)
    noted = [note for note in told.json()["notes"] if note.startswith("left out")]
    assert noted == (["left out: service_tier"] if fields else [])
