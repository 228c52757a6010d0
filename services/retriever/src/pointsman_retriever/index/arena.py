"""Rows in memory that are only ever appended to, so that whoever holds the first n of them is never disturbed.

Rows that somebody may hold are never put again, not even the same ones: until the last of them is back, the later
ones would be missing.
"""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MIN_CAPACITY = 1024


class AppendOnlyArray:
    """One thread appends, any thread reads the rows that were there when it was told their number."""

    def __init__(self, dtype: DTypeLike, width: int | None = None) -> None:
        """Rows of `width` values, or single values where it is None."""
        self.rows = 0
        self._shape = () if width is None else (width,)
        self._held: NDArray[Any] = np.empty((0, *self._shape), dtype)

    def append(self, at: int, values: NDArray[Any]) -> None:
        """Puts them from row `at` on, over whatever an attempt that came to nothing has left there."""
        self._make_room(at + len(values))
        self._held[at : at + len(values)] = values
        self.rows = at + len(values)

    def pad(self, rows: int, value: Any) -> None:
        """Makes it at least so long."""
        if rows > self.rows:
            self._make_room(rows)
            self._held[self.rows : rows] = value
            self.rows = rows

    def cut(self, rows: int) -> None:
        """Leaves at most so many."""
        self.rows = min(self.rows, rows)

    def first(self, rows: int) -> NDArray[Any]:
        """At most so many; a later append does not change them."""
        rows = min(rows, self.rows)  # before the array: the one that is there now has them all
        return self._held[:rows]

    def _make_room(self, rows: int) -> None:
        if rows > len(self._held):
            grown = np.empty((max(rows, 2 * len(self._held), _MIN_CAPACITY), *self._shape), self._held.dtype)
            grown[: self.rows] = self._held[: self.rows]
            self._held = grown  # who reads the old one has what was asked for
