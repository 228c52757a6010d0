"""Parses the server-sent events of an OpenAI-compatible engine into chunks of an answer.

A chunk keeps its event's original bytes if the gateway may send them to the client unchanged.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pointsman_gateway.codec.joined_chunks import ChunkJoiner
from pointsman_gateway.domain import Chunk, Chunks
from pointsman_gateway.engines.dialects.openai.event_template import BEGIN, END, EventTemplate, learn_template
from pointsman_gateway.engines.dialects.openai.schema import (
    MAX_EVENT_DEPTH,
    MAX_FLAT_BYTES,
    MAX_MESSAGE_CHARACTERS,
    UNREADABLE,
    AnyChoice,
    AnyEvent,
    ChunkChoice,
    Delta,
    DeltaNormalizer,
    Event,
    UnreadableDelta,
    are_logprobs,
    decode_any_event,
    decode_event,
    decode_events,
    decode_texts,
    is_deep,
)
from pointsman_gateway.engines.dialects.openai.usage import to_usage
from pointsman_gateway.engines.stream_lines import MAX_LINE_BYTES, split_lines

DONE = b"[DONE]"
NO_EXTRA: Mapping[str, Any] = {}
CLOSING_EVENTS = 3
"""Number of events at a stream's end that hold more than text: the finish reason, the usage, and [DONE]."""
MAX_TEMPLATES = 3
"""Maximum number of attempts to learn a template in one stream."""


class EventReader:
    """Parses one streamed answer in OpenAI's format; implements `AnswerReader`. Each event's data must be on one
    line.
    """

    def __init__(self, as_a_whole: bool = False, choices: int = 1) -> None:
        """Takes `as_a_whole`, whether to join chunks that arrive together, and `choices`, the number of choices that
        were requested. A chunk of a choice with the index `choices` or higher is a failure.
        """
        self._as_a_whole = as_a_whole
        self._joiner = ChunkJoiner() if as_a_whole else None
        self._choices = choices
        self.done = False
        """Whether [DONE] has arrived."""
        self.failure = ""
        """Why the stream ended early: it cannot be read, or it reports an error. Empty if there is no failure."""
        self.error: Mapping[str, Any] = NO_EXTRA
        """The "code" and "param" of an error that the stream reports in OpenAI's format; empty otherwise."""
        self._rest = bytearray()
        self._template: EventTemplate | None = None
        self._template_index = 0
        """The index of the choice in the template's events."""
        self._templates_tried = 0
        self._has_only_texts = True
        """Whether it is worth trying `_texts`: False once that has failed."""
        self._ended_choices: set[int] = set()
        """The indices of the choices whose finish reason has arrived."""
        self._running: Event | AnyEvent | None = None
        """The last event with a usage, if some choices have not ended yet, because some engines report a usage in every
        event. None otherwise."""
        self._normalizer: DeltaNormalizer | None = None
        """The normalizer of this stream's deltas; None before the first delta that is not plain text."""

    def read(self, piece: bytes) -> Chunks:
        """Parses the next bytes of the stream; returns the chunks of all events that are complete now; the usage
        comes last.

        Events after [DONE] are ignored. Sets `done` at [DONE], and `failure` if the stream cannot be parsed or
        reports an error.
        """
        chunks = self._read(piece)
        return chunks if self._joiner is None else self._joiner.join(chunks)

    def _read(self, piece: bytes) -> Chunks:
        if self._template is not None and not self._rest:
            text = self._template.text_in(piece)
            if text:
                return (Chunk(self._template_index, text, None, NO_EXTRA, None, piece[len(BEGIN) : -len(END)]),)
        payloads = self._split(piece)
        if self._has_only_texts and len(payloads) > CLOSING_EVENTS + 1:
            texts = self._texts(payloads[:-CLOSING_EVENTS])
            if texts:
                return (*texts, *self._chunks(payloads[-CLOSING_EVENTS:]))
            self._has_only_texts = False
        return self._chunks(payloads)

    def _texts(self, payloads: list[bytes]) -> list[Chunk]:
        """Returns the chunks of events that hold texts and nothing else; empty if any event holds something else."""
        data = b"[%b]" % b",".join(payloads)
        if len(data) > MAX_FLAT_BYTES and is_deep(data, len(payloads)):
            return []
        try:
            events = decode_texts(data)
        except UNREADABLE:
            return []
        if len(events) != len(payloads):
            return []
        # A role alone is no token.
        if not self._as_a_whole:
            return [
                Chunk(0, text, None, NO_EXTRA, None, payload)
                for event, payload in zip(events, payloads, strict=True)
                if (text := event.choices[0].delta.content)
            ]
        texts = [event.choices[0].delta.content for event in events]
        pieces = len(texts) - texts.count("")
        if not pieces:
            return []
        first = payloads[0] if texts[0] else payloads[texts.index(next(filter(None, texts)))]
        return [Chunk(0, "".join(texts), None, NO_EXTRA, None, first, pieces)]

    def _chunks(self, payloads: list[bytes]) -> Chunks:
        if DONE in payloads:
            self.done = True
            del payloads[payloads.index(DONE) :]
        chunks: list[Chunk] = []
        add, counted = chunks.append, None
        events = self._events(payloads)
        if len(payloads) == 1 and self._templates_tried < MAX_TEMPLATES:
            self._learn_template(events, payloads[0])
        try:
            for event, payload in zip(events, payloads, strict=False):
                if event.usage is not None:
                    counted = event
                choices = event.choices or ()
                raw = payload if len(choices) == 1 and event.usage is None else b""
                for choice in choices:
                    delta = choice.delta
                    if choice.finish_reason:
                        self._ended_choices.add(choice.index or 0)
                    if (choice.index or 0) >= self._choices:
                        raise UnreadableDelta(f"choice {choice.index} was not requested")
                    if not isinstance(delta, Delta) or choice.logprobs is not None:
                        self._add(choice, raw, chunks)
                    elif delta.content or choice.finish_reason:  # a role alone is no token
                        add(Chunk(choice.index or 0, delta.content or "", choice.finish_reason, NO_EXTRA, None, raw))
        except UnreadableDelta as error:
            self.done, self.failure = False, f"an event of its stream cannot be read: {error}"
        if counted is not None:
            is_running = bool(counted.choices) and len(self._ended_choices) < self._choices
            self._running = counted if is_running else None
        if self.done and self._running is not None:
            counted, self._running = self._running, None
        if counted is not None:
            chunks.append(Chunk(usage=to_usage(counted, is_estimate=self._running is not None)))
        return tuple(chunks)

    def _learn_template(self, events: Sequence[Event | AnyEvent], data: bytes) -> None:
        """Learns the template from an event that arrived alone, if it holds a text but no finish reason or usage."""
        event = events[0] if events else None
        if not isinstance(event, Event) or event.usage is not None or not event.choices or len(event.choices) > 1:
            return
        choice = event.choices[0]
        if choice.delta and choice.delta.content and not choice.finish_reason and choice.logprobs is None:
            self._templates_tried += 1
            self._template, self._template_index = learn_template(data, choice.delta.content, event), choice.index

    def _split(self, piece: bytes) -> list[bytes]:
        """Returns the data of all events that end in this piece."""
        if not self._rest and piece.startswith(BEGIN) and piece.endswith(END) and b"\r" not in piece:
            payloads = piece[len(BEGIN) : -len(END)].split(END + BEGIN)
            if piece.count(b"\n") == len(END) * len(payloads):
                return payloads
        lines = split_lines(self._rest, piece)
        payloads = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if len(self._rest) > MAX_LINE_BYTES and DONE not in payloads:
            self.failure = "a line of the stream is too long"
        return payloads

    def _events(self, payloads: list[bytes]) -> Sequence[Event | AnyEvent]:
        """Decodes the JSON texts of several events.

        The result ends before the first event that reports an error or cannot be read. It is empty if one has too many
        levels. `failure` says which it was.
        """
        if not payloads:
            return ()
        data = b"[%b]" % b",".join(payloads)
        if len(data) > MAX_FLAT_BYTES and is_deep(data, len(payloads)):
            self.done, self.failure = False, f"an event of its stream is more than {MAX_EVENT_DEPTH} levels deep"
            return ()
        try:
            events = decode_events(data)
        except UNREADABLE:
            return self._one_by_one(payloads)
        if len(events) != len(payloads) or [event for event in events if event.error]:
            return self._one_by_one(payloads)
        return events

    def _one_by_one(self, payloads: list[bytes]) -> Sequence[Event | AnyEvent]:
        events = []
        for payload in payloads:
            event = self._event(payload)
            if event is None:
                self.done = False
                break
            events.append(event)
        return events

    def _event(self, data: bytes) -> Event | AnyEvent | None:
        """Decodes one event. Returns None and sets `failure` if it cannot be read or reports an error."""
        event: Event | AnyEvent
        try:
            event = decode_event(data)
        except UNREADABLE:
            try:
                event = decode_any_event(data)
            except UNREADABLE:
                self.failure = f"an event of its stream cannot be read: {data[:100]!r}"
                return None
        if event.error:
            self.error, self.failure = _read_error(event.error)
            return None
        return event

    def _add(self, choice: ChunkChoice | AnyChoice, raw: bytes, chunks: list[Chunk]) -> None:
        """Adds a chunk for a choice in any format; the engine's bytes are kept only if they are in OpenAI's."""
        index, delta = choice.index or 0, choice.delta
        extra: dict[str, Any] = {}
        is_unchanged = choice.index is not None
        if isinstance(delta, dict):
            if self._normalizer is None:
                self._normalizer = DeltaNormalizer()
            content, rest, is_openai = self._normalizer.normalize(index, delta)
            is_unchanged = is_unchanged and is_openai
            if rest:
                extra["delta"] = rest
        else:
            content = (delta.content if delta else choice.text) or ""
        if choice.logprobs is not None:
            if are_logprobs(choice.logprobs):
                extra["logprobs"] = choice.logprobs
            else:
                is_unchanged = False
        if content or choice.finish_reason or extra:
            chunks.append(Chunk(index, content, choice.finish_reason, extra, None, raw if is_unchanged else b""))


def _read_error(error: Any) -> tuple[Mapping[str, Any], str]:
    """Returns the code and the parameter of an error in OpenAI's format, and the message of an error in any format."""
    if not isinstance(error, dict):
        return NO_EXTRA, str(error)
    message, param = error.get("message"), error.get("param")
    if not isinstance(message, str) or not message:
        message = json.dumps(error)[:MAX_MESSAGE_CHARACTERS]
    return {"code": error.get("code"), "param": param if isinstance(param, str) else None}, message
