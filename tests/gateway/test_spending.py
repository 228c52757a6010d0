"""Spending is counted once for each request, by day, tenant, key, path and model, and shown to those who may see it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from pointsman_gateway.domain import Caller, Usage
from pointsman_gateway.domain.receipt import UndecidedReceipt
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.spending import SpendingCounts, SpendingKey, from_fields
from pointsman_gateway.request_log.store import RequestLogReader
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import Unavailable
from pointsman_servicekit.keys.records import KeyScope
from pointsman_servicekit.redis_clients import open_client

from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.gateway import TRIAGE, Neighbours, open_http_client
from tests.gateway.doubles.request_logs import (
    ADAPTED,
    REQUEST,
    RequestLogHarness,
    decision,
    receipt,
    routed,
    run_request_log,
)
from tests.gateway.doubles.tenancy import issue
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found

ANN, BEN = Caller("key-ann", "acme"), Caller("key-ben", "other")
OURS = {"x-pointsman-console": "1"}


def note(harness: RequestLogHarness, name: str, caller: Caller, **fields: Any) -> None:
    made = decision(name, path=fields.pop("path", ADAPTED))
    harness.recorder.note(replace(REQUEST, caller=caller), made, receipt(made, **fields))


async def spending_in(valkey: Valkey) -> SpendingCounts:
    async with open_redis(valkey.url, lambda up: None) as redis:
        return await RequestLogReader(redis).spending(redis_schema.today())


async def test_requests_are_added_up_by_tenant_key_path_and_model(harness: RequestLogHarness, valkey: Valkey) -> None:
    note(harness, "d1", ANN, model=TRIAGE, cost_usd=3e-6)
    note(harness, "d2", ANN, model=TRIAGE, cost_usd=4e-6)
    note(harness, "d3", ANN, model="", cost_usd=0, outcome="engine_error")
    note(harness, "d4", BEN, model=TRIAGE)
    embedded = UndecidedReceipt("r1", "embeddings", "ok", "none", {"total": 0.1}, BEN, True, "minilm", Usage(7, 0))
    harness.recorder.note_undecided(embedded)
    harness.recorder.note_undecided(UndecidedReceipt("r2", "chat", "missing_key", "caller", {"total": 0.1}))
    await harness.recorder.write()

    spent = await spending_in(valkey)

    assert spent == {
        SpendingKey("acme", "key-ann", "triage_adapter", TRIAGE): {
            "requests": 2, "prompt_tokens": 40, "completion_tokens": 4, "picodollars": 7_000_000,
        },
        SpendingKey("acme", "key-ann", "triage_adapter", ""): {
            "requests": 1, "failed": 1, "prompt_tokens": 20, "completion_tokens": 2,
        },
        SpendingKey("other", "key-ben", "triage_adapter", TRIAGE): {
            "requests": 1, "prompt_tokens": 20, "completion_tokens": 2, "picodollars": 1_000_000,
        },
        SpendingKey("other", "key-ben", "", "minilm"): {"requests": 1, "prompt_tokens": 7},
    }  # fmt: skip


async def test_a_request_for_the_decision_only_is_not_counted(harness: RequestLogHarness, valkey: Valkey) -> None:
    made = decision("d1", path=ADAPTED)
    harness.recorder.note(replace(REQUEST, caller=ANN), made, routed(made))
    note(harness, "d2", ANN, model=TRIAGE)
    await harness.recorder.write()

    spent = await spending_in(valkey)

    assert [(key.model, counts["requests"]) for key, counts in spent.items()] == [(TRIAGE, 1)]


async def test_a_batch_that_arrives_late_is_counted_once(harness: RequestLogHarness, valkey: Valkey) -> None:
    note(harness, "before", ANN)
    await harness.recorder.write()
    valkey.hang()
    note(harness, "while it hung", ANN)
    with pytest.raises(Unavailable):
        await harness.recorder.write()
    valkey.go_on()
    await harness.written()
    (sums,) = (await spending_in(valkey)).values()
    assert (sums["requests"], sums["picodollars"]) == (2, 2_000_000)


async def test_the_spending_of_a_killed_gateway_is_recovered_once(valkey: Valkey, tmp_path: Path) -> None:
    async with run_request_log(valkey.url, tmp_path) as killed:
        note(killed, "written", ANN)
        await killed.recorder.write()
        note(killed, "not written", ANN)
    for _ in range(2):
        async with run_request_log(valkey.url, tmp_path) as harness:
            await harness.recovery.recover()
            (sums,) = (await spending_in(valkey)).values()
    assert (sums["requests"], sums["picodollars"]) == (2, 2_000_000)


async def test_a_day_is_kept_for_a_hundred_days(harness: RequestLogHarness, valkey: Valkey) -> None:
    note(harness, "d1", ANN)
    await harness.recorder.write()
    async with open_client(valkey.url) as redis:
        assert 99 * 86400 < await redis.client.ttl(redis_schema.SPENDING + redis_schema.today()) <= 100 * 86400


def test_damaged_fields_are_named_and_the_others_read() -> None:
    good = '["acme","k","p","m"]requests'
    damaged = ['["acme","k","p"]requests', '["acme","k","p",1]requests', '["acme","k","p","m"]dollars', "requests"]
    counts, unreadable = from_fields({good: "2", **dict.fromkeys(damaged, "1"), '["a","b","c","d"]requests': "x"})
    assert counts == {SpendingKey("acme", "k", "p", "m"): {"requests": 2}}
    assert unreadable == [*damaged, '["a","b","c","d"]requests']


# -- the console's API


async def spending(client: httpx.AsyncClient, credential: str = "", days: int = 2) -> dict[str, Any]:
    headers = OURS | ({"authorization": f"Bearer {credential}"} if credential else {})
    response = await client.get(f"/console/api/spending?days={days}", headers=headers)
    assert response.status_code == 200, response.text
    read: dict[str, Any] = response.json()
    return read


async def test_without_keys_everybody_sees_the_spending_of_each_day(
    neighbours: Neighbours, valkey: Valkey, tmp_path: Path
) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_TRIAGE}]}
        paid = (await client.post("/v1/chat/completions", json=body)).json()["pointsman"]["cost_usd"]

        async def counted() -> list[dict[str, Any]]:
            return list((await spending(client))["rows"])

        (row,) = await found(counted)
        days = (await spending(client))["days"]
        refused = await client.get("/console/api/spending?days=101", headers=OURS)
    assert (row["path"], row["model"], row["requests"], row["tenant"]) == ("triage_adapter", TRIAGE, 1, "")
    assert row["usd"] == pytest.approx(paid)
    assert paid > 0
    assert days == [time.strftime("%Y-%m-%d", time.gmtime(time.time() - age * 86400)) for age in (1, 0)]
    assert row["day"] in days
    assert refused.status_code == 400


async def test_a_key_sees_its_tenant_or_with_a_scope_itself_and_an_admin_all(
    neighbours: Neighbours, valkey: Valkey, tmp_path: Path
) -> None:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal", "auth": "on"}
    await neighbours.ready()
    issued = {
        "wide": await issue(valkey.url, tenant="acme"),
        "narrow": await issue(valkey.url, tenant="acme", scope=KeyScope(paths=("small_talk",))),
        "other": await issue(valkey.url, tenant="other"),
        "admin": await issue(valkey.url, tenant="ops", admin=True),
    }
    async with neighbours.gateway() as gateway, open_http_client(gateway) as client:
        body = {"model": "auto", "messages": [{"role": "user", "content": IN_CHAT}]}
        for name in ("wide", "narrow", "other"):
            headers = {"authorization": f"Bearer {issued[name].credential.text}"}
            assert (await client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
        admin = issued["admin"].credential.text

        async def all_are_counted() -> bool:
            return len((await spending(client, admin))["rows"]) == 3

        await found(all_are_counted)
        seen = {name: await spending(client, key.credential.text) for name, key in issued.items()}
    ids = {name: key.record.id for name, key in issued.items()}
    keys = {name: {row["key"] for row in read["rows"]} for name, read in seen.items()}
    assert keys == {
        "wide": {ids["wide"], ids["narrow"]},
        "narrow": {ids["narrow"]},
        "other": {ids["other"]},
        "admin": {ids["wide"], ids["narrow"], ids["other"]},
    }
    assert {name: read["whole"] for name, read in seen.items()} == dict.fromkeys(ids, False) | {"admin": True}
