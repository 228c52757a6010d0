"""A growable NumPy array whose first rows never change, so that readers need no lock."""

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_MIN_CAPACITY = 1024


class AppendOnlyArray:
    """One thread appends; any thread reads the rows that existed when it learned their number.

    Rows that a reader may hold must never be written again, not even with equal values: until the last of them is
    rewritten, the later ones would be missing.
    """

    def __init__(self, dtype: DTypeLike, width: int | None = None) -> None:
        """Each row has `width` values, or is a single value if `width` is None."""
        self.rows = 0
        self._shape = () if width is None else (width,)
        self._array: NDArray[Any] = np.empty((0, *self._shape), dtype)

    def append(self, at: int, values: NDArray[Any]) -> None:
        """Writes from row `at` on, over rows that a change left behind which was not committed."""
        self._reserve(at + len(values))
        self._array[at : at + len(values)] = values
        self.rows = at + len(values)

    def pad(self, rows: int, value: Any) -> None:
        """Extends the array with `value` to at least `rows` rows."""
        if rows > self.rows:
            self._reserve(rows)
            self._array[self.rows : rows] = value
            self.rows = rows

    def truncate(self, rows: int) -> None:
        """Shortens the array to at most `rows` rows."""
        self.rows = min(self.rows, rows)

    def first(self, rows: int) -> NDArray[Any]:
        """Returns at most the first `rows` rows; later appends do not change them."""
        rows = min(rows, self.rows)  # read before the array: whichever array is current then has all of them
        return self._array[:rows]

    def _reserve(self, rows: int) -> None:
        if rows > len(self._array):
            grown = np.empty((max(rows, 2 * len(self._array), _MIN_CAPACITY), *self._shape), self._array.dtype)
            grown[: self.rows] = self._array[: self.rows]
            self._array = grown  # readers of the old array keep it
