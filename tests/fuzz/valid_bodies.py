"""A rich valid body for each route, from which mutated bodies are made. Other routes get a body that is built from the
route's schema."""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any

PICTURE = "data:image/png;base64,iVBORw0KGgo="
SCHEMA = {"type": "object", "properties": {"intent": {"type": "string"}}, "required": ["intent"]}
FUNCTION = {"name": "weather", "description": "Weather", "parameters": SCHEMA}
CHAT_MESSAGES: Sequence[Mapping[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [{"type": "text", "text": "Hello"}, {"type": "image_url", "image_url": {"url": PICTURE}}],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    {"role": "user", "content": "Hello, how are you today?", "name": "ann"},
]
CHAT = {
    "model": "auto",
    "messages": CHAT_MESSAGES,
    "max_tokens": 20,
    "temperature": 0.2,
    "top_p": 0.9,
    "seed": 3,
    "stop": ["x"],
    "n": 1,
    "stream": False,
    "stream_options": {"include_usage": True},
    "user": "ann",
    "metadata": {"source": "inbox"},
    "tools": [{"type": "function", "function": FUNCTION}],
    "tool_choice": "auto",
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": True}},
    "chat_template_kwargs": {"enable_thinking": False},
    "logit_bias": {"5": 1},
    "presence_penalty": 0.1,
    "reasoning_effort": "low",
    "parallel_tool_calls": True,
}
BREAKPOINT = {"type": "ephemeral"}
CHAT_WITH_CLAUDE = {
    "model": "claude",
    "messages": [
        {"role": "system", "content": [{"type": "text", "text": "Be brief.", "cache_control": BREAKPOINT}]},
        {"role": "user", "content": "Hello, how are you today?"},
        {**CHAT_MESSAGES[2], "cache_control": BREAKPOINT},
        {**CHAT_MESSAGES[3], "cache_control": BREAKPOINT},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "sunny"},
    ],
    **{
        name: CHAT[name]
        for name in ("max_tokens", "temperature", "top_p", "stop", "stream", "user", "metadata", "tools",
                     "tool_choice", "response_format", "reasoning_effort", "parallel_tool_calls")
    },
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "cache_control": BREAKPOINT,
    "service_tier": "auto",
}  # fmt: skip
"""A chat with the fields that are converted for an engine with Anthropic's API."""
PLAIN_CHAT = {
    "model": "scripted",
    "messages": [{"role": "user", "content": "Hello, how are you today?"}],
    "max_tokens": 9,
}
RESPONSES = {
    "model": "auto",
    "instructions": "Be brief.",
    "max_output_tokens": 20,
    "temperature": 0.1,
    "store": False,
    "input": [
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_text", "text": "Hello"},
                {"type": "input_image", "image_url": PICTURE, "detail": "low"},
            ],
        },
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
        {"type": "reasoning", "id": "r1", "summary": [{"type": "summary_text", "text": "a"}]},
        {"role": "user", "content": "Hello, how are you today?"},
    ],
    "tools": [
        {"type": "function", **FUNCTION},
        {"type": "namespace", "name": "n", "tools": [{"type": "function", **FUNCTION}]},
    ],
    "tool_choice": "auto",
    "text": {"format": {"type": "json_schema", "name": "a", "schema": SCHEMA}},
    "reasoning": {"effort": "low"},
    "metadata": {"source": "inbox"},
    "stream": False,
}
MESSAGES = {
    "model": "claude",
    "max_tokens": 20,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}},
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "sun"}]}],
        },
    ],
    "tools": [{"name": "weather", "description": "Weather", "input_schema": SCHEMA}],
    "tool_choice": {"type": "auto"},
    "temperature": 0.3,
    "top_p": 0.9,
    "top_k": 5,
    "stop_sequences": ["x"],
    "stream": False,
    "metadata": {"user_id": "ann"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "betas": ["interleaved-thinking-2025-05-14"],
    "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
}
COMPLETION = {
    "model": "scripted",
    "prompt": ["Hello"],
    "max_tokens": 9,
    "temperature": 0.1,
    "logprobs": 1,
    "echo": False,
    "stop": "x",
    "suffix": "y",
    "stream": False,
}
LIMITS = {"requests_per_minute": 5, "tokens_per_minute": 100, "concurrent_streams": 2, "dollars_per_day": 0.5}

BODIES: Mapping[str, Sequence[Any]] = {
    "/v1/chat/completions": (CHAT, CHAT_WITH_CLAUDE, PLAIN_CHAT),
    "/openai/v1/chat/completions": (CHAT,),
    "/openai/deployments/scripted/chat/completions": (PLAIN_CHAT,),
    "/v1/completions": (COMPLETION, {"model": "scripted", "prompt": [1, 2, 3], "max_tokens": 4}),
    "/v1/responses": (RESPONSES, {"model": "scripted", "input": "Hello"}),
    "/v1/messages": (
        MESSAGES,
        {**MESSAGES, "model": "auto"},
        {"model": "claude", "max_tokens": 9, "messages": [{"role": "user", "content": "Hello"}]},
    ),
    "/v1/messages/count_tokens": ({name: MESSAGES[name] for name in ("model", "messages", "system", "tools")},),
    "/v1/embeddings": (
        {"model": "remote", "input": ["Hello", "there"], "encoding_format": "float", "dimensions": 3, "user": "ann"},
        {"model": "minilm", "input": ["Hello"], "encoding_format": "base64"},
        {"model": "remote", "input": [[1, 2], [3]]},
    ),
    "/v1/rerank": (
        {"model": "reranker", "query": "Hello", "documents": ["one", {"text": "two"}], "return_documents": False},
        {"model": "reranker", "query": "Hello", "documents": ["one"], "top_n": 1, "rank_fields": ["text"]},
    ),
    "/v2/rerank": ({"model": "reranker", "query": "Hello", "documents": ["one", "two"], "max_tokens_per_doc": 9},),
    "/v1/route": ({**CHAT, "include_prompt": True}, {**PLAIN_CHAT, "model": "path:handbook", "include_prompt": True}),
    "/v1/feedback": (
        {"decision_id": "d-1", "rating": 0.5, "correction": "a", "right_task": "chat", "right_answer": "b"},
    ),
    "/admin/v1/keys": (
        {
            "tenant": "fuzz-made",
            "name": "a",
            "scope": {"tasks": ["chat"], "paths": None},
            "limits": LIMITS,
            "priority": 1,
            "expires": 4e9,
            "operator": False,
        },
    ),
    "/console/api/login": ({"code": "c", "verifier": "v", "redirect_uri": "http://127.0.0.1/console", "nonce": "n"},),
    "/console/api/adapters/alias": ({"model": "tiny", "alias": "triage@prod", "version": "triage@1", "note": "a"},),
    "/console/api/adapters/canary": ({"model": "tiny", "alias": "triage@prod", "version": "triage@1", "weight": 0.1},),
    "/console/api/adapters/rollback": ({"model": "tiny", "alias": "triage@prod"},),
}


def body_by_schema(random: Random, schema: Any, known: Mapping[str, Any], depth: int = 0) -> Any:
    """Returns a value that fits a JSON Schema of the OpenAPI description; `known` are its named schemas."""
    if "$ref" in schema:
        return body_by_schema(random, known[schema["$ref"].rpartition("/")[2]], known, depth)
    if depth > 5:
        return None
    for name in ("anyOf", "oneOf", "allOf"):
        if schema.get(name):
            return body_by_schema(random, random.choice(schema[name]), known, depth + 1)
    if "const" in schema or "enum" in schema:
        return schema.get("const", random.choice(schema.get("enum", [None])))
    match schema.get("type"):
        case "object":
            named = schema.get("properties", {})
            return {name: body_by_schema(random, one, known, depth + 1) for name, one in named.items()}
        case "array":
            return [body_by_schema(random, schema.get("items", {}), known, depth + 1)]
        case kind:
            return {"string": "abc", "integer": 1, "number": 0.5, "boolean": True}.get(str(kind))
