"""A limit on the time of all parts together, and the parts that could not be measured."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TypeVar

import grpc

from benchmarks.gateway_load.machine import CannotMeasure

Found = TypeVar("Found")
NO_ANSWER = "it waited in vain for something"


@dataclass(frozen=True, slots=True)
class Missing:
    part: str
    reason: str
    is_failure: bool
    """False if this machine or this run could not have it."""


@dataclass(slots=True)
class TimeLimit:
    """Runs parts one after the other until the time is over."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    missing: list[Missing] = field(default_factory=list)
    """The parts that were not measured."""
    _started: float = 0.0

    def __post_init__(self) -> None:
        self._started = self.clock()

    @property
    def left(self) -> float:
        """Returns the seconds that are left, at least 0."""
        return max(0.0, self._started + self.seconds - self.clock())

    @property
    def has_failed(self) -> bool:
        return any(one.is_failure for one in self.missing)

    def leave_out(self, part: str, reason: str) -> None:
        """Notes a part that does not apply, which is no failure."""
        self.missing.append(Missing(part, reason, is_failure=False))

    def miss(self, part: str, reason: str) -> None:
        self.missing.append(Missing(part, reason, is_failure=True))

    async def run(self, part: str, measure: Callable[[], Awaitable[Found]]) -> Found | None:
        """Returns what `measure` finds; None if it cannot measure, or the time is over, which `missing` then says.

        `measure` is cancelled when the time is over.
        """
        if self.left <= 0:
            self.miss(part, self._over)
            return None
        print(f"{part} ... ({self.left / 60:.0f} minutes left)", flush=True)
        try:
            async with asyncio.timeout(self.left) as time_limit:
                return await measure()
        except TimeoutError as error:
            self.miss(part, self._over if time_limit.expired() else str(error) or NO_ANSWER)
        except CannotMeasure as error:
            self.miss(part, str(error))
        except grpc.aio.AioRpcError as error:
            self.miss(part, error.details() or str(error.code()))
        return None

    @property
    def _over(self) -> str:
        return f"the {self.seconds / 60:g} minutes were over; give more with --minutes"
