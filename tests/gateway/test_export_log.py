"""What the request log gets is on disk for the exporter: whole, bounded, and whatever becomes of its process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from pointsman_gateway.bootstrap.persistence import open_persistence
from pointsman_gateway.config.field_types import ConfigError
from pointsman_gateway.config.load import load_config
from pointsman_gateway.domain import Feedback, PathScore, UndecidedReceipt
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log import export_log
from pointsman_gateway.request_log.evidence import EvidenceKey
from pointsman_gateway.request_log.export_log import EVALUATIONS, FEEDBACK, SCORES, UNDECIDED
from pointsman_gateway.request_log.exported_records import ExportedEvaluations, score_records
from pointsman_gateway.request_log.feedback import FeedbackService, NullFeedback
from pointsman_gateway.settings import Settings
from pointsman_servicekit.errors import Unavailable
from prometheus_client import CollectorRegistry

from tests.gateway.doubles.config_folder import ConfigFolder
from tests.gateway.doubles.exports import ExportHarness, exported, files_in, ids_in, rows_in
from tests.gateway.doubles.request_logs import PLAIN, decisions_in, run_request_log
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.test_wal import no_file_longer_than

REJECTED = UndecidedReceipt("r1", "chat", "rate_limited", "caller", {"total": 0.001}, counts_as_request=True)

SCORED = PathScore("chat", PLAIN, "tiny", rows=8, score=0.5)
KILLED = """
import os, pathlib, prometheus_client, sys
from pointsman_gateway.request_log import export_log, metrics
names = metrics.RequestLogMetrics(prometheus_client.CollectorRegistry())
export_log.ExportLog(pathlib.Path(sys.argv[1]), "gone", names, 10**6).append("decisions", [sys.argv[2]])
os.kill(os.getpid(), 9)
"""
REMOVED = """
import pathlib, prometheus_client, shutil, sys
from pointsman_gateway.request_log import export_log, metrics
folder, names = pathlib.Path(sys.argv[1]), metrics.RequestLogMetrics(prometheus_client.CollectorRegistry())
log = export_log.ExportLog(folder, "gone", names, 10**6)
log.append("decisions", [sys.argv[2]])
shutil.rmtree(folder)
log.maintain()
log.close()
shutil.rmtree(folder)
log.append("decisions", [sys.argv[3]])
log.close()
"""


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


async def test_every_kind_of_record_is_exported_as_redis_has_it(valkey: Valkey, harness: ExportHarness) -> None:
    async with run_request_log(valkey.url, harness.folder.parent / "wal", export=harness.log) as log:
        log.note("d1", "d2")
        log.recorder.note_undecided(REJECTED)
        await log.written()
        service = FeedbackService(log.store, log.recorder, log.queue, log.metrics, export=harness.log)
        for _ in range(2):  # the same feedback counts once
            await service.take(Feedback("d1", id="f1", rating=0.25, tenant="t1"))
        await ExportedEvaluations(log.store, harness.log).add_evaluation(
            "e1", [PathScore("chat", PLAIN, "tiny", 8, 0.5)]
        )
        harness.log.append(SCORES, score_records("d1", [(EvidenceKey("chat", "small_talk", "f1", ""), 0.75)]))
        redis = {entry["id"]: entry for entry in await decisions_in(valkey.url)}
    harness.log.close()
    harness.export()
    rows = rows_in(harness.files)
    assert {row["id"]: json.loads(row["entry"]) for row in rows} == redis
    assert rows[0].items() >= {"path": "small_talk", "outcome": "ok", "prompt_tokens": 20, "cost_usd": 1e-6}.items()
    assert json.loads(rows[0]["evidence_key"]) == ["chat", "small_talk", "f1", ""]
    assert [row["request_id"] for row in rows_in(harness.files, UNDECIDED)] == ["r1"]
    feedback = rows_in(harness.files, FEEDBACK)
    assert [(row["decision"], row["rating"]) for row in feedback] == [("d1", 0.25)] * 2
    assert len({row["id"] for row in feedback}) == 1
    assert [(row["of"], row["score"]) for row in rows_in(harness.files, SCORES)] == [("d1", 0.75)]
    assert [(row["of"], row["rows"]) for row in rows_in(harness.files, EVALUATIONS)] == [("e1", 8)]


async def test_an_evaluation_that_is_not_stored_is_not_exported(harness: ExportHarness) -> None:
    with pytest.raises(Exception, match="no request log"):
        await ExportedEvaluations(NullFeedback(), harness.log).add_evaluation(
            "e1", [PathScore("chat", PLAIN, "t", 8, 1)]
        )
    harness.log.close()
    assert harness.export() == 0


async def test_records_are_exported_while_redis_is_down(valkey: Valkey, harness: ExportHarness) -> None:
    async with run_request_log(valkey.url, harness.folder.parent / "wal", export=harness.log) as log:
        valkey.hang()
        log.note("d1")
        log.recorder.note_undecided(REJECTED)
        with pytest.raises(Unavailable):
            await log.recorder.write()
        harness.log.close()
        harness.export()
        assert ids_in(harness.files) == ["d1"]
        assert len(rows_in(harness.files, UNDECIDED)) == 1
        valkey.go_on()
        await log.written()


async def test_what_is_recovered_from_a_dead_gateway_is_exported(valkey: Valkey, harness: ExportHarness) -> None:
    wal = harness.folder.parent / "wal"
    async with run_request_log(valkey.url, wal) as gone:  # ended before its entry was encoded
        gone.note("d1")
        gone.recorder.note_undecided(REJECTED)
    async with run_request_log(valkey.url, wal, export=harness.log) as heir:
        await heir.recovery.recover()
    harness.log.close()
    harness.export()
    assert [(row["id"], row["text"]) for row in rows_in(harness.files)] == [("d1", "lost")]
    assert len(rows_in(harness.files, UNDECIDED)) == 1


def test_records_that_a_full_disk_refuses_are_written_later(harness: ExportHarness) -> None:
    harness.note("d1")
    (segment,) = harness.folder.glob("*.open")
    with no_file_longer_than(segment.stat().st_size + 100):  # there is room for part of a line
        harness.note("d2", "d3")
    harness.log.maintain()
    harness.note("d4")
    harness.log.close()
    assert harness.export() == 4
    assert ids_in(harness.files) == ["d1", "d2", "d3", "d4"]
    assert not list(harness.folder.glob("*.unreadable"))
    assert harness.dropped("disk") == 0


def test_part_of_a_line_on_a_full_disk_is_no_record(harness: ExportHarness) -> None:
    harness.note("d1")
    (segment,) = harness.folder.glob("*.open")
    with no_file_longer_than(segment.stat().st_size + 100):
        harness.note("d2")
        harness.log.close()
    assert harness.dropped("stopped") == 1
    assert harness.export() == 1
    assert not list(harness.folder.glob("*.unreadable"))


def test_a_folder_that_was_removed_is_made_again(harness: ExportHarness) -> None:
    harness.folder.rmdir()
    appended = subprocess.run(
        [sys.executable, "-c", REMOVED, str(harness.folder), exported("d1"), exported("d2")], timeout=10
    )
    assert appended.returncode == 0
    assert harness.export() == 1
    assert ids_in(harness.files) == ["d2"]


def test_what_waits_for_a_full_disk_is_bounded_and_its_loss_counted(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "MAX_UNWRITTEN_BYTES", 2 * len(exported("d1")) + 100)
    with no_file_longer_than(0):
        harness.note("d1", "d2", "d3")
    assert harness.dropped("disk") == 1
    harness.log.close()
    harness.export()
    assert ids_in(harness.files) == ["d2", "d3"]


def test_a_failing_disk_is_reported_once_and_its_recovery_too(
    harness: ExportHarness, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(export_log, "MAX_UNWRITTEN_BYTES", len(exported("d1")) + 100)
    harness.folder.rmdir()
    harness.folder.touch()  # so no segment can be created
    for _ in range(5):
        harness.note("d1")
    assert harness.dropped("disk") == 4
    waits, lost = [one.message.partition(":")[0] for one in caplog.records]
    assert (waits, lost) == ("exported records wait in memory", "records are lost to the export")
    harness.folder.unlink()
    harness.note("d2")
    assert [one.message for one in caplog.records[2:]] == ["records are exported again"]


def test_a_full_export_log_does_not_say_that_it_takes_records_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    harness = ExportHarness(tmp_path, max_bytes=len(exported("d1")) + 100)
    harness.note("d1")
    for _ in range(3):
        harness.note("d2")
        harness.log.maintain()
    assert harness.dropped("full") == 3
    assert len(caplog.records) == 1
    assert caplog.records[0].message.startswith("records are lost to the export")


def test_the_bytes_on_disk_are_bounded_over_all_gateways_and_the_loss_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    room = 3 * len(exported("d1")) + 100
    harness = ExportHarness(tmp_path, max_bytes=room)
    other = harness.gateway("other", room)
    harness.note("d1", "d2")
    other.maintain()
    other.append("decisions", [exported("d3")])
    other.append("decisions", [exported("d4")])
    harness.log.maintain()
    harness.note("d5")
    assert harness.dropped("full") == 2
    assert "records are lost to the export" in caplog.text
    assert harness.registry.get_sample_value("pointsman_export_bytes") == pytest.approx(room, rel=0.1)
    harness.log.close()
    harness.export()
    other.maintain()
    other.append("decisions", [exported("d6")])
    other.close()
    harness.export()
    assert ids_in(harness.files) == ["d1", "d2", "d3", "d6"]


def test_a_segment_is_finished_at_its_size_or_its_age(harness: ExportHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.note("d1")
    harness.log.maintain()
    assert harness.waiting == ["writer-00000001.open"]
    monkeypatch.setattr(export_log, "SEGMENT_SECONDS", 0.0)
    harness.note("d2")
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 10)
    harness.note("d3")
    assert harness.waiting == ["writer-00000001.jsonl"]
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 10**6)
    harness.note("d4")
    harness.log.maintain()
    assert harness.waiting == ["writer-00000001.jsonl", "writer-00000002.jsonl"]
    assert harness.export() == 4


def test_the_segment_of_a_running_gateway_is_left_to_it_and_that_of_a_dead_one_taken(harness: ExportHarness) -> None:
    harness.note("d1")
    assert harness.export() == 0
    gone = subprocess.run([sys.executable, "-c", KILLED, str(harness.folder), exported("d2")])
    assert gone.returncode == -9
    assert harness.export() == 1
    assert [file.name for file in files_in(harness.files)] == ["gone-00000001-00000001.parquet"]
    harness.log.close()
    harness.export()
    assert ids_in(harness.files) == ["d1", "d2"]


async def test_an_export_without_redis_is_refused_with_the_remedy(config_folder: ConfigFolder) -> None:
    settings, config = Settings(export_max_bytes=10**6, redis_url=""), load_config(config_folder.write())
    with pytest.raises(ConfigError, match="without POINTSMAN_GATEWAY_REDIS_URL: set that, too"):
        async with open_persistence(settings, config, CollectorRegistry(), Redaction()):
            pass
