"""Export logs with records, and what the exporter has made of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pointsman_gateway.export.exporter import Exporter
from pointsman_gateway.export.parquet_target import ParquetTarget
from pointsman_gateway.export.segments import SegmentFolder
from pointsman_gateway.export.target import ExportTarget, FolderTarget
from pointsman_gateway.request_log.entry import PendingEntry, to_entry
from pointsman_gateway.request_log.export_log import DECISIONS, ExportLog
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.request_logs import REQUEST, decision, receipt

NOON = 1_800_014_400.0
"""12:00 UTC on 15 January 2027."""


def exported(name: str, unix_seconds: float = NOON, **fields: Any) -> str:
    """Returns the record of a decision with this id."""
    made = decision(name, **fields)
    return to_entry(PendingEntry(unix_seconds, REQUEST, made, receipt(made)), store_messages=False).exported


class ExportHarness:
    """An export log, and an exporter that writes to a folder or another target."""

    def __init__(self, folder: Path, max_bytes: int = 10**9, target: ExportTarget | None = None) -> None:
        self.folder = folder / "export"
        self.files = folder / "records"
        self.registry = CollectorRegistry()
        self.metrics = RequestLogMetrics(self.registry)
        self.log = self.gateway("writer", max_bytes)
        self.target = target or FolderTarget(self.files)

    def gateway(self, writer: str, max_bytes: int = 10**9) -> ExportLog:
        return ExportLog(self.folder, writer, self.metrics, max_bytes)

    def note(self, *names: str) -> None:
        for name in names:
            self.log.append(DECISIONS, [exported(name)])

    @contextmanager
    def exporter(self, min_age_seconds: float = 0.0) -> Iterator[Exporter]:
        segments = SegmentFolder(self.folder)
        try:
            yield Exporter(segments, ParquetTarget(self.target), min_age_seconds)
        finally:
            segments.close()

    def export(self) -> int:
        """Exports all finished segments; returns the number of records."""
        with self.exporter() as exporter:
            exporter.export_all()
            return exporter.exported

    def dropped(self, reason: str) -> float:
        return self.registry.get_sample_value("pointsman_export_dropped_total", {"reason": reason}) or 0.0

    @property
    def waiting(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir() if path.name != "exporter.lock")


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.parquet"))


def rows_in(folder: Path, table: str = DECISIONS) -> list[dict[str, Any]]:
    """Returns the rows of all files of a table."""
    return [row for file in files_in(folder / table) for row in pq.ParquetFile(file).read().to_pylist()]


def ids_in(folder: Path, table: str = DECISIONS) -> list[str]:
    return sorted(row["id"] for row in rows_in(folder, table))
