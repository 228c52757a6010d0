"""A decision's notes name the fields of the client's body that the engine does not get."""

from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Path, Request
from pointsman_gateway.engines.dialects.sent_fields import SentFields
from pointsman_gateway.http.dialects.anthropic.messages import MessagesBody
from pointsman_gateway.http.dialects.openai.chat import ChatBody
from pointsman_gateway.http.dialects.openai.response_conversion import to_chat_tools
from pointsman_gateway.http.dialects.openai.responses import ResponsesBody
from pointsman_gateway.routing.left_out import LeftOutFields, ModelFields

from tests.gateway.doubles.config_folder import IN_CHAT

HELLO = [{"role": "user", "content": "Hello"}]
FIELDS = LeftOutFields(
    {
        "tiny": ModelFields({"service_tier", "store"}, (SentFields("openai"),)),
        "claude": ModelFields(formats=(SentFields("anthropic", frozenset({"known"})),)),
        "both": ModelFields(formats=(SentFields("openai"), SentFields("anthropic"))),
    }
)
WEB_SEARCH = {"type": "web_search_20250305", "name": "w"}
TINY, CLAUDE, BOTH = (Path(name, name) for name in ("tiny", "claude", "both"))
HINT = {"type": "ephemeral"}
TEXT = {"type": "text", "text": "Hello"}
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": True}}
TOOL = {"name": "f", "input_schema": {}}


def of_messages(*blocks: Any, role: str = "user", **fields: Any) -> Request:
    messages = [{"role": role, "content": [*blocks]}] if blocks else HELLO
    body = MessagesBody.model_validate({"model": "m", "messages": messages, "max_tokens": 5, **fields})
    return body.to_request(0.0)


def of_responses(*items: Any, **fields: Any) -> Request:
    body = ResponsesBody.model_validate({"model": "m", "input": [*items] or "Hello", **fields})
    return body.to_request(0.0, to_chat_tools(body.tools))


def of_chat(*parts: Any, message: Mapping[str, Any] = {}, role: str = "user", **fields: Any) -> Request:
    messages = [{"role": role, "content": [*parts] or "Hello", **message}]
    return ChatBody.model_validate({"model": "m", "messages": messages, **fields}).to_request(0.0)


@pytest.mark.parametrize(
    ("request_", "path", "names"),
    [
        (of_chat(), TINY, ""),
        (of_chat(service_tier="flex", store=False, top_k=5), TINY, "service_tier"),
        (of_chat(service_tier="auto", store=None), TINY, ""),
        (of_chat(service_tier="flex"), CLAUDE, "service_tier"),  # Anthropic has no such tier
        (of_chat(service_tier="default"), CLAUDE, ""),
        (of_chat(user="ann", metadata={"team": "a"}), TINY, "metadata, user"),
        (of_chat(seed=1), TINY, ""),
        (of_chat(seed=1), CLAUDE, "seed"),
        (of_chat(temperature=0.5, top_p=0.5, top_k=1, thinking={"type": "enabled"}), CLAUDE,
         "temperature, top_k, top_p"),
        (of_chat(betas=[{}], thinking=[], service_tier=[]), CLAUDE, "service_tier"),  # refused later
        (of_chat(message={"name": "ann"}), TINY, ""),
        (of_chat(message={"name": "ann"}), CLAUDE, "name of messages"),
        (of_chat(message={"name": "f"}, role="function"), CLAUDE, ""),
        (of_chat(message={"audio": {"id": "a"}, "annotations": [], "reasoning": "Hm"}, role="assistant"), TINY,
         "audio of messages"),
        (of_chat(message={"reasoning": "Hm"}, role="assistant"), CLAUDE, "reasoning of messages"),
        (of_chat(message={"reasoning": "Hm", "reasoning_details": [{}]}, role="assistant"), CLAUDE, ""),
        (of_chat(message={"tool_calls": [{**CALL, "extra_content": {"a": 1}}]}, role="assistant"), TINY, ""),
        (of_chat(message={"tool_calls": [{**CALL, "extra_content": {"a": 1}}]}, role="assistant"), CLAUDE,
         "extra_content of tool_calls"),
        (of_chat({**TEXT, "cache_control": HINT, "annotations": [1]}), TINY,
         "annotations of parts, cache_control of parts"),
        (of_chat({**TEXT, "cache_control": HINT}), CLAUDE, ""),
        (of_chat({**TEXT, "cache_control": HINT}), BOTH, "cache_control of parts"),
        (of_chat({"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}), TINY, ""),
        (of_chat({"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}), CLAUDE, "detail of parts"),
        (of_chat(tools=[{"type": "function", "function": {"name": "f"}, "cache_control": HINT, "x": 1}]), TINY, ""),
        (of_chat(tools=[{"type": "function", "function": {"name": "f"}, "cache_control": HINT, "x": 1}]), CLAUDE,
         "x of functions"),
        (of_chat(response_format=SCHEMA), TINY, ""),
        (of_chat(response_format=SCHEMA), CLAUDE, "name of response_format"),
        (of_messages(), TINY, ""),
        (of_messages(cache_control=HINT, speed="fast"), TINY, "cache_control, speed"),
        (of_messages(cache_control=HINT, speed="fast"), CLAUDE, "speed"),
        (of_messages(thinking={"type": "enabled", "budget_tokens": 9}, top_k=5), TINY, "thinking"),
        (of_messages(betas=["known"]), CLAUDE, ""),
        (of_messages(betas=["known", "new"]), CLAUDE, "betas"),
        (of_messages(metadata={"user_id": "ann"}), TINY, "user"),
        (of_messages(tools=[WEB_SEARCH]), CLAUDE, "Anthropic's own tools"),
        (of_messages(tools=[{"type": "bash_20250124", "name": "bash"}]), CLAUDE, ""),
        (of_messages(tools=[{"type": "bash_20250124", "name": "bash"}]), TINY, "Anthropic's own tools"),
        (of_messages(tools=[{**TOOL, "input_examples": [{"a": 1}], "defer_loading": True}]), TINY,
         "defer_loading of tools, input_examples of tools"),
        (of_messages(tools=[{**TOOL, "input_examples": [{"a": 1}], "defer_loading": True}]), CLAUDE,
         "defer_loading of tools"),
        (of_messages({**TEXT, "cache_control": HINT, "citations": None, "transformations": ["a"]}), TINY,
         "cache_control of blocks, transformations of blocks"),
        (of_messages({**TEXT, "cache_control": HINT, "transformations": ["a"]}), CLAUDE, "transformations of blocks"),
        (of_messages({"type": "tool_result", "tool_use_id": "c", "is_error": True,
                      "content": [{**TEXT, "cache_control": HINT}]}), TINY,
         "cache_control of blocks, is_error of blocks"),
        (of_messages({"type": "search_result", "source": "a", "title": "b", "citations": {"enabled": True},
                      "content": [{**TEXT, "x": 1}]}), TINY, "citations of blocks, x of blocks"),
        (of_messages({"type": "thinking", "thinking": "Hm", "signature": "s"}, role="assistant"), TINY,
         "signature of blocks"),
        (of_messages({"type": "thinking", "thinking": "Hm", "signature": ""}, role="assistant"), TINY, ""),
        (of_messages({"type": "thinking", "thinking": "Hm", "signature": ""}, role="assistant"), CLAUDE,
         "unsigned thinking"),
        (of_messages({"type": "redacted_thinking", "data": "x"}, TEXT, role="assistant"), TINY,
         "redacted_thinking of blocks"),
        (of_messages({"type": "redacted_thinking", "data": "x"}, TEXT, role="assistant"), CLAUDE, ""),
        (of_messages(TEXT, role="assistant"), CLAUDE, ""),
        (of_responses(store=False), TINY, ""),
        (of_responses(store=True, image={}, max_tool_calls=3), TINY, "max_tool_calls, store"),
        (of_responses(tools=[{"type": "web_search"}]), TINY, "OpenAI's own tools"),
        (of_responses(tools=[{"type": "custom", "name": "f", "format": {"type": "text"}}]), TINY, "format of tools"),
        (of_responses(reasoning={"effort": "low", "summary": "auto"}, text={"x": 1}), TINY,
         "reasoning.summary, text.x"),
        (of_responses(include=["reasoning.encrypted_content"]), TINY, "include"),
        (of_responses({"role": "user", "content": "Hi", "id": "a"}, {"type": "reasoning", "summary": []}), TINY,
         "id of items, reasoning items"),
        (of_responses({"role": "user", "content": [{"type": "input_text", "text": "Hi", "annotations": [1]}]}), TINY,
         "annotations of parts"),
    ],
)  # fmt: skip
def test_notes_name_what_the_engine_does_not_get(request_: Request, path: Path, names: str) -> None:
    assert FIELDS.notes(request_, path) == ((f"left out: {names}",) if names else ())


def test_notes_have_a_limited_length() -> None:
    names = [f"x{n:02}{'x' * 61}" for n in range(100)]
    (note,) = FIELDS.notes(of_messages({**TEXT, **dict.fromkeys(names, 1)}), TINY)
    assert len(note) < 3000
    assert note.endswith("and 68 more")


def test_names_that_may_be_texts_are_not_in_notes() -> None:
    request = of_messages({**TEXT, "my password": 1, "x" * 65: 1})
    assert FIELDS.notes(request, TINY) == ("left out: others of blocks",)


@pytest.mark.parametrize("fields", [{}, {"service_tier": "flex", "top_k": 5}])
async def test_a_decision_says_what_was_left_out(http: httpx.AsyncClient, fields: Mapping[str, Any]) -> None:
    body = {"model": "path:small_talk", "messages": [{"role": "user", "content": IN_CHAT}], **fields}
    response = await http.post("/v1/route", json=body)
    noted = [note for note in response.json()["notes"] if note.startswith("left out")]
    assert noted == (["left out: service_tier"] if fields else [])
