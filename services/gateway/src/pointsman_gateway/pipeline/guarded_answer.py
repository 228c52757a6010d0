"""Passes an engine's answer through guardrails: no text is sent before it has been checked."""

import asyncio
from collections import deque
from collections.abc import Sequence
from contextvars import copy_context
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from pointsman_gateway.domain import Chunk, Chunks, Decision, Prompt, Request, Usage
from pointsman_gateway.extensions import GuardedText
from pointsman_gateway.metering.pricing import estimate_tokens
from pointsman_gateway.pipeline.guardrails import Guardrails, Span, Verdicts, current_verdicts, map_texts, redact
from pointsman_gateway.ports import AnswerSource, Backend, ChunkSink, OpenAnswer

EVERY_CHARACTERS_AS_A_WHOLE = 16_384
"""Number of new characters before the next check of an answer that is not streamed."""
MAX_HELD_CHARACTERS = 65_536
"""If more characters wait for a check, the gateway stops reading from the engine."""

MAX_RELEASED_CHUNKS = 256
"""Chunks that are passed on in one iteration of the event loop. While a slow guardrail checks, tens of thousands may be
held, and all of them may be cleared at once."""


class GuardedBackend:
    """Has guardrails check the answers of another backend, including answers from the cache; implements `Backend`."""

    def __init__(self, inner: Backend, guardrails: Guardrails) -> None:
        configs = [active.config for active in guardrails.at("response")]
        self._inner = inner
        self._guardrails = guardrails
        self._overlap = max(config.overlap_characters for config in configs)
        self._every = max(config.every_characters for config in configs)

    async def open(self, request: Request, decision: Decision, prompt: Prompt) -> OpenAnswer:
        """Opens an answer that is checked; raises the inner backend's errors."""
        opened = await self._inner.open(request, decision, prompt)
        every = EVERY_CHARACTERS_AS_A_WHOLE if request.as_a_whole else self._every
        window = AnswerWindow(self._overlap, every)
        return replace(opened, source=GuardedSource(opened.source, self._guardrails, window, prompt))


@dataclass(slots=True, eq=False)
class _Channel:
    """One text of an answer: a choice's content, its reasoning, or the arguments of one of its tool calls.

    Positions count the text's characters from the beginning of the answer.
    """

    text: str = ""
    """The text from position `start` on."""
    start: int = 0
    checked: int = 0
    """The position up to which the text was checked."""
    cleared: int = 0
    """The position up to which the text may be passed on."""
    released: int = 0
    """The position up to which the text was passed on."""
    is_final: bool = False
    spans: list[Span] = field(default_factory=list)
    """The spans before `cleared` to redact."""

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    def is_due(self, every: int) -> bool:
        """Returns whether the text has `every` new characters, or is complete and not cleared to its end."""
        return self.end - self.checked >= every or (self.is_final and self.cleared < self.end)

    def clear(self, end: int, is_final: bool, overlap: int, spans: Sequence[Span]) -> None:
        """Records a check of the text up to `end`, and the spans that it found."""
        limit = end if is_final else max(self.cleared, end - overlap)
        if not is_final:
            for first, last, _ in sorted(spans, reverse=True):
                if first < limit < last:  # held back, since it may go on
                    limit = max(self.cleared, min(limit, first), end - 2 * overlap)
        found = [(max(f, self.cleared), min(last, limit), kind) for f, last, kind in spans if last > self.cleared]
        self.spans = [s for s in self.spans if s[1] > self.released] + [s for s in found if s[0] < s[1]]
        self.checked, self.cleared = end, limit
        kept = min(max(self.start, limit - overlap), end)
        self.text, self.start = self.text[kept - self.start :], kept


@dataclass(slots=True)
class _HeldChunk:
    chunk: Chunk
    pieces: list[tuple[_Channel, int, int]]
    """The channels that the chunk's texts belong to, each with the start and end of the text."""

    @property
    def is_cleared(self) -> bool:
        return all(end <= channel.cleared for channel, _, end in self.pieces)

    def released(self) -> Chunk:
        """Returns the chunk with its spans redacted, and marks its texts as released."""
        for channel, _, end in self.pieces:
            channel.released = end
        if not any(first < end and last > start for c, start, end in self.pieces for first, last, _ in c.spans):
            return self.chunk
        pieces = iter(self.pieces)

        def rewrite(at: tuple[Any, ...], text: str) -> str:
            channel, start, _ = next(pieces)
            return redact(text, channel.spans, start)

        content = map_texts(self.chunk.content, rewrite)
        delta = map_texts(self.chunk.extra.get("delta", {}), rewrite)
        # Log-probabilities hold the text too.
        return msgspec.structs.replace(self.chunk, content=content, extra={"delta": delta} if delta else {}, raw=b"")


class AnswerWindow:
    """Holds the chunks of an answer until their texts were checked together with the next `overlap` characters."""

    def __init__(self, overlap: int, every: int) -> None:
        """Keeps `overlap` characters of context; a check is due after `every` new characters."""
        self._overlap = overlap
        self._every = every
        self._held: deque[_HeldChunk] = deque()
        self._channels: dict[tuple[Any, ...], _Channel] = {}
        self._asked: list[tuple[_Channel, int, int, bool]] = []
        """The texts in the current check: channel, start, end, and whether the text is complete."""

    @property
    def is_empty(self) -> bool:
        return not self._held

    @property
    def characters(self) -> int:
        """Returns the number of characters in held chunks."""
        return sum([channel.end - channel.released for channel in self._channels.values()])

    def add(self, chunk: Chunk) -> None:
        pieces: list[tuple[_Channel, int, int]] = []

        def collect(at: tuple[Any, ...], text: str) -> str:
            channel = self._channels.setdefault((chunk.index, *at), _Channel())
            pieces.append((channel, channel.end, channel.end + len(text)))
            channel.text += text
            return text

        map_texts(chunk.content, collect)
        if chunk.extra:
            map_texts(chunk.extra.get("delta", {}), collect, ("delta",))
        self._held.append(_HeldChunk(chunk, pieces))
        if chunk.finish_reason:
            self.finish(chunk.index)

    def finish(self, index: int | None = None) -> None:
        """Records that the choice `index`, or without an index every choice, is complete."""
        for key, channel in self._channels.items():
            if index is None or key[0] == index:
                channel.is_final = True

    @property
    def is_due(self) -> bool:
        """Returns whether there is enough new text for a check."""
        return any(channel.is_due(self._every) for channel in self._channels.values())

    def texts(self) -> tuple[list[GuardedText], list[int]]:
        """Returns the texts to check, and for each the number of characters at its start that have been checked before.

        These give the guardrails context; what is found in them is ignored.
        """
        changed = [channel for channel in self._channels.values() if channel.is_due(1)]
        self._asked = [(channel, channel.start, channel.end, channel.is_final) for channel in changed]
        return [GuardedText("assistant", c.text) for c in changed], [c.cleared - c.start for c in changed]

    def clear(self, spans: Sequence[Sequence[Span]]) -> None:
        """Records the result of checking `texts`; `spans` is what to redact in each text."""
        for (channel, start, end, is_final), found in zip(self._asked, spans, strict=True):
            moved = [(start + first, start + last, kind) for first, last, kind in found]
            channel.clear(end, is_final, self._overlap, moved)

    def release(self) -> list[Chunk]:
        """Returns the next chunks that may be passed on, in order, at most `MAX_RELEASED_CHUNKS`."""
        released: list[Chunk] = []
        while self._held and len(released) < MAX_RELEASED_CHUNKS and self._held[0].is_cleared:
            released.append(self._held.popleft().released())
        return released


class GuardedSource:
    """Passes on an answer that guardrails have cleared; implements `AnswerSource`, and `ChunkSink` for the inner one.

    If a guardrail blocks, the engine is stopped, and what it has generated until then is metered by an estimate.
    """

    def __init__(self, source: AnswerSource, guardrails: Guardrails, window: AnswerWindow, prompt: Prompt) -> None:
        self._source = source
        self._guardrails = guardrails
        self._window = window
        self._prompt = prompt
        self._verdicts: Verdicts = current_verdicts.get()
        self._context = copy_context()
        self._sink: ChunkSink | None = None
        self._check: asyncio.Task[None] | None = None
        self._next_step: asyncio.Handle | None = None
        """The next step of passing on what is cleared."""
        self._pieces = 0
        self._has_usage = self._is_complete = self._is_paused = self._is_full = False

    # -- called by the run

    def attach(self, sink: ChunkSink) -> None:
        self._sink = sink
        self._source.attach(self)

    def pause(self) -> None:
        self._is_paused = True
        self._source.pause()

    def resume(self) -> None:
        self._is_paused = False
        self._advance()  # what was held for the client may have been what filled the window
        if not self._is_full and not self._is_paused:
            self._source.resume()

    def close(self) -> None:
        self._stop()
        self._source.close()

    # -- called by the source

    def chunks(self, chunks: Chunks, last: bool) -> None:
        for chunk in chunks:
            if chunk.usage is None:
                self._pieces += chunk.event_count if chunk.content or chunk.extra else 0
                self._window.add(chunk)
            elif self._sink is not None:
                self._has_usage = True
                self._sink.chunks((chunk,), False)
        self._advance()

    def ended(self, error: Exception | None) -> None:
        if error is not None:
            self._end(error)
            return
        self._is_complete = True
        self._window.finish()
        self._advance()

    # -- checks

    def _advance(self) -> None:
        """Starts the next check if it is due, and passes on the cleared chunks."""
        if self._sink is None:
            return
        if self._check is None and self._window.is_due:
            self._check = asyncio.get_running_loop().create_task(self._run_check(), context=self._context)
        self._pass_on()
        is_full = self._window.characters > MAX_HELD_CHARACTERS
        if is_full != self._is_full:
            self._is_full = is_full
            if is_full:
                self._source.pause()
            elif not self._is_paused:
                self._source.resume()

    async def _run_check(self) -> None:
        try:
            texts, checked = self._window.texts()
            self._window.clear(await self._guardrails.check("response", texts, self._verdicts, checked))
        except Exception as error:  # also a bug of the check: nobody else would end the answer
            self._check = None
            self._end(error)
            return
        self._check = None
        self._advance()

    def _pass_on(self) -> None:
        if self._is_paused or self._sink is None or self._next_step is not None:
            return
        try:
            released = self._window.release()
            is_over = self._is_complete and self._window.is_empty
            if released:
                self._sink.chunks(tuple(released), is_over)
        except Exception as error:  # the caller may be a callback of which nobody hears
            self._end(error)
            return
        if is_over and self._sink is not None:
            sink, self._sink = self._sink, None
            sink.ended(None)
        elif len(released) == MAX_RELEASED_CHUNKS:
            self._next_step = asyncio.get_running_loop().call_soon(self._pass_on_more, context=self._context)

    def _pass_on_more(self) -> None:
        self._next_step = None
        self._advance()

    def _end(self, error: Exception) -> None:
        sink = self._stop()
        self._source.close()
        if sink is not None:
            sink.ended(error)

    def _stop(self) -> ChunkSink | None:
        """Stops passing chunks on. If the engine has not reported the usage, passes on an estimate. Return the sink."""
        sink, self._sink = self._sink, None
        check, self._check = self._check, None
        if check is not None:
            check.cancel()
        if sink is not None and self._pieces and not self._has_usage:
            usage = Usage(estimate_tokens(self._prompt.messages), self._pieces)
            sink.chunks((Chunk(usage=usage),), False)
        return sink
