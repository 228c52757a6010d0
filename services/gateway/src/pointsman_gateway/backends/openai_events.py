"""An engine's server-sent events, read into chunks; the events stay beside them as they came."""

from typing import Any

import msgspec

from pointsman_gateway.domain import Chunk, Chunks, Usage

LONGEST_LINE = 4 * 1024 * 1024


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None


class _Choice(msgspec.Struct):
    index: int = 0
    delta: dict[str, Any] | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Event(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(_Event).decode


class EventReader:
    """Takes a stream's bytes piece by piece; an engine sends the data of each event on one line."""

    def __init__(self) -> None:
        self.done = False
        """Whether [DONE] has come."""
        self.failure = ""
        """Why the stream cannot be read any further: what it holds, or what the engine says there."""
        self._rest = b""

    def read(self, piece: bytes) -> Chunks:
        """The chunks that end in this piece, up to what ends the stream."""
        *lines, rest = (self._rest + piece if self._rest else piece).split(b"\n")
        self._rest = rest
        chunks: list[Chunk] = []
        for line in lines:
            if line.startswith(b"data:"):
                data = line[5:].strip()
                if data == b"[DONE]":
                    self.done = True
                    return tuple(chunks)
                self._take(data, chunks)
                if self.failure:
                    return tuple(chunks)
        if len(rest) > LONGEST_LINE:
            self.failure = "a line of the stream is too long"
        return tuple(chunks)

    def _take(self, data: bytes, chunks: list[Chunk]) -> None:
        try:
            event = _decode(data)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            self.failure = f"an event of its stream cannot be read: {data[:100]!r}"
            return
        if event.error:
            said = event.error
            self.failure = str(said.get("message") if isinstance(said, dict) else said) or "it has failed"
            return
        _add(event, data, chunks)


def _add(event: _Event, data: bytes, chunks: list[Chunk]) -> None:
    choices = event.choices or ()
    raw = data if len(choices) == 1 and event.usage is None else b""
    for choice in choices:
        chunk = _chunk(choice, raw)
        # One that brings nothing but a role is no token.
        if chunk.content or chunk.finish_reason or chunk.extra:
            chunks.append(chunk)
    if event.usage:
        chunks.append(Chunk(usage=_counted(event.usage)))


def _chunk(choice: _Choice, raw: bytes) -> Chunk:
    delta = choice.delta or {}
    content = delta.pop("content", None) or ""
    delta.pop("role", None)
    extra: dict[str, Any] = {}
    if delta:
        rest = {key: value for key, value in delta.items() if value is not None}
        if rest:
            extra["delta"] = rest
    if choice.logprobs is not None:
        extra["logprobs"] = choice.logprobs
    return Chunk(choice.index, content, choice.finish_reason, extra, None, raw)


def _counted(usage: _Usage) -> Usage:
    details = usage.prompt_tokens_details
    cached = details.cached_tokens if details else None
    return Usage(usage.prompt_tokens, usage.completion_tokens or 0, cached or 0)
