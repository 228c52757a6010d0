"""Converts the input items, tools and formats of the Responses API to those of chat completions."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""The supported content parts, and the name of the field that holds the text."""

Message = dict[str, Any]


def to_messages(items: str | Sequence[Mapping[str, Any]]) -> list[Message]:
    """Raises InvalidArgument if an item or a content part is not text, a function call or reasoning."""
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Message] = []
    for number, item in enumerate(items):
        _add_item(messages, item, f"input[{number}]")
    return messages


def _add_item(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    match item.get("type") or "message":
        case "message":
            role, content = item.get("role"), item.get("content")
            if not isinstance(role, str):
                raise _bad_parameter(f"{where}.role is missing", f"{where}.role")
            messages.append({"role": role, "content": _text(content, f"{where}.content")})
        case "function_call":
            _add_call(messages, item, where)
        case "function_call_output":
            output = _text(item.get("output"), f"{where}.output")
            call_id = _string(item, "call_id", where)
            messages.append({"role": "tool", "tool_call_id": call_id, "content": output})
        case "reasoning":
            pass  # engines do not accept the reasoning of an earlier turn
        case other:
            raise InvalidArgument(
                f"{where}.type is {str(other)[:50]!r}; known: message, function_call, function_call_output, reasoning",
                code="unsupported_item",
                param=f"{where}.type",
            )


def _add_call(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    """Adds a call to the assistant's message before it: the calls of one turn are one message."""
    function = {"name": _string(item, "name", where), "arguments": _string(item, "arguments", where)}
    call = {"id": _string(item, "call_id", where), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise _bad_parameter(f"{where} is neither a text nor a list of parts", where)
    return "".join(_parts(content, where))


def _parts(content: Iterable[Any], where: str) -> Iterable[str]:
    for number, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get(TEXTS[kind]) if isinstance(kind, str) and kind in TEXTS else None
        if not isinstance(text, str):
            raise InvalidArgument(
                f'{where}[{number}] has type {str(kind)[:50]!r}; known: "input_text" and "output_text" with a "text"',
                code="unsupported_content",
                param=f"{where}[{number}]",
            )
        yield text


def _string(item: Mapping[str, Any], name: str, where: str) -> str:
    value = item.get(name)
    if not isinstance(value, str):
        raise _bad_parameter(f"{where}.{name} must be a string", f"{where}.{name}")
    return value


def _bad_parameter(message: str, param: str) -> InvalidArgument:
    return InvalidArgument(message, code="bad_parameter", param=param)


def to_chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Raises InvalidArgument if a tool is not a function."""
    return [_tool(number, tool) for number, tool in enumerate(tools)] if tools else None


def _tool(number: int, tool: Mapping[str, Any]) -> dict[str, Any]:
    kind = tool.get("type")
    if kind != "function":
        raise InvalidArgument(
            f'tools[{number}].type is {str(kind)[:50]!r}; known: "function" (nobody here runs OpenAI\'s own tools)',
            code="unsupported_tool",
            param=f"tools[{number}].type",
        )
    if not isinstance(tool.get("name"), str):
        raise InvalidArgument(f"tools[{number}] has no name", code="bad_parameter", param=f"tools[{number}].name")
    function = {key: value for key, value in tool.items() if key != "type" and value is not None}
    return {"type": "function", "function": function}


def to_chat_choice(choice: str | Mapping[str, Any] | None) -> Any:
    """Raises InvalidArgument."""
    if choice is None or choice in ("auto", "none", "required"):
        return choice
    if isinstance(choice, Mapping) and choice.get("type") == "function" and isinstance(choice.get("name"), str):
        return {"type": "function", "function": {"name": choice["name"]}}
    raise InvalidArgument(
        '\'tool_choice\' is not known; "auto", "none", "required" or {"type": "function", "name": NAME}',
        code="unsupported_tool",
        param="tool_choice",
    )


def to_response_format(format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Raises InvalidArgument."""
    kind = (format or {}).get("type", "text")
    if format is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind == "json_schema" and isinstance(format.get("schema"), Mapping) and isinstance(format.get("name"), str):
        return {"type": "json_schema", "json_schema": {key: format[key] for key in format if key != "type"}}
    raise InvalidArgument(
        '"text.format" is not known; its type is "text", "json_object", or "json_schema" with a name and a schema',
        code="bad_parameter",
        param="text.format",
    )
