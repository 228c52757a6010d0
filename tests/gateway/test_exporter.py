"""The exporter writes each record to one Parquet file, whatever fails, and removes it from disk only then."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event, Thread

import pyarrow.parquet as pq
import pytest
from pointsman_gateway.export import segments
from pointsman_gateway.export.exporter import Exporter
from pointsman_gateway.export.record_target import Record, Rows, WrongTarget
from pointsman_gateway.export.segments import FolderInUse, SegmentFolder
from pointsman_gateway.export.tables import VERSION, VERSION_KEY
from pointsman_gateway.export.target import ExportTarget, open_target
from pointsman_gateway.request_log import export_log

from tests.gateway.doubles.exports import NOON, ExportHarness, exported, files_in, ids_in, rows_in
from tests.gateway.test_wal import no_file_longer_than

DAY = 86_400


class FailingTarget:
    """A target that fails after some files, until it works again."""

    def __init__(self, inner: ExportTarget, files: int) -> None:
        self.inner = inner
        self.files = files
        self.attempts = 0

    def put(self, path: str, content: bytes) -> None:
        self.attempts += 1
        if self.files == 0:
            raise ConnectionError("503 Slow Down")
        self.files -= 1
        self.inner.put(path, content)


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def two_days(harness: ExportHarness) -> None:
    harness.log.append("decisions", [exported("d1"), exported("d2", NOON + DAY), exported("d3")])
    harness.log.close()


def test_files_are_partitioned_by_table_day_and_tenant(harness: ExportHarness) -> None:
    two_days(harness)
    assert harness.export() == 3
    assert [str(file.relative_to(harness.files)) for file in files_in(harness.files)] == [
        "decisions/day=2027-01-15/tenant=_none/writer-00000001-00000001.parquet",
        "decisions/day=2027-01-16/tenant=_none/writer-00000001-00000001.parquet",
    ]
    about = pq.read_schema(files_in(harness.files)[0]).metadata
    assert about[VERSION_KEY.encode()] == VERSION.encode()
    assert harness.waiting == []


def test_a_target_that_fails_half_way_gets_each_record_once(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.log.append("decisions", [exported("d1"), exported("d2", NOON + DAY), exported("d3")])
    harness.target = failing = FailingTarget(harness.target, 1)
    with pytest.raises(ConnectionError):
        harness.export()
    assert len(files_in(harness.files)) == 1
    harness.note("d4")  # a further segment does not change what is written again
    failing.files = 9
    harness.export()
    assert ids_in(harness.files) == ["d1", "d2", "d3", "d4"]
    assert len(files_in(harness.files)) == 3
    assert harness.waiting == []


def test_an_exporter_that_was_killed_before_it_removed_segments_writes_nothing_twice(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.log.append("decisions", [exported("d1"), exported("d2", NOON + DAY), exported("d3")])
    with monkeypatch.context() as killed:
        killed.setattr(SegmentFolder, "finish", lambda folder, plan: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            harness.export()
    assert (len(files_in(harness.files)), len(harness.waiting)) == (2, 2)
    harness.note("d4")
    harness.export()
    assert ids_in(harness.files) == ["d1", "d2", "d3", "d4"]


def test_a_clock_that_was_set_back_does_not_stop_the_export(harness: ExportHarness) -> None:
    two_days(harness)
    (segment,) = harness.folder.glob("*.jsonl")
    later = time.time() + DAY
    os.utime(segment, (later, later))
    with harness.exporter(min_age_seconds=60.0) as exporter:
        exporter.export_all()
    assert ids_in(harness.files) == ["d1", "d2", "d3"]


@pytest.mark.parametrize("content", ["", '["writer-0000', "5"])
def test_a_damaged_plan_does_not_stop_the_export(
    harness: ExportHarness, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    two_days(harness)
    (harness.folder / "plan.json").write_text(content)
    assert harness.export() == 3
    assert "plan.json is no plan" in caplog.text
    assert harness.waiting == ["plan.json.unreadable"]


def test_an_exporter_that_was_killed_while_it_removed_segments_goes_on(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.note("d1", "d2", "d3")
    removed = Path.unlink

    def unlink_the_first(path: Path, missing_ok: bool = False) -> None:
        if "00000002" in path.name:
            raise OSError("killed")
        removed(path, missing_ok)

    with monkeypatch.context() as killed:
        killed.setattr(Path, "unlink", unlink_the_first)
        with pytest.raises(OSError, match="killed"):
            harness.export()
    assert [path.name for path in harness.folder.glob("*.jsonl")] != []
    assert harness.export() == 0
    assert harness.waiting == []
    assert ids_in(harness.files) == ["d1", "d2", "d3"]


@pytest.mark.parametrize("removed", [["1"], ["2"], ["3"], ["1", "3"], ["1", "2", "3"]])
@pytest.mark.parametrize("files_stored", [0, 1])
def test_a_segment_that_somebody_removed_takes_no_other_record_with_it(
    harness: ExportHarness,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    removed: list[str],
    files_stored: int,
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.log.append("decisions", [exported("d1")])
    harness.log.append("decisions", [exported("d2")])
    harness.log.append("decisions", [exported("d3"), exported("next day", NOON + DAY)])
    harness.target = failing = FailingTarget(harness.target, files_stored)
    with pytest.raises(ConnectionError):
        harness.export()
    for number in removed:
        (harness.folder / f"writer-0000000{number}.jsonl").unlink()
    failing.files = 99
    harness.export()
    kept = {f"d{number}" for number in "123" if files_stored or number not in removed}
    assert set(ids_in(harness.files)) - {"next day"} == kept
    assert f"writer-0000000{removed[0]}.jsonl" in caplog.text
    assert "were removed, but not by the exporter" in caplog.text
    assert harness.waiting == []


def test_an_outage_of_the_target_delays_records_and_loses_none(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pointsman_gateway.export.exporter.MIN_RETRY_SECONDS", 0.01)
    monkeypatch.setattr("pointsman_gateway.export.exporter.MAX_RETRY_SECONDS", 0.02)
    monkeypatch.setattr("pointsman_gateway.export.exporter.POLL_SECONDS", 0.01)
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.target = failing = FailingTarget(harness.target, 0)
    stop = Event()
    with harness.exporter() as exporter:
        running = Thread(target=exporter.run, args=(stop,))
        running.start()
        try:
            for number in range(20):
                harness.note(f"d{number:02d}")
            wait_for(lambda: failing.attempts >= 3)
            failing.files = 10**6
            wait_for(lambda: not harness.waiting)
        finally:
            stop.set()
            running.join()
    assert ids_in(harness.files) == [f"d{number:02d}" for number in range(20)]
    assert caplog.text.count("records wait on disk, because they cannot be exported: 503") == 1


class Failing:
    """A target that fails with one error after the other, and stops the exporter before the last one."""

    def __init__(self, stop: Event, *errors: Exception) -> None:
        self.stop = stop
        self.errors = list(errors)

    def store(self, name: str, rows: Rows) -> Sequence[Record]:
        error = self.errors.pop(0)
        if len(self.errors) <= 1:
            self.stop.set()
        raise error


def test_each_cause_of_an_outage_is_in_the_log_once(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("pointsman_gateway.export.exporter.MIN_RETRY_SECONDS", 0.0)
    harness.note("d1")
    harness.log.close()
    stop, folder = Event(), SegmentFolder(harness.folder)
    errors = [TimeoutError(), TimeoutError(), OSError("5 s"), OSError("6 s"), TimeoutError(), ValueError("last")]
    Exporter(folder, Failing(stop, *errors, ValueError("last")), 0.0).run(stop)
    folder.close()
    causes = [one.message.rpartition(": ")[2] for one in caplog.records]
    assert causes == ["TimeoutError", "5 s (OSError)", "TimeoutError", "last (ValueError)", "last (ValueError)"]


def test_a_full_disk_under_the_target_delays_records_and_leaves_no_part_of_a_file(harness: ExportHarness) -> None:
    two_days(harness)
    with no_file_longer_than(1000), pytest.raises(OSError, match="File too large"):
        harness.export()
    assert [path for path in harness.files.rglob("*") if path.is_file()] == []
    assert harness.export() == 3
    assert ids_in(harness.files) == ["d1", "d2", "d3"]


class StoredFiles(dict[str, bytes]):
    """A target that needs no disk."""

    def put(self, path: str, content: bytes) -> None:
        self[path] = content


def test_a_full_disk_of_the_gateways_is_emptied_although_no_plan_can_be_written(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness.note("d1", "d2")
    harness.target = files = StoredFiles()
    with no_file_longer_than(0):
        assert harness.export() == 2
    assert sorted(Path(path).stem for path in files) == ["writer-00000001-00000001", "writer-00000002-00000002"]
    assert harness.waiting == []


def test_lines_that_are_no_records_are_kept_apart(harness: ExportHarness, caplog: pytest.LogCaptureFixture) -> None:
    harness.log.append("decisions", [exported("d1"), "{broken", '{"unix_ms": 1e30}', '{"v": 1}'])
    harness.log.append("another", ["{}"])
    names = ["t" * 300, "../acme", "_none", "acme\\n"]  # no gateway has such tenants
    harness.log.append("decisions", [f'{{"unix_ms": 5, "tenant": "{name}"}}' for name in names])
    harness.log.close()
    (segment,) = harness.folder.glob("*.jsonl")
    segment.write_bytes(segment.read_bytes() + b'decisions\t{"unix_ms": 5, "x": "\xff"}\nhalf of a li')
    assert harness.export() == 1
    (kept,) = harness.folder.glob("*.unreadable")
    assert len(kept.read_bytes().splitlines()) == 9
    assert "9 lines are no records in writer-00000001.jsonl" in caplog.text


def test_a_time_that_a_target_cannot_have_is_no_record(harness: ExportHarness) -> None:
    last = (2**64 - 1) // 10**6  # in nanoseconds, it fits into 64 bits
    harness.log.append("decisions", [f'{{"id": "{number}", "unix_ms": {last + number}}}' for number in range(2)])
    harness.log.close()
    assert harness.export() == 1
    (kept,) = harness.folder.glob("*.unreadable")
    assert kept.read_bytes() == f'decisions\t{{"id": "1", "unix_ms": {last + 1}}}\n'.encode()


def test_a_full_disk_and_a_line_that_is_no_record_do_not_stop_the_export(
    harness: ExportHarness, caplog: pytest.LogCaptureFixture
) -> None:
    harness.log.append("decisions", ["{broken", exported("d1")])
    harness.log.close()
    harness.target = files = StoredFiles()
    with no_file_longer_than(0):
        assert harness.export() == 1
    assert len(files) == 1
    assert harness.waiting == []
    assert "1 lines are no records in writer-00000001.jsonl, and are lost" in caplog.text


def test_the_lines_that_are_kept_are_bounded_and_whole(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(segments, "MAX_KEPT_BYTES", 50)
    for line in ("{first", "{second", "{third"):
        harness.log.append("decisions", [line])
        harness.log.close()
        harness.export()
    kept = sorted(harness.folder.glob("*.unreadable"))
    assert [one.read_bytes() for one in kept] == [b"decisions\t{second\n", b"decisions\t{third\n"]
    assert "writer-00000001.jsonl.unreadable is removed" in caplog.text
    harness.log.append("decisions", ["{" * 33, "{"])
    harness.log.close()
    harness.export()
    (left,) = harness.folder.glob("*.unreadable")
    assert left.read_bytes() == b"decisions\t" + b"{" * 33 + b"\n"
    assert "1 lines are no records in writer-00000004.jsonl, and are lost" in caplog.text


def test_a_record_of_an_older_gateway_has_what_it_has(harness: ExportHarness) -> None:
    harness.log.append("decisions", ['{"v": 1, "id": "d1", "unix_ms": 1800014400000, "later": {"a": [1]}}\t'])
    harness.log.close()
    harness.export()
    (row,) = rows_in(harness.files)
    assert (row["id"], row["cost_usd"], row["prompt_tokens"], row["engine"]) == ("d1", None, 0, "")
    assert '"later": {"a": [1]}' in row["entry"]


def test_many_segments_become_files_of_a_limited_size(harness: ExportHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    monkeypatch.setattr(segments, "MAX_BATCH_BYTES", 2 * len(exported("d1")) + 50)
    harness.note("d1", "d2", "d3", "d4", "d5")
    with harness.exporter(min_age_seconds=3600) as exporter:
        exporter.export_all()  # the last one is not old enough
        assert exporter.exported == 4
    assert [file.stem for file in files_in(harness.files)] == [
        "writer-00000001-00000002",
        "writer-00000003-00000004",
    ]
    assert harness.export() == 1


def test_a_second_exporter_is_refused(harness: ExportHarness) -> None:
    with harness.exporter(), pytest.raises(FolderInUse, match="another exporter works on"):
        SegmentFolder(harness.folder)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("", "POINTSMAN_EXPORT_TARGET is empty"),
        ("ftp://host/path", "'ftp://host/path' is no target for exports: use a folder, s3://BUCKET/PATH"),
        ("s3://", "'s3://' is no target"),
        ("gs://bucket/path", "needs a package that is not installed (s3fs for s3://, gcsfs for gs://"),
    ],
)
def test_a_wrong_target_is_named_with_what_would_be_right(
    address: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(WrongTarget) as raised:
        open_target(address)
    assert message in str(raised.value)


def environment(harness: ExportHarness, target: str) -> dict[str, str]:
    return os.environ | {"POINTSMAN_EXPORT_TARGET": target, "POINTSMAN_EXPORT_WAL_DIR": str(harness.folder.parent)}


def run_exporter(harness: ExportHarness, target: str, **more: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pointsman_gateway.export", "--once"]
    return subprocess.run(program, env=environment(harness, target) | more, capture_output=True, text=True)


def test_the_command_exports_once_and_says_what_is_wrong(harness: ExportHarness) -> None:
    two_days(harness)
    refused = run_exporter(harness, str(harness.files), POINTSMAN_EXPORT_SECOND="5")
    assert (refused.returncode, "POINTSMAN_EXPORT_SECOND" in refused.stderr) == (1, True)
    assert run_exporter(harness, "").stderr.startswith("error: POINTSMAN_EXPORT_TARGET is empty")
    in_the_way = harness.folder.parent / "file"
    in_the_way.write_text("")
    assert "records wait on disk, because they cannot be exported" in run_exporter(harness, str(in_the_way)).stderr
    assert run_exporter(harness, str(harness.files)).returncode == 0
    assert ids_in(harness.files) == ["d1", "d2", "d3"]


def test_a_stopped_exporter_first_exports_what_is_left(harness: ExportHarness) -> None:
    two_days(harness)
    environment = {
        "POINTSMAN_EXPORT_TARGET": str(harness.files),
        "POINTSMAN_EXPORT_WAL_DIR": str(harness.folder.parent),
    }
    program = [sys.executable, "-m", "pointsman_gateway.export"]
    with subprocess.Popen(program, env=os.environ | environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        assert "are exported to" in process.stderr.readline()
        assert ids_in(harness.files) == []  # the minute is not over
        process.terminate()
        assert process.wait(30) == 0
    assert ids_in(harness.files) == ["d1", "d2", "d3"]
