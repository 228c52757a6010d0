"""The exporter sends records to an OpenTelemetry collector as log records; all arrive, whatever fails."""

import asyncio
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from pointsman_gateway.export import otlp_target
from pointsman_gateway.export.collector_session import Answer
from pointsman_gateway.export.exporter import Exporter
from pointsman_gateway.export.open_targets import open_targets
from pointsman_gateway.export.otlp_target import CollectorFailed, OtlpTarget
from pointsman_gateway.export.record_target import WrongTarget
from pointsman_gateway.export.segments import SegmentFolder
from pointsman_gateway.request_log import export_log

from tests.gateway.doubles.exports import NOON, ExportHarness, exported, ids_in
from tests.gateway.doubles.log_collector import LogCollector, attributes_of, collecting
from tests.gateway.doubles.processes import Process
from tests.gateway.doubles.waiting import until

RECORDS = 400
NAMES = [f"d{number:04d}" for number in range(RECORDS)]


@pytest.fixture
def collector() -> Iterator[LogCollector]:
    with collecting() as collector:
        yield collector


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


@pytest.fixture
def small_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """About five records in each request."""
    monkeypatch.setattr(otlp_target, "MAX_REQUEST_BYTES", 10_000)


Export = Callable[[str], int]


@pytest.fixture
def export(harness: ExportHarness) -> Iterator[Export]:
    """A function that exports what waits to targets, which stay open between its calls, and returns the number."""
    segments = SegmentFolder(harness.folder)
    exporters: dict[str, Exporter] = {}

    def run(targets: str) -> int:
        exporter = exporters.setdefault(targets, Exporter(segments, open_targets(targets), 0.0))
        before = exporter.exported
        exporter.export_all()
        return exporter.exported - before

    yield run
    segments.close()


def otlp(collector: LogCollector) -> str:
    return f"otlp+{collector.url}"


def test_a_record_arrives_with_its_columns_as_attributes(
    harness: ExportHarness, collector: LogCollector, export: Export
) -> None:
    entry = exported("d1", task="triage")
    harness.log.append("decisions", [entry])
    feedback = {"v": 1, "id": "f1", "unix_ms": 5, "decision": "d1", "tenant": "acme", "rating": 0.5}
    harness.log.append("feedback", [json.dumps(feedback)])
    harness.log.close()
    assert export(otlp(collector)) == 2
    decided, rated = collector.records
    assert (decided.time_unix_nano, decided.event_name) == (int(NOON * 1e9), "pointsman.decisions")
    assert decided.body.string_value == entry.partition("\t")[0]
    attributes = attributes_of(decided)
    assert (attributes["log.record.uid"], attributes["pointsman.task"]) == ("d1", "triage")
    assert attributes["pointsman.prompt_tokens"] == json.loads(decided.body.string_value)["usage"]["prompt_tokens"]
    assert (attributes_of(rated)["pointsman.tenant"], attributes_of(rated)["pointsman.rating"]) == ("acme", 0.5)
    assert collector.services == {"pointsman-gateway"}
    assert harness.waiting == []


@pytest.mark.parametrize("status", [401, 404, 429, 500, 503])
def test_a_collector_that_takes_nothing_delays_records(
    harness: ExportHarness, collector: LogCollector, export: Export, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    harness.note("d1", "d2")
    harness.log.close()
    collector.status = status
    with pytest.raises(CollectorFailed, match=rf"has not taken 2 records: {status} "):
        export(otlp(collector))
    assert "writer-00000001.jsonl" in harness.waiting
    collector.status = 200
    assert export(otlp(collector)) == 2
    assert collector.ids == ["d1", "d2"]


@pytest.mark.usefixtures("small_requests")
def test_an_outage_in_the_middle_sends_again_only_what_was_not_taken(
    harness: ExportHarness, collector: LogCollector, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    harness.note(*NAMES)
    harness.log.close()
    take = collector.take
    monkeypatch.setattr(collector, "take", lambda path, content: take(path, content) if collector.requests < 9 else 500)
    with pytest.raises(CollectorFailed):
        export(otlp(collector))
    assert 9 <= len(collector.ids) < RECORDS
    monkeypatch.undo()
    monkeypatch.setattr(otlp_target, "MAX_REQUEST_BYTES", 10_000)
    export(otlp(collector))
    assert collector.ids == NAMES


def test_a_request_that_is_too_large_is_divided(
    harness: ExportHarness, collector: LogCollector, export: Export
) -> None:
    harness.note(*NAMES[:10])
    harness.log.close()
    collector.max_records = 3
    export(otlp(collector))
    assert collector.ids == NAMES[:10]


def test_a_record_that_the_collector_refuses_does_not_hold_up_the_others(
    harness: ExportHarness, collector: LogCollector, export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    harness.note(*NAMES[:10])
    harness.log.close()
    collector.poison = NAMES[4]
    export(otlp(collector))
    assert collector.ids == NAMES[:4] + NAMES[5:10]
    assert "refuses 1 of 10 records: 400 Bad Request: no field like this\n" in caplog.text
    (kept,) = harness.folder.glob("*.refused")
    kept.rename(harness.folder / "again-00000001.jsonl")  # it is a segment
    collector.poison = ""
    export(otlp(collector))
    assert collector.ids[9:] == [NAMES[4]]
    assert collector.records[9].body.string_value == exported(NAMES[4]).partition("\t")[0]


@pytest.mark.parametrize(
    ("content_type", "refusal"),
    [
        ("application/x-protobuf", b""),
        ("application/json; charset=utf-8", b'{"code": 3, "message": "too old", "hint": 1}'),
    ],
)
def test_a_request_of_which_each_record_is_refused_does_not_hold_up_the_export(
    harness: ExportHarness, collector: LogCollector, export: Export, content_type: str, refusal: bytes
) -> None:
    harness.note(*NAMES[:3])
    harness.log.close()
    collector.status, collector.headers, collector.refusal = 400, {"Content-Type": content_type}, refusal
    export(otlp(collector))
    (kept,) = harness.folder.glob("*.refused")
    assert len(kept.read_bytes().splitlines()) == 3


def test_records_wait_if_no_time_is_left_to_send_them(
    harness: ExportHarness, collector: LogCollector, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.note("d1")
    harness.log.close()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0")
    with pytest.raises(CollectorFailed, match="no time is left"):
        export(otlp(collector))
    assert [*harness.folder.glob("*.refused")] == []


@pytest.mark.parametrize(
    ("content_type", "answer"), [("text/html", b""), ("application/json", b'{"error": {"message": "no key"}}')]
)
def test_what_a_proxy_refuses_waits_for_the_collector(
    harness: ExportHarness, collector: LogCollector, export: Export, content_type: str, answer: bytes
) -> None:
    harness.note("d1")
    harness.log.close()
    collector.status, collector.headers, collector.refusal = 400, {"Content-Type": content_type}, answer
    reason = rf"400 Bad Request, but the answer \({content_type}\) is not that of a collector"
    with pytest.raises(CollectorFailed, match=reason):
        export(otlp(collector))
    collector.status = 200
    export(otlp(collector))
    assert collector.ids == ["d1"]
    assert harness.waiting == []


def test_records_that_were_sent_are_not_sent_again_if_the_segments_cannot_be_removed(
    harness: ExportHarness, collector: LogCollector, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.note("d1", "d2")
    harness.log.close()
    with monkeypatch.context() as failing:
        failing.setattr(SegmentFolder, "finish", lambda folder, plan: 1 / 0)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                export(f"{harness.files}, {otlp(collector)}")
    export(f"{harness.files}, {otlp(collector)}")
    assert collector.ids == ["d1", "d2"]


REJECTED = ExportLogsServiceResponse()
REJECTED.partial_success.rejected_log_records = 1
REJECTED.partial_success.error_message = "too old"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-protobuf", REJECTED.SerializeToString()),
        ("application/json", b'{"partialSuccess": {"rejectedLogRecords": "1", "errorMessage": "too old"}}'),
    ],
)
def test_records_that_a_collector_takes_and_drops_are_in_the_log(
    harness: ExportHarness,
    collector: LogCollector,
    export: Export,
    caplog: pytest.LogCaptureFixture,
    content_type: str,
    body: bytes,
) -> None:
    collector.headers, collector.body = {"Content-Type": content_type}, body
    harness.note("d1", "d2")
    harness.log.close()
    assert export(otlp(collector)) == 2
    assert "rejected 1 records: too old" in caplog.text


@pytest.mark.parametrize(
    ("status", "headers", "reason"),
    [
        (200, {"Content-Type": "text/html"}, "is not that of a collector"),
        (200, {"Content-Type": "application/json"}, "is not that of a collector"),
        (302, {"Location": "/"}, "302 Found"),
        (307, {}, "307 Temporary Redirect"),
    ],
)
def test_a_web_page_in_the_place_of_a_collector_takes_no_records(
    harness: ExportHarness, collector: LogCollector, export: Export, status: int, headers: dict[str, str], reason: str
) -> None:
    collector.body = b"<html>Welcome</html>" if status == 200 else b""
    collector.status, collector.headers = status, headers
    harness.note("d1")
    harness.log.close()
    with pytest.raises(CollectorFailed, match=reason):
        export(otlp(collector))
    assert "writer-00000001.jsonl" in harness.waiting


def test_a_text_is_no_answer_of_a_collector_although_it_can_be_parsed() -> None:
    assert Answer(200, "application/x-protobuf", b"\n\0").partial_success() is not None
    assert Answer(200, "text/plain", b"\n\0").partial_success() is None


def test_an_endless_answer_is_not_read(harness: ExportHarness, collector: LogCollector, export: Export) -> None:
    collector.body = b" " * 10_000_000 + b"{}"
    collector.headers = {"Content-Type": "application/json"}
    harness.note("d1")
    harness.log.close()
    with pytest.raises(CollectorFailed, match="is not that of a collector"):
        export(otlp(collector))


class Dripping(BaseHTTPRequestHandler):
    """Answers with a byte each 20 ms."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        with suppress(ConnectionError):
            for _ in range(1000):
                self.wfile.write(b" ")
                time.sleep(0.02)

    def log_message(self, format: str, *args: Any) -> None:
        """Does nothing."""


def test_an_answer_that_does_not_end_is_given_up(
    harness: ExportHarness, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.3")
    harness.note("d1")
    harness.log.close()
    with ThreadingHTTPServer(("127.0.0.1", 0), Dripping) as server:
        serving = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        serving.start()
        began = time.monotonic()
        try:
            with pytest.raises(CollectorFailed, match=r"the answer is not complete \(ReadTimeout\)"):
                export(f"otlp+http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            serving.join()
        assert time.monotonic() - began < 5


def test_an_outage_is_reported_with_its_cause(
    harness: ExportHarness, collector: LogCollector, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    harness.note("d1")
    harness.log.close()
    collector.stop()
    with pytest.raises(CollectorFailed, match="Connection refused"):
        export(otlp(collector))
    collector.start()


def test_several_targets_get_each_record_once_although_one_fails(
    harness: ExportHarness, collector: LogCollector, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.1")
    targets = f"{harness.files}, {otlp(collector)}"
    harness.note("d1", "d2")
    harness.log.close()
    collector.status = 500
    with pytest.raises(CollectorFailed):
        export(targets)
    assert ids_in(harness.files) == ["d1", "d2"]
    (file,) = harness.files.rglob("*.parquet")
    file.unlink()  # to see that it is not written again
    collector.status = 200
    assert export(targets) == 2
    assert (ids_in(harness.files), collector.ids) == ([], ["d1", "d2"])


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("otlp+grpc://host:4317", "'otlp+grpc://host:4317' is no collector: use otlp+http://HOST:4318"),
        ("otlp+http://", "'otlp+http://' is no collector"),
        ("/tmp/records,", "POINTSMAN_EXPORT_TARGET is empty"),
        ("otlp+http://ann:secret@host:4318", "the URL of the collector host:4318 has a name or password: remove it"),
        ("otlp+https://secret@host", "the URL of the collector host has a name or password"),
        ("s3://key:secret@bucket/path", "the URL s3://...@bucket has a password: remove it"),
    ],
)
def test_a_wrong_collector_is_named_with_what_would_be_right(address: str, message: str) -> None:
    with pytest.raises(WrongTarget) as raised:
        open_targets(address)
    assert message in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("name", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_LOGS_HEADERS"])
def test_the_credentials_of_one_collector_are_not_sent_to_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    two = "otlp+http://one:4318,otlp+http://two:4318"
    open_targets(two)
    monkeypatch.setenv(name, "authorization=Basic%20x")
    open_targets("otlp+http://one:4318")
    with pytest.raises(WrongTarget, match=f"{name} would be sent to each of the collectors"):
        open_targets(two)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pointsman_gateway.export.otlp_target", None)
    with pytest.raises(WrongTarget, match=r"install pointsman-gateway\[tracing\]"):
        open_targets("otlp+http://host:4318")


@pytest.mark.parametrize("address", ["http://host:1", "http://host:1/", "http://host:1/v1/logs"])
def test_the_path_of_logs_is_added_once(address: str) -> None:
    assert OtlpTarget(address)._exporter._endpoint == "http://host:1/v1/logs"


async def test_kills_and_an_outage_of_the_collector_lose_no_record(
    tmp_path: Path, harness: ExportHarness, collector: LogCollector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 20_000)
    settings = {
        "POINTSMAN_EXPORT_TARGET": otlp(collector),
        "POINTSMAN_EXPORT_WAL_DIR": str(harness.folder.parent),
        "POINTSMAN_EXPORT_SECONDS": "0",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "0.5",
    }
    program = [sys.executable, "-m", "pointsman_gateway.export"]
    exporting = Process(program, settings, tmp_path / "export.log", "records in .* are exported")
    try:
        await exporting.start()
        for number, name in enumerate(NAMES):
            harness.note(name)
            if number == 100:
                await until(lambda: bool(collector.records), within=20)
                collector.stop()
            elif number == 200:
                await until(lambda: "records wait on disk" in exporting.words, within=20)
                await exporting.kill()
                await exporting.start()
                collector.start()
            elif number in (250, 300, 350):
                await asyncio.sleep(0.05 * (number / 100))
                await exporting.kill()
                await exporting.start()
        harness.log.close()
        await until(lambda: set(NAMES) == set(collector.ids), within=60)
        await until(lambda: not [one for one in harness.waiting if one.endswith(".jsonl")], within=20)
    finally:
        await exporting.kill()
    logging.getLogger(__name__).info("%d records arrived %d times", RECORDS, len(collector.ids))
