"""What stands around the text in a stream's events: in nearly all of one stream it is the same to the byte."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec

from pointsman_gateway.domain import Chunk, Chunks, EngineSeconds, Usage
from pointsman_gateway.engines.openai_schema import OddDelta, Straightened, are_logprobs

BEFORE_TEXT = b'"delta":{"content":'
ANY_TEXT = b'"?"'

_decode_text = msgspec.json.Decoder(str).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class EventFrame:
    """An event's bytes before and after the JSON text that is its delta's content."""

    before: bytes
    after: bytes

    def text_in(self, event: bytes) -> str:
        """Empty where the event is not in this frame, or has no text."""
        if not (event.startswith(self.before) and event.endswith(self.after)):
            return ""
        try:
            return _decode_text(event[len(self.before) : -len(self.after)])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return ""

    def around(self, begin: bytes, end: bytes) -> "EventFrame":
        """With what a line begins and ends with."""
        return EventFrame(begin + self.before, self.after + end)


def frame_of(data: bytes, text: str, event: Any, decode: Callable[[bytes], Any]) -> EventFrame | None:
    """Of data that `decode` reads as `event`, whose one delta says `text`; None where it is not sure.

    It is sure where the data with another text reads as the same event with that one: JSON knows no context.
    """
    before, found, after = data.partition(BEFORE_TEXT + _encode(text) + b"}")
    if not found:
        return None
    frame = EventFrame(before + BEFORE_TEXT, b"}" + after)
    try:
        other = decode(frame.before + ANY_TEXT + frame.after)
        said, other.choices[0].delta.content = other.choices[0].delta.content, text
    except (msgspec.MsgspecError, UnicodeDecodeError, LookupError, TypeError, AttributeError):
        return None
    return frame if said == "?" and other == event else None


BEGIN, END = b"data: ", b"\n\n"
"""Of an event as all engines write them; others are read too, less fast."""
DONE = b"[DONE]"
NOTHING: Mapping[str, Any] = {}

LONGEST_LINE = 4 * 1024 * 1024

LAST = 3
"""Events that are more than text: what ends the answer, its usage, [DONE]."""

MOST_FRAMES = 3
"""That are looked for in one stream: an engine whose events differ in more than their text has none."""


Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class _Details(msgspec.Struct, gc=False):
    cached_tokens: Count | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: Count
    completion_tokens: Count | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str | None = None
    content: str | None = None


class _Choice(msgspec.Struct, gc=False):
    index: Count = 0
    delta: _Delta | None = None
    text: str | None = None
    """Of a completion, which has no delta."""
    finish_reason: str | None = None
    logprobs: Any = None


class _Event(msgspec.Struct, gc=False):
    """As most are: a delta of text."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    metrics: Any = None


class _AnyChoice(msgspec.Struct, gc=False):
    index: Count | None = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _AnyEvent(msgspec.Struct, gc=False):
    """With whatever else a delta may hold."""

    choices: list[_AnyChoice] | None = None
    usage: _Usage | None = None
    error: Any = None
    metrics: Any = None


class _TextDelta(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    role: str | None = None
    content: str = ""


class _TextChoice(msgspec.Struct, gc=False):
    delta: _TextDelta
    index: Literal[0] = 0
    finish_reason: None = None
    logprobs: None = None


class _TextEvent(msgspec.Struct, gc=False):
    """That says a text, and nothing else."""

    choices: Annotated[list[_TextChoice], msgspec.Meta(min_length=1, max_length=1)]
    usage: None = None
    error: None = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_all = msgspec.json.Decoder(list[_Event]).decode
_decode_texts = msgspec.json.Decoder(list[_TextEvent]).decode
_decode_any = msgspec.json.Decoder(_AnyEvent).decode


class EventReader:
    """Takes a stream's bytes piece by piece; an engine sends the data of each event on one line."""

    def __init__(self, as_a_whole: bool = False) -> None:
        """`as_a_whole`: nobody asks which texts were one event, so those that come together may be one chunk."""
        self._as_a_whole = as_a_whole
        self.done = False
        """Whether [DONE] has come."""
        self.failure = ""
        """Why the stream cannot be read any further: what it holds, or what the engine says there."""
        self._rest = b""
        self._frame: EventFrame | None = None
        self._frame_index = 0
        """Of its choice."""
        self._frames = 0
        self._straightened = Straightened()

    def read(self, piece: bytes) -> Chunks:
        """The chunks that end in this piece, up to what ends the stream; the usage, where it is told, last."""
        if self._frame is not None and not self._rest:
            text = self._frame.text_in(piece)
            if text:
                return (Chunk(self._frame_index, text, None, NOTHING, None, piece[len(BEGIN) : -len(END)]),)
        told = self._told(piece)
        if self._as_a_whole and len(told) > LAST + 1:
            return self._joined(told)
        return self._chunks(told)

    def _joined(self, told: list[bytes]) -> Chunks:
        """The texts before the last events as one chunk, if they are nothing but texts."""
        try:
            events = _decode_texts(b"[%b]" % b",".join(told[:-LAST]))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._chunks(told)
        texts = [event.choices[0].delta.content for event in events]
        pieces = len(texts) - texts.count("")  # a mere role is no token
        if not pieces or len(texts) != len(told) - LAST:
            return self._chunks(told)
        first = told[0] if texts[0] else told[texts.index(next(filter(None, texts)))]
        return (Chunk(0, "".join(texts), None, NOTHING, None, first, pieces), *self._chunks(told[-LAST:]))

    def _chunks(self, told: list[bytes]) -> Chunks:
        if DONE in told:
            self.done = True
            del told[told.index(DONE) :]
        chunks: list[Chunk] = []
        add, usage, metrics = chunks.append, None, None
        events = self._events(told)
        if len(told) == 1 and self._frames < MOST_FRAMES:
            self._learn_frame(events, told[0])
        try:
            for event, data in zip(events, told, strict=False):
                if event.usage is not None:
                    usage, metrics = event.usage, event.metrics
                choices = event.choices or ()
                raw = data if len(choices) == 1 and event.usage is None else b""
                for choice in choices:
                    delta = choice.delta
                    if not isinstance(delta, _Delta) or choice.logprobs is not None:
                        self._add(choice, raw, chunks)
                    elif delta.content or choice.finish_reason:  # text, as nearly all are; a mere role is no token
                        add(Chunk(choice.index or 0, delta.content or "", choice.finish_reason, NOTHING, None, raw))
        except OddDelta as odd:
            self.done, self.failure = False, f"an event of its stream cannot be read: {odd}"
        if usage is not None:
            chunks.append(Chunk(usage=_counted(usage, metrics)))
        return tuple(chunks)

    def _learn_frame(self, events: Sequence[_Event | _AnyEvent], data: bytes) -> None:
        """Of an event that came alone, and says a text and nothing else."""
        event = events[0] if events else None
        if not isinstance(event, _Event) or event.usage is not None or not event.choices or len(event.choices) > 1:
            return
        choice = event.choices[0]
        if choice.delta and choice.delta.content and not choice.finish_reason and choice.logprobs is None:
            self._frames += 1
            frame = frame_of(data, choice.delta.content, event, _decode)
            self._frame, self._frame_index = frame.around(BEGIN, END) if frame else None, choice.index

    def _told(self, piece: bytes) -> list[bytes]:
        """The data of all events that end in this piece."""
        if not self._rest and piece.startswith(BEGIN) and piece.endswith(END) and b"\r" not in piece:
            told = piece[len(BEGIN) : -len(END)].split(END + BEGIN)
            if piece.count(b"\n") == len(END) * len(told):
                return told
        *lines, rest = (self._rest + piece if self._rest else piece).split(b"\n")
        self._rest = rest
        told = [line[5:].strip() for line in lines if line.startswith(b"data:")]
        if len(rest) > LONGEST_LINE and DONE not in told:
            self.failure = "a line of the stream is too long"
        return told

    def _events(self, told: list[bytes]) -> Sequence[_Event | _AnyEvent]:
        """Up to the one that ends the stream, if there is one."""
        if not told:
            return ()
        try:
            events = _decode_all(b"[%b]" % b",".join(told))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return self._one_by_one(told)
        if len(events) != len(told) or [event for event in events if event.error]:
            return self._one_by_one(told)
        return events

    def _one_by_one(self, told: list[bytes]) -> Sequence[_Event | _AnyEvent]:
        events = []
        for data in told:
            event = self._event(data)
            if event is None:
                self.done = False
                break
            events.append(event)
        return events

    def _event(self, data: bytes) -> _Event | _AnyEvent | None:
        """None where it ends the stream, which cannot be read any further."""
        event: _Event | _AnyEvent
        try:
            event = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            try:
                event = _decode_any(data)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                self.failure = f"an event of its stream cannot be read: {data[:100]!r}"
                return None
        if event.error:
            said = event.error
            self.failure = str(said.get("message") if isinstance(said, dict) else said) or "it has failed"
            return None
        return event

    def _add(self, choice: _Choice | _AnyChoice, raw: bytes, chunks: list[Chunk]) -> None:
        """Of whatever shape it is; where that is none of OpenAI's, the engine's bytes are not sent on."""
        index, delta = choice.index or 0, choice.delta
        extra: dict[str, Any] = {}
        as_it_came = choice.index is not None
        if isinstance(delta, dict):
            content, rest, is_straight = self._straightened.taken_apart(index, delta)
            as_it_came = as_it_came and is_straight
            if rest:
                extra["delta"] = rest
        else:
            content = (delta.content if delta else choice.text) or ""
        if choice.logprobs is not None:
            if are_logprobs(choice.logprobs):
                extra["logprobs"] = choice.logprobs
            else:
                as_it_came = False
        if content or choice.finish_reason or extra:
            chunks.append(Chunk(index, content, choice.finish_reason, extra, None, raw if as_it_came else b""))


def _counted(usage: _Usage, metrics: Any) -> Usage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    told = _seconds(metrics) if isinstance(metrics, dict) else None
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, min(cached or 0, usage.prompt_tokens), told)


def _seconds(metrics: Mapping[str, Any]) -> EngineSeconds:
    """From what vLLM tells beside the usage, with --enable-per-request-metrics and for a single choice: milliseconds.

    Its time to the first token is from when it was scheduled; its generation time goes on from there to the last.
    """
    names = ("queue_time_ms", "time_to_first_token_ms", "generation_time_ms")
    queue, prefill, generation = [value if isinstance(value := metrics.get(n), int | float) else None for n in names]
    return EngineSeconds(
        queue=None if queue is None else queue / 1000,
        inference=None if prefill is None or generation is None else (prefill + generation) / 1000,
    )
