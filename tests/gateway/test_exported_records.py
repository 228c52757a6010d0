"""The lab reads exported records as it reads Redis."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pointsman_gateway.domain import Feedback, PathScore
from pointsman_gateway.export.columns import WITHOUT_TENANT
from pointsman_gateway.export.tables import SCHEMAS, VERSION, VERSION_KEY
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import EvidenceKey
from pointsman_gateway.request_log.export_log import SCORES
from pointsman_gateway.request_log.exported_records import ExportedEvaluations, score_records
from pointsman_gateway.request_log.feedback import FeedbackService
from pointsman_lab.log_source import LogSource
from pointsman_lab.parquet import files as parquet_files
from pointsman_lab.parquet.files import COLUMNS, RecordFiles
from pointsman_lab.parquet.log import open_parquet_log
from pointsman_lab.redis_log import open_redis_log
from pointsman_lab.request_log import RequestLog
from pointsman_servicekit.errors import FailedPrecondition, InvalidArgument

from tests.gateway.doubles.exports import ExportHarness, exported, files_in
from tests.gateway.doubles.request_logs import ADAPTED, PLAIN, REQUEST, decision, receipt, run_request_log
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.test_export_log import REJECTED

HOUR = 3600.0
ROOT = Path(__file__).parents[2]


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


async def entries(log: RequestLog, stream: str, *names: str) -> list[list[Any]]:
    return [[fields[name] for name in names] async for _, fields in log.entries(stream, HOUR)]


async def test_redis_and_the_files_have_the_same_decisions_feedback_and_evidence(
    valkey: Valkey, harness: ExportHarness
) -> None:
    async with run_request_log(valkey.url, export=harness.log) as log:
        for number in range(40):
            made = decision(f"d{number}", path=(PLAIN, ADAPTED)[number % 2], task=("chat", "triage")[number % 2])
            model = ("tiny", "triage@abc")[number % 2]
            cost, outcome = 1e-6 * (number + 1), ("ok", "cancelled")[number % 5 == 4]
            log.recorder.note(REQUEST, made, receipt(made, 0.01 * 1.3**number, cost, outcome, model))
        log.recorder.note_undecided(REJECTED)
        await log.written()
        service = FeedbackService(log.store, log.recorder, log.queue, log.metrics, export=harness.log)
        service.tasks = ("chat", "triage")
        await service.take(Feedback("d1", rating=0.25, correction="too long"))
        await asyncio.sleep(0.002)  # times are in milliseconds
        await service.take(Feedback("d1", rating=0.75, right_task="chat", right_answer="Yes."))
        await service.take(Feedback("d2", rating=1.0))
        for rating in (0.5, 0.0):  # the second has the first one's id, so it changes nothing
            await service.take(Feedback("d5", id="f5", rating=rating, correction=f"worth {rating}"))
            await asyncio.sleep(0.002)  # times are in milliseconds
        for rows in (8, 20):  # the second replaces the first
            evaluations = ExportedEvaluations(log.store, harness.log)
            await evaluations.add_evaluation("e1", [PathScore("triage", ADAPTED, "triage@abc", rows, 0.5)])
            await asyncio.sleep(0.002)  # times are in milliseconds
    harness.log.close()
    harness.export()
    today = redis_schema.today()
    async with open_redis_log(valkey.url) as redis, open_parquet_log(str(harness.files)) as parquet:
        assert await parquet.evidence([today]) == await redis.evidence([today])
        for stream, names in (
            (redis_schema.DECISIONS, ("decision", "entry")),
            (redis_schema.UNDECIDED, ("entry",)),
            (redis_schema.FEEDBACK, ("decision", "rating", "right_task", "correction", "right_answer", "evidence_key")),
        ):
            found = await entries(redis, stream, *names)
            assert sorted(await entries(parquet, stream, *names)) == sorted(found) != []
        read = [one.id async for one in parquet.decisions(HOUR)]
        assert sorted(read) == sorted(f"d{number}" for number in range(40))
        (correction,) = [one async for one in parquet.task_corrections(HOUR)]
        assert (correction.recorded.id, correction.right_task) == ("d1", "chat")
        assert await parquet.count(HOUR) == 40


async def test_scores_of_shadow_requests_count_as_ratings(harness: ExportHarness) -> None:
    keys = [EvidenceKey("chat", "small_talk", "f1", ""), EvidenceKey("chat", "other", "f3", "")]
    harness.log.append("decisions", [exported("d1", time.time())])
    for score in (0.25, 0.5):  # the last one counts
        harness.log.append(SCORES, score_records("d1", [(key, score) for key in keys]))
        await asyncio.sleep(0.002)  # times are in milliseconds
    harness.log.close()
    harness.export()
    async with open_parquet_log(str(harness.files)) as log:
        counts = (await log.evidence([redis_schema.today()]))[redis_schema.today()]
        assert counts[keys[1]] == {"rated": 1, "rating": 500_000}
        (rated,) = await log.rated_requests("chat", HOUR)
    assert rated.ratings == dict.fromkeys(keys, 0.5)


async def test_each_id_counts_once_and_the_copy_with_the_text_is_taken(harness: ExportHarness) -> None:
    with_text = exported("d1", time.time())
    lost = with_text.replace('"text":"not stored"', '"text":"lost"')
    assert lost != with_text
    harness.log.append("decisions", [lost, with_text, lost])
    harness.log.close()
    harness.export()
    (file,) = files_in(harness.files)
    shutil.copy(file, file.with_name("again.parquet"))
    async with open_parquet_log(str(harness.files)) as log:
        (read,) = await entries(log, redis_schema.DECISIONS, "entry")
        counts = (await log.evidence([redis_schema.today()]))[redis_schema.today()]
    assert json.loads(read[0])["text"] == "not stored"
    assert [named["answers"] for named in counts.values()] == [1]


async def test_a_tenant_does_not_rate_the_answers_of_another_one(harness: ExportHarness) -> None:
    of_t1 = exported("d1", time.time()).replace('"tenant":""', '"tenant":"t1"')
    now = round(time.time() * 1000)
    ratings = [
        json.dumps({"id": tenant, "unix_ms": now + at, "decision": "d1", "tenant": tenant, "rating": rating})
        for at, (tenant, rating) in enumerate([("t1", 0.25), ("t2", 1.0)])
    ]
    harness.log.append("decisions", [of_t1])
    harness.log.append("feedback", ratings)
    harness.log.close()
    harness.export()
    async with open_parquet_log(str(harness.files)) as log:
        assert await entries(log, redis_schema.FEEDBACK, "rating") == [["0.25"]]
        (counts,) = (await log.evidence([redis_schema.today()]))[redis_schema.today()].values()
    assert (counts["rated"], counts["rating"]) == (1, 250_000)


def test_the_columns_that_are_read_are_those_that_are_written() -> None:
    kinds = {
        "VARCHAR": pa.string(),
        "DOUBLE": pa.float64(),
        "BIGINT": pa.int64(),
        "TIMESTAMPTZ": pa.timestamp("ms", "UTC"),
    }
    for table, columns in COLUMNS.items():
        written = {field.name: field.type for field in SCHEMAS[table]}
        read = {name: kinds[kind] for name, kind in columns.items() if name not in ("day", "tenant")}
        assert read.items() <= written.items()
    assert parquet_files.WITHOUT_TENANT == WITHOUT_TENANT
    assert (parquet_files.VERSION, parquet_files.VERSION_KEY) == (VERSION, VERSION_KEY)


def rewrite(file: Path, drop: Sequence[str] = (), version: str = VERSION) -> None:
    """Makes a file as another version would have written it."""
    table = pq.ParquetFile(file).read().drop_columns(list(drop))
    pq.write_table(table.replace_schema_metadata({VERSION_KEY: version}), file)


async def test_files_without_a_newer_column_are_read_with_those_that_have_it(harness: ExportHarness) -> None:
    now = time.time()
    for writer in ("w1", "w2"):
        gateway = harness.gateway(writer)
        gateway.append("decisions", [exported(f"of-{writer}", now)])
        gateway.close()
    harness.export()
    rewrite(files_in(harness.files)[0], ["cached", "kind", "seconds"])
    async with open_parquet_log(str(harness.files)) as log:
        assert await log.count(HOUR) == 2
        (counts,) = (await log.evidence([redis_schema.today()]))[redis_schema.today()].values()
    assert counts["answers"] == 2
    rewrite(files_in(harness.files)[1], ["cached", "kind", "seconds"])
    async with open_parquet_log(str(harness.files)) as log:
        assert [one.id async for one in log.decisions(HOUR)] == ["of-w1", "of-w2"]


def test_files_of_a_later_version_are_refused_with_the_reason(harness: ExportHarness) -> None:
    harness.note("d1")
    harness.log.close()
    harness.export()
    rewrite(files_in(harness.files)[0], version="2")
    with pytest.raises(FailedPrecondition, match="have version 2 of the tables, and this Pointsman reads version 1"):
        RecordFiles(str(harness.files))


async def test_a_file_that_is_damaged_or_in_a_stale_listing_is_named(harness: ExportHarness) -> None:
    for writer in ("w1", "w2"):
        gateway = harness.gateway(writer)
        gateway.append("decisions", [exported(writer, time.time())])
        gateway.close()
    harness.export()
    async with open_parquet_log(str(harness.files)) as log:
        files_in(harness.files)[1].write_bytes(b"PAR1 and no more")
        with pytest.raises(FailedPrecondition, match=r"cannot be read: .*w2-00000001-00000001\.parquet"):
            [one async for one in log.decisions(HOUR)]


async def test_a_listing_that_lacks_the_newest_file_gives_the_others(
    harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    for writer in ("w1", "w2"):
        gateway = harness.gateway(writer)
        gateway.append("decisions", [exported(writer, time.time())])
        gateway.close()
    harness.export()
    store = fsspec.filesystem("memory")
    for file in files_in(harness.files):
        store.pipe_file(f"/stale/{file.relative_to(harness.files)}", file.read_bytes())
    whole = MemoryFileSystem.glob

    def stale_glob(store: MemoryFileSystem, path: str, **options: Any) -> list[str]:
        return [file for file in whole(store, path, **options) if "w2" not in file]

    async with open_parquet_log("memory://stale") as log:
        with monkeypatch.context() as stale:
            stale.setattr(MemoryFileSystem, "glob", stale_glob)
            assert [one.id async for one in log.decisions(HOUR)] == ["w1"]
        assert sorted([one.id async for one in log.decisions(HOUR)]) == ["w1", "w2"]


async def test_nothing_where_records_should_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"there are no exported decisions in .*POINTSMAN_EXPORT_TARGET"):
        async with LogSource(records=str(tmp_path)).open():
            pass


def test_the_queries_of_the_page_run_in_duckdb(harness: ExportHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.log.append("decisions", [exported("d1"), exported("d2"), exported("d1")])
    rating = {"id": "f1", "unix_ms": 1_800_014_400_000, "decision": "d1", "rating": 0.5}
    harness.log.append("feedback", [json.dumps(rating)] * 2)
    harness.log.close()
    harness.export()
    monkeypatch.chdir(harness.files.parent)
    with duckdb.connect() as connection:
        connection.execute((ROOT / "examples" / "records" / "duckdb.sql").read_text())
        (block,) = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "records.md").read_text(), re.DOTALL)
        days, paths, ratings = (connection.execute(query).fetchall() for query in block.strip().split("\n"))
    assert [(str(day), tenant, usd, number) for day, tenant, usd, number in days] == [
        ("2027-01-15", "_none", pytest.approx(2e-6), 2)
    ]
    assert [row[:2] for row in paths] == [("chat", "small_talk")]
    assert ratings == [("small_talk", 0.5, 1)]
