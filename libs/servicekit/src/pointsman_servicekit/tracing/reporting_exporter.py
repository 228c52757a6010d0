"""Reports with few log lines that spans cannot be sent: a collector may be down for hours."""

import logging
import time
from collections.abc import Callable, Sequence

from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

log = logging.getLogger(__name__)

REPORT_SECONDS = 600.0
"""Least number of seconds between two warnings while spans cannot be sent."""
MAX_REASON_CHARACTERS = 300


class ReportingExporter(SpanExporter):
    """An exporter that sends spans with another exporter, and keeps the log of its failures short.

    It logs a warning for the first failure, then at most one every `REPORT_SECONDS`, and a line when spans are sent
    again. The other exporter's own messages are logged at the level DEBUG only. `clock` is in seconds.
    """

    def __init__(self, exporter: SpanExporter, clock: Callable[[], float] = time.monotonic) -> None:
        self._exporter = exporter
        self._clock = clock
        self._lost = 0
        self._next_report = 0.0
        self._attempts = _Attempts()
        logging.getLogger(trace_exporter.__name__).addFilter(self._attempts)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self._attempts.first = ""
        result = self._exporter.export(spans)
        if result is not SpanExportResult.SUCCESS:
            self._report(len(spans))
        elif self._lost:
            log.warning("spans are sent again; %d were lost", self._lost)
            self._lost, self._next_report = 0, 0.0
        return result

    def _report(self, count: int) -> None:
        self._lost += count
        now = self._clock()
        if now >= self._next_report:
            reason = self._attempts.first[:MAX_REASON_CHARACTERS] or "unknown"
            log.warning("%d spans could not be sent and are lost: %s", self._lost, reason)
            self._next_report = now + REPORT_SECONDS

    def shutdown(self) -> None:
        logging.getLogger(trace_exporter.__name__).removeFilter(self._attempts)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._exporter.force_flush(timeout_millis)


class _Attempts(logging.Filter):
    """Keeps the first message of the OTLP exporter in each export; drops its messages unless the level is DEBUG."""

    def __init__(self) -> None:
        super().__init__()
        self.first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or record.getMessage()
        return log.isEnabledFor(logging.DEBUG)
