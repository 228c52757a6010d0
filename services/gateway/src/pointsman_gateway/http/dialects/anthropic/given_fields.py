"""Finds fields in a body of the Messages API that some engines do not accept, such as `cache_control` of a block."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pointsman_gateway.codec.uncommon_fields import given_fields, unsent_fields
from pointsman_gateway.domain.request import GivenField
from pointsman_gateway.http.dialects.anthropic.blocks import HINTS, KEPT_FIELDS
from pointsman_gateway.http.dialects.anthropic.native import COMMON_TOOL, SERVER_TOOL_FIELDS, is_run_by_client

BLOCK_FIELDS: Mapping[str, frozenset[str]] = {
    "text": frozenset({"text"}),
    "image": frozenset({"source"}),
    "document": frozenset({"source", "title", "context"}),
    "search_result": frozenset({"source", "title", "content"}),
    "tool_use": frozenset({"id", "name", "input"}),
    "tool_result": frozenset({"tool_use_id", "content"}),
    "thinking": frozenset({"thinking"}),
    "redacted_thinking": frozenset(),
}
"""The fields of each type of block that every engine gets in some form."""
SOURCE_FIELDS = frozenset({"type", "media_type", "data", "url", "content"})
CHOICE_FIELDS = frozenset({"type", "name", "disable_parallel_tool_use"})
REDACTED = "redacted_thinking"


def of_contents(contents: Iterable[Any]) -> Iterator[GivenField]:
    """Yields the fields in the contents of messages, or of the system prompt, that some engines do not accept.

    A content that is a plain text has no such fields.
    """
    for content in contents:
        if isinstance(content, list):
            for block in content:
                yield from _of_block(block)


def _of_block(block: Any) -> Iterator[GivenField]:
    kind = block.get("type") if isinstance(block, Mapping) else None
    if not isinstance(kind, str):
        return
    common, kept = BLOCK_FIELDS.get(kind, frozenset()), KEPT_FIELDS.get(kind, HINTS)
    if kind == REDACTED:
        yield "blocks", REDACTED
    elif kind == "thinking" and not block.get("signature"):
        yield "unsigned", "thinking"
    yield from given_fields("blocks", {name: block[name] for name in kept if name in block}, {*common, "data"})
    yield from unsent_fields("blocks", block, {"type", *common, *kept})
    if kind in ("tool_result", "search_result"):
        yield from of_contents([block.get("content")])
    source = block.get("source")
    if isinstance(source, Mapping):
        yield from unsent_fields("sources", source, SOURCE_FIELDS)
        yield from of_contents([source.get("content")])


def of_tools(tools: Sequence[Mapping[str, Any]], choice: Any) -> Iterator[GivenField]:
    """Yields the fields that some engines do not accept, of the tools that the client runs and of `choice`, the
    body's `tool_choice`.
    """
    for tool in tools:
        if tool.get("type") in (None, "custom"):
            yield from given_fields("tools", tool, COMMON_TOOL | SERVER_TOOL_FIELDS)
        if is_run_by_client(tool):
            yield from unsent_fields("tools", tool, tool.keys() - SERVER_TOOL_FIELDS)
    yield from unsent_fields("tool_choice", choice, CHOICE_FIELDS)
