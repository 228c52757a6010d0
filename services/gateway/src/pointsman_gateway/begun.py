"""How far one request has come down the line without waiting, and what is held for it meanwhile."""

from collections.abc import Coroutine, Generator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from pointsman_gateway.admission import Place
from pointsman_gateway.backends.express import Failed
from pointsman_gateway.domain import Decision, Labels, Prompt, Receipt, Request, UndecidedReceipt, Usage
from pointsman_gateway.line import Line
from pointsman_gateway.metering.attempts import PathAttempt
from pointsman_gateway.metering.meter import Meter

Result = TypeVar("Result")


class Hold(Protocol):
    """What one request holds of its caller's limits."""

    @property
    def headers(self) -> Mapping[str, str]:
        """How the limits stand, as OpenAI words it."""
        ...

    def afford_now(self, usd: float) -> bool:
        """Reserves dollars; False where `afford` is to be asked. Raises ResourceExhausted."""
        ...

    async def afford(self, usd: float) -> None:
        """Raises ResourceExhausted."""
        ...

    def settle(self, usage: Usage, usd: float, outcome: str) -> None:
        """However the request ended."""
        ...


@dataclass(slots=True)
class Begun:
    """One request on its way. What is None or False is still to be done, by whoever can wait for it."""

    request: Request
    line: Line
    """Of the generation that it began with, and ends with."""
    meter: Meter
    place: Place
    hold: Hold | None = None
    labelling: "UnderWay[Labels] | None" = None
    """Where it could not be labelled at once: the work that goes on."""
    decision: Decision | None = None
    afforded: bool = False
    error: BaseException | None = None
    """Why it cannot go on."""
    asked: tuple[Prompt, PathAttempt] | None = None
    """What an engine has been given already."""
    failed: Failed | None = None
    """What came of that, where it did not begin to answer."""
    receipt: Receipt | UndecidedReceipt | None = None
    """Once it is written."""

    @property
    def lacks_little(self) -> bool:
        """Whether it is in the house, and waits for its limits or its labels alone."""
        return self.place.taken and self.error is None and not self.afforded


class UnderWay(Generic[Result]):
    """A coroutine that has come to its first wait; awaited, it goes on from there."""

    __slots__ = ("_awaited", "_work")

    def __init__(self, work: Coroutine[Any, Any, Result], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited

    def __await__(self) -> Generator[Any, Any, Result]:
        return _rest(self._work, self._awaited)

    def close(self) -> None:
        """Nobody wants its result any more."""
        self._work.close()


class AtOnce(Generic[Result]):
    """What a coroutine returned without having waited."""

    __slots__ = ("result",)

    def __init__(self, result: Result) -> None:
        self.result = result


def first_step(work: Coroutine[Any, Any, Result]) -> AtOnce[Result] | UnderWay[Result]:
    """Runs a coroutine until it waits, without a task; most of the line's never do. Raises what it raises."""
    try:
        return UnderWay(work, work.send(None))
    except StopIteration as done:
        return AtOnce(done.value)


def _rest(work: Coroutine[Any, Any, Result], awaited: Any) -> Generator[Any, Any, Result]:
    """Hands on what the coroutine waits for, and what comes of that."""
    try:
        while True:
            try:
                came = yield awaited
            except BaseException as error:
                awaited = work.throw(error)
            else:
                awaited = work.send(came)
    except StopIteration as done:
        result: Result = done.value
        return result
