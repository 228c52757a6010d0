"""Converts the input items, tools and formats of the Responses API to those of chat completions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pointsman_servicekit.errors import InvalidArgument

from pointsman_gateway.codec.limits import check_tool_count
from pointsman_gateway.codec.media import MEDIA_PARTS, Part, reject_media_fields, reject_unknown_fields, to_media_part
from pointsman_gateway.codec.parts import text_of
from pointsman_gateway.http.fields import bad_parameter, string_in

TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal"}
"""The name of the field with the text, by the type of a content part with text."""
MEDIA = {"input_image": "image_url", "input_file": "file", "input_audio": "input_audio"}
"""The type in chat completions, by the type of a content part with media."""

OUTPUTS = ("function_call_output", "custom_tool_call_output")
ROLES = ("user", "assistant", "system", "developer")
OPENAI_TOOLS = frozenset(
    {"apply_patch", "code_interpreter", "computer", "computer_use_preview", "file_search", "image_generation",
     "local_shell", "mcp", "shell", "tool_search"}
)  # fmt: skip
"""Types of tools that OpenAI runs itself or has trained its models for, in addition to all types that begin with
"web_search". They are not sent to engines, as in vLLM."""

CUSTOM_PARAMETERS = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
"""The JSON schema of the parameters of the function that engines get instead of a custom tool, whose input is a
text."""

Message = dict[str, Any]


def to_messages(items: str | Sequence[Mapping[str, Any]]) -> list[Message]:
    """Converts input items to chat messages; raises InvalidArgument for unknown or invalid items.

    A string becomes one user message. Reasoning items are left out. Media in the outputs of tools move to the next
    message if it is a user message; if it is not, they become a user message of their own.
    """
    if isinstance(items, str):
        return [{"role": "user", "content": items}]
    messages: list[Message] = []
    shown: list[Part] = []
    for number, item in enumerate(items):
        where, kind = f"input[{number}]", item.get("type") or "message"
        if kind in OUTPUTS:
            shown += _add_output(messages, item, where)
        elif kind != "reasoning":  # engines do not accept the reasoning of an earlier turn
            _add_item(messages, item, where)
            if shown:
                _show_before_last(messages, shown)
                shown = []
    return [*messages, {"role": "user", "content": shown}] if shown else messages


def _show_before_last(messages: list[Message], media: list[Part]) -> None:
    """Puts media parts at the start of the last message if it is the user's, otherwise into a new user message before
    the last one.
    """
    last = messages[-1]
    if last["role"] == "user":
        last["content"] = [*media, *_as_parts(last["content"])]
    else:
        messages.insert(-1, {"role": "user", "content": media})


def _add_output(messages: list[Message], item: Mapping[str, Any], where: str) -> list[Part]:
    """Appends a tool message with the texts of an output item to `messages`, and returns the media in the output.

    Raises InvalidArgument if the output or its `call_id` is invalid.
    """
    parts = _as_parts(_content(item.get("output"), f"{where}.output"))
    call_id = string_in(item, "call_id", where)
    messages.append({"role": "tool", "tool_call_id": call_id, "content": text_of(parts)})
    return [part for part in parts if part["type"] in MEDIA_PARTS]


def _as_parts(content: str | list[Part]) -> list[Part]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _add_item(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    match item.get("type") or "message":
        case "message":
            role, content = item.get("role"), item.get("content")
            if role not in ROLES:
                problem = f"{where}.role is {role[:50]!r}" if isinstance(role, str) else f"{where}.role is missing"
                raise InvalidArgument(f"{problem}; known: {', '.join(ROLES)}", code="bad_role", param=f"{where}.role")
            messages.append({"role": role, "content": _content(content, f"{where}.content")})
        case "function_call":
            _add_call(messages, item, where)
        case "custom_tool_call":
            arguments = json.dumps({"input": string_in(item, "input", where)}, ensure_ascii=False)
            _add_call(messages, {**item, "arguments": arguments}, where)
        case other:
            raise InvalidArgument(
                f"{where}.type is {str(other)[:50]!r}; known: message, function_call, function_call_output, "
                "custom_tool_call, custom_tool_call_output, reasoning",
                code="unsupported_item",
                param=f"{where}.type",
            )


def _add_call(messages: list[Message], item: Mapping[str, Any], where: str) -> None:
    """Adds a tool call to the last message if it is the assistant's, so that the calls of one turn are one message;
    otherwise to a new one.

    Raises InvalidArgument unless the call's name, arguments and id are strings.
    """
    namespace = item.get("namespace")
    name = ToolName(string_in(item, "name", where), namespace if isinstance(namespace, str) else "")
    function = {"name": name.for_engine, "arguments": string_in(item, "arguments", where)}
    call = {"id": string_in(item, "call_id", where), "type": "function", "function": function}
    if messages and messages[-1]["role"] == "assistant":
        messages[-1].setdefault("tool_calls", []).append(call)
    else:
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})


def _content(content: Any, where: str) -> str | list[Part]:
    """Returns a content that is a string as it is, and a list as content parts of chat completions.

    Raises InvalidArgument for anything else, and for an unknown or invalid part.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise bad_parameter(f"{where} is neither a text nor a list of parts", where)
    return [_to_part(part, f"{where}[{number}]") for number, part in enumerate(content)]


def _to_part(part: Any, where: str) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind in MEDIA:
        return _to_media_part(kind, part, where)
    field = TEXTS.get(kind, "") if isinstance(kind, str) else ""
    text = part.get(field) if field else None
    if not isinstance(text, str):
        raise InvalidArgument(
            f'{where} has type {str(kind)[:50]!r}; known: "input_text" and "output_text" with a "text", "input_image", '
            '"input_file" and "input_audio"',
            code="unsupported_content",
            param=where,
        )
    reject_media_fields(part, ("type", field), where)
    return {"type": "text", "text": text}


def _to_media_part(kind: str, part: Mapping[str, Any], where: str) -> Part:
    """Converts an image, a file or a sound; `kind` is its type, a key of `MEDIA`. The `detail` of a file is left out.

    Raises InvalidArgument if the data is missing or invalid, and for a `file_id` or another unknown field.
    """
    known: tuple[str, ...]
    given: Any
    match kind:
        case "input_image":
            known, given = ("image_url", "detail"), {"url": part.get("image_url"), "detail": part.get("detail")}
        case "input_file":
            source = "file_url" if part.get("file_data") is None else "file_data"
            known = (source, "filename", "detail")
            given = {"file_data": part.get(source), "filename": part.get("filename")}
        case _:
            known, given = ("input_audio",), part.get("input_audio")
    converted = to_media_part(MEDIA[kind], given, f"{where}.{MEDIA[kind]}")
    reject_unknown_fields(part, ("type", *known), where)
    return converted


@dataclass(frozen=True, slots=True)
class ToolName:
    """The name of a tool in the Responses API. Engines only know functions without namespaces, by `for_engine`."""

    name: str
    namespace: str = ""
    is_custom: bool = False
    """Whether the tool takes a text instead of arguments in JSON."""

    @property
    def for_engine(self) -> str:
        return f"{self.namespace}__{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class ChatTools:
    """The tools of a request that the model can call."""

    functions: list[dict[str, Any]]
    """The tools in the form of the `tools` of chat completions."""
    names: Mapping[str, ToolName]
    """The tools' names, by `ToolName.for_engine`."""


def to_chat_tools(tools: Sequence[Mapping[str, Any]] | None) -> ChatTools:
    """Converts functions, custom tools and namespaces to functions, and leaves out tools that OpenAI runs itself.

    Raises InvalidArgument for unknown or invalid tools, and if they are more than `check_tool_count` allows.
    """
    names: dict[str, ToolName] = {}
    chat = ChatTools([], names)
    # Counted first: a body may have many thousands of them.
    check_tool_count(sum(map(_count_functions, tools or ())))
    for number, tool in enumerate(tools or ()):
        where, kind = f"tools[{number}]", tool.get("type")
        if kind == "namespace":
            namespace, members = string_in(tool, "name", where), tool.get("tools")
            if not isinstance(members, list) or not all(isinstance(member, Mapping) for member in members):
                raise bad_parameter(f"{where}.tools must be a list of functions", f"{where}.tools")
            for index, member in enumerate(members):
                _add_tool(chat.functions, names, member, namespace, f"{where}.tools[{index}]")
        elif not is_run_by_openai(kind):
            _add_tool(chat.functions, names, tool, "", where)
    return chat


def _count_functions(tool: Mapping[str, Any]) -> int:
    """Returns how many functions a tool becomes."""
    kind, members = tool.get("type"), tool.get("tools")
    if kind == "namespace" and isinstance(members, list):
        return len(members)
    return 0 if is_run_by_openai(kind) else 1


def is_run_by_openai(kind: Any) -> bool:
    return isinstance(kind, str) and (kind in OPENAI_TOOLS or kind.startswith("web_search"))


def _add_tool(
    functions: list[dict[str, Any]], names: dict[str, ToolName], tool: Mapping[str, Any], namespace: str, where: str
) -> None:
    kind = tool.get("type")
    if kind not in ("function", "custom"):
        known = '"function", "custom"' + (' and "namespace"' if not namespace else "")
        raise InvalidArgument(
            f"{where}.type is {str(kind)[:50]!r}; known: {known}. Tools that OpenAI runs itself are left out",
            code="unsupported_tool",
            param=f"{where}.type",
        )
    name = ToolName(string_in(tool, "name", where), namespace, kind == "custom")
    names[name.for_engine] = name
    if kind == "custom":
        definition = {"description": tool["description"]} if tool.get("description") else {}
        function = {"name": name.for_engine, **definition, "parameters": CUSTOM_PARAMETERS}
    else:
        function = {key: value for key, value in tool.items() if key != "type" and value is not None}
        function["name"] = name.for_engine
    functions.append({"type": "function", "function": function})


def to_chat_choice(choice: str | Mapping[str, Any] | None, tools: ChatTools) -> Any:
    """Converts the `tool_choice` of the Responses API to the `tool_choice` of chat completions. Returns None if it is
    not given, or if it is "auto" or "none" and there are no tools.

    Raises InvalidArgument for an unknown choice or tool, and if a call is demanded but there are no tools.
    """
    if choice is None or choice in ("auto", "none"):
        return choice if tools.functions else None
    if not tools.functions:
        raise InvalidArgument(
            "'tool_choice' demands a call, but 'tools' has none that the model can call; send a tool of type "
            '"function", "custom" or "namespace"',
            code="bad_parameter",
            param="tool_choice",
        )
    if choice == "required":
        return choice
    if isinstance(choice, Mapping) and choice.get("type") in ("function", "custom"):
        return {
            "type": "function",
            "function": {"name": _resolve_name(string_in(choice, "name", "tool_choice"), tools)},
        }
    raise InvalidArgument(
        '\'tool_choice\' is not known; "auto", "none", "required" or {"type": "function", "name": NAME}',
        code="unsupported_tool",
        param="tool_choice",
    )


def _resolve_name(name: str, tools: ChatTools) -> str:
    """Returns the engine's name of a tool. `name` is that name, or the name without its namespace if only one tool has
    it.

    Raises InvalidArgument for any other name.
    """
    if name in tools.names:
        return name
    found = [engine_name for engine_name, tool in tools.names.items() if tool.name == name]
    if len(found) == 1:
        return found[0]
    known = ", ".join(found or tools.names)
    raise bad_parameter(f"'tool_choice' names {name[:64]!r}; known: {known[:500]}", "tool_choice")


def to_response_format(format: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Converts `text.format` to chat completions' `response_format`; returns None for the format "text", or if none is
    given.

    Raises InvalidArgument for an unknown type, and for a "json_schema" without name or schema.
    """
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
