"""Stores records as Parquet files, one for each partition (table, day and tenant)."""

from collections.abc import Sequence

from pointsman_gateway.export.record_target import Record, Rows
from pointsman_gateway.export.tables import path_of, to_parquet
from pointsman_gateway.export.target import ExportTarget


class ParquetTarget:
    def __init__(self, files: ExportTarget) -> None:
        self._files = files

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        for partition, found in rows.items():
            self._files.put(path_of(partition, name), to_parquet(partition[0], found))
        return ()
