"""The output items (messages, reasoning, tool calls) of an answer in the Responses API; their methods yield the
events that a stream sends for each change.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from pointsman_gateway.domain import Passage
from pointsman_gateway.http.citations import response_annotations
from pointsman_gateway.http.dialects.openai.response_conversion import ToolName
from pointsman_gateway.http.encoding import to_json

Event = dict[str, Any]


class Item(Protocol):
    def start_events(self) -> Iterator[Event]: ...

    def end_events(self, status: str) -> Iterator[Event]: ...

    def body(self, status: str) -> dict[str, Any]: ...


@dataclass(frozen=True, slots=True)
class PartKind:
    """A kind of content part (text, refusal or reasoning), with the names that the Responses API uses for it."""

    type: str
    item: str
    """The type of the output item that contains parts of this kind."""
    key: str
    """The name of the part's field that holds the text."""
    event: str
    """The beginning of the names of this kind's events."""


TEXT = PartKind("output_text", "message", "text", "response.output_text")
REFUSAL = PartKind("refusal", "message", "refusal", "response.refusal")
REASONING = PartKind("reasoning_text", "reasoning", "text", "response.reasoning_text")


class _GrowingText:
    """A text that arrives in pieces. Its JSON is cached until the next piece, since several events repeat it."""

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._json: msgspec.Raw | None = None

    def add(self, piece: str) -> None:
        self._pieces.append(piece)
        self._json = None

    def __str__(self) -> str:
        return "".join(self._pieces)

    @property
    def json(self) -> msgspec.Raw:
        """Returns the text so far as JSON."""
        if self._json is None:
            self._pieces = [str(self)]
            self._json = msgspec.Raw(to_json(self._pieces[0]))
        return self._json


@dataclass(slots=True)
class _Part:
    kind: PartKind
    number: int
    text: _GrowingText = field(default_factory=_GrowingText)
    logprobs: list[Any] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"type": self.kind.type, self.kind.key: self.text.json}
        return body | {"annotations": self.annotations, "logprobs": self.logprobs} if self.kind is TEXT else body


class Content:
    """An output item with content parts: a message or reasoning. Texts of one kind in a row become one part."""

    def __init__(self, id: str, number: int, kind: str) -> None:
        self.kind = kind
        self._id = id
        self._location = {"item_id": id, "output_index": number}
        self._number = number
        self._parts: list[_Part] = []

    def start_events(self) -> Iterator[Event]:
        yield _item_added(self._number, self.body("in_progress"))

    def add(self, kind: PartKind, text: str, logprobs: list[Any]) -> Iterator[Event]:
        if not self._parts or self._parts[-1].kind is not kind:
            yield from self._end_part()
            self._parts.append(_Part(kind, len(self._parts)))
            yield self._part_event("response.content_part.added", part=self._parts[-1].body())
        part = self._parts[-1]
        part.text.add(text)
        part.logprobs.extend(logprobs)
        fields = {"logprobs": [_without_bytes(p) for p in logprobs]} if kind is TEXT else {}
        yield self._part_event(f"{kind.event}.delta", delta=text, **fields)

    def cite(self, sources: Sequence[Passage]) -> Iterator[Event]:
        """Adds the sources as citations to the last part, if that part is a text, and yields an event for each. Must be
        called before `end_events`.
        """
        if not self._parts or self._parts[-1].kind is not TEXT:
            return
        part = self._parts[-1]
        part.annotations = response_annotations(sources, len(str(part.text)))
        for number, annotation in enumerate(part.annotations):
            event = "response.output_text.annotation.added"
            yield self._part_event(event, annotation_index=number, annotation=annotation)

    def end_events(self, status: str) -> Iterator[Event]:
        yield from self._end_part()
        yield _item_done(self._number, self.body(status))

    def body(self, status: str) -> dict[str, Any]:
        content = [part.body() for part in self._parts]
        if self.kind == "message":
            return {"id": self._id, "type": "message", "role": "assistant", "status": status, "content": content}
        return {"id": self._id, "type": "reasoning", "summary": [], "status": status, "content": content}

    def _end_part(self) -> Iterator[Event]:
        if not self._parts:
            return
        part = self._parts[-1]
        fields: dict[str, Any] = {part.kind.key: part.text.json}
        if part.kind is TEXT:
            fields["logprobs"] = [_without_bytes(p) for p in part.logprobs]
        yield self._part_event(f"{part.kind.event}.done", **fields)
        yield self._part_event("response.content_part.done", part=part.body())

    def _part_event(self, event: str, **fields: Any) -> Event:
        return {"type": event, **self._location, "content_index": self._parts[-1].number, **fields}


class FunctionCall:
    def __init__(self, id: str, number: int, call_id: str, name: ToolName) -> None:
        self._id = id
        self._location = {"item_id": id, "output_index": number}
        self._number = number
        self._call_id = call_id
        self._name = name
        self._arguments = _GrowingText()

    def start_events(self) -> Iterator[Event]:
        yield _item_added(self._number, self.body("in_progress"))

    def add(self, arguments: str) -> Iterator[Event]:
        if arguments:
            self._arguments.add(arguments)
            yield {"type": "response.function_call_arguments.delta", **self._location, "delta": arguments}

    def end_events(self, status: str) -> Iterator[Event]:
        arguments = {"name": self._name.name, "arguments": self._arguments.json}
        yield {"type": "response.function_call_arguments.done", **self._location, **arguments}
        yield _item_done(self._number, self.body(status))

    def body(self, status: str) -> dict[str, Any]:
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call_id,
            **self._name_fields(),
            "arguments": self._arguments.json,
        }

    def _name_fields(self) -> dict[str, str]:
        name = self._name
        return {"name": name.name, **({"namespace": name.namespace} if name.namespace else {})}


class CustomToolCall(FunctionCall):
    """A call of a custom tool, whose input is a text. The engine generates the text as an argument of a function."""

    def add(self, arguments: str) -> Iterator[Event]:
        """Collects the arguments and yields no events: the text in them is known only at the end."""
        self._arguments.add(arguments)
        yield from ()

    def end_events(self, status: str) -> Iterator[Event]:
        text = self._input()
        if text:
            yield {"type": "response.custom_tool_call_input.delta", **self._location, "delta": text}
        yield {"type": "response.custom_tool_call_input.done", **self._location, "input": text}
        yield _item_done(self._number, self.body(status))

    def body(self, status: str) -> dict[str, Any]:
        fields = {"call_id": self._call_id, **self._name_fields(), "input": self._input()}
        return {"id": self._id, "type": "custom_tool_call", **fields}

    def _input(self) -> str:
        """Returns the call's text; all arguments as they are if they are no JSON object with a text in `input`."""
        arguments = str(self._arguments)
        try:
            text = json.loads(arguments)["input"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return arguments
        return text if isinstance(text, str) else arguments


def _item_added(number: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.added", "output_index": number, "item": item}


def _item_done(number: int, item: Mapping[str, Any]) -> Event:
    return {"type": "response.output_item.done", "output_index": number, "item": item}


def _without_bytes(token: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the log-probability of a token and of its alternatives, without `bytes`, which events do not have."""
    tops = [{"token": top["token"], "logprob": top["logprob"]} for top in token["top_logprobs"]]
    return {"token": token["token"], "logprob": token["logprob"], "top_logprobs": tops}
