"""The counterfoils of one gateway: what stands in it is there after `kill -9`, before its caller hears the end.

Two files, the pages, are written in turns; one is emptied once Redis has all that stands on it. A line goes to the
system's page cache, and not to the disk itself: it outlives the process, not the machine.
"""

import logging
import os
import secrets
import time
from pathlib import Path

from pointsman_gateway.domain import Decision, Receipt, Request, UndecidedReceipt
from pointsman_gateway.journal.counterfoil import Line, Sending, of_decided, of_undecided, to_line
from pointsman_gateway.journal.held_file import HeldFile, hold
from pointsman_gateway.journal.metrics import JournalMetrics
from pointsman_gateway.journal.positions import Upto

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 1024 * 1024
"""That one gateway keeps."""
PAGE_BYTES = 512 * 1024
"""From which on the other page is taken, if it is empty; the eighth part is worth to be emptied."""


class Page:
    def __init__(self, file: HeldFile) -> None:
        self.file = file
        self.last = Upto()
        """That stands on it."""


class Full(Exception):
    """As much waits as may."""


class CounterfoilBook:
    """Implements the recorder's `Book`. Never fails a request: what it cannot take, it counts."""

    def __init__(self, folder: Path, writer: str, metrics: JournalMetrics, most_bytes: int = MOST_BYTES) -> None:
        """`writer` is the name under which the batches are written. Raises OSError where the folder cannot be
        written."""
        folder.mkdir(parents=True, exist_ok=True)
        self._page, self._other = _pages(folder, writer)
        self._metrics = metrics
        self._most = most_bytes
        self._page_bytes = min(PAGE_BYTES, most_bytes // 4)
        self._last = Upto()
        self._settled = Upto()
        self._refusing = False
        metrics.ahead_bytes.set_function(lambda: self._page.file.size + self._other.file.size)

    def decided(self, unix_seconds: float, request: Request, decision: Decision, receipt: Receipt) -> int:
        """Its position; 0 where it could not be taken."""
        position = self._last.decided + 1
        if not self._take(of_decided(position, unix_seconds, request, decision, receipt)):
            return 0
        self._last = self._page.last = self._last.and_decided(position)
        return position

    def undecided(self, unix_seconds: float, receipt: UndecidedReceipt) -> int:
        """The same; these have positions of their own."""
        position = self._last.undecided + 1
        if not self._take(of_undecided(position, unix_seconds, receipt)):
            return 0
        self._last = self._page.last = self._last.and_undecided(position)
        return position

    def sends(self, number: int, upto: Upto) -> None:
        """Before a batch is sent with which all up to there is done."""
        try:
            self._page.file.append(to_line(Sending(number, time.time(), *upto)))
        except OSError as error:
            # Without this line it could not be told later what Redis has: rather lose some than count some twice.
            log.warning("%s cannot be written (%s) and is begun anew", self._page.file.path, error)
            self._empty(self._other)
            self._empty(self._page)

    def written(self, upto: Upto) -> None:
        """Redis has all up to there."""
        self._settled = upto
        if self._other.file.size and upto.covers(self._other.last):
            self._empty(self._other)
        worth_it = 8 * self._page.file.size >= self._page_bytes
        if worth_it and not self._other.file.size and upto.covers(self._page.last):
            self._empty(self._page)

    def close(self) -> None:
        """Leaves what Redis may not have to the next gateway."""
        done = self._settled.covers(self._last)
        for page in (self._other, self._page):
            if done:
                page.file.remove()
            else:
                page.file.close()

    def _take(self, counterfoil: Line) -> bool:
        try:
            line = to_line(counterfoil)
            self._room_for(len(line)).append(line)
        except Full as full:
            return self._refuse("full", full)
        except OSError as error:
            return self._refuse("disk", error)
        except (ValueError, TypeError, OverflowError) as error:  # a text that is no UTF-8, a number beyond 64 bits
            return self._refuse("unwritable", error)
        if self._refusing:
            self._refusing = False
            log.info("receipts are on disk again before their callers hear the end")
        return True

    def _room_for(self, length: int) -> HeldFile:
        if self._page.file.size >= self._page_bytes and not self._other.file.size:
            self._page, self._other = self._other, self._page
        if self._page.file.size + self._other.file.size + length > self._most:
            raise Full(f"{self._most} bytes wait for Redis already")
        return self._page.file

    def _refuse(self, reason: str, why: Exception) -> bool:
        self._metrics.not_ahead.labels(reason).inc()
        if not self._refusing:
            self._refusing = True
            log.warning("receipts are in memory alone until Redis has them: %s", why)
        return False

    def _empty(self, page: Page) -> None:
        try:
            page.file.truncate(0)
        except OSError as error:
            log.warning("%s cannot be emptied: %s", page.file.path, error)


def _pages(folder: Path, writer: str) -> tuple[Page, Page]:
    """The first one stands for both: who holds it holds the book."""
    while True:
        name = f"receipts-{writer}-{secrets.token_hex(4)}"
        first = hold(folder / f"{name}.a.jsonl", os.O_CREAT | os.O_EXCL)
        second = first and hold(folder / f"{name}.b.jsonl", os.O_CREAT | os.O_EXCL)
        if first and second:
            return Page(first), Page(second)
