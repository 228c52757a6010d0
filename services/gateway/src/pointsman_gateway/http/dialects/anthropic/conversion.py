"""Converts the content blocks, tools and formats of Anthropic's Messages API to those of chat completions."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.media import Part
from pointsman_gateway.codec.parts import join_texts, read_parts, text_of
from pointsman_gateway.domain import Message
from pointsman_gateway.http.dialects.anthropic.blocks import Converted, lay_out, lay_out_result
from pointsman_gateway.http.dialects.anthropic.parts import to_parts
from pointsman_gateway.http.fields import bad_parameter, string_in

Block = Mapping[str, Any]

SERVER_TOOL = re.compile(r"[a-z_]+_20\d{6}")
"""Matches the type of a tool that Anthropic runs itself or has trained its models for. Other models cannot use it."""
TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}

_NO_FIELDS: Mapping[str, Any] = {}


def to_messages(role: str, blocks: Sequence[Block], where: str) -> Iterator[Message]:
    """Yields the chat messages for the content of one message of the Messages API.

    Each tool result becomes a message. A last message has all other blocks and the media of the tool results; it is
    left out if it would be empty and there are tool results. `where` is the content's location in the body, such as
    "messages[0].content", for errors. Raises InvalidArgument for a block that is unknown or invalid.
    """
    parts: list[Part] = []
    converted: list[Converted] = []
    fields: dict[str, Any] = {}
    has_results = False
    for number, block in enumerate(blocks):
        own: list[Part] = []
        match block.get("type"):
            case "tool_result" if role == "user":
                content = block.get("content") or ""
                result = content if isinstance(content, list) else [{"type": "text", "text": content}]
                items = [(item, to_parts(item, f"{where}[{number}].content[{n}]")) for n, item in enumerate(result)]
                shown = [part for _, each in items for part in each]
                own = [part for part in shown if part["type"] != "text"]
                call_id, text, has_results = string_in(block, "tool_use_id", f"{where}[{number}]"), text_of(shown), True
                laid_out = lay_out_result(block, items, text, f"{where}[{number}]")
                yield Message("tool", text, {"tool_call_id": call_id}, laid_out)
            case "tool_use" if role == "assistant":
                fields.setdefault("tool_calls", []).append(_to_call(block, f"{where}[{number}]"))
            case "thinking" if role == "assistant":
                fields["reasoning"] = fields.get("reasoning", "") + string_in(block, "thinking", f"{where}[{number}]")
            case "redacted_thinking" if role == "assistant":
                pass  # only the provider that wrote it can read it; `lay_out` keeps it for that one
            case _:
                own = to_parts(block, f"{where}[{number}]")
        parts += own
        converted.append((block, own))
    if parts or fields or not has_results:
        # As in vLLM, the blocks of a system prompt are joined as they are.
        text, media = read_parts(role, parts, where, "".join if role == "system" else join_texts)
        laid_out = lay_out(converted, text, fields.get("reasoning", ""), where)
        yield Message(role, text, {**fields, **media} or _NO_FIELDS, laid_out)


def _to_call(block: Block, where: str) -> dict[str, Any]:
    arguments = block.get("input", {})
    if not isinstance(arguments, dict):
        raise bad_parameter(f"{where}.input must be an object", f"{where}.input")
    function = {"name": string_in(block, "name", where), "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": string_in(block, "id", where), "type": "function", "function": function}


# -- tools and formats


def to_functions(tools: Sequence[Block]) -> list[dict[str, Any]]:
    functions = []
    for number, tool in enumerate(tools):
        where, kind = f"tools[{number}]", tool.get("type")
        if kind in (None, "custom"):
            if not isinstance(tool.get("input_schema"), dict):
                raise bad_parameter(f"{where}.input_schema must be an object", f"{where}.input_schema")
            given = {"description": tool.get("description"), "strict": tool.get("strict")}
            given = {name: value for name, value in given.items() if value is not None}
            function = {"name": string_in(tool, "name", where), **given, "parameters": tool["input_schema"]}
            functions.append({"type": "function", "function": function})
        elif not (isinstance(kind, str) and SERVER_TOOL.fullmatch(kind)):
            raise InvalidArgument(
                f'{where}.type is {str(kind)[:50]!r}; known: "custom". Tools that Anthropic runs itself are left out',
                code="unsupported_tool",
                param=f"{where}.type",
            )
    return functions


def to_chat_choice(choice: Block, tools: Sequence[Block]) -> Any:
    kind, names = choice.get("type"), [tool["function"]["name"] for tool in tools]
    if kind in ("auto", "none") and not tools:
        return None
    if kind in ("any", "tool") and not tools:
        raise bad_parameter("'tool_choice' demands a call, but 'tools' has none that the model can call", "tool_choice")
    if kind == "tool":
        if choice.get("name") not in names:
            known = ", ".join(names)[:500]
            raise bad_parameter(f"'tool_choice' names {str(choice.get('name'))[:64]!r}; known: {known}", "tool_choice")
        return {"type": "function", "function": {"name": choice["name"]}}
    if not isinstance(kind, str) or kind not in TOOL_CHOICES:
        raise bad_parameter('\'tool_choice.type\' must be "auto", "any", "tool" or "none"', "tool_choice.type")
    return TOOL_CHOICES[kind]


def to_response_format(output_format: Any) -> dict[str, Any] | None:
    if not output_format:
        return None
    schema = output_format.get("schema") if isinstance(output_format, dict) else None
    if not isinstance(schema, dict) or output_format.get("type") != "json_schema":
        raise bad_parameter("the output's format must be of type 'json_schema' with a 'schema'", "output_config.format")
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, "strict": True}}
