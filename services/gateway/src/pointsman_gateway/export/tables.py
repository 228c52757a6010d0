"""Encodes records as Parquet files, and names the files. docs/records.md describes the tables."""

import io
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq

from pointsman_gateway.export.columns import TABLES, WITHOUT_TENANT, ColumnType
from pointsman_gateway.export.rows import ExportedRecord, Partition

VERSION = "1"
"""The version of the tables, in each file's metadata: it changes with a column's meaning or type. New columns do not
change it."""
VERSION_KEY = "pointsman.tables"
NO_TENANT = "_none"
"""The folder name for records without a tenant in the path of a file; no tenant can have this name."""

_UNIQUE = {"id", "request_id", "entry"}
"""Names of text columns that are written without a dictionary of their values, which would be as large as the
values."""
_ARROW: dict[ColumnType, pa.DataType] = {
    ColumnType.TEXT: pa.string(),
    ColumnType.NUMBER: pa.float64(),
    ColumnType.COUNT: pa.int64(),
    ColumnType.FLAG: pa.bool_(),
    ColumnType.TIME: pa.timestamp("ms", tz="UTC"),
}
SCHEMAS = {
    name: pa.schema([(one.name, _ARROW[one.type]) for one in columns], metadata={VERSION_KEY: VERSION})
    for name, columns in TABLES.items()
}
_GETTERS: dict[str, list[tuple[Callable[[Any], Any], pa.DataType]]] = {
    name: [(attrgetter(one.attribute), _ARROW[one.type]) for one in columns] for name, columns in TABLES.items()
}
_DICTIONARIES = {
    name: [one.name for one in columns if one.type is ColumnType.TEXT and one.name not in _UNIQUE]
    for name, columns in TABLES.items()
}


def to_parquet(table: str, rows: Sequence[ExportedRecord]) -> bytes:
    """Returns the rows as the bytes of a Parquet file of the table. Equal rows give equal bytes."""
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
    """Returns a file's path relative to the export target: TABLE/day=YYYY-MM-DD/tenant=TENANT/NAME.parquet.

    Tables of `WITHOUT_TENANT` have no folder for the tenant.
    """
    table, day, tenant = partition
    if table in WITHOUT_TENANT:
        return f"{table}/day={day}/{name}.parquet"
    return f"{table}/day={day}/tenant={quote(tenant, safe='') or NO_TENANT}/{name}.parquet"
