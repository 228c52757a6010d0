"""The log while spans cannot be sent."""

import logging
from collections.abc import Sequence

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from pointsman_servicekit.tracing.reporting_exporter import REPORT_SECONDS, ReportingExporter

from tests.ports import free_port


class ScriptedExporter(SpanExporter):
    """A span exporter whose collector is up or down as the test says."""

    def __init__(self) -> None:
        self.is_up = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.SUCCESS if self.is_up else SpanExportResult.FAILURE


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    assert {record.levelno for record in caplog.records} <= {logging.WARNING}
    return [record.getMessage() for record in caplog.records]


def test_a_collector_that_is_down_is_reported_once_and_then_every_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    now = 5.0
    collector = ScriptedExporter()
    exporter = ReportingExporter(collector, lambda: now)
    for _ in range(30):
        exporter.export([ReadableSpan("a"), ReadableSpan("b")])
    assert lines(caplog) == ["2 spans could not be sent and are lost: unknown"]
    now += REPORT_SECONDS
    for _ in range(30):
        exporter.export([ReadableSpan("a")])
    assert lines(caplog)[1:] == ["61 spans could not be sent and are lost: unknown"]
    collector.is_up = True
    for _ in range(3):
        exporter.export([ReadableSpan("a")])
    assert lines(caplog)[2:] == ["spans are sent again; 90 were lost"]
    collector.is_up = False
    exporter.export([ReadableSpan("a")])
    assert lines(caplog)[3:] == ["1 spans could not be sent and are lost: unknown"]
    exporter.shutdown()


@pytest.mark.parametrize(("level", "shows_attempts"), [("INFO", False), ("DEBUG", True)])
def test_the_reason_is_in_the_report_and_each_attempt_only_at_debug(
    caplog: pytest.LogCaptureFixture, level: str, shows_attempts: bool
) -> None:
    caplog.set_level(level)
    exporter = ReportingExporter(OTLPSpanExporter(f"http://127.0.0.1:{free_port()}/v1/traces", timeout=0.2))
    try:
        for _ in range(3):
            assert exporter.export([]) is SpanExportResult.FAILURE
    finally:
        exporter.shutdown()
    reports = [record.getMessage() for record in caplog.records if record.name.startswith("pointsman")]
    assert len(reports) == 1
    assert "refused" in reports[0] or "Failed to export" in reports[0]
    others = [record for record in caplog.records if record.name.startswith("opentelemetry.exporter")]
    assert bool(others) is shows_attempts
