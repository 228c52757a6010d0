"""Writes to the journal what gateways that are gone have left on disk: each receipt once, with its evidence."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pointsman_gateway.journal.entry import to_entry, to_undecided_json
from pointsman_gateway.journal.evidence import gather
from pointsman_gateway.journal.left_book import LeftBook, Portion, left_books
from pointsman_gateway.journal.metrics import JournalMetrics
from pointsman_gateway.journal.repeating import repeating
from pointsman_gateway.journal.store import Batch, JournalStore

log = logging.getLogger(__name__)

PERIOD = 10.0
"""Seconds between two looks."""


class Recovery:
    """Goes on as the writer that is gone: its batches are numbered, so that one of them which arrives late, or is sent
    again by who takes over next, is not written twice."""

    def __init__(self, store: JournalStore, folder: Path, metrics: JournalMetrics) -> None:
        self._store = store
        self._folder = folder
        self._metrics = metrics
        self._held: list[LeftBook] = []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """For the length of the block."""
        try:
            async with repeating(PERIOD, self.recover, "recover receipts"):
                yield
        finally:
            for book in self._held:
                book.close()

    async def recover(self) -> None:
        """All that is there now. Raises Unavailable, and then goes on the next time."""
        self._held += await asyncio.to_thread(left_books, self._folder)
        while self._held:
            await self._recover(self._held[0])
            await asyncio.to_thread(self._held.pop(0).remove)

    async def _recover(self, book: LeftBook) -> None:
        while not await self._wrote_all(book):
            pass  # one of its own batches has just arrived

    async def _wrote_all(self, book: LeftBook) -> bool:
        """False where another one has written meanwhile, so that it is to be seen anew what is left."""
        known = await self._store.last_of(book.writer)
        contents = await asyncio.to_thread(book.read)
        last, number, found = known or 0, max(contents.number, known or 0), 0
        for portion in contents.without(known):
            number += 1
            book.sends(number, portion.upto)
            batch = await asyncio.to_thread(_batch, number, portion)
            if not await self._store.write_for(book.writer, last, batch):
                return False
            last, found = number, found + portion.size
            self._metrics.recovered.inc(portion.size)
        if found:
            log.warning("%d receipts of a gateway that is gone (%s) are recovered", found, book.writer)
        return True


def _batch(number: int, portion: Portion) -> Batch:
    noted = [counterfoil.noted() for counterfoil in portion.decided]
    entries = [to_entry(one, keep_text=False) for one in noted]
    return Batch(
        number,
        entries,
        gather(entry.tally for entry in entries if entry.tally),
        [to_undecided_json(one.receipt(), one.unix_seconds) for one in portion.undecided],
    )
