"""Has guardrails check an answer while it arrives from the engine: no text is sent to the client before it was
checked.
"""

import asyncio
from contextvars import copy_context
from dataclasses import replace

from pointsman_gateway.domain import Chunk, Chunks, Decision, Prompt, Request, Usage
from pointsman_gateway.metering.token_estimates import estimate_usage
from pointsman_gateway.pipeline.answer_window import MAX_RELEASED_CHUNKS, AnswerWindow
from pointsman_gateway.pipeline.guardrails import Guardrails, Verdicts, current_verdicts
from pointsman_gateway.ports import AnswerSource, AnswerStream, Backend, CallRecord, ChunkSink

EVERY_CHARACTERS_AS_A_WHOLE = 16_384
"""Guardrails check an answer that is not streamed to the client each time it has this many new characters."""
MAX_HELD_CHARACTERS = 65_536
"""If more characters of an answer than this wait for guardrails, the gateway stops reading from the engine."""


class GuardedBackend:
    """Wraps a backend (the engines and the cache), and has guardrails check its answers, including those from the
    cache. Implements `Backend`.
    """

    def __init__(self, inner: Backend, guardrails: Guardrails) -> None:
        configs = [active.config for active in guardrails.at("response")]
        self._inner = inner
        self._guardrails = guardrails
        self._overlap = max(config.overlap_characters for config in configs)
        self._every = max(config.every_characters for config in configs)

    async def call(self, request: Request, decision: Decision, prompt: Prompt, record: CallRecord) -> AnswerStream:
        """Calls the wrapped backend, and returns its answer, which guardrails check while it arrives.

        Raises the wrapped backend's errors. The answer itself ends with GuardrailBlocked if a guardrail blocks it, and
        with GuardrailUnavailable if a guardrail with `fail: closed` cannot check it.
        """
        answer = await self._inner.call(request, decision, prompt, record)
        every = EVERY_CHARACTERS_AS_A_WHOLE if request.as_a_whole else self._every
        window = AnswerWindow(self._overlap, every)
        return replace(answer, source=GuardedSource(answer.source, self._guardrails, window, prompt))


class GuardedSource:
    """Passes an engine's answer on to a sink, each part after guardrails have checked it. Implements `AnswerSource`
    for the code that reads the answer, and `ChunkSink` for the engine's source.

    If a guardrail blocks the answer, the engine is stopped, and its tokens are estimated unless it has reported them.
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
        """The next step of passing on cleared chunks."""
        self._pieces = 0
        self._usage: Usage | None = None
        self._is_complete = self._is_paused = self._is_full = False

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
                self._usage = chunk.usage
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
        """Starts the next check if it is due, sends cleared chunks, and pauses or resumes the engine's answer."""
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
        """Stops sending chunks, and cancels the check in progress. Returns the sink; None if it was stopped before.

        If the engine has not reported the final usage, the sink gets an estimate first.
        """
        sink, self._sink = self._sink, None
        check, self._check = self._check, None
        if check is not None:
            check.cancel()
        if sink is not None and self._pieces and (self._usage is None or self._usage.is_estimate):
            usage = estimate_usage(self._prompt.messages, self._pieces, self._usage, is_sent=bool(self._pieces))
            sink.chunks((Chunk(usage=usage),), False)
        return sink
