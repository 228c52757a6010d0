"""An engine's server-sent events, read into chunks; the events stay beside them as they came."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from pointsman_gateway.domain import Chunk, Chunks, EngineSeconds, Usage

LONGEST_LINE = 4 * 1024 * 1024


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct, forbid_unknown_fields=True):
    role: str | None = None
    content: str | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: _Delta | None = None
    text: str | None = None
    """Of a completion, which has no delta."""
    finish_reason: str | None = None
    logprobs: Any = None


class _Event(msgspec.Struct):
    """As most are: a delta of text."""

    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None
    metrics: Any = None


class _AnyChoice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _AnyEvent(msgspec.Struct):
    """With whatever else a delta may hold."""

    choices: list[_AnyChoice] | None = None
    usage: _Usage | None = None
    error: Any = None
    metrics: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_all = msgspec.json.Decoder(list[_Event]).decode
_decode_any = msgspec.json.Decoder(_AnyEvent).decode


class EventReader:
    """Takes a stream's bytes piece by piece; an engine sends the data of each event on one line."""

    def __init__(self) -> None:
        self.done = False
        """Whether [DONE] has come."""
        self.failure = ""
        """Why the stream cannot be read any further: what it holds, or what the engine says there."""
        self._rest = b""

    def read(self, piece: bytes) -> Chunks:
        """The chunks that end in this piece, up to what ends the stream; the usage, where it is told, last."""
        *lines, rest = (self._rest + piece if self._rest else piece).split(b"\n")
        self._rest = rest
        told = []
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.done = True
                    break
                told.append(data)
        if len(rest) > LONGEST_LINE and not self.done:
            self.failure = "a line of the stream is too long"
        chunks: list[Chunk] = []
        usage = metrics = None
        for event, data in zip(self._events(told), told, strict=False):
            if event.usage is not None:
                usage, metrics = event.usage, event.metrics
            _add(event, data, chunks)
        if usage:
            chunks.append(Chunk(usage=_counted(usage, metrics)))
        return tuple(chunks)

    def _events(self, told: list[bytes]) -> Sequence[_Event | _AnyEvent]:
        """Up to the one that ends the stream, if there is one."""
        if not told:
            return ()
        try:
            events = _decode_all(b"[%b]" % b",".join(told))
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
        else:
            if len(events) == len(told) and not any(event.error for event in events):
                return events
        return self._one_by_one(told)

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


def _add(event: _Event | _AnyEvent, data: bytes, chunks: list[Chunk]) -> None:
    choices = event.choices or ()
    raw = data if len(choices) == 1 and event.usage is None else b""
    for choice in choices:
        delta = choice.delta
        extra: dict[str, Any] = {}
        if isinstance(delta, dict):
            content = _taken_apart(delta, extra)
        else:
            content = (delta.content if delta else choice.text) or ""
        if choice.logprobs is not None:
            extra["logprobs"] = choice.logprobs
        # One that brings nothing but a role is no token.
        if content or choice.finish_reason or extra:
            chunks.append(Chunk(choice.index, content, choice.finish_reason, extra, None, raw))


def _taken_apart(delta: dict[str, Any], extra: dict[str, Any]) -> str:
    rest = {key: value for key, value in delta.items() if key not in ("role", "content") and value is not None}
    if rest:
        extra["delta"] = rest
    return delta.get("content") or ""


def _counted(usage: _Usage, metrics: Any) -> Usage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    told = _seconds(metrics) if isinstance(metrics, dict) else None
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, cached or 0, told)


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
