"""The items of a response as they grow: each change is an event or two."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

Event = dict[str, Any]


class Item(Protocol):
    """One item of a response's output."""

    def opened(self) -> Iterator[Event]: ...

    def closed(self, status: str) -> Iterator[Event]: ...

    def body(self, status: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class PartKind:
    """A sort of content, and how its growing is told."""

    type: str
    item: str
    """The sort of item that holds it."""
    key: str
    event: str


TEXT = PartKind("output_text", "message", "text", "response.output_text")
REFUSAL = PartKind("refusal", "message", "refusal", "response.refusal")
REASONING = PartKind("reasoning_text", "reasoning", "text", "response.reasoning_text")


@dataclass(slots=True)
class _Part:
    kind: PartKind
    number: int
    pieces: list[str] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"type": self.kind.type, self.kind.key: "".join(self.pieces)}
        return body | {"annotations": [], "logprobs": self.logprobs} if self.kind is TEXT else body


class Content:
    """A message or a line of thought: parts, of which the last one grows."""

    def __init__(self, id: str, number: int, kind: str) -> None:
        self.kind = kind
        self._id = id
        self._where = {"item_id": id, "output_index": number}
        self._number = number
        self._parts: list[_Part] = []

    def opened(self) -> Iterator[Event]:
        yield _added(self._number, self.body("in_progress"))

    def add(self, kind: PartKind, text: str, logprobs: list[Any]) -> Iterator[Event]:
        if not self._parts or self._parts[-1].kind is not kind:
            yield from self._part_done()
            self._parts.append(_Part(kind, len(self._parts)))
            yield self._of_part("response.content_part.added", part=self._parts[-1].body())
        part = self._parts[-1]
        part.pieces.append(text)
        part.logprobs.extend(logprobs)
        beside = {"logprobs": [_told(p) for p in logprobs]} if kind is TEXT else {}
        yield self._of_part(f"{kind.event}.delta", delta=text, **beside)

    def closed(self, status: str) -> Iterator[Event]:
        yield from self._part_done()
        yield _done(self._number, self.body(status))

    def body(self, status: str) -> dict[str, Any]:
        content = [part.body() for part in self._parts]
        if self.kind == "message":
            return {"id": self._id, "type": "message", "role": "assistant", "status": status, "content": content}
        return {"id": self._id, "type": "reasoning", "summary": [], "status": status, "content": content}

    def _part_done(self) -> Iterator[Event]:
        if not self._parts:
            return
        part = self._parts[-1]
        beside: dict[str, Any] = {part.kind.key: "".join(part.pieces)}
        if part.kind is TEXT:
            beside["logprobs"] = [_told(p) for p in part.logprobs]
        yield self._of_part(f"{part.kind.event}.done", **beside)
        yield self._of_part("response.content_part.done", part=part.body())

    def _of_part(self, event: str, **beside: Any) -> Event:
        return {"type": event, **self._where, "content_index": self._parts[-1].number, **beside}


class Call:
    """A function that is to be called."""

    def __init__(self, id: str, number: int, call_id: str, name: str) -> None:
        self._id = id
        self._where = {"item_id": id, "output_index": number}
        self._number = number
        self._call_id = call_id
        self._name = name
        self._pieces: list[str] = []

    def opened(self) -> Iterator[Event]:
        yield _added(self._number, self.body("in_progress"))

    def add(self, arguments: str) -> Iterator[Event]:
        if arguments:
            self._pieces.append(arguments)
            yield {"type": "response.function_call_arguments.delta", **self._where, "delta": arguments}

    def closed(self, status: str) -> Iterator[Event]:
        arguments = {"name": self._name, "arguments": "".join(self._pieces)}
        yield {"type": "response.function_call_arguments.done", **self._where, **arguments}
        yield _done(self._number, self.body(status))

    def body(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            "name": self._name,
            "arguments": "".join(self._pieces),
        }


def _added(number: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.added", "output_index": number, "item": item}


def _done(number: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.done", "output_index": number, "item": item}


def _told(token: Mapping[str, Any]) -> dict[str, Any]:
    """A token's log-probability as an event tells it, without bytes."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": tops}
