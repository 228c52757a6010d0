"""Which documents a search may find: conditions on their metadata, and their combinations."""

from dataclasses import dataclass

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
    """Values that are numbers, between bounds that are not given (None), inclusive or exclusive."""

    key: str
    gte: float | None = None
    gt: float | None = None
    lte: float | None = None
    lt: float | None = None


@dataclass(frozen=True, slots=True)
class TextRange:
    """Values in the order of their characters, as dates in ISO 8601 are."""

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
    """Also where the key is not there at all."""

    part: "Filter"


Condition = Eq | In | Exists | NumberRange | TextRange
Filter = Condition | And | Or | Not


def check_filter(wanted: Filter) -> None:
    """Raises InvalidArgument for a filter that says nothing, or more than is taken."""
    conditions = _check(wanted, 1)
    if conditions > MAX_CONDITIONS:
        raise _invalid(f"it has {conditions} conditions; at most {MAX_CONDITIONS} are taken")


def _check(wanted: Filter, depth: int) -> int:
    """Returns how many conditions there are."""
    if depth > MAX_DEPTH:
        raise _invalid(f"its parts stand more than {MAX_DEPTH} deep inside each other; flatten it")
    match wanted:
        case And(parts) | Or(parts):
            if not parts:
                raise _invalid("an `and` or `or` has no parts; give it one at least")
            return sum(_check(part, depth + 1) for part in parts)
        case Not(part):
            return _check(part, depth + 1)
        case NumberRange() | TextRange():
            if all(bound is None for bound in (wanted.gte, wanted.gt, wanted.lte, wanted.lt)):
                raise _invalid(f"the range of {wanted.key!r} has no bound; give it gte, gt, lte or lt")
        case In(key, values):
            if not 1 <= len(values) <= MAX_VALUES:
                raise _invalid(f"`in` of {key!r} has {len(values)} values; it needs 1 to {MAX_VALUES}")
        case Eq() | Exists():
            pass
    if not wanted.key:
        raise _invalid("a condition has an empty key; name it")
    return 1


def _invalid(what: str) -> InvalidArgument:
    return InvalidArgument(f"the filter cannot be used: {what}", code="invalid_filter", param="where")
