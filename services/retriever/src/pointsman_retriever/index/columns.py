"""The documents' metadata by chunk, in memory: a filter becomes a mask by a look at each distinct value."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from pointsman_retriever.domain import Ids
from pointsman_retriever.filters import And, Condition, Eq, Exists, Filter, In, Not, NumberRange, Or, TextRange
from pointsman_retriever.index.arena import AppendOnlyArray

Mask = NDArray[np.bool_]

_MISSING = -1
_MAX_DELETED_SHARE = 0.5  # of all rows: then they are written anew without the deleted ones


class Column:
    """One key's values: each distinct one once, and its number for each row. One thread writes."""

    def __init__(self) -> None:
        self._values: list[str] = []
        self._numbers: dict[str, int] = {}
        self._as_number = AppendOnlyArray(np.float64)
        self._rows = AppendOnlyArray(np.int32)

    def put(self, row: int, value: str) -> None:
        """Rows come ascending; those that are passed over have no value."""
        number = self._numbers.get(value)
        if number is None:
            number = len(self._values)
            self._as_number.append(number, np.array([_parse_number(value)]))
            self._values.append(value)
            self._numbers[value] = number
        self._rows.pad(row, _MISSING)
        self._rows.append(row, np.array([number], np.int32))

    def cut(self, rows: int) -> None:
        """Forgets what an attempt that came to nothing has left beyond these."""
        self._rows.cut(rows)

    def rows(self, count: int) -> NDArray[np.int32]:
        """The values' numbers of the first rows; perhaps fewer, where the last ones have none."""
        return self._rows.first(count)

    def numbers_of(self, condition: Condition) -> Mask:
        """By a value's number, whether it is wanted; the last place is for rows without one."""
        match condition:
            case Exists():
                wanted = np.ones(len(self._values) + 1, np.bool_)
            case Eq(_, value):
                wanted = self._having((value,))
            case In(_, values):
                wanted = self._having(values)
            case NumberRange():
                wanted = np.append(_in_number_range(self._as_number.first(self._as_number.rows), condition), False)
            case TextRange():
                wanted = np.array(
                    [_in_text_range(value, condition) for value in list(self._values)] + [False], np.bool_
                )
        wanted[_MISSING] = False
        return wanted

    def _having(self, values: Sequence[str]) -> Mask:
        wanted = np.zeros(len(self._values) + 1, np.bool_)
        numbers = [self._numbers[value] for value in values if value in self._numbers]
        wanted[[number for number in numbers if number < len(wanted) - 1]] = True
        return wanted


@dataclass(frozen=True, slots=True)
class MetadataIndex:
    """The metadata as they are at one moment; `after` makes the next, and leaves this one to its readers."""

    ids: AppendOnlyArray  # of chunks, ascending
    documents: AppendOnlyArray  # the number of each chunk's document
    columns: dict[str, Column]  # it only grows, and so do they: later rows are beyond this moment's
    alive: Mask
    count: int = 0

    def after(self, removed: Ids, added: Ids, documents: Ids, metadata: Sequence[Mapping[str, str]]) -> "MetadataIndex":
        """`added` are ascending, and greater than all before; for one thread."""
        alive = np.concatenate((self.alive, np.ones(len(added), np.bool_)))
        rows = self._rows_of(removed)
        gone = int(np.count_nonzero(alive[rows]))
        alive[rows] = False
        first = len(self.alive)
        for column in list(self.columns.values()):
            column.cut(first)
        for place, entries in enumerate(metadata):
            for key, value in entries.items():
                if key not in self.columns:
                    self.columns[key] = Column()
                self.columns[key].put(first + place, value)
        self.documents.append(first, documents)
        self.ids.append(first, added)
        return replace(self, alive=alive, count=self.count + len(added) - gone)

    def matching(self, wanted: Filter) -> Ids:
        """The chunks of the documents that fit, ascending."""
        found: Ids = self.ids.first(len(self.alive))[self.alive & self._mask(wanted)]
        return found

    def documents_of(self, ids: Ids) -> Ids:
        """The numbers of the chunks' documents; the chunks must be there."""
        rows = np.searchsorted(self.ids.first(len(self.alive)), ids)
        found: Ids = self.documents.first(len(self.alive))[rows]
        return found

    @property
    def wants_tidying(self) -> bool:
        return len(self.alive) > 4096 and self.count < (1.0 - _MAX_DELETED_SHARE) * len(self.alive)

    def tidied(self) -> "MetadataIndex":
        """The same without the deleted chunks' rows."""
        rows = np.flatnonzero(self.alive)
        fresh = empty_metadata_index()
        fresh.ids.append(0, self.ids.first(len(self.alive))[rows])
        fresh.documents.append(0, self.documents.first(len(self.alive))[rows])
        for key, column in list(self.columns.items()):  # whoever writes meanwhile may add one
            fresh.columns[key] = _select_rows(column, rows, len(self.alive))
        return replace(fresh, alive=np.ones(len(rows), np.bool_), count=len(rows))

    def _rows_of(self, ids: Ids) -> NDArray[np.intp]:
        held = self.ids.first(len(self.alive))
        rows = np.searchsorted(held, ids)
        rows = rows[rows < len(held)]
        return rows[np.isin(held[rows], ids)]

    def _mask(self, wanted: Filter) -> Mask:
        match wanted:
            case And(parts):
                return reduce(np.logical_and, map(self._mask, parts))
            case Or(parts):
                return reduce(np.logical_or, map(self._mask, parts))
            case Not(part):
                return ~self._mask(part)
            case _:
                return self._rows_with(wanted)

    def _rows_with(self, condition: Condition) -> Mask:
        mask = np.zeros(len(self.alive), np.bool_)
        column = self.columns.get(condition.key)
        if column is not None:
            # The rows are read first: every value that they name is known by then.
            numbers = column.rows(len(mask))
            mask[: len(numbers)] = column.numbers_of(condition)[numbers]
        return mask


def empty_metadata_index() -> MetadataIndex:
    return MetadataIndex(AppendOnlyArray(np.int64), AppendOnlyArray(np.int64), {}, np.empty(0, np.bool_))


def _select_rows(column: Column, rows: NDArray[np.intp], count: int) -> Column:
    numbers = column.rows(count)
    fresh = Column()
    values = list(column._values)  # the same class
    for place, row in enumerate(rows[rows < len(numbers)].tolist()):
        if numbers[row] != _MISSING:
            fresh.put(place, values[numbers[row]])
    return fresh


def _parse_number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return np.nan


def _in_number_range(values: NDArray[np.float64], bounds: NumberRange) -> Mask:
    """What is no number (NaN) is between no bounds."""
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
