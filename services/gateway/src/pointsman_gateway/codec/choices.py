"""Joins the chunks (pieces) of an answer to one complete message for each choice, for answers that are not streamed."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from pointsman_gateway.domain import Chunk

MAX_TOOL_CALLS = 1024
"""Maximum number of tool calls in one choice. Pieces of calls with higher indexes are added to the last call."""
REASONING_KEYS = ("reasoning", "reasoning_content")
"""The fields of a delta or a message in which engines send the model's reasoning."""
ANTHROPIC_THINKING = "anthropic-claude-v1"
"""The `format` of those entries of `reasoning_details` that hold Anthropic's thinking; OpenRouter uses the same."""
SIGNED, ENCRYPTED = "reasoning.text", "reasoning.encrypted"
"""The `type` of an entry of `reasoning_details` with the signature of shown thinking, and of one with encrypted
thinking."""


@dataclass(slots=True)
class CollectedChoice:
    index: int
    content: str = ""
    finish_reason: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """The other fields of the choice's message in OpenAI's format, such as `tool_calls` and `reasoning`."""
    logprobs: dict[str, Any] | None = None
    last_event: bytes = b""
    """The engine's event that ended the choice, as received; empty if it must not be forwarded."""


def collect_choices(chunks: Sequence[Chunk]) -> list[CollectedChoice]:
    """Joins the chunks of an answer; returns one complete choice for each index, in the order of the indexes."""
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
    field by field, and of other values the last one counts. Values before the last change of the type are dropped.

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
