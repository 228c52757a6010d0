"""An answer as its client sees it, over HTTP or gRPC, whole or assembled from a stream."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Messages = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class AnswerChoice:
    index: int
    content: str
    finish_reason: str
    tool_calls: Sequence[tuple[str, str, str]] = ()
    """Id, name and arguments of each tool call."""
    logprobs: Sequence[Any] = ()
    """The log-probability of each token."""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Other fields of the message."""


@dataclass(frozen=True)
class Answer:
    text: str
    finish_reason: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: float
    cost_parts_usd: Mapping[str, float]
    path: str
    kind: str
    sources: Sequence[str] = field(default_factory=tuple)
    choices: Sequence[AnswerChoice] = field(default_factory=tuple)
    default_max_tokens: int | None = None
    decision_id: str = field(default="", compare=False)
    headers: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Headers or metadata, by their names without "x-pointsman-" or "pointsman-"."""


class Gathered:
    """Assembles the choices of a streamed answer, as a client does."""

    def __init__(self) -> None:
        self._by_index: dict[int, dict[str, Any]] = {}

    def add(self, index: int, delta: Mapping[str, Any], finish_reason: str | None, logprobs: Any) -> None:
        new = {"content": "", "finish_reason": "", "tool_calls": {}, "logprobs": [], "more": {}}
        choice = self._by_index.setdefault(index, new)
        choice["content"] += delta.get("content") or ""
        choice["finish_reason"] = finish_reason or choice["finish_reason"]
        choice["logprobs"] += (logprobs or {}).get("content") or []
        for piece in delta.get("tool_calls") or ():
            call = choice["tool_calls"].setdefault(piece["index"], {"id": "", "name": "", "arguments": ""})
            call["id"] = piece.get("id") or call["id"]
            for part in ("name", "arguments"):
                call[part] += piece["function"].get(part) or ""
        for name in delta.keys() - {"role", "content", "tool_calls"}:
            choice["more"][name] = choice["more"].get(name, "") + delta[name]

    def choices(self) -> list[AnswerChoice]:
        return [
            AnswerChoice(
                index,
                choice["content"],
                choice["finish_reason"],
                tuple(tuple(call.values()) for _, call in sorted(choice["tool_calls"].items())),
                tuple(choice["logprobs"]),
                choice["more"],
            )
            for index, choice in sorted(self._by_index.items())
        ]


def to_answer_choice(index: int, finish_reason: str | None, message: Mapping[str, Any], logprobs: Any) -> AnswerChoice:
    """Converts one choice of a complete OpenAI answer."""
    calls = [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message.get("tool_calls") or ()]
    others = message.keys() - {"role", "content", "tool_calls"}
    more = {name: message[name] for name in others if message[name] is not None}
    tokens = tuple((logprobs or {}).get("content") or ())
    return AnswerChoice(index, message["content"] or "", finish_reason or "", tuple(calls), tokens, more)


def as_messages(messages: Messages | str) -> Messages:
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
