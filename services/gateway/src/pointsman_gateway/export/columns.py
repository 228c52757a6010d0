"""The names and types of the columns of exported tables; docs/records.md describes them."""

from enum import Enum
from typing import NamedTuple

from pointsman_gateway.request_log.export_log import AUDIT, DECISIONS, EVALUATIONS, FEEDBACK, SCORES, UNDECIDED

WITHOUT_TENANT = frozenset({AUDIT})
"""Names of the tables whose records belong to no tenant."""


class ColumnType(Enum):
    TEXT = "text"
    NUMBER = "number"
    COUNT = "count"
    FLAG = "flag"
    TIME = "time"
    """A time in Unix milliseconds."""


class Column(NamedTuple):
    name: str
    type: ColumnType
    attribute: str
    """The attribute of a record from which the column's value is read, such as "usage.prompt_tokens"."""


def _texts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, ColumnType.TEXT, name) for name in names)


_TIME = Column("time", ColumnType.TIME, "unix_ms")
_RECEIPT: tuple[Column, ...] = (
    *_texts("id"),
    _TIME,
    *_texts("request_id", "key", "model", "outcome", "fault"),
    *(Column(one, ColumnType.COUNT, f"usage.{one}") for one in ("prompt_tokens", "completion_tokens", "cached_tokens")),
    Column("cost_usd", ColumnType.NUMBER, "cost_usd"),
    Column("seconds", ColumnType.NUMBER, "seconds.total"),
    Column("first_token_seconds", ColumnType.NUMBER, "seconds.first_token"),
)
_SCORE: tuple[Column, ...] = (
    *_texts("id"),
    _TIME,
    *_texts("of", "task", "path", "fingerprint", "version"),
    Column("rows", ColumnType.COUNT, "rows"),
    Column("score", ColumnType.NUMBER, "score"),
)
TABLES: dict[str, tuple[Column, ...]] = {
    DECISIONS: (
        *_RECEIPT,
        *_texts("revision", "task", "stage", "path", "kind", "fingerprint", "reason", "requested"),
        *_texts("escalated_from", "cached", "engine", "text", "evidence_key"),
        Column("confidence", ColumnType.NUMBER, "confidence"),
        Column("expected_cost_usd", ColumnType.NUMBER, "expected_cost_usd"),
        *_texts("entry"),
    ),
    UNDECIDED: (
        *_RECEIPT,
        *_texts("operation"),
        Column("counted", ColumnType.FLAG, "counted"),
        *_texts("entry"),
    ),
    FEEDBACK: (
        *_texts("id"),
        _TIME,
        *_texts("decision", "right_task"),
        Column("rating", ColumnType.NUMBER, "rating"),
        *_texts("entry"),
    ),
    SCORES: _SCORE,
    EVALUATIONS: _SCORE,
    AUDIT: (
        *_texts("id"),
        _TIME,
        *_texts("kind", "change", "subject", "who"),
        Column("origin", ColumnType.TEXT, "where"),
        Column("before", ColumnType.TEXT, "before_json"),
        Column("after", ColumnType.TEXT, "after_json"),
        *_texts("reason", "entry"),
    ),
}
