"""The days of an export, by which its lines are compared with receipts."""

from bisect import bisect_right
from collections.abc import Iterable
from itertools import pairwise
from math import inf

from pointsman_lab.reconcile.exports.lines import SECONDS_PER_DAY, Export, Line

_MAX_PART_SECONDS = 12 * 60 * 60
"""An interval of an export with at most this many seconds is a part of a day; a longer one is a day of its own."""
_MAX_DAY_SECONDS = 25 * 60 * 60
"""The maximum number of seconds of a day: on one day of the year, clocks are put back by an hour."""


class Days:
    """The days of an export that are compared with receipts; finds the day of a line of the export and of a time.

    An interval of up to 12 hours belongs to the day (UTC) in which it begins; a longer one counts as a day of its own.
    A day is named by the Unix seconds at which it begins.
    """

    def __init__(self, export: Export, until: float) -> None:
        """Takes the days of `export` that ended by `until`, the Unix seconds of the present."""
        intervals = sorted({*export.covered}) or _whole_days(export.lines)
        self.unfinished = sorted({self._day(*of) for of in intervals if of[1] > until})
        """The days of the export that are not over at `until`, by the Unix seconds at which they begin."""
        self._intervals = [of for of in intervals if self._day(*of) not in self.unfinished]
        self._begins = [begin for begin, _ in self._intervals]
        self._days = {self._day(*of) for of in self._intervals}

    @property
    def begin(self) -> float:
        """Returns the Unix seconds at which the first day begins; infinite if no day is compared."""
        return min(self._begins, default=inf)

    @property
    def end(self) -> float:
        return max((end for _, end in self._intervals), default=-inf)

    def __len__(self) -> int:
        return len(self._days)

    def of_line(self, line: Line) -> float | None:
        """Returns the day of a line of the export, as the Unix seconds at which the day begins; None if it is left
        out.
        """
        day = self._day(line.begin, line.end)
        return day if day in self._days else None

    def of_time(self, unix_seconds: float) -> float | None:
        """Returns the day that contains a time, as the Unix seconds at which the day begins.

        Returns None if the export does not cover the time, or the day is left out of the comparison.
        """
        at = bisect_right(self._begins, unix_seconds) - 1
        if at < 0 or unix_seconds >= self._intervals[at][1]:
            return None
        return self._day(*self._intervals[at])

    def since(self, unix_seconds: float) -> list[float]:
        """Removes the days that begin before `unix_seconds` from the comparison.

        Returns the removed days in ascending order, as the Unix seconds at which they begin.
        """
        earlier = sorted(day for day in self._days if day < unix_seconds)
        self._intervals = [of for of in self._intervals if self._day(*of) not in earlier]
        self._begins = [begin for begin, _ in self._intervals]
        self._days.difference_update(earlier)
        return earlier

    @staticmethod
    def _day(begin: float, end: float) -> float:
        return begin if end - begin > _MAX_PART_SECONDS else begin // SECONDS_PER_DAY * SECONDS_PER_DAY


def _whole_days(lines: Iterable[Line]) -> list[tuple[float, float]]:
    """Returns all days from the first to the last line as (begin, end), also days without a line, which a table may
    leave out.
    """
    begins = sorted({Days._day(line.begin, line.end) for line in lines})
    days = list(begins)
    for before, after in pairwise(begins):
        while after - before > _MAX_DAY_SECONDS:
            before += SECONDS_PER_DAY
            days.append(before)
    days.sort()
    ends = [*days[1:], *(day + SECONDS_PER_DAY for day in days[-1:])]
    return list(zip(days, ends, strict=True))
