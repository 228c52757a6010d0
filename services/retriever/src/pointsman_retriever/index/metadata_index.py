"""An index in memory of the metadata of a collection's chunks, by which filters are evaluated. A row is a chunk.

Each metadata key has a column, which stores each distinct value once, with a number. So a filter tests each distinct
value once, not once for each row.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.filters import And, Condition, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange
from pointsman_retriever.index.append_only_array import AppendOnlyArray

Mask = NDArray[np.bool_]

_MISSING = -1  # the value number of a row without a value
_MAX_DELETED_SHARE = 0.5  # of all rows; beyond it the index is rebuilt without them


class Column:
    """The values of one metadata key for all rows (chunks).

    Each distinct value is stored once, and for each row the number of its value. One thread writes; any thread may
    read.
    """

    def __init__(self) -> None:
        self._values: list[str] = []
        self._numbers: dict[str, int] = {}
        self._as_float = AppendOnlyArray(np.float64)
        self._rows = AppendOnlyArray(np.int32)

    def put(self, row: int, value: str) -> None:
        """Sets the value of a row. `row` must be higher than the rows of all earlier calls; rows that are skipped have
        no value.
        """
        number = self._numbers.get(value)
        if number is None:
            number = len(self._values)
            self._as_float.append(number, np.array([_parse_number(value)]))
            self._values.append(value)
            self._numbers[value] = number
        self._rows.pad(row, _MISSING)
        self._rows.append(row, np.array([number], np.int32))

    def truncate(self, rows: int) -> None:
        """Drops all rows after the first `rows` rows. The dropped rows belong to a change that was not committed."""
        self._rows.truncate(rows)

    def rows(self, count: int) -> NDArray[np.int32]:
        """Returns the number of the value of each of the first `count` rows; the number is -1 for a row without a
        value.

        The array is shorter than `count` if its last rows would have no value.
        """
        return self._rows.first(count)

    def matches(self, condition: Condition) -> Mask:
        """Returns a flag for each distinct value, in the order of the values' numbers: whether it meets `condition`.

        The key of the condition is ignored. One more flag at the end is False, for rows without a value, whose number
        is -1.
        """
        match condition:
            case Exists():
                mask = np.ones(len(self._values) + 1, np.bool_)
            case Eq(_, value):
                mask = self._equal_to((value,))
            case In(_, values):
                mask = self._equal_to(values)
            case NumberRange():
                mask = np.append(_in_number_range(self._as_float.first(self._as_float.rows), condition), False)
            case TextRange():
                mask = np.array([_in_text_range(value, condition) for value in list(self._values)] + [False], np.bool_)
        mask[_MISSING] = False
        return mask

    def selected(self, rows: NDArray[np.intp], count: int) -> "Column":
        """Returns a new column with the values of the rows `rows` only, renumbered from 0 on.

        `rows` are row numbers of this column, ascending and below `count`.
        """
        numbers = self.rows(count)
        column = Column()
        values = list(self._values)
        for place, row in enumerate(rows[rows < len(numbers)].tolist()):
            if numbers[row] != _MISSING:
                column.put(place, values[numbers[row]])
        return column

    def _equal_to(self, values: Sequence[str]) -> Mask:
        mask = np.zeros(len(self._values) + 1, np.bool_)
        numbers = [self._numbers[value] for value in values if value in self._numbers]
        mask[[number for number in numbers if number < len(mask) - 1]] = True
        return mask


@dataclass(frozen=True, slots=True)
class MetadataIndex:
    """An immutable snapshot of a collection's metadata index. `with_changes` makes the next snapshot; readers may go on
    using the earlier one.

    Snapshots share arrays and columns to which rows are only appended. `alive` has a flag for each row: whether it
    belongs to this snapshot.
    """

    ids: AppendOnlyArray  # chunk id of each row, ascending
    documents: AppendOnlyArray  # document number of each row
    columns: dict[str, Column]  # shared by all snapshots and only added to; later rows are beyond this snapshot's
    alive: Mask
    count: int = 0

    def with_changes(
        self, removed: Ids, added: Ids, documents: Ids, metadata: Sequence[Mapping[str, str]]
    ) -> "MetadataIndex":
        """Returns the next snapshot, without the ids `removed` and with `added`.

        `documents` and `metadata` have, for each added id, the row number of its document in the database, and its
        metadata. Called by one thread at a time, on the latest snapshot only. `added` is ascending, above all earlier
        ids; unknown ids in `removed` are ignored.
        """
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        rows = self._find_rows(removed)
        gone = int(np.count_nonzero(alive[rows]))
        alive[rows] = False
        first = len(self.alive)
        for column in list(self.columns.values()):
            column.truncate(first)
        for place, entries in enumerate(metadata):
            for key, value in entries.items():
                if key not in self.columns:
                    self.columns[key] = Column()
                self.columns[key].put(first + place, value)
        self.documents.append(first, documents)
        self.ids.append(first, added)
        return replace(self, alive=alive, count=self.count + len(added) - gone)

    def matching(self, condition: Filter) -> Ids:
        """Returns the ids of the chunks whose metadata matches the filter, ascending."""
        found: Ids = self.ids.first(len(self.alive))[self.alive & self._mask(condition)]
        return found

    def documents_of(self, ids: Ids) -> Ids:
        """Returns for each of the chunks with these ids the row number of its document in the database. All chunks must
        exist.
        """
        rows = np.searchsorted(self.ids.first(len(self.alive)), ids)
        found: Ids = self.documents.first(len(self.alive))[rows]
        return found

    @property
    def needs_compaction(self) -> bool:
        return len(self.alive) > 4096 and self.count < (1.0 - _MAX_DELETED_SHARE) * len(self.alive)

    def compacted(self) -> "MetadataIndex":
        """Returns a new index of the same metadata, without the rows of deleted chunks. It shares no storage with the
        present index.
        """
        rows = np.flatnonzero(self.alive)
        index = empty_metadata_index()
        index.ids.append(0, self.ids.first(len(self.alive))[rows])
        index.documents.append(0, self.documents.first(len(self.alive))[rows])
        for key, column in list(self.columns.items()):  # copied, because the writer may add a key meanwhile
            index.columns[key] = column.selected(rows, len(self.alive))
        return replace(index, alive=np.ones(len(rows), np.bool_), count=len(rows))

    def _find_rows(self, ids: Ids) -> NDArray[np.intp]:
        """Returns the rows with these ids, also deleted ones; ignores unknown ids."""
        stored = self.ids.first(len(self.alive))
        if not len(stored):
            return np.empty(0, np.intp)
        rows = np.minimum(np.searchsorted(stored, ids), len(stored) - 1)
        found: NDArray[np.intp] = rows[stored[rows] == ids]
        return found

    def _mask(self, condition: Filter) -> Mask:
        match condition:
            case And(parts):
                return reduce(np.logical_and, map(self._mask, parts))
            case Or(parts):
                return reduce(np.logical_or, map(self._mask, parts))
            case Not(part):
                return ~self._mask(part)
            case _:
                return self._rows_with(condition)

    def _rows_with(self, condition: Condition) -> Mask:
        mask = np.zeros(len(self.alive), np.bool_)
        column = self.columns.get(condition.key)
        if column is not None:
            # Read the rows before the values: then every value number in them is known.
            numbers = column.rows(len(mask))
            mask[: len(numbers)] = column.matches(condition)[numbers]
        return mask


def empty_metadata_index() -> MetadataIndex:
    return MetadataIndex(AppendOnlyArray(np.int64), AppendOnlyArray(np.int64), {}, np.empty(0, np.bool_))


def _parse_number(value: str) -> float:
    """Parses a metadata value as a number; NaN if it is none."""
    try:
        return float(value)
    except ValueError:
        return np.nan


def _in_number_range(values: NDArray[np.float64], bounds: NumberRange) -> Mask:
    """Returns which values lie within the bounds; NaN is in no range."""
    mask = ~np.isnan(values)
    tests: tuple[tuple[float | None, Callable[..., Mask]], ...] = (
        (bounds.gte, np.greater_equal),
        (bounds.gt, np.greater),
        (bounds.lte, np.less_equal),
        (bounds.lt, np.less),
    )
    for bound, holds in tests:
        if bound is not None:
            mask &= holds(values, bound)
    return mask


def _in_text_range(value: str, bounds: TextRange) -> bool:
    return (
        (bounds.gte is None or value >= bounds.gte)
        and (bounds.gt is None or value > bounds.gt)
        and (bounds.lte is None or value <= bounds.lte)
        and (bounds.lt is None or value < bounds.lt)
    )
