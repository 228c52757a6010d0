"""The one line that every request walks, whichever door it came through."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from pointsman_servicekit.errors import PointsmanError, Unavailable

from pointsman_gateway.admission import Admission
from pointsman_gateway.backends.stage import Backends, Opened
from pointsman_gateway.classification.stage import Classification
from pointsman_gateway.domain import Decision, Event, Finished, Prompt, Request, Started
from pointsman_gateway.metering.stage import Meter, Metering
from pointsman_gateway.prompts.stage import Prompts
from pointsman_gateway.routing.router import Router


@dataclass(frozen=True, slots=True)
class Pipeline:
    admission: Admission
    classification: Classification
    router: Router
    prompts: Prompts
    backends: Backends
    metering: Metering

    async def answer(self, request: Request) -> AsyncIterator[Event]:
        """One Started, Chunks, one Finished; or an error. Closing the iterator stops the engine's work.

        Raises PointsmanError. Before Started another path may be taken; after it never.
        """
        meter = self.metering.start()
        outcome = "cancelled"
        try:
            with self.admission.admitted(request):
                decision = await self._decide(request, meter)
                decision, opened = await self._open(request, decision, meter)
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
                meter.finish(outcome)

    async def decide(self, request: Request) -> Decision:
        """The decision alone."""
        with self.admission.admitted(request):
            return self.router.decide(request, await self.classification.label(request))

    async def prompt(self, request: Request, decision: Decision) -> Prompt:
        """The prompt that `answer` would send for this decision."""
        return await self.prompts.build(request, decision)

    async def _decide(self, request: Request, meter: Meter) -> Decision:
        labels = await self.classification.label(request)
        meter.classified()
        decision = self.router.decide(request, labels)
        meter.decided(decision)
        return decision

    async def _open(self, request: Request, decision: Decision, meter: Meter) -> tuple[Decision, Opened]:
        """The answer's beginning, by the decision's path or by the first alternative that can."""
        while True:
            try:
                prompt = await self.prompts.build(request, decision)
                meter.prompted(prompt)
                return decision, await self.backends.open(request, decision.path, prompt)
            except Unavailable as error:
                if not decision.alternatives:
                    raise
                failed = decision.path
                decision = decision.fallen_back(error.code)
                meter.fell_back(failed, decision)
