"""The one line that every request walks, whichever door it came through."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.stage import Backends, Opened
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import Decision, Event, Finished, Prompt, Receipt, Request, Started
from pointsman_gateway.metering.stage import Meter, Metering
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.routing.router import Router


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
            with self.admission.admitted(request):
                decision = await _decide(line, request)
                meter.decided(decision)
                decision, opened = await _open(line, request, decision, meter)
                meter.opened(opened.model)
                yield Started(decision, opened.model, meter.overhead)
                finish_reason = ""
                async with aclosing(opened.chunks):  # type: ignore[type-var]  # a generator's
                    async for chunk in opened.chunks:
                        finish_reason = chunk.finish_reason or finish_reason
                        if chunk.usage:
                            meter.used(chunk.usage)
                        else:
                            if chunk.content or chunk.extra:
                                meter.token()
                            yield chunk
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
        with self.admission.admitted(request):
            decision = await _decide(self.current(), request)
            self.journal.note(request, decision, None)
            return decision

    async def prompt(self, request: Request, decision: Decision) -> Prompt:
        """The prompt that `answer` would send for this decision."""
        return await self.current().prompts.build(request, decision)


async def _decide(line: Line, request: Request) -> Decision:
    return line.router.decide(request, await line.classification.label(request))


async def _open(line: Line, request: Request, decision: Decision, meter: Meter) -> tuple[Decision, Opened]:
    """The answer's beginning, by the decision's path or by the first alternative that can."""
    while True:
        try:
            prompt = await line.prompts.build(request, decision)
            meter.prompted(prompt)
            return decision, await line.backends.open(request, decision.path, prompt)
        except Unavailable as error:
            if not decision.alternatives:
                raise
            failed = decision.path
            decision = decision.fallen_back(error.code)
            meter.fell_back(failed, decision)
