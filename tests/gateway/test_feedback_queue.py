"""Feedback survives an unavailable Redis and a killed gateway, and is then counted once."""

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Feedback
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.feedback import FeedbackQueue, FeedbackService
from pointsman_gateway.request_log.feedback_store import StoredFeedback
from pointsman_gateway.request_log.metrics import RequestLogMetrics
from pointsman_gateway.request_log.tasks import OrphanRecovery, RequestLogTasks
from pointsman_gateway.request_log.wal import WriteAheadLog
from pointsman_gateway.request_log.wal_records import FeedbackRecord
from pointsman_gateway.request_log.wal_recovery import lock_orphaned_logs
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.grpc_client import open_channel
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from tests.gateway.doubles.api_clients import ApiClient, GrpcStreamClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.gateway import Gateway, Neighbours
from tests.gateway.doubles.request_logs import RequestLogHarness, decisions_in, feedback_in, rated_in
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until

STORED = ("request_log", "wal", "known")


def test_feedback_is_counted_from_zero_wherever_it_is_stored() -> None:
    registry = CollectorRegistry()
    RequestLogMetrics(registry)
    counts = [registry.get_sample_value("pointsman_feedback_total", {"stored": name}) for name in STORED]
    assert counts == [0, 0, 0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "wal"


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, folder: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": folder}
    return neighbours


TROUBLE = pytest.mark.parametrize("trouble", [Valkey.hang, Valkey.kill])


async def back(valkey: Valkey, trouble: Callable[[Valkey], None]) -> None:
    if trouble is Valkey.hang:
        valkey.go_on()
    else:
        await valkey.start()


@TROUBLE
async def test_feedback_waits_on_disk_for_redis_and_then_counts_once(
    api: ApiClient, gateway: Gateway, valkey: Valkey, trouble: Callable[[Valkey], None], folder: Path
) -> None:
    before, during = await api.ask(IN_CHAT), await api.ask(IN_CHAT)
    await api.say(before.decision_id, rating=1.0)
    trouble(valkey)
    assert await api.say(before.decision_id, rating=0.5, correction="late") == ("wal", False)
    during = await api.ask(IN_CHAT)
    for _ in range(3):
        assert await api.say(during.decision_id, rating=0.0) == ("wal", False)
    assert gateway.metric("pointsman_wal_feedback_bytes") > 0
    await back(valkey, trouble)
    await until(lambda: gateway.metric("pointsman_wal_feedback_bytes") == 0, within=10)

    records = {record["decision"]: record["rating"] for record in await feedback_in(valkey.url)}
    assert records == {before.decision_id: "0.5", during.decision_id: "0"}
    assert await rated_in(valkey.url) == {"small_talk": (2, 0.25)}
    assert await api.say(during.decision_id, rating=0.0) == ("request_log", True)
    assert size_of(folder) == 0


async def test_a_disconnect_does_not_corrupt_the_queue(gateway: Gateway, valkey: Valkey) -> None:
    async with open_channel(gateway.grpc_address) as channel:
        api = GrpcStreamClient(channel)
        name = (await api.ask(IN_CHAT)).decision_id
        await found(lambda: decisions_in(valkey.url))
        valkey.hang()
        for patience in (0.02, 0.03, 0.04):
            with suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await api.say(name, rating=0.0)
        valkey.go_on()

        async def taken() -> bool:
            return (await api.say(name, rating=1.0))[0] == "request_log"

        await found(taken)
        await until(lambda: gateway.metric("pointsman_wal_feedback_bytes") == 0)
    assert await rated_in(valkey.url) == {"small_talk": (1, 1.0)}


async def ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/readyz")).status_code == 200


async def start(settings: dict[str, str]) -> tuple[asyncio.subprocess.Process, str]:
    environment = os.environ | {f"POINTSMAN_GATEWAY_{name.upper()}": value for name, value in settings.items()}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pointsman_gateway", env=environment, stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    async with asyncio.timeout(60):
        async for line in process.stderr:
            text = re.search(r"HTTP on (127.0.0.1:[1-9]\d*)", line.decode())
            if text:
                return process, f"http://{text[1]}"
    raise AssertionError("it ended before it said where it listens")


async def test_accepted_feedback_survives_kill_9(
    neighbours: Neighbours, valkey: Valkey, model_folder: Path, folder: Path
) -> None:
    await neighbours.ready()
    neighbours.config.models["engines"]["local"]["lora_server"] = neighbours.lora_server.address
    settings = {
        "config": str(neighbours.config.write()), "embedding_model": str(model_folder),
        "retriever": neighbours.retriever.address, "http_listen": "127.0.0.1:0", "grpc_listen": "127.0.0.1:0",
        "redis_url": valkey.url, "wal_dir": str(folder),
    }  # fmt: skip
    process, url = await start(settings)
    try:
        async with httpx.AsyncClient(base_url=url, verify=False, timeout=10) as client:
            await found(lambda: ready(client))
            name = (await HttpClient(client).ask(IN_CHAT)).decision_id
            await found(lambda: decisions_in(valkey.url))
            valkey.hang()
            assert await HttpClient(client).say(name, rating=0.25) == ("wal", False)
        process.send_signal(signal.SIGKILL)
        await process.communicate()
        valkey.go_on()
        process, url = await start(settings)
        (record,) = await found(lambda: feedback_in(valkey.url))
        assert (record["decision"], record["rating"]) == (name, "0.25")
        async with httpx.AsyncClient(base_url=url, verify=False, timeout=10) as client:
            assert await HttpClient(client).say(name, rating=0.25) == ("request_log", True)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def record(number: int, **more: Any) -> FeedbackRecord:
    return FeedbackRecord(Feedback(f"d{number}", f"f{number}", rating=0.5, **more), number, f"c{number}")


@contextmanager
def open_queue(folder: Path, max_bytes: int = 10_000) -> Iterator[tuple[FeedbackQueue, list[int]]]:
    """Yields the queue of one process, and the list of the sizes that it reports."""
    reported: list[int] = []
    wal = WriteAheadLog(folder, "writer", RequestLogMetrics(CollectorRegistry()))
    try:
        yield FeedbackQueue(wal.feedback, reported.append, max_bytes), reported
    finally:
        wal.close()


async def send_all(queue: FeedbackQueue) -> list[FeedbackRecord]:
    sent: list[FeedbackRecord] = []

    async def send(record: FeedbackRecord) -> bool:
        sent.append(record)
        return True

    await queue.send_all(send)
    return sent


async def test_records_are_sent_in_order_and_then_removed_from_disk(folder: Path) -> None:
    with open_queue(folder) as (queue, reported):
        for number in range(3):
            await queue.add(record(number, correction="Grüße\n"))
        assert reported[-1] == size_of(folder) > 0
        assert await send_all(queue) == [record(number, correction="Grüße\n") for number in range(3)]
        assert (reported[-1], size_of(folder)) == (0, 0)
        assert await send_all(queue) == []
    assert files_in(folder) == []


async def test_a_record_that_cannot_be_sent_yet_keeps_its_place(folder: Path) -> None:
    with open_queue(folder) as (queue, _):
        for number in range(4):
            await queue.add(record(number))
        sent: list[int] = []

        async def send(record: FeedbackRecord) -> bool:
            sent.append(record.unix_ms)
            if len(sent) == 4:
                raise Unavailable("gone", code="redis_unavailable")
            return record.unix_ms != 1

        with pytest.raises(Unavailable):
            await queue.send_all(send)
        assert size_of(folder) > 0
        assert await send_all(queue) == [record(1), record(3)]


async def test_another_process_takes_over_and_skips_an_incomplete_line(folder: Path) -> None:
    with open_queue(folder) as (queue, _):
        await queue.add(record(1))
    (file,) = files_in(folder)
    with file.open("ab") as torn:
        torn.write(b'nonsense\n[]\n["f",{"decision_id":"d2","rat')
    with open_queue(folder) as (queue, reported):
        (orphan,) = lock_orphaned_logs(folder)
        await queue.adopt([orphan])
        assert reported[-1] == size_of(folder) > 0
        await queue.add(record(3))
        assert await send_all(queue) == [record(1), record(3)]
        assert size_of(folder) == 0
        orphan.close()
        assert file not in files_in(folder)


async def test_feedback_of_an_orphaned_log_is_sent_and_then_the_log_is_removed(
    harness: RequestLogHarness, folder: Path
) -> None:
    with open_queue(folder) as (queue, _):
        await queue.add(record(1))
    with open_queue(folder) as (queue, _):
        recovery = OrphanRecovery(harness.store, queue, folder, harness.metrics)
        await recovery.recover()
        assert len(files_in(folder)) == 2
        assert await send_all(queue) == [record(1)]
        await recovery.recover()
        assert len(files_in(folder)) == 1


async def test_processes_that_share_a_folder_leave_each_others_records_alone(folder: Path) -> None:
    with open_queue(folder) as (one, _), open_queue(folder) as (other, _):
        await one.add(record(1))
        await other.add(record(2))
        await other.adopt(lock_orphaned_logs(folder))
        assert await send_all(other) == [record(2)]
        assert await send_all(one) == [record(1)]


async def test_a_full_queue_is_reported_and_accepts_more_once_it_has_sent_some(folder: Path) -> None:
    with open_queue(folder, max_bytes=500) as (queue, _):
        await queue.add(record(1, right_answer="x" * 200))
        with pytest.raises(Unavailable, match=r"\d+ of 500 bytes of feedback wait for it") as raised:
            await queue.add(record(2, right_answer="x" * 200))
        assert (raised.value.code, raised.value.retry_after) == ("wal_full", 10.0)
        assert len(await send_all(queue)) == 1
        await queue.add(record(2, right_answer="x" * 200))


async def test_feedback_on_a_decision_that_is_not_logged_yet_finds_it(harness: RequestLogHarness, folder: Path) -> None:
    with open_queue(folder) as (queue, _):
        harness.note("d1")
        box = FeedbackService(harness.store, harness.recorder, queue, harness.metrics)
        assert await box.take(Feedback("d1", rating=1.0)) == StoredFeedback("request_log")


async def test_older_feedback_that_arrives_late_sets_missing_fields_only(
    harness: RequestLogHarness, valkey: Valkey
) -> None:
    harness.note("d1")
    await harness.recorder.write()
    await harness.store.add_feedback(Feedback("d1", "later", rating=1.0), 2000, "c1")
    await harness.store.add_feedback(Feedback("d1", "earlier", rating=0.0, correction="wrong"), 1000, "c2")
    (record,) = await feedback_in(valkey.url)
    assert (record["rating"], record["correction"], record["unix_ms"]) == ("1", "wrong", "2000")


async def test_a_retried_call_is_not_new_feedback(harness: RequestLogHarness, valkey: Valkey) -> None:
    harness.note("d1")
    await harness.recorder.write()
    feedback = Feedback("d1", "f", rating=1.0)
    seen = [await harness.store.add_feedback(feedback, 1000, call) for call in ("one", "one", "another")]
    assert seen == ["stored", "stored", "known"]
    assert await rated_in(valkey.url) == {"small_talk": (1, 1.0)}


async def test_a_duplicate_within_a_millisecond_is_reported_as_known(
    harness: RequestLogHarness, valkey: Valkey, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.note("d1")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)
    with open_queue(folder) as (queue, _):
        box = FeedbackService(harness.store, harness.recorder, queue, harness.metrics)
        seen = [await box.take(Feedback("d1", rating=1.0)) for _ in range(2)]
    assert seen == [StoredFeedback("request_log"), StoredFeedback("request_log", known_already=True)]
    assert await rated_in(valkey.url) == {"small_talk": (1, 1.0)}


async def test_feedback_is_capped_with_its_index(harness: RequestLogHarness, valkey: Valkey) -> None:
    names = [f"d{number}" for number in range(150)]
    harness.note(*names)
    await harness.recorder.write()
    harness.store.config = RequestLogConfig(max_feedback=100)
    for name in names:
        assert await harness.store.add_feedback(Feedback(name, "f", rating=1.0), 1000, "c") == "stored"
    assert [record["decision"] for record in await feedback_in(valkey.url)] == names[50:]
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        assert sorted(await redis.hkeys(redis_schema.FEEDBACK_INDEX)) == sorted(names[50:])


async def test_feedback_without_a_decision_expires_and_is_counted(harness: RequestLogHarness, folder: Path) -> None:
    with open_queue(folder) as (queue, reported):
        await queue.add(record(1))
        await queue.add(record(2))
        harness.note("d2")
        tasks = RequestLogTasks(
            harness.store, harness.recorder, harness.board, queue, harness.metrics, retry_seconds=0.2
        )
        async with tasks.running():
            await until(lambda: reported[-1] == 0)
        assert harness.metric("pointsman_feedback_lost_total") == 1
        assert await harness.store.add_feedback(record(2).feedback, 0, "c") == "known"


def files_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("wal-*.feedback.jsonl"))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in files_in(folder))
