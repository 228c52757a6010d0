"""The one line that every request walks, whichever door it came through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.stage import Backends
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import Chunk, Chunks, Decision, Event, Finished, Prompt, Receipt, Request, Started
from pointsman_gateway.metering.stage import Meter, Metering
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.routing.router import Router
from pointsman_gateway.validation.stage import Judge, Validation, Verdict, refusal
from pointsman_gateway.validation.transcript import Transcript


class Journal(Protocol):
    """Keeps what was decided, and what came of it; never waits, never fails."""

    def note(self, request: Request, decision: Decision, receipt: Receipt | None) -> None:
        """`receipt` is None where nothing was asked for but the decision."""
        ...


@dataclass(frozen=True, slots=True)
class Line:
    """The stages of one generation of the configuration; a request walks one of them to its end."""

    generation: str
    classification: Classification
    router: Router
    prompts: Prompts
    backends: Backends
    validation: Validation
    metering: Metering


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    current: Callable[[], Line]
    journal: Journal

    async def answer(self, request: Request) -> AsyncIterator[Event]:
        """One Started, Chunks, one Finished; or an error. Closing the iterator stops the engine's work.

        Raises PointsmanError. Before Started another path may be taken; after it never.
        """
        line = self.current()
        meter = line.metering.start()
        outcome = "cancelled"
        try:
            async with self.admission.admitted(request):
                decision = await _decide(line, request)
                meter.decided(decision)
                answer = await _Answering(line, request, decision, meter).begin(decision)
                yield Started(answer.decision, answer.model, meter.overhead, answer.cached)
                finish_reason = ""
                async with aclosing(answer.chunks):  # type: ignore[type-var]  # a generator's
                    async for chunks in answer.chunks:
                        for chunk in chunks:
                            finish_reason = chunk.finish_reason or finish_reason
                            if chunk.content or chunk.extra:
                                meter.handed_on()
                        yield chunks
                outcome = "ok"
                receipt = meter.finish(outcome)
                assert receipt is not None
                self.journal.note(request, receipt.decision, receipt)
                yield Finished(finish_reason, receipt)
        except PointsmanError as error:
            outcome = error.code
            raise
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            outcome = "internal"
            raise
        finally:
            if outcome != "ok":
                cut_short = meter.finish(outcome)
                if cut_short is not None:
                    self.journal.note(request, cut_short.decision, cut_short)

    async def decide(self, request: Request) -> Decision:
        """The decision alone."""
        async with self.admission.admitted(request):
            decision = await _decide(self.current(), request)
            self.journal.note(request, decision, None)
            return decision

    async def prompt(self, request: Request, decision: Decision) -> Prompt:
        """The prompt that `answer` would send for this decision."""
        return await self.current().prompts.build(request, decision)


async def _decide(line: Line, request: Request) -> Decision:
    return line.router.decide(request, await line.classification.label(request))


@dataclass(frozen=True, slots=True)
class _Answer:
    """An answer that has begun."""

    decision: Decision
    model: str
    chunks: AsyncIterator[Chunks]
    cached: str = ""
    refusal: Verdict | None = None
    """Why it should not be sent; an answer that is not held back has none."""


class _Answering:
    """The way of one request from its decision to its answer."""

    def __init__(self, line: Line, request: Request, decision: Decision, meter: Meter) -> None:
        self._line = line
        self._request = request
        self._judge = line.validation.judge(request, decision)
        self._meter = meter

    async def begin(self, decision: Decision) -> _Answer:
        """The answer that the caller gets: where a first one is not accepted, that of the next path.

        Where there is no other to be had, the first one is sent after all. Raises PointsmanError.
        """
        answer = await self._open(decision)
        if answer.refusal is None:
            return answer
        refused, validator = answer.decision, answer.refusal.validator
        following = refused.escalated(validator, str(answer.refusal))
        self._meter.escalated(refused.path, following, validator)
        try:
            return await self._open(following)
        except PointsmanError as error:
            kept = refused.kept(str(answer.refusal), following, error.code)
            self._meter.kept(following.path, kept)
            return replace(answer, decision=kept)

    async def _open(self, decision: Decision) -> _Answer:
        """By the decision's path, or by the first alternative that can."""
        while True:
            try:
                return await self._try(decision)
            except Unavailable as error:
                if not decision.alternatives:
                    raise
                failed = decision.path
                decision = decision.fallen_back(error.code)
                self._meter.fell_back(failed, decision)

    async def _try(self, decision: Decision) -> _Answer:
        self._meter.tries(decision.path)
        prompt = await self._line.prompts.build(self._request, decision)
        self._meter.prompted(prompt)
        opened = await self._line.backends.open(self._judge.asked(self._request), decision, prompt)
        self._meter.opened(opened.model, opened.cached)
        reading = _Reading(opened.chunks, self._judge, self._meter, decision)
        answer = _Answer(decision, opened.model, reading.chunks(), opened.cached)
        return await self._hold(answer, reading) if decision.held else answer

    async def _hold(self, answer: _Answer, reading: "_Reading") -> _Answer:
        """The answer once it is judged; one that is too long to be judged goes on as it comes."""
        held = []
        async for chunks in answer.chunks:
            held.append(chunks)
            if reading.transcript.too_long:
                break
        self._meter.held()
        return replace(answer, chunks=_from(held, answer.chunks), refusal=refusal(reading.verdicts))


class _Reading:
    """One path's answer, metered and read along by the judge."""

    def __init__(self, raw: AsyncIterator[Chunks], judge: Judge, meter: Meter, decision: Decision) -> None:
        self.transcript = Transcript()
        self.verdicts: tuple[Verdict, ...] = ()
        """Empty until the answer has come to its end."""
        self._raw = raw
        self._judge = judge
        self._meter = meter
        self._decision = decision

    async def chunks(self) -> AsyncIterator[Chunks]:
        """As the caller gets them."""
        async with aclosing(self._raw):  # type: ignore[type-var]  # a generator's
            async for chunks in self._raw:
                told = tuple(told for chunk in chunks if (told := self._told(chunk)) is not None)
                if told:
                    yield told
        self.verdicts = self._judge.verdicts(self.transcript)
        for verdict in self.verdicts:
            self._meter.judged(self._decision, verdict.validator, verdict.ruling)

    def _told(self, chunk: Chunk) -> Chunk | None:
        if chunk.usage:
            self._meter.used(chunk.usage)
            return None
        if self._judge.judges:
            self.transcript.add(chunk)
        told = self._judge.told(chunk)
        if told is not None and (told.content or told.extra):
            self._meter.token()
        return told


async def _from(held: Sequence[Chunks], rest: AsyncIterator[Chunks]) -> AsyncIterator[Chunks]:
    async with aclosing(rest):  # type: ignore[type-var]  # a generator's
        for chunks in held:
            yield chunks
        async for chunks in rest:
            yield chunks
