"""Collects the chunks of an answer into its choices, for answers that are sent as a whole."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_gateway.domain import Chunk

MAX_TOOL_CALLS = 1024
"""Tool calls in one choice. Higher indexes from an engine are counted as the last one."""
REASONING_KEYS = ("reasoning", "reasoning_content")
"""Names under which engines send reasoning in addition to the text."""
ANTHROPIC_THINKING = "anthropic-claude-v1"
"""The `format` by which entries of `reasoning_details` are known as Anthropic's thinking, as at OpenRouter. They hold
the signature of the thinking, or thinking that is encrypted."""
SIGNED, ENCRYPTED = "reasoning.text", "reasoning.encrypted"
"""The types of these entries."""


@dataclass(slots=True)
class Choice:
    index: int
    content: str = ""
    finish_reason: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """The fields of OpenAI's message in addition to role and content, such as tool calls and reasoning."""
    logprobs: dict[str, Any] | None = None
    last_event: bytes = b""
    """The engine's event that ended the choice; empty if it must not be passed on."""


def collect_choices(chunks: Sequence[Chunk]) -> list[Choice]:
    """Joins the chunks of an answer; returns its choices in the order of their indexes."""
    if {chunk.index for chunk in chunks} == {0}:
        return [_collect(0, chunks)]
    by_index: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_index.setdefault(chunk.index, []).append(chunk)
    return [_collect(index, by_index[index]) for index in sorted(by_index)]


def _collect(index: int, chunks: Sequence[Chunk]) -> Choice:
    choice = Choice(index, "".join([chunk.content for chunk in chunks]))
    for chunk in chunks:
        if chunk.finish_reason:
            choice.finish_reason, choice.last_event = chunk.finish_reason, chunk.raw
        if chunk.extra:
            _add_extra(choice, chunk.extra)
    return choice


def _add_extra(choice: Choice, extra: Mapping[str, Any]) -> None:
    message = choice.message
    for key, value in extra.get("delta", {}).items():
        if key == "tool_calls":
            _add_tool_calls(message.setdefault("tool_calls", []), value)
        else:
            message[key] = _join(message.get(key), value)
    logprobs = extra.get("logprobs")
    if logprobs:
        if choice.logprobs is None:
            choice.logprobs = {"content": []}
        choice.logprobs["content"].extend(logprobs.get("content") or [])


def _join(known: Any, delta: Any) -> Any:
    """Joins a field of two deltas: appends texts, lists and objects of texts; of other types the last one counts."""
    if isinstance(known, str) and isinstance(delta, str):
        return known + delta
    if isinstance(known, list) and isinstance(delta, list):
        return [*known, *delta]
    if isinstance(known, dict) and isinstance(delta, dict):
        return {**known, **{name: _join(known.get(name), value) for name, value in delta.items()}}
    return delta


def _add_tool_calls(calls: list[dict[str, Any]], deltas: Iterable[Mapping[str, Any]]) -> None:
    for delta in deltas:
        index = min(delta.get("index", 0), MAX_TOOL_CALLS - 1)
        while len(calls) <= index:
            calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = calls[index], delta.get("function") or {}
        call["id"] = delta.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
