"""An answer as it is kept, and given again."""

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pointsman_gateway.domain import Chunk, Chunks, Usage
from pointsman_gateway.pipeline.ports import AnswerSource, ChunkSink

LONGEST = 256 * 1024
"""Characters of an answer as it is kept; longer ones are not."""

CLEAN_ENDS = frozenset({"stop", "tool_calls", "function_call"})

STEPS_AT_ONCE = 32
"""Of a replayed answer; then whoever else is waiting has a turn."""


Place = tuple[Any, ...]
"""Within an answer: the choice, then names and numbers."""


@dataclass(frozen=True, slots=True)
class Recorded:
    model: str
    steps: tuple[Chunks, ...]


class Replay:
    """Implements `AnswerSource`: gives a recorded answer again."""

    def __init__(self, recorded: Recorded) -> None:
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
        for _ in range(STEPS_AT_ONCE):
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
class Whole:
    """An answer that may be kept."""

    written: str
    """As `read` reads it."""
    text: str
    """All that it says, put together: what stands in one word here may have come in many pieces. What comes by turns
    (two choices, the arguments of two calls, thoughts and log-probabilities) stands one below the other."""


class Recording:
    """Writes an answer down while it arrives. Implements `AnswerSource` around another, and that one's `ChunkSink`."""

    def __init__(self, model: str, source: AnswerSource) -> None:
        self._model = model
        self._source = source
        self._sink: ChunkSink | None = None
        self._steps: list[str] = []
        self._size = 0
        self._texts: dict[Place, list[str]] = {}
        """By choice and place: its content, arguments of each tool call, reasoning and whatever else there is."""
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
        return self._size > LONGEST

    @property
    def whole(self) -> Whole | None:
        """None where the answer was cut, is too long, says nothing, or came to no clean end."""
        ends = self._ends.values()
        pieces = self._texts.values()
        if not (self._ended and any(pieces) and ends and CLEAN_ENDS.issuperset(ends)) or self.too_long:
            return None
        written = f'{{"model":{json.dumps(self._model)},"steps":[{",".join(self._steps)}]}}'
        return Whole(written, "\n".join(map("".join, pieces)))

    def _add(self, chunks: Chunks) -> None:
        if self.too_long:
            return
        for chunk in chunks:
            self._take(chunk)
        self._steps.append(json.dumps([_written(chunk) for chunk in chunks], separators=(",", ":")))
        self._size += len(self._steps[-1])
        if self.too_long:
            self._steps, self._texts = [], {}

    def _take(self, chunk: Chunk) -> None:
        for place, text in _strings({"content": chunk.content, **chunk.extra}, (chunk.index,)):
            self._texts.setdefault(place, []).append(text)
        if chunk.usage is None or chunk.content or chunk.extra or chunk.finish_reason:
            self._ends[chunk.index] = chunk.finish_reason or self._ends.get(chunk.index, "")


def _strings(value: Any, place: Place) -> Iterator[tuple[Place, str]]:
    if isinstance(value, str):
        if value:
            yield place, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _strings(part, (*place, name))
    elif isinstance(value, list):
        for number, part in enumerate(value):
            own = part.get("index") if isinstance(part, dict) else None  # a call's, which comes in pieces
            yield from _strings(part, (*place, own if isinstance(own, int) else number))


def read(whole: str) -> Recorded | None:
    """What a recording has written; None where it is something else."""
    try:
        kept = json.loads(whole)
        return Recorded(str(kept["model"]), tuple(tuple(map(_chunk, step)) for step in kept["steps"]))
    except (ValueError, LookupError, TypeError):
        return None


def _written(chunk: Chunk) -> list[Any]:
    """Without the engine's own bytes: they say when, and to whom, it was answered first."""
    usage = chunk.usage
    counted = None if usage is None else [usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens]
    return [chunk.index, chunk.content, chunk.finish_reason, dict(chunk.extra) or None, counted]


def _chunk(written: Any) -> Chunk:
    index, content, finish_reason, extra, counted = written
    return Chunk(index, content, finish_reason, extra or {}, None if counted is None else Usage(*counted))
