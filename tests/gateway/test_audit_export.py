"""Administrative changes are exported, each at least once, whoever makes them and whatever fails."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from pointsman_gateway.request_log import audit_export, export_log
from pointsman_gateway.request_log.audit_export import STREAMS_SECONDS, AuditExport
from pointsman_lora_server.registry.schema import RedisKeys
from pointsman_servicekit.audit import audit_log
from pointsman_servicekit.audit.audit_log import AUDIT, EXPORTED, AuditLog
from pointsman_servicekit.audit.entries import Actor, from_json
from pointsman_servicekit.bounded_redis import BoundedRedis, open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.administration import Administration

from tests.gateway.doubles.exports import ExportHarness, exported, files_in, rows_in
from tests.gateway.doubles.gateway import Neighbours
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.valkey_groups import running_cluster
from tests.gateway.doubles.waiting import found, until
from tests.gateway.test_audit_log import ALICE
from tests.gateway.test_wal import no_file_longer_than


@pytest.fixture
async def redis(valkey: Valkey) -> AsyncIterator[BoundedRedis]:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        yield redis


@pytest.fixture
def admin(redis: BoundedRedis) -> Administration:
    return Administration(redis, actor=ALICE)


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path)


async def change(admin: Administration, *limits: int) -> None:
    for limit in limits:
        await admin.change_limits({"requests_per_minute": limit}, tenant="acme")


def changes(harness: ExportHarness) -> list[dict[str, Any]]:
    """Returns the exported changes after the export of what waits, oldest first."""
    harness.log.close()
    harness.export()
    return sorted(rows_in(harness.files, "audit"), key=lambda row: str(row["id"]))


def limits(harness: ExportHarness) -> list[int]:
    return [json.loads(row["after"])["requests_per_minute"] for row in changes(harness)]


async def test_a_change_is_a_row_of_its_day(harness: ExportHarness, admin: Administration) -> None:
    await change(admin, 5, 9)
    await AuditExport(admin.audit, harness.log).copy()
    _, row = changes(harness)
    assert (row["kind"], row["change"], row["subject"]) == ("limit", "limited", "tenant acme")
    assert (row["who"], row["origin"]) == (ALICE.name, ALICE.origin)
    assert (row["before"], row["after"]) == ('{"requests_per_minute":5}', '{"requests_per_minute":9}')
    (newest,) = await admin.audit.read(3600, limit=1)
    assert from_json(row["entry"], newest.unix_ms) == newest
    (file,) = files_in(harness.files)
    assert str(file.relative_to(harness.files)) == f"audit/day={row['time']:%Y-%m-%d}/writer-00000001-00000001.parquet"


async def test_changes_of_adapters_are_exported(
    harness: ExportHarness, redis: BoundedRedis, admin: Administration
) -> None:
    now = 0.0
    export = AuditExport(admin.audit, harness.log, lambda: now)
    await change(admin, 5)
    await export.copy()
    for kind in ("ready", "alias"):
        fields = {"kind": kind, "subject": "triage@prod", "after": "triage@2", "author": "bob", "reason": "better"}
        await redis.client.xadd(RedisKeys("base").changes, fields)
    await export.copy()
    now = STREAMS_SECONDS
    await export.copy()
    moved, _ = changes(harness)
    assert (moved["kind"], moved["subject"], moved["who"], moved["reason"]) == ("alias", "triage@prod", "bob", "better")


async def test_only_new_changes_are_exported_also_after_a_restart(
    harness: ExportHarness, admin: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_PAGE", 2)
    await change(admin, 1, 2, 3, 4, 5)
    await AuditExport(admin.audit, harness.log).copy()
    await change(admin, 6)
    await AuditExport(admin.audit, harness.log).copy()
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == [1, 2, 3, 4, 5, 6]


async def test_a_gateway_that_is_killed_before_redis_knows_exports_a_change_again_with_its_id(
    harness: ExportHarness, admin: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    await change(admin, 1, 2)
    with monkeypatch.context() as killed:
        killed.setattr(AuditLog, "set_exported", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await AuditExport(admin.audit, harness.log).copy()
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == [1, 1, 2, 2]
    assert len({row["id"] for row in changes(harness)}) == 2


async def test_a_full_disk_leaves_changes_in_redis(harness: ExportHarness, admin: Administration) -> None:
    await change(admin, 1)
    export = AuditExport(admin.audit, harness.log)
    with no_file_longer_than(0):
        harness.note("d1")
        for _ in range(3):
            await export.copy()
    assert harness.log._unwritten_bytes < 2 * len(exported("d1"))
    harness.log.maintain()
    await export.copy()
    assert limits(harness) == [1]


async def test_changes_leave_room_for_records_that_would_be_lost(
    tmp_path: Path, admin: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export_log, "SEGMENT_BYTES", 1)
    harness = ExportHarness(tmp_path, max_bytes=2 * len(exported("d1")))
    harness.note("d1")
    await change(admin, 1)
    export = AuditExport(admin.audit, harness.log)
    await export.copy()
    assert harness.export() == 1
    assert harness.dropped("full") == 0
    harness.log.maintain()
    await export.copy()
    assert limits(harness) == [1]


async def test_a_page_that_is_larger_than_the_room_is_exported_in_parts(tmp_path: Path, admin: Administration) -> None:
    await change(admin, 1, 2, 3, 4, 5)
    whole = ExportHarness(tmp_path / "whole")
    await AuditExport(admin.audit, whole.log).copy()
    (segment,) = whole.folder.iterdir()
    await admin.audit._redis.client.delete(EXPORTED)
    harness = ExportHarness(tmp_path, max_bytes=segment.stat().st_size)  # half of them fit
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == [1, 2]
    harness.log.maintain()
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == [1, 2, 3, 4]


async def test_a_change_in_another_script_than_latin_is_not_lost_for_its_bytes(
    tmp_path: Path, redis: BoundedRedis
) -> None:
    admin = Administration(redis, actor=Actor("\N{HIRAGANA LETTER A}" * 1000, "a laptop"))
    await change(admin, 1)
    harness = ExportHarness(tmp_path, max_bytes=2800)  # a thousand characters fit, three thousand bytes do not
    await AuditExport(admin.audit, harness.log).copy()
    assert harness.dropped("full") == 0
    assert limits(harness) == []
    larger = ExportHarness(tmp_path / "larger")
    await AuditExport(admin.audit, larger.log).copy()
    assert limits(larger) == [1]


async def test_one_gateway_at_a_time_exports_changes(harness: ExportHarness, admin: Administration) -> None:
    await change(admin, 1)
    assert await admin.audit.lease_export("another gateway", 60.0)
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == []
    await admin.audit.end_export("a third one")
    assert not await admin.audit.lease_export("a third one", 60.0)
    await admin.audit.end_export("another gateway")
    await AuditExport(admin.audit, harness.log).copy()
    assert limits(harness) == [1]
    assert await admin.audit.lease_export("another gateway", 0.05)  # and is killed
    await change(admin, 2)

    async def is_exported() -> bool:
        await AuditExport(admin.audit, harness.log).copy()
        return limits(harness) == [1, 2]

    await found(is_exported)


@pytest.mark.parametrize("stored", ["9-0", "10-9", "10-10"])
async def test_what_is_exported_is_not_taken_back_by_a_slower_gateway(
    redis: BoundedRedis, admin: Administration, stored: str
) -> None:
    await admin.audit.set_exported(AUDIT, stored)
    await admin.audit.set_exported(AUDIT, "10-10")
    for earlier in ("9-99", "10-9"):
        await admin.audit.set_exported(AUDIT, earlier)
    assert await redis.client.hget(EXPORTED, AUDIT) == "10-10"


async def test_a_search_of_many_keys_is_done_in_short_calls_and_delays_no_change(
    harness: ExportHarness, valkey: Valkey, admin: Administration, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_log, "_SCANNED_KEYS", 1)
    await change(admin, 1)
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        await redis.client.mset({f"key{number}": "" for number in range(300)})
        await redis.client.xadd(RedisKeys("base").changes, {"kind": "alias", "subject": "triage@prod"})
        calls = 0
        made = redis.call

        async def counted(call: Any) -> Any:
            nonlocal calls
            calls += 1
            return await made(call)

        monkeypatch.setattr(redis, "call", counted)
        audit = AuditLog(redis)
        assert await audit.streams() == [AUDIT, RedisKeys("base").changes]
        assert calls > 10
        monkeypatch.setattr(audit, "streams", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await AuditExport(audit, harness.log).copy()
    assert limits(harness) == [1]


async def test_changes_of_adapters_in_a_redis_cluster_are_exported(tmp_path: Path) -> None:
    harness = ExportHarness(tmp_path)
    async with running_cluster(tmp_path, replicas=0) as cluster, open_redis(cluster.url, lambda up: None, 5.0) as redis:
        for base in "abcdef":
            await redis.client.xadd(RedisKeys(base).changes, {"kind": "alias", "subject": f"{base}@prod"})
        audit = AuditLog(redis)
        await AuditExport(audit, harness.log).copy()
        assert sorted(row["subject"] for row in changes(harness)) == [f"{base}@prod" for base in "abcdef"]


async def test_an_outage_of_redis_delays_changes(valkey: Valkey, harness: ExportHarness, admin: Administration) -> None:
    await change(admin, 1)
    export = AuditExport(admin.audit, harness.log)
    valkey.kill()
    with pytest.raises(Unavailable):
        await export.copy()
    await valkey.start()
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        await AuditExport(AuditLog(redis), harness.log).copy()
    assert limits(harness) == [1]


async def test_a_gateway_exports_its_configuration_and_what_others_change(
    neighbours: Neighbours, valkey: Valkey, admin: Administration, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_export, "INTERVAL_SECONDS", 0.05)
    neighbours.settings |= {"redis_url": valkey.url, "export_max_bytes": 10**6, "wal_dir": tmp_path}
    await neighbours.ready()
    async with neighbours.gateway():
        await change(admin, 3)
        segments = tmp_path / "export"
        await until(lambda: sum(file.read_text().count("audit\t") for file in segments.glob("*.open")) == 2)
    harness = ExportHarness(tmp_path)
    assert sorted(row["kind"] for row in changes(harness)) == ["configuration", "limit"]
