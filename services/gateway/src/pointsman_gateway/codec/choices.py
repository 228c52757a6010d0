"""Joins the chunks (pieces) of an answer that is not streamed to one complete message for each choice."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pointsman_gateway.domain import Chunk

MAX_TOOL_CALLS = 1024
"""Maximum number of tool calls in one choice. If an engine sends more, their pieces are added to the last allowed
call."""
REASONING_KEYS = ("reasoning", "reasoning_content")
"""The fields of a delta or a message in which engines send the model's reasoning."""
ANTHROPIC_THINKING = "anthropic-claude-v1"
"""The value of `format` in entries of a message's `reasoning_details` that hold Anthropic's thinking. OpenRouter uses
the same value."""
SIGNED, ENCRYPTED = "reasoning.text", "reasoning.encrypted"
"""Values of `type` in entries of a message's `reasoning_details`: SIGNED for the signature of visible thinking,
ENCRYPTED for encrypted thinking."""


@dataclass(slots=True)
class CollectedChoice:
    index: int
    content: str = ""
    finish_reason: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """The fields of the choice's message other than its content, in OpenAI's format, such as `tool_calls` and
    `reasoning`."""
    logprobs: dict[str, Any] | None = None
    last_event: bytes = b""
    """The bytes of the engine's event that ended the choice; empty if the event must not be sent to the client."""


def collect_choices(chunks: Sequence[Chunk]) -> list[CollectedChoice]:
    """Joins the chunks of an answer by the index of their choice. Returns the complete choices in the order of their
    indexes.
    """
    if {chunk.index for chunk in chunks} == {0}:
        return [_collect(0, chunks)]
    by_index: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        by_index.setdefault(chunk.index, []).append(chunk)
    return [_collect(index, by_index[index]) for index in sorted(by_index)]


def _collect(index: int, chunks: Sequence[Chunk]) -> CollectedChoice:
    choice = CollectedChoice(index, "".join([chunk.content for chunk in chunks]))
    fields: dict[str, list[Any]] = {}
    for chunk in chunks:
        if chunk.finish_reason:
            choice.finish_reason, choice.last_event = chunk.finish_reason, chunk.raw
        if chunk.extra:
            for key, value in chunk.extra.get("delta", {}).items():
                fields.setdefault(key, []).append(value)
            _add_logprobs(choice, chunk.extra.get("logprobs"))
    for key, values in fields.items():
        choice.message[key] = _join_tool_calls(values) if key == "tool_calls" else _join(values)
    return choice


def _add_logprobs(choice: CollectedChoice, logprobs: Mapping[str, Any] | None) -> None:
    if logprobs:
        if choice.logprobs is None:
            choice.logprobs = {"content": []}
        choice.logprobs["content"].extend(logprobs.get("content") or [])


def _join(values: Sequence[Any]) -> Any:
    """Joins the values that a field has in successive deltas: texts and lists are concatenated, objects are joined
    field by field, and of other values the last one counts. If the values change their type, only those after the last
    change count.

    Each value is copied once, so that an answer in many pieces takes linear time.
    """
    kind = type(values[-1])
    if kind not in (str, list, dict):
        return values[-1]
    start = next((at for at in range(len(values) - 1, -1, -1) if type(values[at]) is not kind), -1) + 1
    same = values[start:]
    if kind is str:
        return "".join(same)
    if kind is list:
        return list(chain.from_iterable(same))
    by_name: dict[str, list[Any]] = {}
    for value in same:
        for name, part in value.items():
            by_name.setdefault(name, []).append(part)
    return {name: _join(parts) for name, parts in by_name.items()}


class _ToolCall:
    """A tool call whose name and arguments arrive in pieces."""

    __slots__ = ("arguments", "id", "name")

    def __init__(self) -> None:
        self.id: Any = None
        self.name: list[str] = []
        self.arguments: list[str] = []

    def to_json(self) -> dict[str, Any]:
        function = {"name": "".join(self.name), "arguments": "".join(self.arguments)}
        return {"id": self.id, "type": "function", "function": function}


def _join_tool_calls(deltas: Iterable[Iterable[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    calls: list[_ToolCall] = []
    for delta in chain.from_iterable(deltas):
        index = min(delta.get("index", 0), MAX_TOOL_CALLS - 1)
        while len(calls) <= index:
            calls.append(_ToolCall())
        call, function = calls[index], delta.get("function") or {}
        call.id = delta.get("id") or call.id
        call.name.append(function.get("name") or "")
        call.arguments.append(function.get("arguments") or "")
    return [call.to_json() for call in calls]
