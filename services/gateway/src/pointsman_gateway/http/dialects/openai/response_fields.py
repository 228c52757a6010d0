"""Finds fields in a body of the Responses API that not every engine accepts, such as an item's `status`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pointsman_gateway.codec.uncommon_fields import FUNCTION_FIELDS, given_fields, unsent_fields
from pointsman_gateway.domain.request import GivenField
from pointsman_gateway.http.dialects.openai.response_conversion import MEDIA, TEXTS

_OUTPUT = frozenset({"type", "call_id", "output"})
_CALL = frozenset({"type", "call_id", "name", "namespace"})
ITEM_FIELDS: Mapping[str, frozenset[str]] = {
    "message": frozenset({"type", "role", "content"}),
    "function_call": _CALL | {"arguments"},
    "custom_tool_call": _CALL | {"input"},
    "function_call_output": _OUTPUT,
    "custom_tool_call_output": _OUTPUT,
}
"""The fields of each type of item that every engine gets in some form."""
MEDIA_FIELDS: Mapping[str, frozenset[str]] = {
    "input_image": frozenset({"image_url", "detail"}),  # `detail` is one of the converted part
    "input_file": frozenset({"file_data", "file_url", "filename"}),
    "input_audio": frozenset({"input_audio"}),
}
TOOL_FIELDS: Mapping[str, frozenset[str]] = {
    "custom": frozenset({"type", "name", "description"}),
    "namespace": frozenset({"type", "name", "tools"}),
}


def of_items(items: Any) -> Iterator[GivenField]:
    for item in items if isinstance(items, list) else ():
        kind = item.get("type") or "message"
        if kind == "reasoning":
            yield "", "reasoning items"
        elif isinstance(kind, str):
            known = ITEM_FIELDS.get(kind, frozenset())
            yield from unsent_fields("items", item, known)
            for name in ("content", "output"):
                yield from _of_parts(item.get(name))


def _of_parts(parts: Any) -> Iterator[GivenField]:
    for part in parts if isinstance(parts, list) else ():
        kind = part.get("type") if isinstance(part, Mapping) else None
        if isinstance(kind, str):
            known = MEDIA_FIELDS[kind] if kind in MEDIA else {TEXTS.get(kind, "")}
            yield from unsent_fields("parts", part, {"type", *known})


def of_tools(tools: Iterable[Any]) -> Iterator[GivenField]:
    """Yields the fields of functions, custom tools and namespaces that are not sent to every engine.

    Tools of other types, which no engine gets, yield nothing.
    """
    for tool in tools:
        kind = tool.get("type") if isinstance(tool, Mapping) else None
        if kind == "function":
            yield from given_fields("functions", tool, FUNCTION_FIELDS | {"type"})
        elif isinstance(kind, str) and kind in TOOL_FIELDS:
            yield from unsent_fields("tools", tool, TOOL_FIELDS[kind])
            if kind == "namespace" and isinstance(tool.get("tools"), list):
                yield from of_tools(tool["tools"])
