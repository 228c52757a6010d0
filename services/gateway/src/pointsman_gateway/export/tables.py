"""The Parquet tables: their columns, and their files' places. docs/records.md describes them."""

import io
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from pointsman_gateway.export.rows import ExportedRecord, Partition
from pointsman_gateway.request_log.export_log import DECISIONS, EVALUATIONS, FEEDBACK, SCORES, UNDECIDED

VERSION = "1"
"""The version of the tables, in each file's metadata: it changes with a column's meaning or type. New columns do not
change it."""
VERSION_KEY = "pointsman.tables"
NO_TENANT = "_none"
"""Stands in a path for records without a tenant; no tenant can have this name."""

_UNIQUE = {"id", "request_id", "entry"}
"""Columns of texts in which a dictionary of the values would be as large as the values."""
Column = tuple[str, pa.DataType, str]
"""The column's name, its type, and the attribute of a row."""

_TEXT, _NUMBER, _COUNT, _TIME = pa.string(), pa.float64(), pa.int64(), pa.timestamp("ms", tz="UTC")


def _texts(*names: str) -> tuple[Column, ...]:
    return tuple((name, _TEXT, name) for name in names)


_RECEIPT: tuple[Column, ...] = (
    *_texts("id"),
    ("time", _TIME, "unix_ms"),
    *_texts("request_id", "key", "model", "outcome", "fault"),
    *((name, _COUNT, f"usage.{name}") for name in ("prompt_tokens", "completion_tokens", "cached_tokens")),
    ("cost_usd", _NUMBER, "cost_usd"),
    ("seconds", _NUMBER, "seconds.total"),
    ("first_token_seconds", _NUMBER, "seconds.first_token"),
)
_SCORE: tuple[Column, ...] = (
    *_texts("id"),
    ("time", _TIME, "unix_ms"),
    *_texts("of", "task", "path", "fingerprint", "version"),
    ("rows", _COUNT, "rows"),
    ("score", _NUMBER, "score"),
)
TABLES: dict[str, tuple[Column, ...]] = {
    DECISIONS: (
        *_RECEIPT,
        *_texts("revision", "task", "stage", "path", "kind", "fingerprint", "reason", "requested"),
        *_texts("escalated_from", "cached", "engine", "text", "evidence_key"),
        ("confidence", _NUMBER, "confidence"),
        ("expected_cost_usd", _NUMBER, "expected_cost_usd"),
        *_texts("entry"),
    ),
    UNDECIDED: (*_RECEIPT, *_texts("operation"), ("counted", pa.bool_(), "counted"), *_texts("entry")),
    FEEDBACK: (
        *_texts("id"),
        ("time", _TIME, "unix_ms"),
        *_texts("decision", "right_task"),
        ("rating", _NUMBER, "rating"),
        *_texts("entry"),
    ),
    SCORES: _SCORE,
    EVALUATIONS: _SCORE,
}
SCHEMAS = {
    name: pa.schema([(column, kind) for column, kind, _ in columns], metadata={VERSION_KEY: VERSION})
    for name, columns in TABLES.items()
}
_GETTERS: dict[str, list[tuple[Callable[[Any], Any], pa.DataType]]] = {
    name: [(attrgetter(attribute), kind) for _, kind, attribute in columns] for name, columns in TABLES.items()
}
_DICTIONARIES = {
    name: [column for column, kind, _ in columns if kind == _TEXT and column not in _UNIQUE]
    for name, columns in TABLES.items()
}


def to_parquet(table: str, rows: Sequence[ExportedRecord]) -> bytes:
    """Returns a Parquet file. Equal rows make equal bytes."""
    arrays = [pa.array([value(row) for row in rows], kind) for value, kind in _GETTERS[table]]
    file = io.BytesIO()
    pq.write_table(
        pa.Table.from_arrays(arrays, schema=SCHEMAS[table]),
        file,
        compression="zstd",
        compression_level=1,
        use_dictionary=_DICTIONARIES[table],
        write_statistics=["time"],
    )
    return file.getvalue()


def path_of(partition: Partition, name: str) -> str:
    """Returns the path of a file below the target: TABLE/day=YYYY-MM-DD/tenant=TENANT/NAME.parquet."""
    table, day, tenant = partition
    return f"{table}/day={day}/tenant={quote(tenant, safe='') or NO_TENANT}/{name}.parquet"
