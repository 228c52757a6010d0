"""A growable NumPy array whose committed rows never change, so that readers need no lock."""

import os
import tempfile
from contextlib import suppress
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

MIN_FILE_BYTES = 64 * 1024 * 1024
"""An AppendOnlyArray of fewer bytes is always in memory; a larger one may be in a file."""

_MIN_CAPACITY = 1024
_GROWTH, _FILE_GROWTH = 2.0, 1.25


class AppendOnlyArray:
    """A growable array that one thread writes while any number of threads read, without a lock.

    Each reader knows how many rows were committed when it began, and passes this number to `first`. The writer must not
    write these rows again, not even with equal values.
    """

    def __init__(self, dtype: DTypeLike, width: int | None = None, folder: Path | None = None) -> None:
        """Makes an empty array of rows of `width` values, or of single values if `width` is None.

        With `folder`, an array of `MIN_FILE_BYTES` or more is in an unnamed temporary file in this folder, which the
        operating system caches in memory as long as there is room. If the file cannot be made, as when the disk is
        full or on macOS, the array is in memory.
        """
        self.rows = 0
        self.folder = folder
        self._shape = () if width is None else (width,)
        self._array: NDArray[Any] = np.empty((0, *self._shape), dtype)

    def append(self, at: int, values: NDArray[Any]) -> None:
        """Writes `values` as the rows from number `at` on; the last of them becomes the last row of the array.

        `at` is the number of committed rows. Existing rows from `at` on belong to a change that was not committed, and
        are overwritten.
        """
        self._reserve(at + len(values))
        self._array[at : at + len(values)] = values
        self.rows = at + len(values)

    def pad(self, rows: int, value: Any) -> None:
        """Appends rows with the value `value` until the array has at least `rows` rows."""
        if rows > self.rows:
            self._reserve(rows)
            self._array[self.rows : rows] = value
            self.rows = rows

    def truncate(self, rows: int) -> None:
        """Shortens the array to at most `rows` rows."""
        self.rows = min(self.rows, rows)

    def first(self, rows: int) -> NDArray[Any]:
        """Returns a view of the first `rows` rows, or of all rows if there are fewer. Later appends do not change the
        view.
        """
        rows = min(rows, self.rows)  # read before the array: whichever array is current then has all of them
        return self._array[:rows]

    def _reserve(self, rows: int) -> None:
        if rows > len(self._array):
            growth = _GROWTH if self.folder is None or self._array.nbytes < MIN_FILE_BYTES else _FILE_GROWTH
            grown = self._allocate(max(rows, int(growth * len(self._array)), _MIN_CAPACITY))
            grown[: self.rows] = self._array[: self.rows]
            self._array = grown  # readers of the old array keep it

    def _allocate(self, rows: int) -> NDArray[Any]:
        shape, dtype = (rows, *self._shape), self._array.dtype
        size = prod(shape) * dtype.itemsize
        if self.folder is not None and size >= MIN_FILE_BYTES and hasattr(os, "posix_fallocate"):  # macOS has none
            with suppress(OSError), tempfile.TemporaryFile(dir=self.folder) as file:
                os.posix_fallocate(file.fileno(), 0, size)  # otherwise writing to a full disk would end the process
                return np.memmap(file, dtype, "r+", shape=shape).view(np.ndarray)
        return np.empty(shape, dtype)
