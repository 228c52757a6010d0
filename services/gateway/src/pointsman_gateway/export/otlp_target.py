"""Sends records as log records to an OpenTelemetry collector, by OTLP over HTTP.

The library of OpenTelemetry encodes and sends them, and takes headers, certificates, compression and the timeout from
its environment variables (`OTEL_EXPORTER_OTLP_*`). See https://opentelemetry.io/docs/specs/otlp/.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource

from pointsman_gateway.export.collector_session import CollectorSession, one_line
from pointsman_gateway.export.columns import TABLES
from pointsman_gateway.export.record_target import Record, Rows
from pointsman_gateway.export.rows import ExportedRecord, Partition

log = logging.getLogger(__name__)

LOGS_PATH = "/v1/logs"
SERVICE = "pointsman-gateway"
RECORD_ID = "log.record.uid"
"""Name of OpenTelemetry's attribute for a record's id, by which the collector's users can remove duplicates."""
PREFIX = "pointsman."
"""The beginning of the names of events, and of all attributes except `RECORD_ID`."""
MAX_REQUEST_BYTES = 1024 * 1024
"""Approximate maximum size of the records in one request; only a single record may be larger. Collectors accept 4 MiB
or more."""
_BYTES_OF_ATTRIBUTES = 1000
_NO_ATTRIBUTE = frozenset({"id", "time", "entry"})
_ATTRIBUTES: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    table: [(PREFIX + one.name, attrgetter(one.attribute)) for one in columns if one.name not in _NO_ATTRIBUTE]
    for table, columns in TABLES.items()
}


class CollectorFailed(ConnectionError):
    """The OpenTelemetry collector has not taken the records that were sent; they are sent again later."""


class OtlpTarget:
    def __init__(self, url: str) -> None:
        """Takes the address of a collector; `/v1/logs` is added to it."""
        self._url = url.rstrip("/").removesuffix(LOGS_PATH) + LOGS_PATH
        self._session = CollectorSession()
        logging.getLogger(OTLPLogExporter.__module__).addFilter(_only_for_debugging)
        self._exporter = OTLPLogExporter(self._url, session=self._session)
        self._resource = Resource.create({"service.name": SERVICE})
        self._name = ""
        """The argument `name` of the last call of `store`."""
        self._sent = 0
        """How many requests with the records of `_name` the collector has answered for good."""
        self._refused: list[Record] = []
        """The records of `_name` that the collector has refused."""
        self._refusal = ""
        """The collector's reason for the last record in `_refused`."""

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        if name != self._name:
            self._name, self._sent, self._refused = name, 0, []
        for number, batch in enumerate(_batches(rows)):
            if number < self._sent:
                continue
            refused = self._send(batch)
            if refused:
                log.error("%s refuses %d of %d records: %s", self._url, len(refused), len(batch), self._refusal)
            self._refused += refused
            self._sent = number + 1
        return self._refused

    def _send(self, batch: Sequence[Record]) -> list[Record]:
        """Sends records, in smaller requests if the collector refuses them together, and returns those that it refuses
        alone. Raises CollectorFailed if it does not take the records, and does not refuse them for good.
        """
        self._session.forget()
        self._exporter.export([self._to_log_record(*one) for one in batch])
        answer, reason = self._session.answer, self._session.reason
        if answer is not None and (partial := answer.partial_success()) is not None:
            if partial.rejected_log_records:
                message = "%s has taken, but rejected %d records: %s"
                log.error(message, self._url, partial.rejected_log_records, one_line(partial.error_message))
            return []
        is_sent = answer is not None or self._session.error is not None
        if is_sent and not (answer and answer.is_refusal):
            raise CollectorFailed(f"{self._url} has not taken {len(batch)} records: {reason}")
        if len(batch) == 1:
            self._refusal = reason
            return [batch[0]]
        middle = len(batch) // 2
        return [*self._send(batch[:middle]), *self._send(batch[middle:])]

    def _to_log_record(self, partition: Partition, row: ExportedRecord) -> ReadableLogRecord:
        table, _, tenant = partition
        attributes: dict[str, Any] = {RECORD_ID: row.id, f"{PREFIX}table": table, f"{PREFIX}tenant": tenant}
        for name, value_of in _ATTRIBUTES[table]:
            value = value_of(row)
            if value is not None and value != "":
                attributes[name] = value.decode() if isinstance(value, bytes) else value
        record = LogRecord(
            timestamp=row.unix_ms * 1_000_000,
            context=Context(),
            severity_number=SeverityNumber.INFO,
            body=row.entry.decode(),
            attributes=attributes,
            event_name=PREFIX + table,
        )
        return ReadableLogRecord(record, self._resource)


def _batches(rows: Rows) -> Iterator[list[Record]]:
    """Yields the records of each request; the same ones for the same rows."""
    batch: list[Record] = []
    size = 0
    for partition, found in rows.items():
        for row in found:
            added = len(row.entry) + _BYTES_OF_ATTRIBUTES
            if batch and size + added > MAX_REQUEST_BYTES:
                yield batch
                batch, size = [], 0
            batch.append((partition, row))
            size += added
    if batch:
        yield batch


def _only_for_debugging(_: logging.LogRecord) -> bool:
    """Takes the library's messages off the log, because the exporter reports a failure itself."""
    return log.isEnabledFor(logging.DEBUG)
