"""Tools and formats as the Responses API words them, in the words of chat completions."""

from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument


def to_chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Raises InvalidArgument where one is not a function."""
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


def to_response_format(wanted: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Raises InvalidArgument."""
    kind = (wanted or {}).get("type", "text")
    if wanted is None or kind == "text":
        return None
    if kind == "json_object":
        return {"type": "json_object"}
    if kind == "json_schema" and isinstance(wanted.get("schema"), Mapping) and isinstance(wanted.get("name"), str):
        return {"type": "json_schema", "json_schema": {key: wanted[key] for key in wanted if key != "type"}}
    raise InvalidArgument(
        '"text.format" is not known; its type is "text", "json_object", or "json_schema" with a name and a schema',
        code="bad_parameter",
        param="text.format",
    )
