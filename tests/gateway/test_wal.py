"""Receipts in the write-ahead log of a dead process are recovered exactly once, with their statistics."""

import asyncio
import json
import resource
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Caller, Considered, Sampling, UndecidedReceipt
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import PendingEntry, to_entry, to_undecided_json
from pointsman_gateway.request_log.evidence import answer_counts
from pointsman_gateway.request_log.recorder import MAX_WAITING
from pointsman_gateway.request_log.store import Batch, RequestLogStore
from pointsman_gateway.request_log.tasks import OrphanRecovery
from pointsman_gateway.request_log.wal_records import (
    DecidedRecord,
    UndecidedRecord,
    decided_record,
    from_line,
    to_line,
    undecided_record,
)
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.receipts import receipts_in
from tests.gateway.doubles.request_logs import (
    ADAPTED,
    REQUEST,
    RequestLogHarness,
    decision,
    decisions_in,
    receipt,
    run_request_log,
)
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

REJECTED = UndecidedReceipt(
    "r1", "chat", "rate_limited", "caller", {"total": 0.001}, Caller("k1", "t1"), counts_as_request=True
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wal"


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("wal-*"))


def first_segment(folder: Path) -> Path:
    """Returns the segment that is written first."""
    (page,) = folder.glob("wal-*.a.jsonl")
    return page


async def ids_in(valkey: Valkey) -> list[str]:
    return [entry["id"] for entry in await decisions_in(valkey.url)]


async def answers_in(harness: RequestLogHarness) -> int:
    return sum(named.get("answers", 0) for named in (await harness.store.evidence(redis_schema.today())).values())


@asynccontextmanager
async def heir(valkey: Valkey, folder: Path) -> AsyncIterator[RequestLogHarness]:
    """Yields a process that has recovered the logs of dead processes."""
    async with run_request_log(valkey.url, folder) as harness:
        await harness.recovery.recover()
        yield harness


async def test_logged_but_unwritten_receipts_are_recovered_once(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1", "d2")
        gone.recorder.note_undecided(REJECTED)
        await gone.recorder.write()
        gone.note("d3", "d4")
        gone.recorder.note_undecided(replace(REJECTED, request_id="r2"))
    async with heir(valkey, folder) as harness:
        assert await ids_in(valkey) == ["d1", "d2", "d3", "d4"]
        assert [one["request_id"] for one in (await receipts_in(valkey.url)).undecided] == ["r1", "r2"]
        assert await answers_in(harness) == 4
        assert harness.metric("pointsman_wal_recovered_total") == 3
        assert len(files_in(folder)) == 3  # its own
        await harness.recovery.recover()
        assert len(await ids_in(valkey)) == 4
    assert files_in(folder) == []


async def test_the_log_of_a_running_gateway_is_not_touched(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as one, run_request_log(valkey.url, folder) as other:
        one.note("d1")
        await other.recovery.recover()
        assert await ids_in(valkey) == []
        await one.recorder.write()
    async with heir(valkey, folder) as harness:
        assert (await ids_in(valkey), await answers_in(harness)) == (["d1"], 1)


async def test_an_incomplete_or_invalid_line_is_skipped(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1", "d2")
    page = first_segment(folder)
    first, second, _ = page.read_bytes().split(b"\n")
    page.write_bytes(b"\n".join((first, b'["x"]', b"nonsense", second[: len(second) // 2])))
    async with heir(valkey, folder):
        assert await ids_in(valkey) == ["d1"]


async def test_a_late_batch_of_a_dead_gateway_is_written_once(valkey: Valkey, folder: Path) -> None:
    """The batch was sent when Redis was suspended. Redis then executes both it and the recovery, in either order."""
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1")
        await gone.recorder.write()
        valkey.hang()
        gone.note("d2")
        gone.recorder.note_undecided(REJECTED)
        with pytest.raises(Unavailable):
            await gone.recorder.write()
        gone.note("d3")
        valkey.go_on()
    async with heir(valkey, folder) as harness:
        assert await ids_in(valkey) == ["d1", "d2", "d3"]
        assert len((await receipts_in(valkey.url)).undecided) == 1
        assert await answers_in(harness) == 3


class Late:
    """A store whose batch is delayed on the network."""

    def __init__(self, store: RequestLogStore) -> None:
        self.config, self.learning = store.config, None
        self.batch: Batch | None = None

    async def write(self, batch: Batch) -> int:
        self.batch = batch
        raise Unavailable("on its way", code="redis_unavailable")


async def test_a_batch_that_arrives_after_recovery_is_ignored(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        late = Late(gone.store)
        gone.recorder.store = late  # type: ignore[assignment]
        gone.note("d1")
        gone.recorder.note_undecided(REJECTED)
        with pytest.raises(Unavailable):
            await gone.recorder.write()
    async with heir(valkey, folder) as harness:
        assert late.batch is not None
        harness.store.writer = gone.store.writer
        await harness.store.write(late.batch)
        assert (await ids_in(valkey), await answers_in(harness)) == (["d1"], 1)
        assert len((await receipts_in(valkey.url)).undecided) == 1


class Unheard:
    """A store whose first reply is lost."""

    def __init__(self, store: RequestLogStore) -> None:
        self._store = store
        self._lost = False
        self.last_batch_of = store.last_batch_of

    async def write_for(self, writer: str, last_batch: int, batch: Batch) -> bool:
        written = await self._store.write_for(writer, last_batch, batch)
        if not self._lost:
            self._lost = True
            raise Unavailable("unheard", code="redis_unavailable")
        return written


async def test_an_interrupted_recovery_resumes(valkey: Valkey, folder: Path) -> None:
    names = [f"d{number}" for number in range(600)]  # of three batches
    async with run_request_log(valkey.url, folder) as gone:
        gone.note(*names)
        gone.recorder.note_undecided(REJECTED)
    async with run_request_log(valkey.url) as harness:
        recovery = OrphanRecovery(Unheard(harness.store), harness.queue, folder, harness.metrics)  # type: ignore[arg-type]
        with pytest.raises(Unavailable):
            await recovery.recover()
        assert len(await ids_in(valkey)) == 256
        await recovery.recover()
        assert (await ids_in(valkey), await answers_in(harness)) == (names, 600)
        assert len((await receipts_in(valkey.url)).undecided) == 1
    assert files_in(folder) == []


async def test_receipts_stay_on_disk_while_the_number_of_the_last_batch_cannot_be_read(
    valkey: Valkey, folder: Path
) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1")
        await gone.recorder.write()
        gone.note("d2")
    async with open_client(valkey.url) as redis:
        number = await redis.client.getset(redis_schema.WRITER + gone.store.writer, "many")
        async with heir(valkey, folder) as harness:
            assert await ids_in(valkey) == ["d1"]
            await redis.client.set(redis_schema.WRITER + gone.store.writer, number)
            await harness.recovery.recover()
            assert (await ids_in(valkey), await answers_in(harness)) == (["d1", "d2"], 2)


async def test_without_redis_the_log_stays_on_disk(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1")
    valkey.kill()
    async with run_request_log(valkey.url, folder) as harness:
        with pytest.raises(Unavailable):
            await harness.recovery.recover()
        await valkey.start()
        await found(lambda: is_back(harness))
        await harness.recovery.recover()
    assert await ids_in(valkey) == ["d1"]


async def is_back(harness: RequestLogHarness) -> bool:
    try:
        await harness.store.evidence(redis_schema.today())
    except Unavailable:
        return False
    return True


async def test_entries_trimmed_from_the_request_log_are_not_restored(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.store.config = RequestLogConfig(max_decisions=100)
        gone.note(*(f"d{number}" for number in range(100)))
        await gone.recorder.write()
        gone.note(*(f"e{number}" for number in range(100)))
        await gone.recorder.write()
        gone.note("last")
    async with heir(valkey, folder) as harness:
        assert sorted(await ids_in(valkey)) == sorted([*(f"e{number}" for number in range(100)), "last"])
        assert await answers_in(harness) == 201


async def test_receipts_dropped_from_memory_are_recovered_once(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note(*(f"d{number}" for number in range(MAX_WAITING + 10)))
        await gone.recorder.write()
        assert gone.metric("pointsman_request_log_dropped_total", reason="full") == 10
        gone.note("last")
    async with heir(valkey, folder) as harness:
        assert len(await ids_in(valkey)) == MAX_WAITING + 1
        assert await answers_in(harness) == MAX_WAITING + 11


async def test_under_continuous_load_the_log_stays_small(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder, max_bytes=200_000) as gone:
        sizes = []
        for begin in range(0, 3000, 30):
            gone.note(*(f"d{number}" for number in range(begin, begin + 30)))
            writing = asyncio.create_task(gone.recorder.write())
            await asyncio.sleep(0)
            gone.note(f"while it wrote {begin}")
            await writing
            sizes.append(sum(file.stat().st_size for file in files_in(folder)))
        assert gone.metric("pointsman_wal_skipped_total", reason="full") == 0
        assert max(sizes) < 150_000
    async with heir(valkey, folder) as harness:
        assert Counter(await ids_in(valkey)).total() == len(set(await ids_in(valkey))) == 3100
        assert await answers_in(harness) == 3100


async def test_a_full_log_accepts_more_after_a_flush(
    valkey: Valkey, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with run_request_log(valkey.url, folder, max_bytes=4000) as gone:
        gone.note(*(f"d{number}" for number in range(100)))
        refused = gone.metric("pointsman_wal_skipped_total", reason="full")
        assert 0 < refused < 100
        assert gone.recorder.not_in_wal == refused
        assert [record.message for record in caplog.records if "memory only" in record.message] == [
            "receipts are kept in memory only until Redis has them: 4000 bytes wait for Redis already"
        ]
        await gone.recorder.write()
        gone.note("e1")
        assert gone.recorder.not_in_wal == 0
    async with heir(valkey, folder) as harness:
        assert (len(await ids_in(valkey)), await answers_in(harness)) == (101, 101)


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Makes the kernel refuse larger files, like a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_fails_no_request(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1")
        with no_file_longer_than(first_segment(folder).stat().st_size + 100):  # there is room for half a line
            gone.note("d2")
        assert gone.metric("pointsman_wal_skipped_total", reason="disk") == 1
        gone.note("d3")
    async with heir(valkey, folder):
        assert await ids_in(valkey) == ["d1", "d3"]


async def test_if_offsets_cannot_be_written_nothing_is_counted_twice(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.note("d1")
        gone.recorder.note_undecided(REJECTED)
        with no_file_longer_than(first_segment(folder).stat().st_size):
            await gone.recorder.write()
        gone.note("d2")
    async with heir(valkey, folder) as harness:
        assert (await ids_in(valkey), await answers_in(harness)) == (["d1", "d2"], 2)
        assert len((await receipts_in(valkey.url)).undecided) == 1


def test_a_record_has_all_fields_except_the_callers_text() -> None:
    made = decision(
        path=ADAPTED,
        confidence=np.float32(0.75),
        considered=(Considered("a", "skipped", "Grüße"),),
        probabilities=(("triage", np.float64(0.75)),),
        notes=("read in part",),
    )
    asked = replace(REQUEST, sampling=Sampling(extra={"response_format": {"type": "json_object"}}), user="ann")
    came = receipt(made, model="triage@3")
    read = from_line(to_line(decided_record(1, 1.7e9, asked, made, came)))
    assert isinstance(read, DecidedRecord)
    recovered, live = (
        json.loads(to_entry(read.to_pending_entry(), True).json),
        json.loads(to_entry(PendingEntry(1.7e9, asked, made, came), True).json),
    )
    lost: dict[str, object] = {
        "inputs": "",
        "user_digest": "",
        "text": "lost",
        "messages": None,
        "user": None,
        "metadata": {},
    }
    assert recovered == live | lost
    assert read.to_pending_entry().counts == answer_counts(came, redis_schema.day_of(1.7e9))
    assert "Hello" not in to_line(read).decode()


def test_a_record_without_a_decision_has_all_fields() -> None:
    read = from_line(to_line(undecided_record(1, 1.7e9, REJECTED)))
    assert isinstance(read, UndecidedRecord)
    assert to_undecided_json(read.receipt(), 1.7e9) == to_undecided_json(REJECTED, 1.7e9)


async def test_a_record_that_cannot_be_encoded_fails_no_request(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        made = decision("d1", reason="\ud800")
        gone.recorder.note(REQUEST, made, receipt(made))
        gone.note("d2")
        assert gone.metric("pointsman_wal_skipped_total", reason="unwritable") == 1
        await gone.recorder.write()
        assert await ids_in(valkey) == ["d2"]
        assert await answers_in(gone) == 2


async def test_a_receipt_without_a_decision_that_cannot_be_encoded_is_left_out(valkey: Valkey, folder: Path) -> None:
    async with run_request_log(valkey.url, folder) as gone:
        gone.recorder.note_undecided(replace(REJECTED, request_id="\ud800"))
        gone.recorder.note_undecided(REJECTED)
        gone.note("d1")
        await gone.recorder.write()
        assert await ids_in(valkey) == ["d1"]
        assert [one["request_id"] for one in (await receipts_in(valkey.url)).undecided] == ["r1"]
        assert gone.metric("pointsman_request_log_dropped_total", reason="unwritable") == 1
        assert gone.recorder.waiting == gone.recorder.not_in_wal == 0
