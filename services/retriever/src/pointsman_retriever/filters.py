"""Filters by metadata: conditions on a document's metadata. A search with a filter finds only documents that meet the
conditions.
"""

from dataclasses import dataclass
from math import isnan

from pointsman_servicekit.errors import InvalidArgument

MAX_CONDITIONS = 64
MAX_DEPTH = 8
MAX_VALUES = 1_000  # of one `In`


@dataclass(frozen=True, slots=True)
class Eq:
    key: str
    value: str


@dataclass(frozen=True, slots=True)
class In:
    key: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Exists:
    key: str


@dataclass(frozen=True, slots=True)
class NumberRange:
    """A filter that matches documents whose metadata value for `key` is a number within the given bounds.

    The bounds are `gte` (>=), `gt` (>), `lte` (<=) and `lt` (<); a bound that is None does not apply. Metadata values
    are texts; those that Python's `float` can parse count as numbers.
    """

    key: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class TextRange:
    """A filter that matches documents whose metadata value for `key` is, as text, within the given bounds.

    The bounds are `gte` (>=), `gt` (>), `lte` (<=) and `lt` (<); a bound that is None does not apply. Texts are
    compared by code points, which for dates in one format of ISO 8601 is the order in time.
    """

    key: str
    gte: str | None = None
    gt: str | None = None
    lte: str | None = None
    lt: str | None = None


@dataclass(frozen=True, slots=True)
class And:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Or:
    parts: tuple["Filter", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """A filter that matches the documents which the filter `part` does not match.

    A document without the key of a condition does not match the condition, so it matches `Not` of the condition.
    """

    part: "Filter"


Condition = Eq | In | Exists | NumberRange | TextRange
Filter = Condition | And | Or | Not


def check_filter(root: Filter) -> None:
    """Raises InvalidArgument ("invalid_filter") if a filter cannot be used.

    The reasons are: more than `MAX_CONDITIONS` conditions or `MAX_DEPTH` levels, an And or Or without parts, an In
    without values or with more than `MAX_VALUES`, a range without bounds or with the bound NaN, and an empty key.
    """
    conditions = _count_conditions(root, 1)
    if conditions > MAX_CONDITIONS:
        raise invalid_filter(f"it has {conditions} conditions; the maximum is {MAX_CONDITIONS}")


def check_depth(depth: int) -> None:
    """Raises InvalidArgument ("invalid_filter") if a part of a filter is nested deeper than `MAX_DEPTH` levels.

    `depth` is the level of the part; the whole filter has level 1.
    """
    if depth > MAX_DEPTH:
        raise invalid_filter(f"its parts are nested more than {MAX_DEPTH} deep; flatten it")


def _count_conditions(part: Filter, depth: int) -> int:
    check_depth(depth)
    match part:
        case And(parts) | Or(parts):
            if not parts:
                raise invalid_filter("an `and` or `or` has no parts; give it at least one")
            return sum(_count_conditions(inner, depth + 1) for inner in parts)
        case Not(inner):
            return _count_conditions(inner, depth + 1)
        case NumberRange() | TextRange():
            _check_bounds(part)
        case In(key, values):
            if not 1 <= len(values) <= MAX_VALUES:
                raise invalid_filter(f"`in` of {key!r} has {len(values)} values; it needs 1 to {MAX_VALUES}")
        case Eq() | Exists():
            pass
    if not part.key:
        raise invalid_filter("a condition has an empty key; name it")
    return 1


def _check_bounds(range_: NumberRange | TextRange) -> None:
    bounds = [bound for bound in (range_.gte, range_.gt, range_.lte, range_.lt) if bound is not None]
    if not bounds:
        raise invalid_filter(f"the range of {range_.key!r} has no bound; give it gte, gt, lte or lt")
    if any(isinstance(bound, float) and isnan(bound) for bound in bounds):
        raise invalid_filter(f"the range of {range_.key!r} has a bound that is NaN; use a number")


def invalid_filter(reason: str) -> InvalidArgument:
    return InvalidArgument(f"the filter cannot be used: {reason}", code="invalid_filter", param="where")
