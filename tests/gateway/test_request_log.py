"""Every decision is stored in a capped stream, even after failures of Redis, without delaying requests."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Considered, Message, Request, Sampling
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.entry import MAX_TEXT_BYTES, PendingEntry, to_entry
from pointsman_gateway.request_log.recorder import MAX_WAITING
from pointsman_gateway.request_log.store import Batch
from pointsman_gateway.request_log.tasks import WRITE_INTERVAL_SECONDS
from pointsman_servicekit.bounded_redis import MAX_ATTEMPTS
from pointsman_servicekit.errors import PointsmanError, Unavailable
from pointsman_servicekit.process import Schedule, running_periodically
from redis.asyncio import Redis

from tests.gateway.doubles.api_clients import ApiClient, HttpClient
from tests.gateway.doubles.config_folder import IN_CHAT, IN_TRIAGE
from tests.gateway.doubles.engine import ScriptedEngine
from tests.gateway.doubles.gateway import TRIAGE, Gateway, Neighbours, open_http_client
from tests.gateway.doubles.request_logs import (
    REQUEST,
    RequestLogHarness,
    decision,
    decisions_in,
    receipt,
    run_request_log,
)
from tests.gateway.doubles.valkey import Valkey
from tests.gateway.doubles.waiting import found, until


@pytest.fixture
def neighbours(neighbours: Neighbours, valkey: Valkey, tmp_path: Any) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    return neighbours


async def kept(valkey: Valkey, name: str) -> dict[str, Any]:
    """Waits until a decision is stored, and returns its entry."""

    async def look() -> list[dict[str, Any]]:
        return [entry for entry in await decisions_in(valkey.url) if entry["id"] == name]

    (entry,) = await found(look)
    return entry


async def test_an_answer_is_logged_with_decision_and_outcome(api: ApiClient, valkey: Valkey, gateway: Gateway) -> None:
    got = await api.ask(IN_TRIAGE, metadata={"channel": "mail"}, user="somebody")
    entry = await kept(valkey, got.decision_id)

    expected = {
        "v": 1, "task": "triage", "path": "triage_adapter", "kind": "lora", "reason": "policy:fixed", "outcome": "ok",
        "requested": "auto", "metadata": {"channel": "mail"}, "model": TRIAGE, "response_format": "",
        "revision": gateway.components.reloader.current.revision, "escalated_from": "",
        "text": "not stored", "messages": None, "user": None,
        "usage": {"prompt_tokens": 20, "completion_tokens": 2, "cached_tokens": 0},
    }  # fmt: skip
    assert {name: entry[name] for name in expected} == expected
    assert entry["cost_usd"] == pytest.approx(got.cost_usd)
    assert 0 < entry["seconds"]["first_token"] <= entry["seconds"]["total"]
    assert entry["considered"][0] == {"path": "triage_adapter", "outcome": "chosen", "reason": "policy:fixed"}
    assert entry["probabilities"][0][0] == "triage"
    assert IN_TRIAGE not in json.dumps(entry)
    assert "somebody" not in json.dumps(entry)


async def test_a_route_request_is_logged_as_routed(api: ApiClient, valkey: Valkey) -> None:
    decided = await api.route(IN_CHAT)
    entry = await kept(valkey, decided["id"])
    assert (entry["outcome"], entry["task"], entry["model"], entry["cost_usd"]) == ("routed", "chat", "", 0)


async def test_a_failure_is_logged_with_its_code(api: ApiClient, valkey: Valkey, engine: ScriptedEngine) -> None:
    engine.refuses(500, {"error": {"message": "CUDA said no"}})
    with pytest.raises(Unavailable):
        await api.ask(IN_CHAT, "tiny")
    entries = await found(lambda: decisions_in(valkey.url))
    assert [(entry["outcome"], entry["requested"]) for entry in entries] == [("engine_error", "tiny")]


async def test_http_and_grpc_report_margin_score_notes_and_revision(api: ApiClient, gateway: Gateway) -> None:
    decided = await api.route(IN_CHAT)
    assert decided["revision"] == gateway.components.reloader.current.revision
    assert 0 <= decided["margin"] <= 1
    assert isinstance(decided["in_distribution_score"], float)
    assert decided["notes"] == []


def entry_of(request: Request, store_messages: bool = False, **fields: Any) -> dict[str, Any]:
    made = decision(**fields)
    entry: dict[str, Any] = json.loads(to_entry(PendingEntry(1.7e9, request, made, receipt(made)), store_messages).json)
    return entry


OTHERS = [
    Request("path:x", REQUEST.messages),
    Request("auto", (Message("user", "Hello!"),)),
    Request("auto", (Message("system", "Hello"),)),
    Request("auto", (Message("user", "Hel"), Message("user", "lo"))),
    Request("auto", REQUEST.messages, metadata={"a": "b"}),
    Request("auto", REQUEST.messages, user="ann"),
    Request("auto", REQUEST.messages, Sampling(extra={"response_format": {"type": "json_object"}})),
]


def test_digests_are_equal_for_equal_inputs_only() -> None:
    assert entry_of(REQUEST)["inputs"] == entry_of(Request("auto", (Message("user", "Hello"),)), name="d2")["inputs"]
    assert len({entry_of(request)["inputs"] for request in [REQUEST, *OTHERS]}) == 1 + len(OTHERS)


def test_text_is_stored_completely_or_not_at_all() -> None:
    short = Request("auto", (Message("user", "Grüße", {"name": "ann"}),), user="u1")
    long = Request("auto", (Message("user", "x" * MAX_TEXT_BYTES),))
    assert entry_of(short)["text"] == "not stored"
    entry = entry_of(short, store_messages=True)
    assert (entry["text"], entry["user"]) == ("stored", "u1")
    assert entry["messages"] == [{"role": "user", "content": "Grüße", "name": "ann"}]
    entry = entry_of(long, store_messages=True)
    assert (entry["text"], entry["messages"]) == ("too long", None)


def test_any_decision_can_be_encoded() -> None:
    strange = decision(
        notes=("read in part",), considered=(Considered("a", "skipped", 'it said "no"\n'),), probabilities=(("é", 0.5),)
    )
    request = Request("auto", (Message("user", "\x00\U0001f600"),), Sampling(extra={"response_format": "?"}))
    entry = json.loads(to_entry(PendingEntry(1.7e9, request, strange, receipt(strange)), True).json)
    assert (entry["notes"], entry["response_format"]) == (["read in part"], "other")
    assert entry["considered"][0]["reason"] == 'it said "no"\n'


async def lengths(valkey: Valkey) -> tuple[int, int]:
    async with Redis.from_url(valkey.url) as redis:
        return await redis.xlen(redis_schema.DECISIONS), await redis.hlen(redis_schema.INDEX)


async def test_stream_and_index_hold_the_newest_and_exactly_as_many_as_the_cap(
    harness: RequestLogHarness, valkey: Valkey
) -> None:
    harness.store.config = RequestLogConfig(max_decisions=300)
    for begin in range(0, 1000, 250):
        harness.note(*(f"d{number}" for number in range(begin, begin + 250)))
        await harness.recorder.write()
        assert await lengths(valkey) == (min(begin + 250, 300),) * 2
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        assert set(await redis.hkeys(redis_schema.INDEX)) == {f"d{number}" for number in range(700, 1000)}
    assert [entry["id"] for entry in await decisions_in(valkey.url)] == [f"d{number}" for number in range(700, 1000)]


async def test_a_lowered_cap_applies_from_the_next_batch_on(harness: RequestLogHarness, valkey: Valkey) -> None:
    harness.note(*(f"d{number}" for number in range(3000)))
    await harness.recorder.write()
    harness.store.config = RequestLogConfig(max_decisions=100)
    harness.note("last")
    await harness.recorder.write()
    assert await lengths(valkey) == (100, 100)


async def test_a_batch_that_is_sent_twice_is_written_once(harness: RequestLogHarness, valkey: Valkey) -> None:
    made = decision()
    harness.board.count_answer(receipt(made))
    batch = Batch(1, [to_entry(PendingEntry(1.7e9, REQUEST, made, receipt(made)), False)], harness.board.take_unsent())
    harness.store.config = RequestLogConfig(max_decisions=100)
    await harness.store.write(batch)
    await harness.store.write(batch)
    assert len(await decisions_in(valkey.url)) == 1
    assert [sum(named.values()) for named in (await harness.store.evidence(redis_schema.today())).values()] == [
        1_000_002
    ]


async def test_a_batch_that_timed_out_and_arrives_later_is_written_once(
    harness: RequestLogHarness, valkey: Valkey
) -> None:
    harness.note("before")
    await harness.recorder.write()
    valkey.hang()
    harness.note("while it hung")
    with pytest.raises(Unavailable):
        await harness.recorder.write()
    valkey.go_on()
    await harness.written()
    assert [entry["id"] for entry in await decisions_in(valkey.url)] == ["before", "while it hung"]
    counted = await harness.store.evidence(redis_schema.today())
    assert [named["answers"] for named in counted.values()] == [2]


async def test_pending_entries_are_capped_and_dropped_ones_counted(harness: RequestLogHarness, valkey: Valkey) -> None:
    valkey.kill()
    with pytest.raises(Unavailable):
        await harness.store.evidence(redis_schema.today())
    for begin in range(0, MAX_WAITING + 500, 500):  # some are encoded between two checks, as in a gateway
        harness.note(*(f"d{number}" for number in range(begin, begin + 500)))
        with pytest.raises(Unavailable):
            await harness.recorder.write()
    in_the_batch = harness.recorder.waiting - MAX_WAITING
    assert 0 < in_the_batch <= 256
    assert harness.metric("pointsman_request_log_dropped_total", reason="full") == 500 - in_the_batch


async def test_under_continuous_load_no_receipt_is_lost(harness: RequestLogHarness, valkey: Valkey) -> None:
    async with running_periodically(
        harness.recorder.write, Schedule(WRITE_INTERVAL_SECONDS, run_at_start=True), "write the request log"
    ):
        for turn in range(170):
            harness.note(*(f"d{turn}-{number}" for number in range(64)))
            await asyncio.sleep(0)  # as long as there are requests, the loop does not wait between turns
    await harness.written()
    assert harness.metric("pointsman_request_log_dropped_total", reason="full") == 0
    assert harness.metric("pointsman_request_log_entries_total") == 170 * 64
    assert await lengths(valkey) == (170 * 64,) * 2


async def test_during_its_cooldown_redis_is_not_called(valkey: Valkey) -> None:
    asked = 0

    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.read()
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as silent:
        port = silent.sockets[0].getsockname()[1]
        async with run_request_log(f"redis://127.0.0.1:{port}/0") as harness:
            for _ in range(50):
                with pytest.raises(Unavailable) as raised:
                    await harness.store.evidence(redis_schema.today())
            assert raised.value.code == "redis_unavailable"
            assert asked == MAX_ATTEMPTS  # of the first call
            assert harness.metric("pointsman_redis_up") == 0

            async def asked_again() -> bool:
                calls = [harness.store.evidence(redis_schema.today()) for _ in range(8)]
                await asyncio.gather(*calls, return_exceptions=True)
                return asked > MAX_ATTEMPTS

            await found(asked_again)
            assert asked == MAX_ATTEMPTS + 1  # of eight probes for Redis's return, one is allowed


async def gone(gateway: Gateway) -> None:
    await until(lambda: gateway.metric("pointsman_redis_up") == 0, within=10)


@pytest.mark.parametrize("trouble", [Valkey.hang, Valkey.kill])
async def test_requests_during_an_outage_of_redis_are_logged_afterwards(
    gateway: Gateway, valkey: Valkey, http: httpx.AsyncClient, trouble: Callable[[Valkey], None]
) -> None:
    api = HttpClient(http)
    names = [(await api.ask(IN_CHAT)).decision_id]
    trouble(valkey)
    names += [(await api.ask(IN_CHAT)).decision_id for _ in range(20)]
    await gone(gateway)
    names += [(await api.ask(IN_CHAT)).decision_id for _ in range(20)]
    if trouble is Valkey.hang:
        valkey.go_on()
    else:
        await valkey.start()
    for name in names:
        await kept(valkey, name)
    assert len(await decisions_in(valkey.url)) == len(names)
    assert gateway.metric("pointsman_redis_up") == 1
    assert gateway.metric("pointsman_request_log_entries_total") == len(names)
    assert gateway.metric("pointsman_request_log_dropped_total") == 0


async def test_the_last_answers_are_written_before_the_gateway_exits(neighbours: Neighbours, valkey: Valkey) -> None:
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        names = [(await HttpClient(http).ask(IN_CHAT)).decision_id for _ in range(5)]
    assert [entry["id"] for entry in await decisions_in(valkey.url)] == names


async def test_a_gateway_exits_if_redis_hangs_and_the_next_one_writes_its_entries(
    neighbours: Neighbours, valkey: Valkey
) -> None:
    await neighbours.ready()
    async with asyncio.timeout(30):
        async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
            valkey.hang()
            name = (await HttpClient(http).ask(IN_CHAT)).decision_id
        assert gateway.metric("pointsman_request_log_dropped_total", reason="stopped") == 0
    valkey.go_on()
    async with neighbours.gateway():
        assert (await kept(valkey, name))["outcome"] == "ok"


async def test_a_gateway_starts_without_redis(neighbours: Neighbours, valkey: Valkey) -> None:
    valkey.kill()
    await neighbours.ready()
    async with neighbours.gateway() as gateway, open_http_client(gateway) as http:
        name = (await HttpClient(http).ask(IN_CHAT)).decision_id
        await valkey.start()
        assert (await kept(valkey, name))["outcome"] == "ok"


async def test_an_invalid_redis_url_is_reported(neighbours: Neighbours) -> None:
    neighbours.settings["redis_url"] = "localhost:6379"
    with pytest.raises((PointsmanError, ValueError), match="POINTSMAN_GATEWAY_REDIS_URL is no address of Redis"):
        async with neighbours.gateway():
            pass
