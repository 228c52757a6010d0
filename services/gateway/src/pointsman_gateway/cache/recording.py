"""Records an answer for the cache while it streams to the client, and replays an answer from the cache as a stream."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any

import msgspec

from pointsman_gateway.domain import Chunk, Chunks, Usage
from pointsman_gateway.engines.dialects.openai.schema import are_logprobs
from pointsman_gateway.ports import AnswerSource, ChunkSink

MAX_STORED_CHARACTERS = 256 * 1024
"""Maximum number of characters of an answer's JSON in the cache; an answer with longer JSON is not stored."""

CLEAN_ENDS = frozenset({"stop", "tool_calls", "function_call"})
"""An answer may be stored only if each of its choices has one of these finish reasons."""

STEPS_PER_TURN = 32
"""Number of groups of chunks that `Replay` pushes before it lets the event loop do other work."""


_Count = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_EncodedChunk = tuple[_Count, str, str | None, dict[str, Any] | None, tuple[_Count, _Count, _Count] | None]

JsonPath = tuple[Any, ...]
"""Locates a text in an answer: the choice's index, followed by field names and list positions."""


class _EncodedAnswer(msgspec.Struct):
    """The JSON format of a stored answer: its model, and its chunks in the groups in which they arrived."""

    model: str
    steps: list[list[_EncodedChunk]]


_decode_answer = msgspec.json.Decoder(_EncodedAnswer).decode


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer that was read from the cache: the name of the model that made the answer, and its chunks."""

    model: str
    """The name of the base model or adapter version that made the answer."""
    steps: tuple[Chunks, ...]
    """The answer's chunks, in the groups in which the engine sent them when the answer was recorded."""


class Replay:
    """Pushes the chunks of an answer from the cache to a sink, as an engine would; implements `AnswerSource`."""

    def __init__(self, recorded: StoredAnswer) -> None:
        self._steps = recorded.steps
        self._next = 0
        self._sink: ChunkSink | None = None
        self._is_paused = False

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._push()

    def pause(self) -> None:
        self._is_paused = True

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._push()

    def close(self) -> None:
        self._sink = None

    def _push(self) -> None:
        for _ in range(STEPS_PER_TURN):
            sink = self._sink
            if sink is None or self._is_paused:
                return
            if self._next == len(self._steps):
                self._sink = None
                sink.ended(None)
                return
            self._next += 1
            try:
                sink.chunks(self._steps[self._next - 1], self._next == len(self._steps))
            except Exception as error:
                self._sink = None
                sink.ended(error)
                return
        asyncio.get_running_loop().call_soon(self._push)


@dataclass(frozen=True, slots=True)
class CacheableAnswer:
    """A complete answer that the cache may store, as the JSON to store and as plain text to check for personal data."""

    json: str
    """The text to store in Redis: the answer in the format that `parse_answer` reads."""
    text: str
    """All texts of the answer, one after another on separate lines: choices, arguments of tool calls, reasoning and
    log-probabilities. The chunks of each text are joined first, since a chunk may hold only a part of a word. This text
    is checked for personal data before the answer is stored."""


class Recording:
    """Records an answer for the cache while it passes the chunks on from `source`, an engine's answer, to the client's
    sink.

    Implements `AnswerSource` for the client's sink, and `ChunkSink` for `source`.
    """

    def __init__(self, model: str, source: AnswerSource) -> None:
        self._model = model
        self._source = source
        self._sink: ChunkSink | None = None
        self._steps: list[str] = []
        self._size = 0
        self._texts: dict[JsonPath, list[str]] = {}
        """The pieces of each text of the answer, by the text's location."""
        self._ends: dict[int, str] = {}
        self._ended = False

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._source.attach(self)

    def pause(self) -> None:
        self._source.pause()

    def resume(self) -> None:
        self._source.resume()

    def close(self) -> None:
        self._sink = None
        self._source.close()

    def chunks(self, chunks: Chunks, last: bool) -> None:
        self._add(chunks)
        if self._sink is not None:
            self._sink.chunks(chunks, last)

    def ended(self, error: Exception | None) -> None:
        self._ended = error is None
        sink, self._sink = self._sink, None
        if sink is not None:
            sink.ended(error)

    @property
    def too_long(self) -> bool:
        return self._size > MAX_STORED_CHARACTERS

    @property
    def complete(self) -> CacheableAnswer | None:
        """Returns the recorded answer if the cache may store it, else None.

        The result is None if the answer has not ended, has failed, is `too_long`, has no text of any kind
        (`CacheableAnswer.text`), or has a choice whose finish reason is not in `CLEAN_ENDS`.
        """
        ends = self._ends.values()
        pieces = self._texts.values()
        if not (self._ended and any(pieces) and ends and CLEAN_ENDS.issuperset(ends)) or self.too_long:
            return None
        encoded = f'{{"model":{json.dumps(self._model)},"steps":[{",".join(self._steps)}]}}'
        return CacheableAnswer(encoded, "\n".join(map("".join, pieces)))

    def _add(self, chunks: Chunks) -> None:
        if self.too_long:
            return
        for chunk in chunks:
            self._take(chunk)
        self._steps.append(json.dumps([_encode(chunk) for chunk in chunks], separators=(",", ":")))
        self._size += len(self._steps[-1])
        if self.too_long:
            self._steps, self._texts = [], {}

    def _take(self, chunk: Chunk) -> None:
        for path, text in _strings({"content": chunk.content, **chunk.extra}, (chunk.index,)):
            self._texts.setdefault(path, []).append(text)
        if chunk.usage is None or chunk.content or chunk.extra or chunk.finish_reason:
            self._ends[chunk.index] = chunk.finish_reason or self._ends.get(chunk.index, "")


def _strings(value: Any, path: JsonPath) -> Iterator[tuple[JsonPath, str]]:
    if isinstance(value, str):
        if value:
            yield path, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _strings(part, (*path, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            own = part.get("index") if isinstance(part, dict) else None  # that of a tool call, which arrives in pieces
            yield from _strings(part, (*path, own if isinstance(own, int) else number))


def parse_answer(text: str) -> StoredAnswer | None:
    """Parses an answer from the JSON that the cache stores (`CacheableAnswer.json`); returns None if it is invalid."""
    try:
        stored = _decode_answer(text)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return None
    steps = tuple(tuple(map(_to_chunk, step)) for step in stored.steps)
    return StoredAnswer(stored.model, steps) if all(map(_is_sound, chain.from_iterable(steps))) else None


def _encode(chunk: Chunk) -> list[Any]:
    """Returns a chunk as a list for the JSON of a stored answer.

    It is [index, content, finish reason, `extra`, [prompt tokens, completion tokens, cached tokens]], with None for
    what the chunk lacks. Left out are the engine's bytes, which contain the time and id of the recorded request.
    """
    usage = chunk.usage
    counted = None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
    return [chunk.index, chunk.content, chunk.finish_reason, dict(chunk.extra) or None, counted]


def _to_chunk(encoded: _EncodedChunk) -> Chunk:
    index, content, finish_reason, extra, counted = encoded
    return Chunk(index, content, finish_reason, extra or {}, None if counted is None else Usage(*counted))


def _is_sound(chunk: Chunk) -> bool:
    """Returns whether `delta` and `logprobs` in the chunk's `extra` have the types that encoders of answers require."""
    delta, logprobs = chunk.extra.get("delta", {}), chunk.extra.get("logprobs", {})
    return isinstance(delta, dict) and (not logprobs or are_logprobs(logprobs))
