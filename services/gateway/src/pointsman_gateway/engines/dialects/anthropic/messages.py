"""Converts chat requests to request bodies of Anthropic's Messages API. `events` parses the answers."""

from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.config.providers import Endpoint
from pointsman_gateway.domain import Message
from pointsman_gateway.engines.dialects.anthropic.content import to_blocks, to_turns
from pointsman_gateway.engines.dialects.anthropic.events import MessagesReader
from pointsman_gateway.engines.engine_client import EngineRequest
from pointsman_gateway.engines.engine_dialect import EngineDialect

DEFAULT_MAX_TOKENS = 4096
"""The `max_tokens` of requests for which neither the client nor the path sets one; the API requires a value."""
MAX_TEMPERATURE = 1.0
"""The API's highest temperature. OpenAI's API allows up to 2; higher values are cut to this one."""

MIN_THINKING_TOP_P = 0.95
SYSTEM_ROLES = ("system", "developer")
SERVICE_TIERS = {"auto": "auto", "default": "standard_only", "standard_only": "standard_only"}
"""Anthropic's name of a service tier by OpenAI's name or Anthropic's own; other tiers are not sent."""

TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}
"""Anthropic's type of a tool choice by OpenAI's name."""
KNOWN_CHOICES = 'this model takes "auto", "none", "required" or a function as tool_choice'


def to_messages_body(request: EngineRequest, endpoint: Endpoint) -> dict[str, Any]:
    """Returns the body of a request to the Messages API.

    Leaves out `seed`, service tiers that are not in `SERVICE_TIERS` and, if the model is to think, the temperature,
    `top_k` and a `top_p` below `MIN_THINKING_TOP_P`. Cuts the temperature to `MAX_TEMPERATURE`. Fields of `extra` that
    have no other form in this API are copied unchecked. `endpoint` is not used.

    Raises InvalidArgument if the request is no chat, or its media, tool calls, tools, tool choice or response format
    are malformed or not possible there.
    """
    sampling = request.sampling
    if request.operation != "chat":
        raise _unsupported("this model has no text completions; send a chat completion", "prompt")
    extra, native = dict(sampling.extra), dict(sampling.anthropic or {})
    body: dict[str, Any] = {
        "model": request.model,
        "messages": to_turns([m for m in request.messages if m.role not in SYSTEM_ROLES]),
        "max_tokens": DEFAULT_MAX_TOKENS if sampling.max_tokens is None else sampling.max_tokens,
        "stream": True,
        **_to_system([m for m in request.messages if m.role in SYSTEM_ROLES and m.content]),
        **_to_tools(extra, native.pop("tools", None)),
    }
    thinking = native.pop("thinking", None) or extra.pop("thinking", None)
    if thinking:
        body["thinking"] = thinking
    thinks = is_thinking(thinking)
    if thinks:  # the API then rejects other temperatures than 1, `top_k`, and a low `top_p`
        extra.pop("top_k", None)
    elif sampling.temperature is not None:
        body["temperature"] = min(sampling.temperature, MAX_TEMPERATURE)
    if sampling.top_p is not None and (not thinks or sampling.top_p >= MIN_THINKING_TOP_P):
        body["top_p"] = sampling.top_p
    if sampling.stop:
        body["stop_sequences"] = list(sampling.stop)
    tier = SERVICE_TIERS.get(str(native.pop("service_tier", None) or extra.pop("service_tier", None)))
    if tier:
        body["service_tier"] = tier
    output = _to_output_config(extra.pop("response_format", None), extra.pop("reasoning_effort", None))
    output |= native.pop("output_config", {})
    if output:
        body["output_config"] = output
    native.pop("betas", None)  # in a header
    return {**extra, **native, **body}


def is_thinking(thinking: Any) -> bool:
    """Returns whether `thinking`, a value of the API's parameter of this name, makes the model think before it
    answers.
    """
    return isinstance(thinking, Mapping) and thinking.get("type") in ("enabled", "adaptive")


def beta_header(request: EngineRequest) -> str:
    """Returns the header line `anthropic-beta` for a request, with its line end; empty if no beta feature is to be
    used.

    It lists the beta features that the request names and the provider's preset allows.
    """
    native = request.sampling.anthropic
    betas = [beta for beta in native.get("betas", ()) if beta in request.api.betas] if native else []
    return f"anthropic-beta: {','.join(betas)}\r\n" if betas else ""


def _to_system(messages: Sequence[Message]) -> dict[str, Any]:
    if any(message.blocks for message in messages):
        return {"system": [block for message in messages for block in to_blocks(message)]}
    return {"system": "\n\n".join([message.content for message in messages])} if messages else {}


def _to_tools(extra: dict[str, Any], native: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Removes the tools and their parameters from `extra`, and returns Anthropic's fields `tools` and `tool_choice`;
    empty without tools.

    `native` are the tools if the client sent them in that format. Raises InvalidArgument for tools and choices that are
    malformed, or that the API does not have.
    """
    tools, choice, parallel = (extra.pop(name, None) for name in ("tools", "tool_choice", "parallel_tool_calls"))
    if not isinstance(tools, list | None):
        raise _bad("'tools' must be a list of objects", "tools")
    if not (tools or native):
        return {}
    converted = native or [_to_tool(number, tool) for number, tool in enumerate(tools or ())]
    return {"tools": converted, "tool_choice": _to_tool_choice(choice, parallel)}


def _to_output_config(response_format: Any, effort: Any) -> dict[str, Any]:
    config: dict[str, Any] = (
        {"effort": "low" if effort == "minimal" else effort} if effort not in (None, "none") else {}
    )
    if response_format is None:
        return config
    if not isinstance(response_format, Mapping):
        raise _bad("'response_format' must be an object with a 'type'", "response_format")
    kind = response_format.get("type")
    if kind == "json_schema":
        config["format"] = {"type": "json_schema", "schema": _schema_in(response_format.get("json_schema"))}
    elif kind not in (None, "text"):
        message = f"this model has no response_format of type {str(kind)[:50]!r}; use json_schema"
        raise _unsupported(message, "response_format")
    return config


def _schema_in(json_schema: Any) -> Any:
    """Returns the schema in `response_format.json_schema`; one of any object if there is none."""
    if not isinstance(json_schema, Mapping | None):
        where = "response_format.json_schema"
        raise _bad(f"'{where}' must be an object with a 'schema'", where)
    return (json_schema or {}).get("schema") or {"type": "object"}


def _unsupported(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="unsupported_parameter", param=param)


def _bad(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="bad_parameter", param=param)


def _to_tool(number: int, tool: Any) -> dict[str, Any]:
    where = f"tools[{number}]"
    if not isinstance(tool, Mapping):
        raise _bad(f'{where} must be an object with the type "function"', where)
    kind, function = tool.get("type", "function"), tool.get("function", tool)
    if kind != "function":
        raise InvalidArgument(
            f'{where}.type is {str(kind)[:50]!r}; this model takes the type "function"',
            code="unsupported_tool",
            param=f"{where}.type",
        )
    if not isinstance(function, Mapping):
        raise _bad(f"{where}.function must be an object", f"{where}.function")
    schema = function.get("parameters") or {"type": "object", "properties": {}}
    described = {"description": function["description"]} if function.get("description") else {}
    strict = {"strict": True} if function.get("strict") is True else {}
    cached = tool.get("cache_control") or function.get("cache_control")
    cache_control = {"cache_control": cached} if cached else {}
    return {"name": function.get("name", ""), **described, "input_schema": schema, **strict, **cache_control}


def _to_tool_choice(choice: Any, parallel: Any) -> dict[str, Any]:
    converted: dict[str, Any]
    if isinstance(choice, Mapping):
        function = choice.get("function")
        if choice.get("type", "function") != "function" or not isinstance(function, Mapping):
            raise _unsupported(f"{KNOWN_CHOICES}, and no type {str(choice.get('type'))[:50]!r}", "tool_choice")
        converted = {"type": "tool", "name": function.get("name", "")}
    elif isinstance(choice, str | None) and (choice or "auto") in TOOL_CHOICES:
        converted = {"type": TOOL_CHOICES[choice or "auto"]}
    else:
        raise _unsupported(f"{KNOWN_CHOICES}, and no {str(choice)[:50]!r}", "tool_choice")
    return {**converted, "disable_parallel_tool_use": True} if parallel is False and choice != "none" else converted


MESSAGES = EngineDialect(
    name="anthropic",
    to_body=to_messages_body,
    reader=MessagesReader,
    header_lines=beta_header,
)
