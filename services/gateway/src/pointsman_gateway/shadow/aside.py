"""The way of a shadow: the line that every request walks, past all that is the caller's."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry

from pointsman_gateway.admission import Admission
from pointsman_gateway.domain import Answered, Decision, Labels, Receipt, Request, Undecided
from pointsman_gateway.line import Line
from pointsman_gateway.metering.counting import Counting
from pointsman_gateway.metering.outcomes import Trials
from pointsman_gateway.pipeline.pipeline import Pipeline
from pointsman_gateway.tenancy.no_keys import NoKeys


@dataclass(slots=True)
class _Notebook:
    """Stands where the journal stands; holds what came of the one request."""

    receipt: Receipt | None = None
    answer: Answered | None = None

    def wants_answers(self, request: Request, decision: Decision) -> bool:
        return True

    def note(self, request: Request, decision: Decision, receipt: Receipt, answers: tuple[Answered, ...] = ()) -> None:
        self.receipt, self.answer = receipt, answers[-1] if answers else None

    def note_undecided(self, receipt: Undecided) -> None:
        """It has cost nothing."""


@dataclass(frozen=True, slots=True)
class _Known:
    """Stands where the classification stands: the request has its task already."""

    labels: Labels

    async def label(self, request: Request) -> Labels:
        return self.labels


@dataclass(frozen=True, slots=True)
class Told:
    """How a shadow ended, in whatever way."""

    receipt: Receipt | None
    """None where it ended before a path was decided."""
    answer: Answered | None = None
    """None where it did not come to its end, or is more than one text."""


class Aside:
    """Takes no place in the house, nothing of a caller's limits, and counts in no series of requests."""

    def __init__(self, current: Callable[[], Line], most: int) -> None:
        """`most` may be under way at once."""
        apart = CollectorRegistry()  # nobody reads it: what shadows do is counted by `ShadowMetrics`
        self._current = current
        self._counting = Counting(apart)
        self._admission = Admission(most, self._counting.metrics.in_flight)

    async def answer(self, request: Request, labels: Labels, tell: Callable[[Told], None]) -> None:
        """`tell` hears how it ended, once, also where this is cancelled. Raises PointsmanError."""
        line, notebook = self._current(), _Notebook()
        metering = line.metering.apart(self._counting, Trials())
        walked = replace(line, classification=_Known(labels), metering=metering)
        answering = Pipeline(self._admission, NoKeys(), lambda: walked, notebook).answer(request)
        try:
            async for _ in answering:
                pass
        finally:
            await answering.aclose()
            tell(Told(notebook.receipt, notebook.answer))
