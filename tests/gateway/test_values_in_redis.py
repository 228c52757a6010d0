"""Values in Redis that no Pointsman process wrote: each is a cache miss, or an error that names it, and never an
internal error."""

import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pointsman_gateway.bootstrap.shadowing import ActiveShadowSettings
from pointsman_gateway.cache.recording import parse_answer
from pointsman_gateway.cache.store import encode_vector, parse_question
from pointsman_gateway.config.paths_file import CacheConfig
from pointsman_gateway.config.tasks_file import RequestLogConfig
from pointsman_gateway.domain import Feedback
from pointsman_gateway.redaction import Redaction
from pointsman_gateway.request_log import redis_schema
from pointsman_gateway.request_log.evidence import EvidenceKey, EvidenceStore, from_fields, to_fields
from pointsman_gateway.request_log.feedback import NullFeedback
from pointsman_gateway.request_log.store import RequestLogReader, RequestLogStore
from pointsman_gateway.shadow.budget import PAIR, SPENT, ShadowStore
from pointsman_gateway.shadow.metrics import ShadowMetrics
from pointsman_gateway.shadow.pair import Pair, Side
from pointsman_gateway.shadow.scoring import PairScorer
from pointsman_gateway.shadow.stage import ScoringFeedback
from pointsman_servicekit.bounded_redis import open_redis
from pointsman_servicekit.errors import FailedPrecondition, Unavailable
from pointsman_servicekit.keys import redis_layout
from pointsman_servicekit.keys.key_store import KeyStore
from pointsman_servicekit.keys.records import KeyRecord, Limits, TenantRecord
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis

from tests.gateway.doubles.api_clients import HttpClient
from tests.gateway.doubles.caching import CacheHarness, Question, run_cache
from tests.gateway.doubles.gateway import Neighbours, open_http_client
from tests.gateway.doubles.valkey import Valkey

DEEP = "[" * 5000
NO_JSON = ["", "{", "null", "[]", "5", '"x"', DEEP, '{"a":' * 5000, "\u0000", "NaN"]

GOOD_STEPS = '[[[0,"Hi",null,null,null]],[[0,"","stop",null,[1,2,0]]]]'
WRONG_ANSWERS = [
    *NO_JSON,
    '{"model":"tiny"}',
    f'{{"model":5,"steps":{GOOD_STEPS}}}',
    '{"model":"tiny","steps":{}}',
    '{"model":"tiny","steps":[5]}',
    '{"model":"tiny","steps":[["abcde"]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,null]]]}',
    '{"model":"tiny","steps":[[[-1,"Hi",null,null,null]]]}',
    '{"model":"tiny","steps":[[["0","Hi",null,null,null]]]}',
    '{"model":"tiny","steps":[[[0,5,null,null,null]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",7,null,null]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,[1],null]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,{"delta":"x"},null]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,{"logprobs":[1]},null]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,null,[1,2]]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,null,[1,-2,0]]]]}',
    '{"model":"tiny","steps":[[[0,"Hi",null,null,["1",2,0]]]]}',
    f'{{"model":"tiny","steps":[[[0,"Hi",null,{{"delta":{DEEP}]}}]]]}}',
]


def test_an_answer_as_it_is_stored_can_be_read() -> None:
    read = parse_answer(f'{{"model":"tiny","steps":{GOOD_STEPS}}}')
    assert read is not None
    assert [chunk.content for step in read.steps for chunk in step] == ["Hi", ""]


@pytest.mark.parametrize("wrong", WRONG_ANSWERS, ids=range(len(WRONG_ANSWERS)))
def test_an_answer_of_another_form_is_none(wrong: str) -> None:
    assert parse_answer(wrong) is None


@pytest.fixture
async def harness(valkey: Valkey) -> AsyncIterator[CacheHarness]:
    async with run_cache(valkey.url) as harness:
        yield harness


async def test_a_cached_answer_of_another_form_is_a_miss(valkey: Valkey, harness: CacheHarness) -> None:
    first = await harness.ask(CacheConfig(), Question())
    async with Redis.from_url(valkey.url, decode_responses=True) as redis:
        (key,) = [key async for key in redis.scan_iter("*:answer:*")]
        for wrong in WRONG_ANSWERS:
            await redis.set(key, wrong)
            again = await harness.ask(CacheConfig(), Question())
            assert (again.cached, again.text) == ("", first.text)
        await redis.delete(key)
        await redis.lpush(key, "a list")
        assert (await harness.ask(CacheConfig(), Question())).cached == ""


@pytest.mark.parametrize("values", [[], [np.nan] * 384, [np.inf, 1.0]])
def test_a_vector_that_cannot_be_compared_is_no_question(values: list[float]) -> None:
    encoded = encode_vector(np.array(values, np.float32))
    assert parse_question("1-0", {"vector": encoded, "answer": "a"}) is None


# -- the request log


@pytest.fixture
async def logged(neighbours: Neighbours, valkey: Valkey, tmp_path: Path) -> Neighbours:
    neighbours.settings |= {"redis_url": valkey.url, "wal_dir": tmp_path / "wal"}
    await neighbours.ready()
    return neighbours


WRONG_ENTRIES: list[dict[Any, Any]] = [
    {"alien": "x"},
    *({"entry": text} for text in NO_JSON),
    {"entry": '{"id":5}'},
    {"entry": '{"id":"d","unix_ms":"soon","seconds":[]}'},
]


async def test_the_console_leaves_log_entries_of_another_form_out(logged: Neighbours, valkey: Valkey) -> None:
    async with (
        Redis.from_url(valkey.url) as redis,
        logged.gateway() as gateway,
        open_http_client(gateway) as http,
    ):
        http.headers["x-pointsman-console"] = "1"
        for number, fields in enumerate(WRONG_ENTRIES):
            entry = await redis.xadd(redis_schema.DECISIONS, fields)
            await redis.hset(redis_schema.INDEX, f"d{number}", entry)
        for page in ("overview", "decisions"):
            assert (await http.get(f"/console/api/{page}")).status_code == 200
        for number, fields in enumerate(WRONG_ENTRIES):
            answer = await http.get(f"/console/api/decisions/d{number}")
            assert answer.status_code < 500, (fields, answer.text)
            if answer.status_code != 200:
                assert f"decision 'd{number}'" in answer.text


async def test_an_entry_that_cannot_be_read_is_named(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        entry = await redis.client.xadd(redis_schema.DECISIONS, {"entry": "{"})
        await redis.client.hset(redis_schema.INDEX, "d1", entry)
        with pytest.raises(FailedPrecondition, match=r"entry of decision 'd1' .* cannot be read"):
            await RequestLogReader(redis).find("d1")


WITHOUT_MODEL = '{"tenant":"","path":"small_talk","task":"chat"}'


async def test_feedback_on_a_damaged_entry_is_stored(logged: Neighbours, valkey: Valkey) -> None:
    async with (
        Redis.from_url(valkey.url) as redis,
        logged.gateway() as gateway,
        open_http_client(gateway) as http,
    ):
        for number, text in enumerate([*NO_JSON, '{"id":5}', WITHOUT_MODEL]):
            fields: dict[Any, Any] = {"evidence_key": "", "day": "20260101", "entry": text}
            entry = await redis.xadd(redis_schema.DECISIONS, fields)
            await redis.hset(redis_schema.INDEX, f"d{number}", entry)
            stored = await HttpClient(http).say(f"d{number}", rating=1.0, right_answer="x")
            assert stored == ("request_log", False), text


DAMAGED_DECISIONS: list[dict[Any, Any]] = [{"alien": "x"}, *({"entry": text} for text in NO_JSON)]


async def test_feedback_on_a_damaged_decision_holds_up_no_other(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        store = RequestLogStore(redis, RequestLogConfig())
        for number, fields in enumerate(DAMAGED_DECISIONS):
            given = Feedback(f"d{number}", "f", rating=1.0)
            entry = await redis.client.xadd(redis_schema.DECISIONS, fields)
            await redis.client.hset(redis_schema.INDEX, given.decision_id, entry)
            of_tenant = await store.add_feedback(replace(given, tenant="acme"), 1, "a")
            assert of_tenant == ("stored" if fields.get("entry") == "[]" else "unknown"), fields
            assert await store.add_feedback(replace(given, id="mine"), 1, "b") == "stored", fields


@pytest.mark.parametrize("damaged", ["x", "nan", "inf", "-1"])
async def test_a_rating_replaces_a_damaged_one(valkey: Valkey, damaged: str) -> None:
    before = {"rating": damaged, "evidence_key": '["chat","small_talk","f1",""]', "day": redis_schema.today()}
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        entry = await redis.client.xadd(redis_schema.FEEDBACK, before)
        await redis.client.hset(redis_schema.FEEDBACK_INDEX, "d1", entry)
        store = RequestLogStore(redis, RequestLogConfig())
        assert await store.add_feedback(Feedback("d1", "f", rating=1.0), 1, "c") == "stored"
        ((key, counts),) = (await store.evidence(redis_schema.today())).items()
        assert (key.path, counts["rated"]) == ("small_talk", 1)


async def test_feedback_in_addition_to_a_damaged_rating_is_stored(logged: Neighbours, valkey: Valkey) -> None:
    fields: dict[Any, Any] = dict.fromkeys(("ids", "correction", "right_task", "right_answer", "evidence_key"), "")
    fields |= {"unix_ms": "0", "rating": "x", "day": "20260101", "entry": WITHOUT_MODEL}
    async with (
        Redis.from_url(valkey.url) as redis,
        logged.gateway() as gateway,
        open_http_client(gateway) as http,
    ):
        entry = await redis.xadd(redis_schema.FEEDBACK, fields)
        await redis.hset(redis_schema.FEEDBACK_INDEX, "d1", entry)
        assert await HttpClient(http).say("d1", right_answer="x") == ("request_log", False)


def test_fields_that_are_no_evidence_are_left_out_and_named() -> None:
    key = EvidenceKey("chat", "small_talk", "f1", "")
    good = {name: str(number) for name, number in to_fields({key: {"n": 3}}).items()}
    wrong = {
        "n": "1",
        "]n": "1",
        '["chat"]n': "1",
        '["a","b","c","d","e"]n': "1",
        '["chat","small_talk","f1",5]n': "1",
        '{"a":1}]n': "1",
        DEEP + "]n": "1",
        '["a","b","c","d"]n': "many",
        '["a","b","c","d"]n2': "1.5",
        '["a","b","c","d"]bx': "1",
    }
    counts, unreadable = from_fields(good | wrong)
    assert counts[key] == {"n": 3}
    assert set(unreadable) == set(wrong)


# -- shadow requests


@pytest.mark.parametrize("wrong", [*NO_JSON, '{"decision_id":5}', '{"decision_id":"d1","day":[]}'])
async def test_a_pair_of_another_form_is_dropped(valkey: Valkey, wrong: str) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        await redis.client.set(PAIR + "d1", wrong)
        assert await ShadowStore(redis, Redaction()).pair("d1") is None


async def test_a_pair_is_written_even_if_the_record_of_an_earlier_one_is_damaged(valkey: Valkey) -> None:
    side = Side(EvidenceKey("chat", "small_talk", "f1", ""), 0.0, 0.1, "Hi", None)
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        entry = await redis.client.xadd(redis_schema.DECISIONS, {"entry": "x"})
        await redis.client.hset(redis_schema.INDEX, "d1", entry)
        store, settings = ShadowStore(redis, Redaction()), ActiveShadowSettings()
        scorer = PairScorer(EvidenceStore(), ShadowMetrics(CollectorRegistry()), store, lambda: settings.scores)
        feedback = ScoringFeedback(NullFeedback(), store, scorer, RequestLogReader(redis), settings)
        for name in ("d1", "d2"):
            store.keep(Pair(name, "20260101", "chat", side, side))
        await store.write(feedback.score_by_stored_feedback)
        assert [await store.pair(name) is not None for name in ("d1", "d2")] == [True, True]


async def test_nothing_is_spent_while_the_spending_cannot_be_read(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        await redis.client.hset(SPENT + "20260101", "triage", "much")
        with pytest.raises(Unavailable, match="20260101"):
            await ShadowStore(redis, Redaction()).add("20260101", {"chat": 5})


# -- keys and tenants

KEY = {"v": 1, "id": "key-1", "prefix": "abcdefgh", "digest": "d" * 64, "tenant": "acme", "scope": {}, "limits": {}}
TENANT = {"v": 1, "name": "acme", "limits": {}}
WRONG_KEY_FIELDS: list[dict[str, Any]] = [
    {"v": 2}, {"id": 5}, {"tenant": None}, {"scope": []}, {"scope": {"tasks": "triage"}}, {"scope": {"tasks": [5]}},
    {"scope": {"other": None}}, {"limits": {"dollars_per_day": "5"}}, {"limits": {"requests_per_minute": -1}},
    {"priority": "high"}, {"priority": True}, {"created": "today"}, {"created": float("nan")}, {"expires": "soon"},
    {"expires": [1]}, {"revoked": {}}, {"operator": "yes"}, {"admin": 1}, {"name": 5}, {"more": 1},
]  # fmt: skip
WRONG_TENANT_FIELDS: list[dict[str, Any]] = [
    {"v": 2}, {"name": 5}, {"name": "A b"}, {"limits": []}, {"limits": {"x": 1}}, {"learning": "all"},
    {"learning": [5]}, {"learning": {"a": 1}},
]  # fmt: skip
WRONG_KEYS = [*NO_JSON, *(json.dumps(KEY | wrong) for wrong in WRONG_KEY_FIELDS)]
WRONG_TENANTS = [*NO_JSON, *(json.dumps(TENANT | wrong) for wrong in WRONG_TENANT_FIELDS)]


def test_the_records_that_are_changed_here_can_be_read() -> None:
    assert KeyRecord.from_json(json.dumps(KEY)).tenant == "acme"
    assert TenantRecord.from_json(json.dumps(TENANT)).name == "acme"


async def test_a_key_of_another_form_is_an_error_that_names_it(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        store = KeyStore(redis)
        for wrong in WRONG_KEYS:
            await redis.client.hset(redis_layout.KEYS, "d" * 64, wrong)
            if wrong:
                for read in (store.keys(), store.by_digest("d" * 64)):
                    with pytest.raises(FailedPrecondition, match=r"pointsman\}:keys d{64} in Redis cannot be read"):
                        await read
            assert await store.by_digests(["d" * 64]) == [None]


async def test_a_tenant_of_another_form_is_an_error_that_names_it(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        store = KeyStore(redis)
        for wrong in filter(None, WRONG_TENANTS):
            await redis.client.hset(redis_layout.TENANTS, "acme", wrong)
            for read in (store.tenants(), store.tenant("acme"), store.consent("acme", [])):
                with pytest.raises(FailedPrecondition, match=r"pointsman\}:tenants acme in Redis cannot be read"):
                    await read
            assert await store.tenants_named(["acme"]) == {}


# -- usage and limits


@pytest.mark.parametrize("wrong", [{"alien": "1"}, {"acme:key-1:requests:more": "1"}, {"acme:key-1:requests": "many"}])
async def test_usage_of_another_form_is_an_error_that_names_the_field(valkey: Valkey, wrong: dict[str, str]) -> None:
    day = redis_layout.day_of(time.time())
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        await redis.client.hset(redis_layout.USAGE + day, mapping={"acme:key-1:failed": "2"} | wrong)
        usage = redis_layout.UsageStore(redis)
        for read in (usage.day(day), usage.read()):
            with pytest.raises(FailedPrecondition, match=f"field '{next(iter(wrong))}' of .*:usage:{day} in Redis"):
                await read


async def test_a_used_limit_of_another_form_is_an_error_that_names_it(valkey: Valkey) -> None:
    async with open_redis(valkey.url, lambda up: None, 5.0) as redis:
        usage, limits = redis_layout.UsageStore(redis), Limits(concurrent_streams=100)
        name = redis_layout.limit_key("acme", "key-1", "concurrent_streams")
        await redis.client.hset(name, mapping={"window": "0", "used": "7"})
        assert await usage.left("acme", "key-1", limits) == {"concurrent_streams": 93}
        await redis.client.hset(name, "used", "a lot")
        with pytest.raises(FailedPrecondition, match="'a lot' is no whole number"):
            await usage.left("acme", "key-1", limits)
