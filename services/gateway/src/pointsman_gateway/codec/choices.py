"""The choices of a whole answer, collected from its chunks, in the terms of neither door."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pointsman_gateway.domain import Chunk

MOST_TOOL_CALLS = 1024
"""In one choice; an engine that numbers them higher is not believed."""


@dataclass(slots=True)
class Choice:
    index: int
    content: str = ""
    finish_reason: str | None = None
    message: dict[str, Any] = field(default_factory=dict)
    """What OpenAI's message holds beside role and content: tool calls, reasoning, ..."""
    logprobs: dict[str, Any] | None = None
    ended: bytes = b""
    """The engine's event that ended it; empty where that may not be sent on."""


def collected(chunks: Sequence[Chunk]) -> list[Choice]:
    """By index."""
    if {chunk.index for chunk in chunks} == {0}:
        return [_choice(0, chunks)]
    by_index: dict[int, list[Chunk]] = {}
    for chunk in chunks:
        if chunk.index in by_index:
            by_index[chunk.index].append(chunk)
        else:
            by_index[chunk.index] = [chunk]
    return [_choice(index, by_index[index]) for index in sorted(by_index)]


def _choice(index: int, chunks: Sequence[Chunk]) -> Choice:
    choice = Choice(index, "".join([chunk.content for chunk in chunks]))
    for chunk in chunks:
        if chunk.finish_reason:
            choice.finish_reason, choice.ended = chunk.finish_reason, chunk.raw
        if chunk.extra:
            _gather(choice, chunk.extra)
    return choice


def _gather(choice: Choice, extra: Mapping[str, Any]) -> None:
    message = choice.message
    for key, value in extra.get("delta", {}).items():
        if key == "tool_calls":
            _gather_tool_calls(message.setdefault("tool_calls", []), value)
        else:
            message[key] = _put_together(message.get(key), value)
    logprobs = extra.get("logprobs")
    if logprobs:
        if choice.logprobs is None:
            choice.logprobs = {"content": []}
        choice.logprobs["content"].extend(logprobs.get("content") or [])


def _put_together(known: Any, more: Any) -> Any:
    """Texts, lists, and objects of texts (a function_call) come in pieces; of anything else the last word counts."""
    if isinstance(known, str) and isinstance(more, str):
        return known + more
    if isinstance(known, list) and isinstance(more, list):
        return [*known, *more]
    if isinstance(known, dict) and isinstance(more, dict):
        return {**known, **{name: _put_together(known.get(name), value) for name, value in more.items()}}
    return more


def _gather_tool_calls(gathered: list[dict[str, Any]], pieces: Iterable[Mapping[str, Any]]) -> None:
    for piece in pieces:
        index = min(piece.get("index", 0), MOST_TOOL_CALLS - 1)
        while len(gathered) <= index:
            gathered.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
        call, function = gathered[index], piece.get("function") or {}
        call["id"] = piece.get("id") or call["id"]
        call["function"]["name"] += function.get("name") or ""
        call["function"]["arguments"] += function.get("arguments") or ""
