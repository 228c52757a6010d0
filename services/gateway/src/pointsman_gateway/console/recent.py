"""The newest decisions of all gateways, read from the journal when somebody looks, and only then."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from pointsman_gateway.console.record import Record, to_record
from pointsman_gateway.request_log.store import LogEntry

MOST_KEPT = 5_000
MOST_READ = 2_000
"""At one look. Where more have come since the last one, what was known before is let go of: it no longer joins up."""
A_PAGE = 100
"""So that no call keeps Redis, or this process, for long."""
FRESH = 0.5
"""Seconds in which a second look sees what the first one saw."""


class Journal(Protocol):
    """Reads backwards."""

    async def before(self, place: str, after: str, count: int) -> Sequence[LogEntry]:
        """At most `count` entries between two places, both excluded, newest first. Raises Unavailable."""
        ...


@dataclass(frozen=True, slots=True)
class Seen:
    records: Sequence[Record]
    """Oldest first."""
    since_unix_ms: int
    """No decision is missing that was noted later; 0 where the journal holds nothing older."""


class Recent:
    def __init__(self, journal: Journal, clock: Callable[[], float] = time.monotonic) -> None:
        self._journal = journal
        self._clock = clock
        self._records: deque[Record] = deque(maxlen=MOST_KEPT)
        """Oldest first, without gaps."""
        self._from_the_first = True
        """Whether nothing in the journal is older."""
        self._looking = asyncio.Lock()
        self._looked = float("-inf")

    async def look(self) -> Seen:
        """Raises Unavailable."""
        async with self._looking:
            if self._clock() - self._looked >= FRESH:
                await self._read()
                self._looked = self._clock()
            return Seen(tuple(self._records), 0 if self._from_the_first else self._records[0].unix_ms)

    async def _read(self) -> None:
        newest, place = self._records[-1].place if self._records else "", ""
        came: list[Record] = []
        joined = False
        read = 0
        while read < MOST_READ and not joined:
            page = await self._journal.before(place, newest, A_PAGE)
            came += [record for kept in page if (record := to_record(kept)) is not None]
            read, joined = read + len(page), len(page) < A_PAGE
            place = page[-1].place if page else place
            await asyncio.sleep(0)
        if not joined:
            self._records.clear()
        if not joined or len(self._records) + len(came) > MOST_KEPT:
            self._from_the_first = False
        self._records.extend(reversed(came))
