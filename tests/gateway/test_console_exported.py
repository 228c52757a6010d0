"""The console's older pages: decisions that Redis has no longer come from exported Parquet files."""

import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.console import stage
from pointsman_gateway.console.exported import ExportedDecisions, Place
from pointsman_gateway.console.search import EVERYTHING, DecisionQuery, Ending
from pointsman_gateway.export import tables
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.export_log import FEEDBACK
from pointsman_gateway.settings import Settings
from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pointsman_servicekit.keys.records import KeyScope
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.config_folder import IN_CHAT
from tests.gateway.doubles.exported_history import DAY, decision_id, export, record, three_days
from tests.gateway.doubles.exports import NOON, ExportHarness, files_in
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found
from tests.gateway.test_exported_records import rewrite

OURS = {"x-pointsman-console": "1"}
NOW: Place = (round((NOON + DAY) * 1000), "")


@pytest.fixture
def harness(tmp_path: Path) -> ExportHarness:
    return ExportHarness(tmp_path / "exported")


async def read(
    harness: ExportHarness, before: Place = NOW, tenant: str = "", query: DecisionQuery = EVERYTHING
) -> list[str]:
    """Returns the ids of all decisions."""
    decisions = ExportedDecisions(str(harness.files))
    async with decisions.older(before, tenant, query) as batches:
        return [name async for batch in batches for _, name, _ in batch["found"]]


# -- the reader


async def test_a_thousand_decisions_of_three_days_are_read_newest_first_and_once(harness: ExportHarness) -> None:
    records = three_days(1000)
    export(harness, records.values())
    oldest, middle, *_ = files_in(harness.files)
    rewrite(oldest, ["text", "cached", "evidence_key"])
    shutil.copy(middle, middle.with_name("again.parquet"))
    assert await read(harness) == list(records)
    names = list(records)
    place = (json.loads(records[names[700]])["unix_ms"], names[700])
    assert await read(harness, place) == names[701:]


async def test_only_what_fits_the_query_is_read(harness: ExportHarness) -> None:
    records = three_days(20)
    export(harness, records.values())
    wanted = list(records)[13]
    assert await read(harness, query=DecisionQuery(text=wanted[4:].upper())) == [wanted]
    assert await read(harness, query=DecisionQuery(ending=Ending.FAILED)) == []
    assert len(await read(harness, query=DecisionQuery(ending=Ending.OK))) == 20


async def test_only_files_of_the_tenant_are_read(harness: ExportHarness) -> None:
    records = three_days(6, "acme")
    export(harness, [*records.values(), *three_days(9, "other").values(), *three_days(3).values()])
    for file in files_in(harness.files):
        if "tenant=other" in str(file):
            file.write_bytes(b"damaged")
    assert await read(harness, tenant="acme") == list(records)
    assert len(await read(harness, tenant="_none")) == 3


async def test_one_decision_is_found_with_its_feedback_on_the_day_on_which_it_ended(harness: ExportHarness) -> None:
    midnight = NOON - DAY / 2
    name = decision_id(midnight - 1, 7)
    _, text = record(midnight + 1, 7)
    rating = {"id": "f1", "unix_ms": round(NOON * 1000), "decision": name, "rating": 0.25, "correction": "too long"}
    harness.log.append(FEEDBACK, [json.dumps(rating)])
    export(harness, [json.dumps(json.loads(text) | {"id": name})])
    decisions = ExportedDecisions(str(harness.files))
    one = await decisions.find(name, "")
    assert one is not None
    assert json.loads(one["entry"])["id"] == name
    assert one["feedback"] == {"rating": "0.25", "correction": "too long"}
    assert await decisions.find(name, "acme") is None
    assert await decisions.find(decision_id(midnight - 1, 8), "") is None
    assert await decisions.find("chatcmpl-1", "") is None


def test_records_without_a_tenant_have_the_exporters_name() -> None:
    assert stage.NO_TENANT == tables.NO_TENANT


# -- the process


async def test_the_process_ends_with_the_page(harness: ExportHarness, tmp_path: Path) -> None:
    script = tmp_path / "endless.py"
    script.write_text(
        "import json, os, sys\nsys.stdin.read()\n"
        "while True: print(json.dumps({'found': [[0, 'x' * 9999, str(os.getpid())]], 'at': [0, 'x']}))\n"
    )
    decisions = ExportedDecisions(str(harness.files), (sys.executable, str(script)))
    async with decisions.older(NOW, "", EVERYTHING) as batches:
        pid = int((await anext(batches))["found"][0][2])
        os.kill(pid, 0)
        await asyncio.sleep(0.2)  # its output fills the pipe
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_silent_store_is_given_up_and_its_process_is_stopped(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = tmp_path / "silent.py"
    script.write_text(f"import os, time\nopen({str(pid_file)!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    decisions = ExportedDecisions("somewhere", (sys.executable, str(script)), max_seconds=1.0)
    began = time.monotonic()
    with pytest.raises(Unavailable, match="were not read within 1 s: the store may be slow"):
        await decisions.find(decision_id(NOON, 1), "")
    assert time.monotonic() - began < 5
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)


async def test_one_page_is_read_at_a_time(harness: ExportHarness) -> None:
    records = three_days(3)
    export(harness, records.values())
    decisions = ExportedDecisions(str(harness.files))
    async with decisions.older(NOW, "", EVERYTHING) as batches:
        await anext(batches)
        waiting = asyncio.create_task(decisions.find(next(iter(records)), ""))
        done, _ = await asyncio.wait([waiting], timeout=1.5)
        assert not done
    assert await waiting is not None


async def test_each_reason_for_no_records_is_a_sentence(
    harness: ExportHarness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = decision_id(NOON, 1)
    with pytest.raises(
        FailedPrecondition, match="there are no exported decisions in POINTSMAN_GATEWAY_CONSOLE_RECORDS"
    ):
        await ExportedDecisions(str(tmp_path / "nothing")).find(name, "")
    missing = (sys.executable, "-m", "pointsman_lab.no_such_reader")
    with pytest.raises(FailedPrecondition, match=r"pip install 'pointsman\[parquet\]'"):
        await ExportedDecisions(str(harness.files), missing).find(name, "")
    export(harness, [record(NOON, 1, "acme")[1]])
    files_in(harness.files)[0].write_bytes(b"PAR1 and no more")
    with pytest.raises(Unavailable) as caught:
        await ExportedDecisions(str(harness.files)).find(name, "")
    assert "acme" not in caught.value.message
    assert "the gateway's log has the reason" in caught.value.message
    assert "tenant=acme" in caplog.text


# -- the pages over HTTP


@pytest.fixture
async def settings(neighbours: Neighbours, valkey: Valkey, tmp_path: Path, harness: ExportHarness) -> dict[str, Any]:
    neighbours.settings |= {
        "redis_url": valkey.url,
        "wal_dir": tmp_path / "wal",
        "console_records": str(harness.files),
    }
    await neighbours.ready()
    return neighbours.settings


@pytest.fixture
async def console(neighbours: Neighbours, settings: dict[str, Any]) -> AsyncIterator[httpx.AsyncClient]:
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        client.timeout = httpx.Timeout(40)
        yield client


async def ask(client: httpx.AsyncClient, count: int, **headers: str) -> list[str]:
    """Sends requests; returns their decisions' ids, the newest first, once Redis has them."""
    body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
    names = []
    for _ in range(count):
        answer = await client.post("/v1/chat/completions", json=body, headers=headers)
        names.append(answer.headers["x-pointsman-decision-id"])

    async def listed() -> bool:
        page = (await client.get("/console/api/decisions", params={"count": 200}, headers=headers)).json()
        return {row["id"] for row in page["decisions"]} >= set(names)

    await found(listed)
    return names[::-1]


async def pages(client: httpx.AsyncClient, count: int, **headers: str) -> list[dict[str, Any]]:
    read, before = list[dict[str, Any]](), ""
    while before or not read:
        response = await client.get(
            "/console/api/decisions", params={"before": before, "count": count}, headers=headers
        )
        assert response.status_code == 200, response.text
        read.append(response.json())
        before = read[-1]["next"]
    return read


def ids(read: list[dict[str, Any]]) -> list[str]:
    return [row["id"] for page in read for row in page["decisions"]]


async def in_redis(client: httpx.AsyncClient, names: list[str]) -> list[str]:
    """Returns the decisions' entries, as they are exported."""
    return [json.dumps((await client.get(f"/console/api/decisions/{name}")).json()["entry"]) for name in names]


async def forget(valkey: Valkey, names: list[str]) -> None:
    """Removes decisions from Redis, as write.lua does if there are too many."""
    async with open_client(valkey.url) as redis:
        for name in names:
            entry_id = await redis.client.hget(redis_schema.INDEX, name)
            await redis.client.xdel(redis_schema.DECISIONS, entry_id)
            await redis.client.hdel(redis_schema.INDEX, name)


async def test_pages_go_on_in_the_files_with_no_decision_twice_or_missing(
    console: httpx.AsyncClient, harness: ExportHarness
) -> None:
    names = await ask(console, 5)
    older = three_days(30, until=time.time() - 60)
    export(harness, [*await in_redis(console, names), *older.values()])
    read = await pages(console, 8)
    assert ids(read) == [*names, *older]
    assert [len(page["decisions"]) for page in read] == [5, 8, 8, 8, 6]
    assert all(page["next"].startswith("records:") for page in read[:-1])


async def test_a_page_that_stops_early_comes_further_than_the_one_before(
    console: httpx.AsyncClient, harness: ExportHarness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "MAX_EXPORTED_SECONDS", 0.0)
    names = await ask(console, 1)
    older = three_days(30, until=time.time() - 60)
    export(harness, [*await in_redis(console, names), *older.values()])
    async with asyncio.timeout(60):
        assert ids(await pages(console, 10)) == [*names, *older]


@pytest.mark.parametrize("place", ["/a,/b", "otlp+http://collector:4318", "ftp://user:secret@host/records"])
def test_a_place_with_a_password_or_more_than_one_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match=r"console_records") as refused:
        Settings(console_records=place)
    assert "POINTSMAN_EXPORT_TARGET" in str(refused.value) or "has a password" in str(refused.value)


async def test_a_reader_that_cannot_be_started_or_is_killed_while_it_writes_is_no_bug(tmp_path: Path) -> None:
    torn = [sys.executable, "-c", "import sys; sys.stdin.read(); print('{\"found\": [', end='')"]
    for reader in ([str(tmp_path / "none")], torn):
        decisions = ExportedDecisions(str(tmp_path), reader)
        with pytest.raises(Unavailable, match="cannot be read now"):
            await decisions.find(decision_id(NOON, 1), "")


async def test_decisions_that_have_left_redis_follow_those_that_it_has(
    console: httpx.AsyncClient, harness: ExportHarness, valkey: Valkey
) -> None:
    names = await ask(console, 6)
    export(harness, await in_redis(console, names))
    await forget(valkey, names[2:])
    read = await pages(console, 4)
    assert ids(read) == names
    gone = (await console.get(f"/console/api/decisions/{names[4]}")).json()
    assert gone["entry"]["id"] == names[4]
    unknown = await console.get(f"/console/api/decisions/{decision_id(time.time(), 1)}")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_decision")


async def test_an_empty_redis_is_followed_by_the_files(console: httpx.AsyncClient, harness: ExportHarness) -> None:
    older = three_days(5, until=time.time())
    export(harness, older.values())
    assert ids(await pages(console, 50)) == list(older)


async def test_a_search_goes_on_in_the_files(console: httpx.AsyncClient, harness: ExportHarness) -> None:
    older = three_days(12, until=time.time())
    export(harness, older.values())
    wanted = list(older)[7]
    query = {"text": wanted[-8:], "before": f"records:{round(time.time() * 1000)}:"}
    page = (await console.get("/console/api/decisions", params=query)).json()
    assert ([row["id"] for row in page["decisions"]], page["next"]) == ([wanted], "")


async def test_a_key_sees_only_its_tenant_and_scope_in_the_files(
    neighbours: Neighbours, settings: dict[str, Any], valkey: Valkey, harness: ExportHarness
) -> None:
    now = time.time()
    of_acme, of_other, of_none = (three_days(4, tenant, now) for tenant in ("acme", "other", ""))
    # Their ids differ by the tenant alone.
    of_acme, of_other, of_none = (
        {f"{name[:-1]}{mark}": text.replace(name, f"{name[:-1]}{mark}") for name, text in records.items()}
        for mark, records in zip("abc", (of_acme, of_other, of_none), strict=True)
    )
    export(harness, [*of_acme.values(), *of_other.values(), *of_none.values()])
    settings["auth"] = "on"
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        client.timeout = httpx.Timeout(40)
        plain = {"authorization": f"Bearer {(await issue(valkey.url)).credential.text}"}
        scoped = await issue(valkey.url, scope=KeyScope(paths=("letter",)))
        assert ids(await pages(client, 50, **plain)) == list(of_acme)
        assert ids(await pages(client, 50, authorization=f"Bearer {scoped.credential.text}")) == []
        mine, others, nobodys = (next(iter(records)) for records in (of_acme, of_other, of_none))
        for name, status in ((mine, 200), (others, 404), (nobodys, 404)):
            assert (await client.get(f"/console/api/decisions/{name}", headers=plain)).status_code == status
        refused = await client.get(
            f"/console/api/decisions/{mine}", headers={"authorization": f"Bearer {scoped.credential.text}"}
        )
        assert refused.status_code == 404


async def test_a_bad_cursor_is_refused_with_what_is_right(console: httpx.AsyncClient) -> None:
    for before in ("records:", "records:x:dec_1", "records:1", f"records:{10**14}:", "records:1:a b", "1-", "older"):
        refused = await console.get("/console/api/decisions", params={"before": before})
        assert refused.status_code == 400, before
        assert "give `next` of the page before" in refused.json()["error"]["message"]


async def test_a_problem_with_the_files_leaves_the_pages_of_redis_alone(
    console: httpx.AsyncClient, harness: ExportHarness
) -> None:
    names = await ask(console, 2)
    page = (await console.get("/console/api/decisions")).json()
    assert [row["id"] for row in page["decisions"]] == names
    older = await console.get("/console/api/decisions", params={"before": page["next"]})
    assert (older.status_code, older.json()["error"]["code"]) == (409, "no_records")


async def test_without_the_setting_redis_has_the_last_page(neighbours: Neighbours, settings: dict[str, Any]) -> None:
    del settings["console_records"]
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        client.headers.update(OURS)
        await ask(client, 1)
        assert (await client.get("/console/api/decisions")).json()["next"] == ""
        refused = await client.get("/console/api/decisions", params={"before": "records:1:"})
        assert "set POINTSMAN_GATEWAY_CONSOLE_RECORDS" in refused.json()["error"]["message"]
