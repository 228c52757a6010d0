"""The one line that every request walks, whichever door it came through."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

from pointsman_servicekit.correlation import NONE, decision_id
from pointsman_servicekit.errors import PointsmanError, ResourceExhausted, Unavailable

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.failures import NOT_RESIDENT, NotLoaded, NotLoadedInTime
from pointsman_gateway.backends.stage import Opened
from pointsman_gateway.begun import AtOnce, Begun, Hold, first_step
from pointsman_gateway.domain import (
    ANYONE,
    Answered,
    Caller,
    Chunks,
    Decision,
    Event,
    Finished,
    Labels,
    Operation,
    Prompt,
    Receipt,
    Request,
    Started,
    Undecided,
)
from pointsman_gateway.domain.outcome import CANCELLED, INTERNAL, OK, ROUTED
from pointsman_gateway.line import Line
from pointsman_gateway.metering.attempts import Try
from pointsman_gateway.metering.pricing import expected_tokens
from pointsman_gateway.metering.stage import Meter
from pointsman_gateway.validation.stage import Judge, Verdict, refusal
from pointsman_gateway.validation.transcript import Transcript


class Journal(Protocol):
    """Keeps the receipt of every request; never waits, never fails."""

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        """Whether they are to be read along, for `note`."""
        ...

    def note(self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[Answered, ...] = ()) -> None:
        """What was decided, and what came of it. `answers`: the last one is the caller's."""
        ...

    def note_undecided(self, receipt: Undecided) -> None:
        """What came to no decision."""
        ...


class Tenancy(Protocol):
    """Knows what each caller may still use."""

    def enter_now(self, caller: Caller, tokens: int) -> Hold | None:
        """Reserves a request, and as many tokens; None where `enter` is to be asked. Raises ResourceExhausted."""
        ...

    async def enter(self, caller: Caller, tokens: int) -> Hold:
        """Raises ResourceExhausted."""
        ...

    def headers(self, caller: Caller) -> Mapping[str, str]:
        """How the caller's limits stand, as OpenAI words it."""
        ...


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    tenancy: Tenancy
    current: Callable[[], Line]
    journal: Journal

    def begin(self, request: Request) -> Begun:
        """As far as it goes without waiting. Whoever has it hands it to `answer`, or else to `end`."""
        line = self.current()
        begun = Begun(request, line, line.metering.start(request), self.admission.admitted(request))
        try:
            self._advance(begun)
        except Exception as error:
            begun.error = error
        return begun

    async def answer(self, request: Request, begun: Begun | None = None) -> AsyncIterator[Event]:
        """One Started, Chunks, one Finished; or an error. Closing the iterator stops the engine's work.

        Goes on with what is `begun`, if anything is. Raises PointsmanError. Before Started another path may be taken;
        after it never.
        """
        begun = begun or self.begin(request)
        meter = begun.meter
        decision_id.set(NONE)
        outcome, failure = CANCELLED, None
        try:
            if begun.error is not None:
                raise begun.error
            async with begun.place:
                decision, hold = await self._ready(begun)
                decision_id.set(decision.id)
                answering = _Answering(begun, decision, self.journal.wants_answers(request, decision))
                finish_reason, heard = "", False
                try:
                    answer = await answering.begin(decision)
                    yield Started(answer.decision, answer.model, meter.overhead, answer.cached, hold.headers)
                    async for chunks in answer.chunks:
                        for chunk in chunks:
                            if chunk.finish_reason:
                                finish_reason = chunk.finish_reason
                        heard = heard or meter.handed_on(chunks)
                        yield chunks
                finally:
                    await answering.aclose()
                outcome = OK
                receipt = self.end(begun, outcome, answers=answering.answers)
                assert isinstance(receipt, Receipt)  # it was decided
        except PointsmanError as error:
            outcome, failure = error.code, error
            raise
        except (asyncio.CancelledError, GeneratorExit):
            raise
        except Exception:
            outcome = INTERNAL
            raise
        finally:
            if outcome != OK:
                self.end(begun, outcome, failure)
        yield Finished(finish_reason, receipt)  # it has its receipt: whatever happens to the reader now is no other end

    def end(
        self,
        begun: Begun,
        outcome: str,
        failure: PointsmanError | None = None,
        answers: tuple[Answered, ...] = (),
    ) -> Receipt | Undecided:
        """Settles all that was held for the request, and writes its receipt. Called once.

        `outcome` is "ok", "cancelled", "internal" or the code of `failure`, which is given the receipt.
        """
        begun.place.leave()
        if begun.labelling is not None:
            begun.labelling.close()
        receipt = begun.meter.finish(outcome, failure)
        if failure is not None:
            failure.receipt = receipt
        self._close(begun.request, begun.hold, receipt, answers)
        return receipt

    async def decide(self, request: Request) -> Decision:
        """The decision alone."""
        line = self.current()
        meter = line.metering.start(replace(request, operation="route"))
        outcome, hold, failure = CANCELLED, None, None
        try:
            async with self.admission.admitted(request):
                hold = self._enter_now(request, 0) or await self._enter(request, 0)
                meter.admitted()
                decision = line.router.decide(request, await line.classification.label(request))
                meter.decided(decision)
            outcome = ROUTED
        except PointsmanError as error:
            outcome, failure = error.code, error
            raise
        except asyncio.CancelledError:
            raise
        except Exception:
            outcome = INTERNAL
            raise
        finally:
            if outcome != ROUTED:
                receipt = meter.finish(outcome, failure)
                if failure is not None:
                    failure.receipt = receipt
                self._close(request, hold, receipt)
        self._close(request, hold, meter.routed())
        return decision

    def costs(self, request: Request, decision: Decision) -> Mapping[str, float]:
        """Dollars by path, of those that were considered: what the request is likely to cost there."""
        return self.current().router.costs(request, decision)

    def turned_away(
        self, operation: Operation, error: PointsmanError | None, arrived: float = 0.0, caller: Caller = ANYONE
    ) -> None:
        """A door has refused a request before it came to the line, or (without an error) lost its client: the request
        leaves its receipt all the same."""
        meter = self.current().metering.start(Request("", (), caller=caller, arrived=arrived, operation=operation))
        receipt = meter.finish(error.code if error else CANCELLED, error)
        assert isinstance(receipt, Undecided)  # nothing has decided
        self.journal.note_undecided(receipt)

    async def prompt(self, request: Request, decision: Decision) -> Prompt:
        """The prompt that `answer` would send for this decision."""
        return await self.current().prompts.build(request, decision)

    def _advance(self, begun: Begun) -> None:
        """To its first wait."""
        request = begun.request
        if not begun.place.enter_now():
            return
        begun.hold = self._enter_now(request, expected_tokens(request))
        if begun.hold is None:
            return
        begun.meter.admitted()
        labelled = first_step(begun.line.classification.label(request))
        if isinstance(labelled, AtOnce):
            _decide(begun, begun.hold, labelled.result)
        else:
            begun.labelling = labelled

    async def _ready(self, begun: Begun) -> tuple[Decision, Hold]:
        """Does what is still to be done before an engine is asked."""
        request = begun.request
        if begun.hold is None:
            tokens = expected_tokens(request)
            begun.hold = self._enter_now(request, tokens) or await self._enter(request, tokens)
            begun.meter.admitted()
        hold = begun.hold
        if begun.decision is None:
            labelling, begun.labelling = begun.labelling, None
            labels = await (labelling or begun.line.classification.label(request))
            _decide(begun, hold, labels)
        decision = begun.decision
        assert decision is not None
        if not begun.afforded:
            await hold.afford(decision.expected_cost_usd)
        return decision, hold

    def _enter_now(self, request: Request, tokens: int) -> Hold | None:
        try:
            return self.tenancy.enter_now(request.caller, tokens)
        except ResourceExhausted as error:
            error.limits = self.tenancy.headers(request.caller)
            raise

    async def _enter(self, request: Request, tokens: int) -> Hold:
        try:
            return await self.tenancy.enter(request.caller, tokens)
        except ResourceExhausted as error:
            error.limits = self.tenancy.headers(request.caller)
            raise

    def _close(
        self,
        request: Request,
        hold: Hold | None,
        receipt: Receipt | Undecided,
        answers: tuple[Answered, ...] = (),
    ) -> None:
        if hold is not None:
            hold.settle(receipt.usage, receipt.cost_usd, receipt.outcome)
        if isinstance(receipt, Receipt):
            self.journal.note(request, receipt.decision, receipt, answers)
        else:
            self.journal.note_undecided(receipt)


def _decide(begun: Begun, hold: Hold, labels: Labels) -> None:
    begun.decision = decision = begun.line.router.decide(begun.request, labels)
    begun.meter.decided(decision)
    begun.afforded = hold.afford_now(decision.expected_cost_usd)


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

    def __init__(self, begun: Begun, decision: Decision, keeps: bool) -> None:
        """`keeps`: whether the answers are read along, for `answers`."""
        self._begun = begun
        self._line = begun.line
        self._request = begun.request
        self._judge = begun.line.validation.judge(begun.request, decision)
        self._meter = begun.meter
        self._keeps = keeps
        self._kept: list[_Reading] = []
        self._opened: Opened | None = None

    @property
    def answers(self) -> tuple[Answered, ...]:
        """Those that came to their end; none where they are not kept, or where one is more than a text."""
        found = [reading.answered for reading in self._kept if reading.ended]
        return tuple(answer for answer in found if answer is not None) if None not in found else ()

    async def aclose(self) -> None:
        """Lets go of the engine, where one still answers."""
        if self._opened is not None:
            await self._opened.chunks.aclose()  # type: ignore[attr-defined]  # it has one

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
            self._meter.failed(error.code, _waited(error))
            self._meter.kept(following.path, kept)
            return replace(answer, decision=kept)

    async def _open(self, decision: Decision) -> _Answer:
        """By the decision's path, or by the first alternative that can."""
        while True:
            try:
                return await self._try(decision)
            except NotLoadedInTime as error:
                self._meter.failed(NOT_RESIDENT, error.waited)
                raise
            except Unavailable as error:
                self._meter.failed(error.code, _waited(error))
                if not decision.alternatives:
                    raise
                failed = decision.path
                decision = decision.fallen_back(error.code)
                self._meter.fell_back(failed, decision)

    async def _try(self, decision: Decision) -> _Answer:
        opened, tried = await self._ask(decision)
        self._opened = opened
        tried.opened(opened.model, opened.cached, opened.hedged, opened.waited)
        reading = _Reading(opened, self._judge, self._meter, tried, decision, self._keeps)
        if self._keeps:
            self._kept.append(reading)
        answer = _Answer(decision, opened.model, reading, opened.cached)
        return await self._hold(answer, reading) if decision.held else answer

    async def _ask(self, decision: Decision) -> tuple[Opened, Try]:
        """Of an engine that was given the prompt already, only what comes after it has failed."""
        line, begun = self._line, self._begun
        (prompt, tried), begun.asked = begun.asked or (None, None), None
        failed, begun.failed = begun.failed, None
        if prompt is None or tried is None:
            tried = self._meter.tries(decision.path)
            prompt = await line.prompts.build(self._request, decision)
            tried.prompted(prompt)
        if failed is not None:
            return await line.express.go_on(failed), tried
        return await line.answers.open(self._judge.asked(self._request), decision, prompt), tried

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
    """One path's answer as the caller gets it: metered, and read along by the judge. An iterator over chunks.

    A class where a generator would do: it stands in the way of every piece of every answer.
    """

    def __init__(self, opened: Opened, judge: Judge, meter: Meter, tried: Try, decision: Decision, keeps: bool) -> None:
        self.transcript = Transcript()
        self.verdicts: tuple[Verdict, ...] = ()
        """Empty until the answer has come to its end."""
        self.ended = False
        self._reads = keeps or judge.judges
        self._raw = opened.chunks
        self._accepted = opened.accepted
        self._judge = judge
        self._meter = meter
        self._tried = tried
        self._decision = decision

    def __aiter__(self) -> "_Reading":
        return self

    async def __anext__(self) -> Chunks:
        while True:
            try:
                chunks = await anext(self._raw)
            except StopAsyncIteration:
                self._end()
                raise
            if chunks[-1].usage is not None:
                chunks = self._used(chunks)
            if self._reads:
                chunks = self._judged(chunks)
            if chunks:
                self._tried.came(chunks)
                return chunks

    async def aclose(self) -> None:
        await self._raw.aclose()  # type: ignore[attr-defined]  # it has one

    @property
    def answered(self) -> Answered | None:
        """None where there is more, or less, to it than one whole text."""
        choices = self.transcript.choices()
        if self.transcript.too_long or len(choices) != 1 or choices[0].calls_tools or not choices[0].text.strip():
            return None
        verdicts = tuple((v.validator, str(v.ruling), v.reason) for v in self.verdicts)
        return Answered(self._decision.path.name, choices[0].text, verdicts)

    def _end(self) -> None:
        if self.ended:
            return
        self.ended = True
        self.verdicts = self._judge.verdicts(self.transcript)
        for verdict in self.verdicts:
            self._meter.judged(self._decision, verdict.validator, verdict.ruling)
        if refusal(self.verdicts) is None:
            self._accepted()

    def _used(self, chunks: Chunks) -> Chunks:
        """Without the usage, which comes last."""
        usage = chunks[-1].usage
        assert usage is not None
        self._meter.used(usage)
        return chunks[:-1]

    def _judged(self, chunks: Chunks) -> Chunks:
        for chunk in chunks:
            self.transcript.add(chunk)
        return tuple(told for chunk in chunks if (told := self._judge.told(chunk)) is not None)


def _waited(error: PointsmanError) -> float:
    """Seconds that were lost with an adapter which could not be loaded."""
    return error.waited if isinstance(error, NotLoaded) else 0.0


async def _from(held: Sequence[Chunks], rest: AsyncIterator[Chunks]) -> AsyncIterator[Chunks]:
    async with aclosing(rest):  # type: ignore[type-var]  # a generator's
        for chunks in held:
            yield chunks
        async for chunks in rest:
            yield chunks
