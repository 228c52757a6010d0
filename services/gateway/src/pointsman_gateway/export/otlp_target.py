"""Sends records as log records to an OpenTelemetry collector, by OTLP over HTTP.

The library of OpenTelemetry encodes and sends them, and takes headers, certificates, compression and the timeout from
its environment variables (`OTEL_EXPORTER_OTLP_*`). See https://opentelemetry.io/docs/specs/otlp/.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import requests
from google.protobuf.message import DecodeError
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExportResult
from opentelemetry.sdk.resources import Resource

from pointsman_gateway.export.columns import TABLES
from pointsman_gateway.export.record_target import Rows
from pointsman_gateway.export.rows import ExportedRecord, Partition

log = logging.getLogger(__name__)

LOGS_PATH = "/v1/logs"
SERVICE = "pointsman-gateway"
RECORD_ID = "log.record.uid"
"""OpenTelemetry's attribute for an id by which duplicates can be removed."""
PREFIX = "pointsman."
"""The beginning of event names and of all other attributes."""
MAX_REQUEST_BYTES = 1024 * 1024
"""Approximate bytes of the records of one request; a single record may have more. Collectors take 4 MiB or more."""
REFUSED = frozenset({requests.codes.bad_request, requests.codes.request_entity_too_large})
"""Answers to which a repetition of the same request would be no use."""
_BYTES_OF_ATTRIBUTES = 1000
_NO_ATTRIBUTE = frozenset({"id", "time", "entry"})
_ATTRIBUTES: dict[str, list[tuple[str, Callable[[Any], Any]]]] = {
    table: [(PREFIX + one.name, attrgetter(one.attribute)) for one in columns if one.name not in _NO_ATTRIBUTE]
    for table, columns in TABLES.items()
}

Record = tuple[Partition, ExportedRecord]


class CollectorFailed(ConnectionError):
    """The collector has not taken records."""


class OtlpTarget:
    def __init__(self, url: str) -> None:
        """Takes the address of a collector; `/v1/logs` is added to it."""
        self._url = url.rstrip("/").removesuffix(LOGS_PATH) + LOGS_PATH
        self._answers = _Answers()
        session = requests.Session()
        session.max_redirects = 0  # a POST that is redirected becomes a GET, and its records are lost
        session.hooks["response"].append(self._answers.note)
        logging.getLogger(OTLPLogExporter.__module__).addFilter(self._answers)
        self._exporter = OTLPLogExporter(self._url, session=session)
        self._resource = Resource.create({"service.name": SERVICE})
        self._name, self._sent = "", 0
        """The records of which name are sent, and how many of the requests for them the collector has taken."""
        self._refused: list[ExportedRecord] = []

    def store(self, name: str, rows: Rows) -> Sequence[ExportedRecord]:
        if name != self._name:
            self._name, self._sent, self._refused = name, 0, []
        for number, batch in enumerate(_batches(rows)):
            if number >= self._sent:
                self._refused += self._send(batch)
                self._sent = number + 1
        self._name = ""
        return self._refused

    def _send(self, batch: Sequence[Record]) -> list[ExportedRecord]:
        """Sends records, and returns those that the collector refuses; raises CollectorFailed if it takes none."""
        self._answers.reset()
        result = self._exporter.export([self._to_log_record(*one) for one in batch])
        if result is LogRecordExportResult.SUCCESS and self._answers.is_collector:
            if self._answers.rejected:
                log.error("%s has taken, but rejected %d records: %s", self._url, *self._answers.rejected)
            return []
        if self._answers.status not in REFUSED:
            raise CollectorFailed(f"{self._url} has not taken {len(batch)} records: {self._answers.reason}")
        if len(batch) == 1:
            log.error("%s refuses a record: %s", self._url, self._answers.reason)
            return [batch[0][1]]
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


class _Answers(logging.Filter):
    """Keeps what the library does not return: the last answer of the collector, or why there was none.

    As a filter it takes the library's messages off the log, because the exporter reports a failure itself.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        self.status = 0
        self.reason = "unknown"
        self.is_collector = True
        """Whether the answer, if there was one, has a form that a collector's may have."""
        self.rejected: tuple[int, str] | None = None
        """How many records of a request with status 200 were rejected, and why; such are not to be sent again."""

    def note(self, response: requests.Response, **_: Any) -> None:
        self.status = response.status_code
        self.reason = f"{response.status_code} {response.reason}"
        if not 200 <= response.status_code < 300:
            return
        try:
            partial = ExportLogsServiceResponse.FromString(response.content).partial_success
        except DecodeError:
            self.is_collector = "json" in response.headers.get("content-type", "")  # some answer with JSON
            self.reason = f"its answer to {response.request.method} is not that of a collector"
            return
        if partial.rejected_log_records:
            self.rejected = partial.rejected_log_records, partial.error_message

    def filter(self, record: logging.LogRecord) -> bool:
        if not self.status:
            self.reason = record.getMessage()
        return log.isEnabledFor(logging.DEBUG)
