"""The counterfoils that a gateway which is gone has left, and which of them Redis does not have."""

import contextlib
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pointsman_gateway.journal.counterfoil import Line, OfDecided, OfUndecided, Sending, from_line, to_line
from pointsman_gateway.journal.held_file import HeldFile, hold
from pointsman_gateway.journal.positions import Upto
from pointsman_gateway.journal.scripts import WRITER_KEPT

log = logging.getLogger(__name__)

MOST_AT_ONCE = 256
"""Of each sort."""


@dataclass(frozen=True, slots=True)
class Portion:
    """What is written as one."""

    decided: Sequence[OfDecided]
    undecided: Sequence[OfUndecided]
    upto: Upto

    @property
    def size(self) -> int:
        return len(self.decided) + len(self.undecided)


@dataclass(frozen=True, slots=True)
class Contents:
    decided: Sequence[OfDecided]
    undecided: Sequence[OfUndecided]
    """Both in the order in which they were noted."""
    sent: Sequence[Sending]

    @property
    def number(self) -> int:
        """Of the last batch that may have been sent."""
        return max((sending.number for sending in self.sent), default=0)

    def without(self, last: int | None) -> Iterator[Portion]:
        """What Redis has not got, where `last` is the last batch that it has; None where it knows of none."""
        since = time.time() - WRITER_KEPT
        done = [s for s in self.sent if (s.unix_seconds < since if last is None else s.number <= last)]
        upto = Upto(max((s.decided for s in done), default=0), max((s.undecided for s in done), default=0))
        decided = [one for one in self.decided if one.position > upto.decided]
        undecided = [one for one in self.undecided if one.position > upto.undecided]
        for begin in range(0, max(len(decided), len(undecided)), MOST_AT_ONCE):
            some, others = decided[begin : begin + MOST_AT_ONCE], undecided[begin : begin + MOST_AT_ONCE]
            upto = Upto(some[-1].position if some else upto.decided, others[-1].position if others else upto.undecided)
            yield Portion(some, others, upto)


class LeftBook:
    """Held until it is removed or closed; whoever holds it goes on as its writer."""

    def __init__(self, writer: str, pages: Sequence[HeldFile]) -> None:
        self.writer = writer
        self._pages = pages

    def read(self) -> Contents:
        """Raises OSError."""
        lines = [line for page in self._pages for line in _lines(page)]
        return Contents(
            sorted((one for one in lines if isinstance(one, OfDecided)), key=lambda one: one.position),
            sorted((one for one in lines if isinstance(one, OfUndecided)), key=lambda one: one.position),
            [one for one in lines if isinstance(one, Sending)],
        )

    def sends(self, number: int, upto: Upto) -> None:
        """As the book's own writer does; on a full disk it goes without."""
        with contextlib.suppress(OSError):
            self._pages[0].append(to_line(Sending(number, time.time(), *upto)))

    def remove(self) -> None:
        for page in reversed(self._pages):  # the first one stands for both
            page.remove()

    def close(self) -> None:
        """Leaves it to the next."""
        for page in self._pages:
            page.close()


def left_books(folder: Path) -> list[LeftBook]:
    """All that nobody holds, which are held now. Raises OSError."""
    books = []
    for path in sorted(folder.glob("receipts-*.a.jsonl")):
        if first := hold(path):
            second = hold(path.with_name(path.name.replace(".a.jsonl", ".b.jsonl")))
            books.append(LeftBook(path.name.split("-")[1], [page for page in (first, second) if page]))
    return books


def _lines(page: HeldFile) -> Iterator[Line]:
    *lines, _torn = page.read().split(b"\n")  # of half a line nobody was told
    for number, line in enumerate(lines, 1):
        try:
            yield from_line(line)
        except ValueError as error:
            log.error("%s:%d is no counterfoil and is passed over: %s", page.path, number, error)
