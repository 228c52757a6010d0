"""The way of one request from its decision to its answer: along its path, or along the next one that can."""

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from pointsman_servicekit.errors import PointsmanError, ResourceExhausted, Unavailable

from pointsman_gateway.backends.failures import NOT_RESIDENT, NotLoaded, NotLoadedInTime
from pointsman_gateway.backends.stage import Opened
from pointsman_gateway.begun import Begun
from pointsman_gateway.domain import Chunks, CompletedAnswer, Decision
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.prompts.strategies import NothingRelevant
from pointsman_gateway.reading import Reading
from pointsman_gateway.validation.stage import Verdict, refusal


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has begun."""

    decision: Decision
    model: str
    chunks: AsyncIterator[Chunks]
    cached: str = ""
    refusal: Verdict | None = None
    """Why it should not be sent; an answer that is not held back has none."""


class Answering:
    """The way of one request from its decision to its answer."""

    def __init__(self, begun: Begun, decision: Decision, keeps: bool) -> None:
        """`keeps`: whether the answers are read along, for `answers`."""
        self._begun = begun
        self._line = begun.line
        self._request = begun.request
        self._judge = begun.line.validation.judge(begun.request, decision)
        self._meter = begun.meter
        self._keeps = keeps
        costs = begun.line.metering.expected_cost
        self._left = decision.expected_cost_usd + costs.beside(decision)
        """Dollars that are held for the caller, and not owed yet."""
        self._kept: list[Reading] = []
        self._opened: Opened | None = None

    @property
    def answers(self) -> tuple[CompletedAnswer, ...]:
        """Those that came to their end; none where they are not kept, or where one is more than a text."""
        found = [reading.answered for reading in self._kept if reading.ended]
        return tuple(answer for answer in found if answer is not None) if None not in found else ()

    async def aclose(self) -> None:
        """Lets go of the engine, where one still answers."""
        if self._opened is not None:
            await self._opened.chunks.aclose()  # type: ignore[attr-defined]  # it has one

    async def begin(self, decision: Decision) -> Answer:
        """The answer that the caller gets: where a first one is not accepted, that of the next path.

        Where there is no other to be had, the first one is sent after all. Raises PointsmanError.
        """
        answer = await self._open(decision)
        if answer.refusal is None:
            return answer
        refused, why = answer.decision, str(answer.refusal)
        validator = answer.refusal.validator
        self._left = 0.0  # what was held is owed for the answer that was refused
        try:
            following = await self._affordable(refused.with_escalation(validator, why))
        except ResourceExhausted as error:
            kept = refused.with_failed_escalation(why, refused.with_escalation(validator, why), error.code)
            self._meter.stayed(kept)
            return replace(answer, decision=kept)
        self._meter.escalated(refused.path, following, validator)
        try:
            return await self._open(following)
        except PointsmanError as error:
            kept = refused.with_failed_escalation(why, following, error.code)
            self._meter.failed(error.code, _waited(error))
            self._meter.kept(following.path, kept)
            return replace(answer, decision=kept)

    async def _open(self, decision: Decision) -> Answer:
        """By the decision's path, or by the first alternative that can."""
        while True:
            try:
                return await self._try(decision)
            except NotLoadedInTime as error:
                self._meter.failed(NOT_RESIDENT, error.waited)
                raise
            except Unavailable as error:
                self._meter.failed(error.code, _waited(error))
                following = await self._following(decision, error.code)
                if following is None:
                    raise
                self._meter.fell_back(decision.path, following)
                decision = following

    async def _following(self, decision: Decision, reason: str) -> Decision | None:
        """By the next path, where that of `decision` failed for `reason`; None where there is none to be had."""
        if not decision.alternatives:
            return None
        try:
            return await self._affordable(decision.with_fallback(reason))
        except ResourceExhausted:
            return None

    async def _affordable(self, decision: Decision) -> Decision:
        """The decision; by the first alternative that its caller has the dollars for, where its path costs more. Raises
        ResourceExhausted."""
        hold, costs = self._begun.hold, self._line.metering.expected_cost
        assert hold is not None  # it was decided
        while True:
            usd = costs.usd(decision.path, self._request) + costs.beside(decision)
            try:
                await hold.afford(max(0.0, usd - self._left))
            except ResourceExhausted as error:
                if not decision.alternatives:
                    raise
                decision = decision.with_fallback(error.code)
            else:
                self._left = max(usd, self._left)
                return decision

    async def _try(self, decision: Decision) -> Answer:
        opened, tried = await self._ask(decision)
        self._opened = opened
        tried.opened(opened.model, opened.cached, opened.hedged, opened.waited, opened.embeddings)
        reading = Reading(opened, self._judge, self._meter, tried, decision, self._keeps)
        if self._keeps:
            self._kept.append(reading)
        answer = Answer(decision, opened.model, reading, opened.cached)
        return await self._hold(answer, reading) if decision.is_buffered else answer

    async def _ask(self, decision: Decision) -> tuple[Opened, PathAttempt]:
        """Of an engine that was given the prompt already, only what comes after it has failed."""
        line, begun = self._line, self._begun
        (prompt, tried), begun.asked = begun.asked or (None, None), None
        failed, begun.failed = begun.failed, None
        if prompt is None or tried is None:
            tried = self._meter.tries(decision.path)
            try:
                prompt = await line.prompts.build(self._request, decision)
            except NothingRelevant as nothing:
                tried.prompt = nothing.spent  # it goes to no engine; what was looked up is paid all the same
                raise
            tried.prompted(prompt)
        if failed is not None:
            try:
                return await line.express.go_on(failed, self._request, decision, prompt), tried
            finally:
                del failed  # or it and this frame, which is in its traceback, hold each other
        return await line.answers.open(self._judge.asked(self._request), decision, prompt), tried

    async def _hold(self, answer: Answer, reading: Reading) -> Answer:
        """The answer once it is judged; one that is too long to be judged goes on as it comes."""
        held = []
        async for chunks in answer.chunks:
            held.append(chunks)
            if reading.transcript.too_long:
                break
        self._meter.held()
        return replace(answer, chunks=_from(held, answer.chunks), refusal=refusal(reading.verdicts))


def _waited(error: PointsmanError) -> float:
    """Seconds that were lost with an adapter which could not be loaded."""
    return error.waited if isinstance(error, NotLoaded) else 0.0


async def _from(held: Sequence[Chunks], rest: AsyncIterator[Chunks]) -> AsyncIterator[Chunks]:
    async with aclosing(rest):  # type: ignore[type-var]  # a generator's
        for chunks in held:
            yield chunks
        async for chunks in rest:
            yield chunks
